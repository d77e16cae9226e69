//! The buffers of a request: parts of the guest's memory, in the order in which the guest listed them.

use crate::memory::{PAGE, Whole};
use std::io;
use vm_memory::VolatileSlice;

/// Buffers that are read or written from their beginning on: each access takes off what it accessed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers<'m> {
    /// None is empty.
    slices: Vec<VolatileSlice<'m>>,
    /// The first that is not used up.
    next: usize,
    /// Bytes that are left.
    left: usize,
}

impl<'m> Buffers<'m> {
    /// Adds one at the end. `None`: all of them together are longer than anything can be.
    pub(super) fn push(&mut self, slice: VolatileSlice<'m>) -> Option<()> {
        self.left = self.left.checked_add(slice.len())?;
        if !slice.is_empty() {
            self.slices.push(slice);
        }
        Some(())
    }

    /// Adds others at the end. `None`: all of them together are longer than anything can be.
    pub(crate) fn append(&mut self, other: Buffers<'m>) -> Option<()> {
        other.slices[other.next..].iter().try_for_each(|slice| self.push(*slice))
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.left
    }

    /// Where in this process the bytes are that are left, and how many are at each place: for who looks at no contents.
    pub(crate) fn places(&self) -> impl Iterator<Item = (*const u8, usize)> {
        self.slices[self.next..].iter().map(|slice| (slice.ptr_guard().as_ptr(), slice.len()))
    }

    /// Touches each page of them, so that it is there, in memory of which some may be lost: for who has to know, before somebody reads them, whether it is
    /// whole.
    pub(crate) fn touch(&self, whole: &Whole) {
        if !whole.may_be_lost() {
            return;
        }
        for slice in &self.slices[self.next..] {
            let pages = (0..slice.len()).step_by(PAGE as usize).chain([slice.len() - 1]);
            let mut byte = [0u8];
            pages.for_each(|at| drop(slice.offset(at).map(|rest| rest.copy_to(&mut byte))));
        }
    }

