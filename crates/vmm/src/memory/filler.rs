//! Who makes the pieces of what a guest starts from when they are touched first ([`super::pieces`]).
//!
//! A thread, by userfaultfd(2), which holds whoever touches a piece, a processor or a device, until it is there. It is over some time after the guest has stopped asking: then it makes
//! what nobody has touched, and ends, and with it the descriptor by which faults are held.

use super::Memory;
use super::mapping::HUGE;
use super::userfault::Userfault;
use crate::end::{End, Ending};
use crate::error::Result;
use crate::events::Waited;
use crate::threads::{Gate, Wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;

/// A guest that has not asked for so long has started.
const QUIET: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// What its thread has.
#[derive(Debug)]
pub(crate) struct Filler {
    faults: Userfault,
    memory: Memory,
}

impl Filler {
    /// Has those who touch what was put into memory wait until [`Filler::work`] makes it.
    ///
    /// # Errors
    /// The kernel can't hold them, for want of memory.
    pub(crate) fn new(faults: Userfault, memory: &Memory) -> Result<Filler> {
        memory.whole().may_lose();
        // In as few ranges as they make.
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        for piece in memory.pieces_away() {
            match ranges.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => ranges.push(piece),
            }
        }
        ranges.iter().try_for_each(|range| faults.register(range))?;
        Ok(Filler { faults, memory: memory.clone() })
    }

    /// Makes what is touched until all is there, also while the machine rests.
    pub(crate) fn work(self, gate: &Gate, wake: &Wake, ending: &Ending) {
        while !gate.is_over() && !self.is_done() {
            if let Err(error) = self.turn(wake) {
                self.memory.whole().lose();
                return ending.tell(End::Failed(format!(
                    "put the kernel or its initramfs into the guest's memory: {error}; the file was cut or is out of reach"
                )));
            }
        }
    }

    fn is_done(&self) -> bool {
        self.memory.pieces_away().is_empty()
    }

    fn turn(&self, wake: &Wake) -> io::Result<()> {
        let waited = Waited(wake);
        let mut polled = [PollFd::new(&self.faults, PollFlags::IN), PollFd::new(&waited, PollFlags::IN)];
        // It fails where a signal came: looked at again.
        let is_quiet = poll(&mut polled, Some(&QUIET)).is_ok_and(|ready| ready == 0);
        let _ = wake.read();
        let faults = self.faults.read()?;
        if is_quiet && faults.is_empty() {
            return self.memory.bring_pieces();
        }
        for address in faults {
            let at = self.memory.guest_address(address as *const u8);
            let at = at.ok_or_else(|| io::Error::other("a fault where no memory of the guest's is"))?;
            self.memory.bring_piece(at)?;
            let piece = address / HUGE * HUGE;
            self.faults.wake(&(piece..piece + HUGE))?;
        }
        Ok(())
    }
}

impl Drop for Filler {
    /// Also where it panicked. Whoever waits goes on when the descriptor is closed behind this, and finds zeros where something is missing, which may not last.
    fn drop(&mut self) {
        if self.is_done() {
            self.memory.whole().keep();
        } else {
            self.memory.whole().lose();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemorySize;
    use crate::confine::Kind;
    use crate::memory::PAGE;
    use crate::threads::{Thread, wake};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;
    use vm_memory::{Bytes, GuestAddress};

    const MIB: u64 = 1 << 20;

    /// Memory that has files, and who makes its pieces.
    struct Filled {
        memory: Memory,
        ending: Arc<Ending>,
        _thread: Thread,
    }

    /// Memory of 31 MiB, the last half piece of which is none, with parts of files: each with its address, its offset and its length.
    fn filled(files: &[(&File, u64, u64, u64)]) -> Filled {
        let memory = Memory::new(MemorySize::from_mib(32).unwrap(), &[(GuestAddress(0), 31 * MIB)]).unwrap();
        memory.in_huge_pages();
        for (file, at, offset, length) in files {
            memory.put_file("a file", GuestAddress(*at), file, *offset, *length).unwrap();
        }
        let filler = Filler::new(Userfault::new().unwrap(), &memory).unwrap();
        let (ending, wake) = (Arc::new(Ending::new().unwrap()), wake().unwrap());
        let (woken, told) = (Arc::clone(&wake), Arc::clone(&ending));
        let work = move |gate: &Gate| filler.work(gate, &woken, &told);
        let thread = Thread::new("fills".to_owned(), Kind::Pages, Some(wake), &ending, work).unwrap();
        Filled { memory, ending, _thread: thread }
    }

    /// A file in which each byte is another one than those around it, and on other pages.
    fn file(length: u64) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8 + 1).collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    fn read(memory: &Memory, at: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0xee; length as usize];
        memory.regions().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn byte(memory: &Memory, at: u64) -> u8 {
        memory.regions().read_obj(GuestAddress(at)).unwrap()
    }

    /// How many pieces were made.
    fn made(memory: &Memory, of: usize) -> usize {
        of - memory.pieces_away().len()
    }

    #[test]
    fn a_file_is_where_it_belongs_to_its_last_byte_and_zeros_around_it() {
        let (file, bytes) = file(5 * MIB + 77);
        // In the first piece and beyond; in two parts of one piece; where there is no whole piece any more.
        let places = [
            (MIB, 0, 5 * MIB + 77),
            (9 * MIB + PAGE, 3, 100),
            (9 * MIB + 5 * PAGE, 5 * PAGE, MIB),
            (29 * MIB, 7, 2 * MIB),
        ];
        let filled = filled(&places.map(|(at, offset, length)| (&file, at, offset, length)));
        let mut expected = vec![0; 31 * MIB as usize];
        for (at, offset, length) in places {
            expected[at as usize..][..length as usize].copy_from_slice(&bytes[offset as usize..][..length as usize]);
        }
        assert!(read(&filled.memory, 0, 31 * MIB) == expected);
        assert_eq!(filled.ending.told(), None);
    }

    #[test]
    fn a_piece_comes_as_a_whole_when_it_is_touched_and_no_other() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        let memory = &filled.memory;
        assert_eq!(made(memory, 4), 0);
        assert_eq!(byte(memory, 7 * MIB + 5), bytes[3 * MIB as usize + 5]);
        assert_eq!(made(memory, 4), 1);
        memory.write("bytes", GuestAddress(8 * MIB + 100), &[0; 8]).unwrap();
        assert_eq!(read(memory, 8 * MIB + 99, 10)[1..9], [0; 8]);
        assert_eq!(byte(memory, 8 * MIB + 99), bytes[4 * MIB as usize + 99]);
        assert_eq!(made(memory, 4), 2);
        // What the guest writes is its own.
        let mut first = [0; 8];
        file.read_exact_at(&mut first, 4 * MIB + 100).unwrap();
        assert_eq!(first, bytes[4 * MIB as usize + 100..][..8]);
    }

