//! What a PC has at fixed places.

use super::clock::Clock;
use super::keyboard::KeyboardController;
use super::power::Power;
use super::serial::{Line, SerialPort};
use crate::arch::current::layout::ports;
use crate::bus::{Bus, Registers};
use crate::config::{Config, Console};
use crate::end::Ending;
use crate::error::{Error, Result};
use crate::kvm::Vm;
use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// Attaches it all.
pub(crate) fn attach(config: &Config, vm: &Vm, ending: &Arc<Ending>, bus: &mut Bus) -> Result<()> {
    let mut attach = |port: u16, count: u64, device: Arc<Mutex<dyn Registers>>| bus.attach(port.into(), count, device);
    let serial = SerialPort::new(Line(vm.line(ports::SERIAL_LINE)?), console(&config.console)?);
    attach(ports::SERIAL, SerialPort::PORTS, Arc::new(Mutex::new(serial)));
    attach(
        ports::KEYBOARD,
        KeyboardController::PORTS,
        Arc::new(Mutex::new(KeyboardController::new(Arc::clone(ending)))),
    );
    attach(ports::CLOCK, Clock::PORTS, Arc::new(Mutex::new(Clock::new())));
    attach(ports::POWER, Power::PORTS, Arc::new(Mutex::new(Power::new(Arc::clone(ending)))));
    Ok(())
}

fn console(console: &Console) -> Result<Box<dyn Write + Send>> {
    Ok(match console {
        Console::Off => Box::new(io::sink()),
        Console::Stdout => Box::new(io::stdout()),
        Console::File(path) => {
            let opened = File::options().append(true).create(true).open(path);
            Box::new(opened.map_err(|source| Error::File { what: "the console's file", path: path.clone(), source })?)
        }
    })
}
