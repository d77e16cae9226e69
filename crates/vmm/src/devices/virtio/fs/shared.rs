//! Memory that the device shares with the server, and rings in it, of which this is the driver's side (2.7).
//!
//! The memory has a page for each ring's tables, and behind them its slots: each holds one request and the room for its answer. A slot has two descriptors
//! that are its own, so that nothing has to be allocated.

use super::super::buffers::Buffers;
use super::super::queue::Nonsense;
use crate::error::{Error, Result};
use crate::events::{Waited, event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of a ring's tables.
const TABLES: u64 = 4096;
/// Where each table of a ring is in its page (2.7.5, 2.7.6, 2.7.8).
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 1024;
const USED: u64 = 2048;

/// Flags of a descriptor (2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// How many requests the server has at once, and how many bytes a request may have with its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    slots: u16,
    bytes: u64,
}

/// Of what must not wait behind others: a request that is forgotten, or interrupted.
pub(super) const URGENT: Shape = Shape { slots: 8, bytes: 4096 };
/// Of requests: what Linux puts into a queue of [`super::QUEUE`] entries, names and extended attributes included.
pub(super) const REQUESTS: Shape = Shape { slots: 8, bytes: 640 << 10 };

/// The memory.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) file: Arc<File>,
    pub(super) memory: GuestMemoryMmap,
    pub(super) size: u64,
}

impl Shared {
    /// Makes it with a ring for each shape.
    pub(super) fn with_rings<const N: usize>(shapes: [Shape; N]) -> Result<(Shared, [Ring; N])> {
        const TRIED: &str = "have memory to share with a file server";
        let size = shapes.iter().map(|shape| TABLES + u64::from(shape.slots) * shape.bytes).sum();
        let file: File = memfd_create("files", MemfdFlags::CLOEXEC).map_err(Error::host(TRIED))?.into();
        file.set_len(size).map_err(Error::host(TRIED))?;
        let file = Arc::new(file);
        let range = (GuestAddress(0), size as usize, Some(FileOffset::from_arc(Arc::clone(&file), 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]);
        let memory = memory.map_err(std::io::Error::other).map_err(Error::host(TRIED))?;
        let shared = Shared { file, memory, size };
        let mut at = 0;
        let mut rings = Vec::with_capacity(N);
        for shape in shapes {
            rings.push(Ring::new(shared.clone(), at, shape)?);
            at += TABLES + u64::from(shape.slots) * shape.bytes;
        }
        let rings = rings.try_into().unwrap_or_else(|_| unreachable!("there is one for each shape"));
        Ok((shared, rings))
    }
}

/// A ring whose driver this is.
pub(crate) struct Ring {
    shared: Shared,
    /// Where its tables are.
    at: u64,
    shape: Shape,
    /// Which slots the server has, with the bytes of the request and of the room for its answer.
    taken: Vec<Option<(u32, u32)>>,
    /// How many requests were given, and how many answers were taken, as the rings count.
    given: u16,
    answered: u16,
    /// How many requests the server was told of.
    told: u16,
    kick: EventFd,
    call: EventFd,
}

impl Ring {
    fn new(shared: Shared, at: u64, shape: Shape) -> Result<Ring> {
        let taken = vec![None; usize::from(shape.slots)];
        Ok(Ring { shared, at, shape, taken, given: 0, answered: 0, told: 0, kick: event()?, call: event()? })
    }

    /// Its entries: two for each slot.
    pub(super) fn entries(&self) -> u16 {
        self.shape.slots * 2
    }

    /// Where its descriptors, its available and its used ring are.
    pub(super) fn tables(&self) -> [u64; 3] {
        [DESCRIPTORS, AVAILABLE, USED].map(|table| self.at + table)
    }

    /// What the server waits for.
    pub(super) fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Written to when the server has answered something.
    pub(super) fn answered(&self) -> &EventFd {
        &self.call
    }

    /// A slot that is free, if there is one.
    pub(super) fn free(&self) -> Option<usize> {
        self.taken.iter().position(Option::is_none)
    }

    fn slot(&self, slot: usize) -> u64 {
        self.at + TABLES + slot as u64 * self.shape.bytes
    }

    /// Copies a request into a free slot, with so much room for its answer, and gives it to the server, who hears of it by [`Ring::tell`].
    pub(super) fn give(&mut self, slot: usize, request: &mut Buffers<'_>, room: usize) -> Result<(), Nonsense> {
        let length = request.len();
        if length == 0 || length.checked_add(room).is_none_or(|both| both as u64 > self.shape.bytes) {
            let most = self.shape.bytes;
            return Err(Nonsense(format!("a file system's request of {length} and {room} bytes, of {most} at most")));
        }
        let start = self.slot(slot);
        let into = self.shared.memory.get_slice(GuestAddress(start), length).map_err(lost)?;
        request.read_into(into);
        // Both are within a slot.
        self.publish(slot, length as u32, room as u32)
    }

