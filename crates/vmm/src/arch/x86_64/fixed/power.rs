//! Switching off and resetting, by the registers that ACPI's tables name (ACPI 6.5, 4.8.3.7 and 4.8.3.6).

use super::super::acpi::{RESET, SLEEP_OFF};
use crate::bus::Registers;
use crate::end::{End, Ending};
use std::sync::Arc;

/// Offsets: sleep control, sleep status, reset.
const CONTROL: u64 = 0;
const STATUS: u64 = 1;
const RESET_AT: u64 = 2;
/// In the control register: go to sleep, of the kind in the three bits from the third on.
const SLEEP: u8 = 1 << 5;
const KIND: u32 = 2;

/// The registers.
pub(crate) struct Power {
    ending: Arc<Ending>,
}

impl Power {
    /// How many ports.
    pub(crate) const PORTS: u64 = 3;

    pub(crate) fn new(ending: Arc<Ending>) -> Power {
        Power { ending }
    }
}

impl Registers for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if matches!(offset, CONTROL | STATUS) {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (CONTROL, &[value]) if value & SLEEP != 0 && value >> KIND & 7 == SLEEP_OFF => {
                self.ending.tell(End::PowerOff)
            }
            (RESET_AT, &[RESET]) => self.ending.tell(End::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(writes: &[(u64, &[u8])]) -> Option<End> {
        let ending = Arc::new(Ending::new().unwrap());
        let mut power = Power::new(Arc::clone(&ending));
        for (offset, data) in writes {
            power.write(*offset, data);
        }
        ending.told()
    }

    #[test]
    fn it_takes_what_the_tables_say() {
        assert_eq!(after(&[(CONTROL, &[SLEEP_OFF << KIND | SLEEP])]), Some(End::PowerOff));
        assert_eq!(after(&[(RESET_AT, &[RESET])]), Some(End::Reset));
        // No such sleep, not asked to begin, the status, another value.
        assert_eq!(
            after(&[
                (CONTROL, &[3 << KIND | SLEEP]),
                (CONTROL, &[SLEEP_OFF << KIND]),
                (STATUS, &[0x80]),
                (RESET_AT, &[6])
            ]),
            None
        );
    }
}
