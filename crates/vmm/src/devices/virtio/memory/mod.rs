//! Memory that comes and goes in blocks while the machine runs (5.15, "Memory Device").
//!
//! The host says how much it would like the guest to have; the guest asks for blocks, or gives them back, until it is so. A block that it has not is not there for it: what
//! it reads there is ones. Its addresses are reserved all the same, and what is in blocks is in [`Memory`].

use super::Device;
use super::queue::{Nonsense, Position, Queue, Request};
use crate::memory::{Memory, More};
use std::io;
use std::ops::Range;

/// Its number.
const KIND: u32 = 24;
/// The guest leaves blocks alone that it has not (5.15.3).
const UNPLUGGED_INACCESSIBLE: u64 = 1 << 1;

/// Bytes of a block: a huge page.
pub(crate) const BLOCK: u64 = 2 << 20;
/// The most parts of the memory that the guest is given as such, and the least bytes of one.
const PARTS: u64 = 256;
const LEAST: u64 = 128 << 20;

/// Gives the guest a part of the memory, by its number and its addresses, or takes it away.
pub(crate) type Opener = Box<dyn FnMut(u32, Range<u64>, bool) -> io::Result<()> + Send>;

/// What a guest asks for (5.15.6).
mod kind {
    pub(super) const PLUG: u16 = 0;
    pub(super) const UNPLUG: u16 = 1;
    pub(super) const UNPLUG_ALL: u16 = 2;
    pub(super) const STATE: u16 = 3;
}

/// What it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// So it is. Of blocks that were asked for: all are there, none is, some are.
    Done(u16),
    /// It is not to have so much.
    No,
    /// Not now.
    Busy,
    /// There is no such block, or it is so already.
    Wrong,
}

/// The device.
pub(crate) struct Blocks {
    memory: Memory,
    more: More,
    /// Bytes of a part.
    part: u64,
    open: Opener,
    /// Bytes that the guest is to have.
    requested: u64,
    /// How often the host has changed its mind.
    changes: u32,
    configuration: [u8; 56],
    queue: Option<Queue>,
}

impl Blocks {
    /// The device for what may come to that memory. The guest has what is plugged already.
    ///
    /// # Errors
    /// A part can't be opened.
    pub(crate) fn new(memory: Memory, more: More, open: Opener) -> io::Result<Blocks> {
        let part = more.length.div_ceil(PARTS).next_multiple_of(LEAST);
        let (requested, changes, queue) = (0, 0, None);
        let mut blocks = Blocks { memory, more, part, open, requested, changes, configuration: [0; 56], queue };
        for number in 0..blocks.more.length.div_ceil(part) {
            if !blocks.memory.plugged(&blocks.addresses(number)).is_empty() {
                blocks.set_open(number, true)?;
            }
        }
        blocks.configure_anew();
        Ok(blocks)
    }

    /// The most bytes that the guest can have of it.
    pub(crate) fn most(&self) -> u64 {
        self.more.length
    }

    /// Would like the guest to have so many bytes, whole blocks of it. Returns whether that is news.
    pub(crate) fn ask_for(&mut self, bytes: u64) -> bool {
        let bytes = bytes.next_multiple_of(BLOCK).min(self.more.length);
        let is_news = bytes != self.requested;
        self.requested = bytes;
        self.changes = self.changes.wrapping_add(is_news.into());
        self.configure_anew();
        is_news
    }

    /// How many bytes the guest has.
    pub(crate) fn plugged(&self) -> u64 {
        self.memory.all_plugged().iter().map(|range| range.end - range.start).sum()
    }