    #[test]
    fn many_threads_that_touch_the_same_lose_nothing() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        let memory = &filled.memory;
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let bytes = &bytes;
                scope.spawn(move || {
                    for page in 0..2048u64 {
                        let at = (page * 7 + thread * 512) % 2048 * PAGE;
                        let own = at + 8 * thread;
                        memory.write("bytes", GuestAddress(4 * MIB + own), &[thread as u8; 8]).unwrap();
                        assert_eq!(byte(memory, 4 * MIB + at + 100), bytes[at as usize + 100]);
                    }
                });
            }
        });
        for page in 0..2048u64 {
            let written: Vec<u8> = (0..4).flat_map(|thread| [thread; 8]).collect();
            assert!(read(memory, 4 * MIB + page * PAGE, 32) == written, "page {page}");
        }
        assert_eq!((filled.ending.told(), memory.whole().is()), (None, true));
    }

    #[test]
    fn what_is_given_back_is_zeros_whether_it_was_touched_or_not() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        let memory = &filled.memory;
        byte(memory, 4 * MIB);
        memory.give_back(GuestAddress(5 * MIB), 4 * MIB);
        memory.give_back(GuestAddress(11 * MIB), PAGE);
        assert_eq!(made(memory, 4), 1);
        assert!(read(memory, 5 * MIB, 4 * MIB).iter().all(|byte| *byte == 0));
        assert!(read(memory, 4 * MIB, MIB) == bytes[..MIB as usize]);
        assert!(read(memory, 9 * MIB, 2 * MIB) == bytes[5 * MIB as usize..7 * MIB as usize]);
        assert!(read(memory, 11 * MIB, PAGE).iter().all(|byte| *byte == 0));
        memory.write("bytes", GuestAddress(6 * MIB), &[9; 9]).unwrap();
        assert_eq!(read(memory, 6 * MIB, 9), [9; 9]);
    }

    #[test]
    fn all_of_it_is_saved_and_the_thread_ends_when_all_is_there() {
        let (file, _) = file(8 * MIB + 9);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB + 9)]);
        let memory = &filled.memory;
        memory.write("bytes", GuestAddress(4 * MIB), &[0; 8]).unwrap();
        assert!(memory.whole().may_be_lost());
        let saved = tempfile::tempfile().unwrap();
        memory.save(&saved).unwrap();
        let mut bytes = vec![0; 31 * MIB as usize];
        saved.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == read(memory, 0, 31 * MIB));
        assert_eq!(made(memory, 5), 5);
        // It looks around now and then, and then nothing can be lost any more.
        while memory.whole().may_be_lost() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(filled.ending.told(), None);
    }

    #[test]
    fn what_nobody_touches_is_there_after_some_time() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        while filled.memory.whole().may_be_lost() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(made(&filled.memory, 4), 4);
        assert!(read(&filled.memory, 4 * MIB, 8 * MIB) == bytes);
    }

    #[test]
    fn giving_back_while_pieces_come_leaves_zeros() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        let memory = &filled.memory;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..2048).map(|page| byte(memory, 4 * MIB + page * PAGE)).max());
            scope.spawn(|| {
                (0..2048).rev().step_by(2).for_each(|page| memory.give_back(GuestAddress(4 * MIB + page * PAGE), PAGE));
            });
        });
        for page in 0..2048 {
            let expected = if page % 2 == 1 { 0 } else { bytes[(page * PAGE) as usize + 9] };
            assert_eq!(byte(memory, 4 * MIB + page * PAGE + 9), expected, "page {page}");
        }
    }

    #[test]
    fn a_file_that_is_cut_ends_the_machine_and_nobody_waits() {
        let (file, bytes) = file(8 * MIB);
        let filled = filled(&[(&file, 4 * MIB, 0, 8 * MIB)]);
        let memory = &filled.memory;
        assert_eq!(byte(memory, 4 * MIB + 7), bytes[7]);
        file.set_len(3 * MIB).unwrap();
        let read = std::thread::scope(|scope| {
            let touch = |at| byte(memory, at);
            let threads: Vec<_> = [7 * MIB, 9 * MIB, 11 * MIB].map(|at| scope.spawn(move || touch(at))).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(read, [0, 0, 0]);
        assert!(!memory.whole().is());
        let Some(End::Failed(why)) = filled.ending.told() else { panic!("it did not end") };
        assert!(why.contains("the file was cut"), "{why}");
    }
}
