//! Where what the guest writes to its serial port goes.
//!
//! A processor never waits for who reads there: what it writes is kept, up to [`MOST`] bytes, and written out by a thread. What comes while that is full is lost, as
//! on a port whose other end is slow.

use crate::confine::Kind;
use crate::end::Ending;
use crate::error::Result;
use crate::events::Waited;
use crate::threads::{Gate, Thread, Wake, wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are kept for a slow reader.
const MOST: usize = 256 << 10;
/// Bytes that are written to a file, from whose end on nothing takes them away again: what comes then is lost.
const MOST_OF_FILE: u64 = 64 << 20;
/// Bytes that are written at once: a pipe that takes something takes as much (`PIPE_BUF`, pipe(7)).
const PIECE: usize = 4096;

/// What is kept.
#[derive(Debug)]
struct Kept {
    bytes: Mutex<VecDeque<u8>>,
    /// Tells that there is something.
    wake: Wake,
}

impl Kept {
    fn bytes(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a serial port writes to. It never fails, and never waits.
#[derive(Debug)]
pub(crate) struct Port(Option<Arc<Kept>>);

impl Write for Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kept) = &self.0 {
            let mut all = kept.bytes();
            let is_first = all.is_empty();
            let room = MOST - all.len();
            all.extend(&bytes[..bytes.len().min(room)]);
            if is_first {
                // It is not full: the thread reads it.
                let _ = kept.wake.write(1);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port's end for `out`, if there is one, and the thread that writes there.
pub(crate) fn to(out: Option<OwnedFd>, ending: &Arc<Ending>) -> Result<(Port, Option<Thread>)> {
    let Some(out) = out else { return Ok((Port(None), None)) };
    let kept = Arc::new(Kept { bytes: Mutex::default(), wake: wake()? });
    let is_file = rustix::fs::fstat(&out).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    let mut out = Out { out, left: is_file.then_some(MOST_OF_FILE) };
    let (port, event) = (Port(Some(Arc::clone(&kept))), Arc::clone(&kept.wake));
    let thread =
        Thread::new("console".to_owned(), Kind::Console, Some(event), ending, move |gate| work(&kept, &mut out, gate))?;
    Ok((port, Some(thread)))
}

/// The other end.
struct Out {
    out: OwnedFd,
    /// How many bytes more are written there, if not all that come.
    left: Option<u64>,
}

/// Writes out what comes, until it is told to end: then what can be written without waiting.
fn work(kept: &Kept, out: &mut Out, gate: &Gate) {
    while gate.pass() {
        while gate.is_open() {
            let is_empty = kept.bytes().is_empty();
            if wait(kept, &out.out, !is_empty) && !write(kept, out) {
                kept.bytes().clear();
            }
        }
    }
    while !kept.bytes().is_empty() && takes_something(&out.out) && write(kept, out) {}
}

/// Waits until something comes, or, if `is_to_write`, `out` takes something. Returns whether it does.
fn wait(kept: &Kept, out: &OwnedFd, is_to_write: bool) -> bool {
    let event = Waited(&kept.wake);
    let mut waited = [PollFd::new(&event, PollFlags::IN), PollFd::new(out, PollFlags::OUT)];
    let count = if is_to_write { 2 } else { 1 };
    // It fails where a signal came: looked at again.
    let _ = poll(&mut waited[..count], None);
    if !waited[0].revents().is_empty() {
        let _ = kept.wake.read();
    }
    !waited[1].revents().is_empty()
}

fn takes_something(out: &OwnedFd) -> bool {
    let mut waited = [PollFd::new(out, PollFlags::OUT)];
    poll(&mut waited, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
}

/// Writes a piece. Returns whether anybody is there to take it.
fn write(kept: &Kept, out: &mut Out) -> bool {
    let most = out.left.map_or(PIECE, |left| PIECE.min(usize::try_from(left).unwrap_or(PIECE)));
    if most == 0 {
        return false;
    }
    let piece: Vec<u8> = kept.bytes().iter().copied().take(most).collect();
    match rustix::io::write(&out.out, &piece) {
        Ok(count) => {
            out.left = out.left.map(|left| left - count as u64);
            kept.bytes().drain(..count);
            true
        }
        Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Wanted;
    use std::io::Read as _;

    #[test]
    fn nobody_waits_for_a_reader_and_what_is_kept_is_written_in_order() {
        let (mut read, out) = io::pipe().unwrap();
        let ending = Arc::new(Ending::new().unwrap());
        let (mut port, thread) = to(Some(out.into()), &ending).unwrap();
        let thread = thread.unwrap();
        thread.want(Wanted::Run);
        // More than the pipe takes and is kept: all of it is taken.
        for number in 0..(MOST as u32) {
            port.write_all(&number.to_le_bytes()).unwrap();
        }
        // It waits for room in the pipe, and rests all the same.
        thread.rest();
        thread.want(Wanted::Run);
        let mut bytes = vec![0; MOST / 2];
        read.read_exact(&mut bytes).unwrap();
        for (number, told) in bytes.chunks_exact(4).enumerate() {
            assert_eq!(told, (number as u32).to_le_bytes());
        }
        drop(thread);
        assert_eq!(ending.told(), None);
    }

    #[test]
    fn what_was_written_before_the_end_is_there_after_it() {
        for _ in 0..50 {
            let (mut read, out) = io::pipe().unwrap();
            let (mut port, thread) = to(Some(out.into()), &Arc::new(Ending::new().unwrap())).unwrap();
            thread.as_ref().unwrap().want(Wanted::Run);
            port.write_all(b"the last words").unwrap();
            drop(thread);
            let mut told = String::new();
            read.read_to_string(&mut told).unwrap();
            assert_eq!(told, "the last words");
        }
    }

    #[test]
    fn a_file_is_filled_up_to_a_bound_and_a_pipe_is_not_bounded() {
        let file = tempfile::tempfile().unwrap();
        let kept = Kept { bytes: Mutex::new([1; 10].into()), wake: wake().unwrap() };
        let mut out = Out { out: file.try_clone().unwrap().into(), left: Some(7) };
        assert!(write(&kept, &mut out));
        assert!(!write(&kept, &mut out));
        assert_eq!((file.metadata().unwrap().len(), kept.bytes().len()), (7, 3));
        let (_read, pipe) = io::pipe().unwrap();
        assert!(write(&kept, &mut Out { out: pipe.into(), left: None }));
        assert_eq!(kept.bytes().len(), 0);
    }

    #[test]
    fn a_reader_that_is_gone_keeps_nobody_busy() {
        let (read, out) = io::pipe().unwrap();
        drop(read);
        let (mut port, thread) = to(Some(out.into()), &Arc::new(Ending::new().unwrap())).unwrap();
        thread.as_ref().unwrap().want(Wanted::Run);
        port.write_all(&[1; 100_000]).unwrap();
    }
}