    /// `struct virtio_mem_config` (5.15.4).
    fn configure_anew(&mut self) {
        let (plugged, length) = (self.plugged(), self.more.length);
        let words = [BLOCK, 0, self.more.start.0, length, length, plugged, self.requested];
        for (to, word) in self.configuration.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The addresses of a part.
    fn addresses(&self, number: u64) -> Range<u64> {
        let Range { start, end } = self.more.range();
        let at = start + number * self.part;
        at..(at + self.part).min(end)
    }

    /// The parts that a range is in.
    fn parts(&self, range: &Range<u64>) -> Range<u64> {
        let start = self.more.start.0;
        (range.start - start) / self.part..(range.end - start).div_ceil(self.part)
    }

    fn set_open(&mut self, number: u64, is_open: bool) -> io::Result<()> {
        let addresses = self.addresses(number);
        // There are 256 at most.
        (self.open)(number as u32, addresses, is_open)
    }

    /// Answers a request. Returns how many bytes it wrote.
    fn answer(&mut self, mut request: Request<'_>) -> Result<u32, Nonsense> {
        let asked: [u8; 24] =
            request.readable.array().ok_or_else(|| Nonsense("a request for memory is too short".to_owned()))?;
        if request.writable.len() < 10 {
            return Err(Nonsense("a request for memory has no room for its answer".to_owned()));
        }
        let [low, high, _, _, _, _, _, _, a, b, c, d, e, f, g, h, few, many, ..] = asked;
        let (kind, start) = (u16::from_le_bytes([low, high]), u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        let range = self.blocks(start, u16::from_le_bytes([few, many]));
        let (answer, state) = match match (kind, range) {
            (kind::PLUG, Some(range)) => self.plug(range),
            (kind::UNPLUG, Some(range)) => self.unplug(&range),
            (kind::UNPLUG_ALL, _) => self.unplug_all(),
            (kind::STATE, Some(range)) => self.state_of(&range),
            _ => Answer::Wrong,
        } {
            Answer::Done(state) => (0u16, state),
            Answer::No => (1, 0),
            Answer::Busy => (2, 0),
            Answer::Wrong => (3, 0),
        };
        self.configure_anew();
        let [answer, state] = [answer, state].map(u16::to_le_bytes);
        Ok(request.writable.write(&[&answer[..], &[0; 6], &state].concat()) as u32)
    }

    /// The addresses of so many blocks, if there are such.
    fn blocks(&self, start: u64, count: u16) -> Option<Range<u64>> {
        let end = start.checked_add(u64::from(count) * BLOCK)?;
        let all = self.more.range();
        let is_there = count > 0 && start.is_multiple_of(BLOCK) && all.start <= start && end <= all.end;
        is_there.then_some(start..end)
    }

    fn plug(&mut self, range: Range<u64>) -> Answer {
        if !self.memory.plugged(&range).is_empty() {
            return Answer::Wrong;
        }
        if self.plugged() + (range.end - range.start) > self.requested {
            return Answer::No;
        }
        for number in self.parts(&range) {
            if self.memory.plugged(&self.addresses(number)).is_empty() && self.set_open(number, true).is_err() {
                // What was opened before it is closed when it is needed no more, or used when the guest asks again.
                return Answer::Busy;
            }
        }
        self.memory.plug(range);
        Answer::Done(0)
    }

    fn unplug(&mut self, range: &Range<u64>) -> Answer {
        if self.state_of(range) != Answer::Done(0) {
            return Answer::Wrong;
        }
        self.memory.unplug(range);
        for number in self.parts(range) {
            if self.memory.plugged(&self.addresses(number)).is_empty() {
                // One that stays open has nothing in it.
                let _ = self.set_open(number, false);
            }
        }
        Answer::Done(0)
    }

    fn unplug_all(&mut self) -> Answer {
        for range in self.memory.all_plugged() {
            self.unplug(&range);
        }
        Answer::Done(0)
    }

    /// 0: the guest has all of it; 1: none; 2: some.
    fn state_of(&self, range: &Range<u64>) -> Answer {
        let plugged: u64 = self.memory.plugged(range).iter().map(|part| part.end - part.start).sum();
        Answer::Done(match plugged {
            0 => 1,
            all if all == range.end - range.start => 0,
            _ => 2,
        })
    }
}

impl Device for Blocks {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        UNPLUGGED_INACCESSIBLE
    }

    fn queues(&self) -> &'static [u16] {
        &[64]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn changes(&self) -> u32 {
        self.changes
    }

    fn activate(&mut self, mut queues: Vec<Option<Queue>>, _features: u64) {
        self.queue = queues.pop().flatten();
    }

    fn notified(&mut self, _queue: usize) -> Result<(), Nonsense> {
        let Some(mut queue) = self.queue.take() else { return Ok(()) };
        let handled = queue.handle(|request| self.answer(request));
        self.queue = Some(queue);
        handled
    }

    fn positions(&self) -> Vec<Option<Position>> {
        vec![self.queue.as_ref().map(Queue::position)]
    }

    /// How much the host would like. What is plugged goes with the memory.
    fn state(&self) -> Result<Vec<u8>, String> {
        Ok(self.requested.to_le_bytes().to_vec())
    }

    fn set_state(&mut self, state: &[u8]) -> Result<(), String> {
        let requested = state.try_into().map_err(|_| "the state of memory that comes has 8 bytes".to_owned())?;
        self.requested = u64::from_le_bytes(requested);
        self.configure_anew();
        Ok(())
    }

    /// What the guest has stays plugged: a driver that starts over finds it so (5.15.5).
    fn reset(&mut self) {
        self.queue = None;
    }
}
