//! COM1: a 16550A, by `vm-superio`.

use super::console::Port;
use crate::bus::Registers;
use serde::{Deserialize, Serialize};
use std::io;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

/// The line of the I/O APIC that a device pulls.
#[derive(Debug)]
pub(crate) struct Line(pub(crate) EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// What is in its registers: the divisor's two bytes, interrupts enabled and identified, line control and status, modem control and status, scratch; and what the
/// guest has not read of what it received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialState {
    registers: [u8; 9],
    received: Vec<u8>,
}

/// The port, and where what the guest writes to it goes.
pub(crate) struct SerialPort(Serial<Line, NoEvents, Port>);

impl SerialPort {
    /// How many ports.
    pub(crate) const PORTS: u64 = 8;

    pub(crate) fn new(line: Line, out: Port) -> SerialPort {
        SerialPort(Serial::new(line, out))
    }

    /// One that goes on from where another one was.
    ///
    /// # Errors
    /// No port is ever so.
    pub(crate) fn restored(state: &SerialState, line: Line, out: Port) -> Result<SerialPort, String> {
        let [divisor_low, divisor_high, enabled, identified, control, status, modem, modem_status, scratch] =
            state.registers;
        let state = vm_superio::serial::SerialState {
            baud_divisor_low: divisor_low,
            baud_divisor_high: divisor_high,
            interrupt_enable: enabled,
            interrupt_identification: identified,
            line_control: control,
            line_status: status,
            modem_control: modem,
            modem_status,
            scratch,
            in_buffer: state.received.clone(),
        };
        // An interrupt may have been on its way: one that is not needed is none to the guest.
        line.trigger().map_err(|error| error.to_string())?;
        Serial::from_state(&state, line, NoEvents, out).map(SerialPort).map_err(|error| format!("{error:?}"))
    }

    /// Where it is.
    pub(crate) fn save(&self) -> SerialState {
        let state = self.0.state();
        SerialState {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            received: state.in_buffer,
        }
    }
}

impl Registers for SerialPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.0.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // Only its line could fail, whose counter is full then.
            let _ = self.0.write(offset as u8, *byte);
        }
    }
}