    /// Gives the server what is in a free slot.
    fn publish(&mut self, slot: usize, length: u32, room: u32) -> Result<(), Nonsense> {
        let start = self.slot(slot);
        let first = 2 * slot as u16;
        let more = if room > 0 { NEXT } else { 0 };
        self.describe(first, start, length, more, first + 1)?;
        self.describe(first + 1, start + u64::from(length), room, WRITE, 0)?;
        let available = self.at + AVAILABLE;
        let entry = available + 4 + 2 * u64::from(self.given % self.entries());
        self.put(entry, first)?;
        self.given = self.given.wrapping_add(1);
        let memory = &self.shared.memory;
        memory.store(self.given.to_le(), GuestAddress(available + 2), Ordering::Release).map_err(lost)?;
        self.taken[slot] = Some((length, room));
        Ok(())
    }

    /// What the server was given in a slot, but no more than so many bytes.
    pub(super) fn request(&self, slot: usize, most: usize) -> Result<Vec<u8>, Nonsense> {
        let Some(Some((length, _))) = self.taken.get(slot) else { return Ok(Vec::new()) };
        let mut request = vec![0; most.min(*length as usize)];
        self.shared.memory.read_slice(&mut request, GuestAddress(self.slot(slot))).map_err(lost)?;
        Ok(request)
    }

    /// Asks the server something that does not come from the guest, with so much room for its answer, while nothing else is with it.
    ///
    /// # Errors
    /// It does not answer in that time, or answers nonsense; the text says which.
    pub(super) fn ask(&mut self, request: &[u8], room: u32, patience: Duration) -> Result<Vec<u8>, String> {
        let slot = self.free().ok_or("a file server is busy")?;
        if (request.len() as u64).saturating_add(room.into()) > self.shape.bytes {
            return Err(format!("a request of {} bytes to a file server is too long", request.len()));
        }
        let start = self.slot(slot);
        self.shared.memory.write_slice(request, GuestAddress(start)).map_err(|error| lost(error).0)?;
        self.publish(slot, request.len() as u32, room).map_err(|nonsense| nonsense.0)?;
        self.tell();
        let until = Instant::now() + patience;
        let (answered, length) = loop {
            if let Some(answer) = self.answer().map_err(|nonsense| nonsense.0)? {
                break answer;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("a file server does not answer within {} seconds", patience.as_secs()));
            }
            let left = Timespec::try_from(left).map_err(|error| error.to_string())?;
            // It fails where a signal came: looked at again.
            let _ = poll(&mut [PollFd::new(&Waited(&self.call), PollFlags::IN)], Some(&left));
            let _ = self.call.read();
        };
        let mut answer = vec![0; length as usize];
        let start = self.slot(answered) + request.len() as u64;
        self.shared.memory.read_slice(&mut answer, GuestAddress(start)).map_err(|error| lost(error).0)?;
        self.release(answered);
        Ok(answer)
    }

    fn describe(&self, number: u16, address: u64, length: u32, flags: u16, next: u16) -> Result<(), Nonsense> {
        let at = self.at + DESCRIPTORS + 16 * u64::from(number);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.shared.memory.write_slice(&bytes, GuestAddress(at)).map_err(lost)
    }

    fn put(&self, at: u64, value: u16) -> Result<(), Nonsense> {
        self.shared.memory.write_slice(&value.to_le_bytes(), GuestAddress(at)).map_err(lost)
    }

    /// Tells the server of what it was given since the last time, if there is something.
    pub(super) fn tell(&mut self) {
        if self.told != self.given {
            self.told = self.given;
            // It is not full: the server reads it.
            let _ = self.kick.write(1);
        }
    }

    /// The next slot that the server has answered, and how many bytes its answer has. The slot stays taken until it is [released](Ring::release).
    pub(super) fn answer(&mut self) -> Result<Option<(usize, u32)>, Nonsense> {
        let (memory, used) = (&self.shared.memory, self.at + USED);
        let count: u16 = memory.load(GuestAddress(used + 2), Ordering::Acquire).map_err(lost)?;
        if u16::from_le(count) == self.answered {
            return Ok(None);
        }
        let mut entry = [0; 8];
        let at = used + 4 + 8 * u64::from(self.answered % self.entries());
        memory.read_slice(&mut entry, GuestAddress(at)).map_err(lost)?;
        self.answered = self.answered.wrapping_add(1);
        let [a, b, c, d, length @ ..] = entry;
        let slot = u32::from_le_bytes([a, b, c, d]) as usize / 2;
        match self.taken.get(slot) {
            Some(Some((_, room))) => Ok(Some((slot, u32::from_le_bytes(length).min(*room)))),
            _ => Err(Nonsense(format!("the file server answers what it was not asked: request {slot}"))),
        }
    }

    /// Copies so many bytes of an answer to where the guest wants it. Returns how many were written.
    pub(super) fn read(&self, slot: usize, length: u32, into: &mut Buffers<'_>) -> u32 {
        let Some(Some((request, _))) = self.taken.get(slot) else { return 0 };
        let start = GuestAddress(self.slot(slot) + u64::from(*request));
        let answer = self.shared.memory.get_slice(start, length as usize);
        answer.map_or(0, |answer| into.write_from(answer) as u32)
    }

    /// A slot is free again.
    pub(super) fn release(&mut self, slot: usize) {
        self.taken[slot] = None;
    }
}

/// All of a ring is in the memory.
fn lost(error: vm_memory::GuestMemoryError) -> Nonsense {
    Nonsense(format!("memory that is shared with a file server: {error}"))
}
