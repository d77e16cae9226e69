//! COM1: a 16550A, by `vm-superio`.

use super::console::Port;
use crate::bus::Registers;
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

/// The port, and where what the guest writes to it goes.
pub(crate) struct SerialPort(Serial<Line, NoEvents, Port>);

impl SerialPort {
    /// How many ports.
    pub(crate) const PORTS: u64 = 8;

    pub(crate) fn new(line: Line, out: Port) -> SerialPort {
        SerialPort(Serial::new(line, out))
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
