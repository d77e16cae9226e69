//! Which device answers at which address.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A device that has registers. Offsets are within its range, data has 1, 2, 4 or 8 bytes as one access of the
/// guest's instruction has.
///
/// What a guest reads where nothing is to be read stays as it is: all ones. What it writes where nothing is to be written is lost. Neither is
/// an error: hardware has none.
pub(crate) trait Registers: Send {
    /// The guest reads.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device as the bus has it.
pub(crate) type Shared = Arc<Mutex<dyn Registers>>;

/// An address space: ports, or physical memory that is no memory.
#[derive(Default)]
pub(crate) struct Bus {
    /// By first address: the length of the range, and who answers there.
    ranges: BTreeMap<u64, (u64, Shared)>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.ranges.iter().map(|(start, (length, _))| (start, length))).finish()
    }
}

impl Bus {
    /// Has `device` answer for `length` addresses from `start` on, none of which is taken.
    pub(crate) fn attach(&mut self, start: u64, length: u64, device: Shared) {
        debug_assert!(
            self.ranges.range(..start + length).next_back().is_none_or(|(other, (taken, _))| other + taken <= start)
        );
        self.ranges.insert(start, (length, device));
    }

    /// The guest reads: all ones where nobody answers.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.at(address, data.len()) {
            device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        }
    }

    /// The guest writes: lost where nobody answers.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.at(address, data.len()) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }

    /// Who answers for all of an access. One that reaches over the end of a range is nobody's.
    fn at(&self, address: u64, length: usize) -> Option<(u64, &Shared)> {
        let (start, (taken, device)) = self.ranges.range(..=address).next_back()?;
        let offset = address - start;
        (offset.checked_add(length as u64)? <= *taken).then_some((offset, device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the last byte that was written, and tells where.
    struct Latch(u8);

    impl Registers for Latch {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(self.0 + offset as u8);
        }

        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    #[test]
    fn each_address_is_answered_by_its_device_and_the_others_by_none() {
        let mut bus = Bus::default();
        bus.attach(0x100, 0x10, Arc::new(Mutex::new(Latch(1))));
        bus.attach(0x110, 0x10, Arc::new(Mutex::new(Latch(0x40))));
        let read = |address, length: usize| {
            let mut data = vec![0; length];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x102, 1), [3]);
        assert_eq!(read(0x110, 2), [0x40, 0x40]);
        assert_eq!(read(0xff, 1), [0xff]);
        assert_eq!(read(0x120, 4), [0xff; 4]);
        // Over the end of the first, and so nobody's.
        assert_eq!(read(0x10f, 2), [0xff, 0xff]);
        assert_eq!(read(u64::MAX, 8), [0xff; 8]);
        bus.write(0x10f, &[9, 9]);
        assert_eq!(read(0x100, 1), [1]);
        bus.write(0x10f, &[9]);
        assert_eq!(read(0x100, 1), [9]);
    }
}
