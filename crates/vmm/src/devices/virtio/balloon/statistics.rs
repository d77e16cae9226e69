//! What a guest tells of its memory (5.5.6.3).

use super::super::buffers::Buffers;

/// What a guest tells of its memory. It may tell whatever it likes, and what it does not tell is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// Bytes that nothing is in.
    pub free: Option<u64>,
    /// Bytes of all memory that the guest's kernel manages.
    pub total: Option<u64>,
    /// Bytes that could be had without swapping.
    pub available: Option<u64>,
    /// Bytes of files that could be read again.
    pub caches: Option<u64>,
    /// Bytes that were ever swapped in.
    pub swapped_in: Option<u64>,
    /// Bytes that were ever swapped out.
    pub swapped_out: Option<u64>,
    /// Faults for which something was read.
    pub major_faults: Option<u64>,
    /// Faults for which nothing was.
    pub minor_faults: Option<u64>,
}

/// The most that are read: there are 16 kinds.
const MOST: usize = 64;

impl MemoryStatistics {
    /// Reads pairs of a kind, two bytes, and a number, eight bytes. What it does not know it leaves out.
    pub(super) fn read(from: &mut Buffers<'_>) -> MemoryStatistics {
        let mut told = MemoryStatistics::default();
        for _ in 0..MOST {
            let Some([low, high, number @ ..]) = from.array::<10>() else { break };
            let field = match u16::from_le_bytes([low, high]) {
                0 => &mut told.swapped_in,
                1 => &mut told.swapped_out,
                2 => &mut told.major_faults,
                3 => &mut told.minor_faults,
                4 => &mut told.free,
                5 => &mut told.total,
                6 => &mut told.available,
                7 => &mut told.caches,
                _ => continue,
            };
            *field = Some(u64::from_le_bytes(number));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::VolatileSlice;

    #[test]
    fn what_is_known_is_read_and_the_rest_left_out() {
        let pair = |kind: u16, number: u64| [&kind.to_le_bytes()[..], &number.to_le_bytes()].concat();
        let mut bytes = [pair(5, 1 << 30), pair(99, 1), pair(4, 7), pair(5, 1 << 31), vec![4, 0, 1]].concat();
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
        let told = MemoryStatistics::read(&mut buffers);
        assert_eq!(told, MemoryStatistics { total: Some(1 << 31), free: Some(7), ..MemoryStatistics::default() });
    }
}
