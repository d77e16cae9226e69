//! What a PC has at fixed places.

use super::clock::Clock;
use super::console;
use super::keyboard::KeyboardController;
use super::power::Power;
use super::serial::{Line, SerialPort};
use crate::arch::current::layout::ports;
use crate::bus::{Bus, Registers};
use crate::end::Ending;
use crate::error::Result;
use crate::kvm::Vm;
use crate::threads::Thread;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// Attaches it all. Returns the thread that writes to `out` what the guest writes to its serial port, if there is such an end.
pub(crate) fn attach(out: Option<OwnedFd>, vm: &Vm, ending: &Arc<Ending>, bus: &mut Bus) -> Result<Option<Thread>> {
    let mut attach = |port: u16, count: u64, device: Arc<Mutex<dyn Registers>>| bus.attach(port.into(), count, device);
    let (port, thread) = console::to(out, ending)?;
    let serial = SerialPort::new(Line(vm.line(ports::SERIAL_LINE)?), port);
    attach(ports::SERIAL, SerialPort::PORTS, Arc::new(Mutex::new(serial)));
    attach(
        ports::KEYBOARD,
        KeyboardController::PORTS,
        Arc::new(Mutex::new(KeyboardController::new(Arc::clone(ending)))),
    );
    attach(ports::CLOCK, Clock::PORTS, Arc::new(Mutex::new(Clock::new())));
    attach(ports::POWER, Power::PORTS, Arc::new(Mutex::new(Power::new(Arc::clone(ending)))));
    Ok(thread)
}