    /// Takes off the last `count` bytes. `None`: there are not as many.
    pub(crate) fn split_end(&mut self, count: usize) -> Option<Buffers<'m>> {
        let mut rest = self.clone();
        let front = rest.take(self.left.checked_sub(count)?)?;
        *self = front;
        Some(rest)
    }

    /// Takes off the first `count` bytes. `None`: there are not as many.
    pub(crate) fn take(&mut self, count: usize) -> Option<Buffers<'m>> {
        if count > self.left {
            return None;
        }
        let mut taken = Buffers::default();
        while taken.left < count {
            let slice = self.slices[self.next];
            let part = slice.len().min(count - taken.left);
            taken.push(slice.subslice(0, part).ok()?)?;
            self.skip(part);
        }
        Some(taken)
    }

    /// Copies from their beginning as much as both have. Returns how much that is, in bytes.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.left > 0 {
            let copied = self.slices[self.next].copy_to(&mut bytes[done..]);
            self.skip(copied);
            done += copied;
        }
        done
    }

    /// Copies to their beginning as much as both have. Returns how much that is, in bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() && self.left > 0 {
            let slice = self.slices[self.next];
            let part = slice.len().min(bytes.len() - done);
            slice.copy_from(&bytes[done..done + part]);
            self.skip(part);
            done += part;
        }
        done
    }

    /// Copies from their beginning as much as both have into memory that others may write to. Returns how much that is, in bytes.
    pub(crate) fn read_into(&mut self, into: VolatileSlice<'_>) -> usize {
        self.copy(into.len(), |ours, at, part| {
            into.subslice(at, part).is_ok_and(|into| {
                ours.copy_to_volatile_slice(into);
                true
            })
        })
    }

    /// Copies to their beginning as much as both have from memory that others may write to. Returns how much that is, in bytes.
    pub(crate) fn write_from(&mut self, from: VolatileSlice<'_>) -> usize {
        self.copy(from.len(), |ours, at, part| {
            from.subslice(at, part).is_ok_and(|from| {
                from.copy_to_volatile_slice(ours);
                true
            })
        })
    }

    /// Has the first `most` bytes copied piece by piece, by a function of the piece, how many bytes are before it, and how many it has.
    fn copy(&mut self, most: usize, piece: impl Fn(VolatileSlice<'m>, usize, usize) -> bool) -> usize {
        let mut done = 0;
        while done < most && self.left > 0 {
            let slice = self.slices[self.next];
            let part = slice.len().min(most - done);
            if !slice.subslice(0, part).is_ok_and(|ours| piece(ours, done, part)) {
                break;
            }
            self.skip(part);
            done += part;
        }
        done
    }

    /// Reads a whole array. `None`: there is not as much.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (self.left >= N && self.read(&mut bytes) == N).then_some(bytes)
    }

    /// Has `transfer` read or write the buffers by a system call, with a list of them as the kernel takes it, until they are used up or it says 0.
    /// Returns how many bytes that were.
    pub(crate) fn transfer(
        &mut self,
        mut transfer: impl FnMut(&[libc::iovec]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut done = 0;
        while self.left > 0 {
            let list: Vec<_> = self.slices[self.next..].iter().take(MOST_AT_ONCE).map(vector).collect();
            match transfer(&list) {
                Ok(0) => break,
                Ok(count) => {
                    self.skip(count.min(self.left));
                    done += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Has `transfer` read or write the buffers by one system call, as [`Buffers::transfer`] does, and no more than that: what has ends of its own, as packets have.
    pub(crate) fn once(&mut self, mut transfer: impl FnMut(&[libc::iovec]) -> io::Result<usize>) -> io::Result<usize> {
        let list: Vec<_> = self.slices[self.next..].iter().take(MOST_AT_ONCE).map(vector).collect();
        loop {
            match transfer(&list) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    let count = count.min(self.left);
                    self.skip(count);
                    return Ok(count);
                }
                failed => return failed,
            }
        }
    }

    fn skip(&mut self, mut count: usize) {
        self.left -= count;
        while count > 0 {
            let slice = &mut self.slices[self.next];
            let part = slice.len().min(count);
            count -= part;
            if part == slice.len() {
                self.next += 1;
            } else if let Ok(rest) = slice.offset(part) {
                *slice = rest;
            }
        }
    }
}

/// `IOV_MAX`
const MOST_AT_ONCE: usize = 1024;

fn vector(slice: &VolatileSlice<'_>) -> libc::iovec {
    // The guest's memory is mapped for as long as the slice lives; the kernel copies, and minds no guest that writes meanwhile.
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Buffers of those lengths, one behind the other in `memory`.
    fn buffers<'m>(memory: &'m mut [u8], lengths: &[usize]) -> Buffers<'m> {
        let all = VolatileSlice::from(memory);
        let mut buffers = Buffers::default();
        let mut at = 0;
        for length in lengths {
            buffers.push(all.subslice(at, *length).unwrap()).unwrap();
            at += length;
        }
        buffers
    }

    proptest! {
        #[test]
        fn bytes_come_in_order_however_they_are_cut(
            lengths in prop::collection::vec(0usize..20, 0..8),
            reads in prop::collection::vec(0usize..30, 1..8),
            end in 0usize..40,
        ) {
            let total: usize = lengths.iter().sum();
            let mut memory: Vec<u8> = (0..total).map(|at| at as u8).collect();
            let expected = memory.clone();
            let mut left = buffers(&mut memory, &lengths);
            let tail = left.split_end(end);
            prop_assert_eq!(tail.is_some(), end <= total);
            let mut told = Vec::new();
            for (number, count) in reads.iter().enumerate() {
                let mut part = vec![0; *count];
                if number % 2 == 0 {
                    let read = left.read(&mut part);
                    told.extend(&part[..read]);
                } else if let Some(mut taken) = left.take(*count) {
                    prop_assert_eq!(taken.read(&mut part), *count);
                    told.extend(&part);
                }
            }
            prop_assert_eq!(&expected[..told.len()], &told[..]);
            prop_assert_eq!(left.len() + told.len() + tail.map_or(0, |tail| tail.len()), total);
        }

        #[test]
        fn what_is_written_lies_where_it_belongs(lengths in prop::collection::vec(0usize..20, 0..8), writes in prop::collection::vec(0usize..30, 1..8)) {
            let total: usize = lengths.iter().sum();
            let mut memory = vec![0; total];
            let mut left = buffers(&mut memory, &lengths);
            let mut expected = Vec::new();
            for (number, count) in writes.iter().enumerate() {
                let written = left.write(&vec![number as u8 + 1; *count]);
                expected.extend(vec![number as u8 + 1; written]);
            }
            expected.resize(total, 0);
            prop_assert_eq!(memory, expected);
        }
    }

    #[test]
    fn an_array_is_whole_or_none() {
        let mut memory = [1, 2, 3, 4, 5];
        let mut left = buffers(&mut memory, &[2, 3]);
        assert_eq!(left.array::<4>(), Some([1, 2, 3, 4]));
        assert_eq!(left.array::<2>(), None);
        assert_eq!(left.array::<1>(), Some([5]));
    }
}
