//! The keyboard controller, of which nothing is left but the line by which a PC is reset.

use crate::bus::Registers;
use crate::end::{End, Ending};
use std::sync::Arc;

/// Offset of the command and status port from the data port.
const COMMAND: u64 = 4;
/// Pulse the reset line.
const RESET: u8 = 0xfe;

/// The controller. No keyboard is connected: its status says that nothing is there, and that it takes commands.
pub(crate) struct KeyboardController {
    ending: Arc<Ending>,
}

impl KeyboardController {
    /// Ports from its data port on.
    pub(crate) const PORTS: u64 = COMMAND + 1;

    pub(crate) fn new(ending: Arc<Ending>) -> KeyboardController {
        KeyboardController { ending }
    }
}

impl Registers for KeyboardController {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == COMMAND || offset == 0 {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if (offset, data) == (COMMAND, &[RESET]) {
            self.ending.tell(End::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reset_line_ends_the_machine_and_nothing_else_does() {
        let ending = Arc::new(Ending::new().unwrap());
        let mut controller = KeyboardController::new(Arc::clone(&ending));
        for (offset, data) in [(0, &[RESET][..]), (COMMAND, &[0xd1]), (COMMAND, &[RESET, 0])] {
            controller.write(offset, data);
        }
        assert_eq!(ending.told(), None);
        controller.write(COMMAND, &[RESET]);
        assert_eq!(ending.told(), Some(End::Reset));
    }
}
