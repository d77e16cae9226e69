//! What a PC has at fixed places.

mod clock;
mod keyboard;
mod power;

use super::layout::ports;
use crate::bus::{Bus, Registers};
use crate::devices::console;
use crate::devices::serial::{Line, SerialPort, SerialState};
use crate::end::Ending;
use crate::error::{Error, Result};
use crate::kvm::Vm;
use crate::threads::Thread;
use clock::Clock;
use keyboard::KeyboardController;
use power::Power;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Those that have something to be saved, and the thread that writes out what comes to the serial port, if that has another end.
pub(crate) struct Fixed {
    serial: Arc<Mutex<SerialPort>>,
    clock: Arc<Mutex<Clock>>,
    pub(crate) console: Option<Thread>,
}

/// What they were at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FixedState {
    serial: SerialState,
    clock: (u8, Vec<u8>),
}

impl Fixed {
    /// Where they are, while the processors rest.
    pub(crate) fn save(&self) -> FixedState {
        FixedState {
            serial: self.serial.lock().unwrap_or_else(PoisonError::into_inner).save(),
            clock: self.clock.lock().unwrap_or_else(PoisonError::into_inner).save(),
        }
    }
}

/// Attaches it all, going on from where it was `saved`, or new. What the guest writes to its serial port goes to `out`, if there is such an end.
pub(crate) fn attach(
    out: Option<OwnedFd>,
    saved: Option<&FixedState>,
    vm: &Vm,
    ending: &Arc<Ending>,
    bus: &mut Bus,
) -> Result<Fixed> {
    let (port, console) = console::to(out, ending)?;
    let line = Line(vm.line(ports::SERIAL_LINE)?);
    let serial = match saved {
        Some(saved) => SerialPort::restored(&saved.serial, line, port)
            .map_err(|error| Error::Snapshot(format!("the saved serial port is none: {error}")))?,
        None => SerialPort::new(line, port),
    };
    let mut clock = Clock::new();
    if let Some(saved) = saved {
        clock.restore(&saved.clock);
    }
    let (serial, clock) = (Arc::new(Mutex::new(serial)), Arc::new(Mutex::new(clock)));
    let keyboard = Arc::new(Mutex::new(KeyboardController::new(Arc::clone(ending))));
    let power = Arc::new(Mutex::new(Power::new(Arc::clone(ending))));
    let mut attach = |port: u16, count: u64, device: Arc<Mutex<dyn Registers>>| bus.attach(port.into(), count, device);
    attach(ports::SERIAL, SerialPort::PORTS, Arc::clone(&serial) as _);
    attach(ports::KEYBOARD, KeyboardController::PORTS, keyboard);
    attach(ports::CLOCK, Clock::PORTS, Arc::clone(&clock) as _);
    attach(ports::POWER, Power::PORTS, power);
    Ok(Fixed { serial, clock, console })
}
