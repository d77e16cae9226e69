//! A queue: a ring of requests that the guest fills and the device answers (2.7), by `virtio-queue`.

use super::buffers::Buffers;
use crate::memory::Memory;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

/// The guest put something into a queue that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Nonsense(pub(crate) String);

/// The line that a device pulls, and why it did (4.2.2: `InterruptStatus`).
#[derive(Debug)]
pub(crate) struct Interrupt {
    line: EventFd,
    why: AtomicU32,
    broken: AtomicBool,
}

/// A queue has something for the guest.
pub(crate) const USED_BUFFER: u32 = 1;
/// The configuration changed, or the device needs a reset.
pub(crate) const CONFIGURATION: u32 = 2;

impl Interrupt {
    pub(crate) fn new(line: EventFd) -> Interrupt {
        Interrupt { line, why: AtomicU32::new(0), broken: AtomicBool::new(false) }
    }

    /// Pulls it.
    pub(crate) fn pull(&self, why: u32) {
        self.why.fetch_or(why, Ordering::SeqCst);
        // A counter that is full has interrupts pending.
        let _ = self.line.write(1);
    }

    /// Why it was pulled and not acknowledged yet.
    pub(crate) fn pending(&self) -> u32 {
        self.why.load(Ordering::SeqCst)
    }

    /// The guest did what makes no sense: the device does nothing more until it is reset, and says so (2.1.2).
    pub(crate) fn fail(&self, _why: &Nonsense) {
        self.broken.store(true, Ordering::SeqCst);
        self.pull(CONFIGURATION);
    }

    /// Whether the device needs a reset.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// It goes on from a snapshot, where it was pulled for these reasons and the device needed a reset or not. An interrupt may have been on its way: it comes again.
    pub(super) fn restore(&self, why: u32, is_broken: bool) {
        // A device that can't go on as it was has said so already.
        self.broken.fetch_or(is_broken, Ordering::SeqCst);
        if why != 0 {
            self.pull(why);
        }
    }

    /// The device was reset.
    pub(super) fn reset(&self) {
        self.broken.store(false, Ordering::SeqCst);
        self.why.store(0, Ordering::SeqCst);
    }

    /// The guest knows.
    pub(crate) fn acknowledge(&self, why: u32) {
        self.why.fetch_and(!why, Ordering::SeqCst);
    }
}

/// A queue that the guest has set up.
#[derive(Debug)]
pub(crate) struct Queue {
    ring: virtio_queue::Queue,
    memory: Memory,
    interrupt: Arc<Interrupt>,
    /// What the guest writes to when it has put something there.
    kick: Arc<EventFd>,
}

/// How far a device is with a queue: the requests that it has taken and answered, counted as the rings count (2.7.6, 2.7.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) available: u16,
    pub(crate) used: u16,
}

/// A request, which is to be answered by its number.
#[derive(Debug)]
pub(crate) struct Request<'m> {
    /// Its number, by which it is answered.
    pub(crate) number: u16,
    /// What the guest has written.
    pub(crate) readable: Buffers<'m>,
    /// Where the answer goes.
    pub(crate) writable: Buffers<'m>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is answered: so many bytes of it were written.
    Answered(u32),
    /// It stays where it is, with all behind it. The guest does not tell of it again: who says this has to look again by itself.
    Later,
}

/// What has something for a guest that offers requests to be filled.
pub(crate) trait Source {
    /// Whether there is something.
    fn has_something(&self) -> bool;
    /// Fills a request. Returns how many bytes were written, or `None` if there was nothing after all: then there is less than before.
    fn fill(&mut self, request: &mut Request<'_>) -> Result<Option<u32>, Nonsense>;
}

impl<'m> Request<'m> {
    /// Bytes of all of its buffers.
    pub(crate) fn len(&self) -> usize {
        self.readable.len().saturating_add(self.writable.len())
    }

    /// One that is in no queue.
    #[cfg(test)]
    pub(super) fn for_test(readable: Buffers<'m>, writable: Buffers<'m>) -> Request<'m> {
        Request { number: 0, readable, writable }
    }
}

impl Queue {
    /// `None`: its rings are not where the guest has memory, or not where rings may be.
    pub(super) fn new(
        ring: virtio_queue::Queue,
        memory: Memory,
        interrupt: Arc<Interrupt>,
        kick: Arc<EventFd>,
    ) -> Option<Queue> {
        let size = u64::from(ring.size());
        // (2.7) With the indexes by which either side says when it wants to be told.
        let places =
            [(ring.desc_table(), 16 * size), (ring.avail_ring(), 6 + 2 * size), (ring.used_ring(), 6 + 8 * size)];
        let is_the_guests = places.iter().all(|(at, length)| memory.is_the_guests(GuestAddress(*at), *length));
        (is_the_guests && ring.is_valid(memory.regions())).then_some(Queue { ring, memory, interrupt, kick })
    }

    /// How far the device is with it.
    pub(crate) fn position(&self) -> Position {
        Position { available: self.ring.next_avail(), used: self.ring.next_used() }
    }

    /// What the guest writes to when it has put something there.
    pub(crate) fn kick(&self) -> &Arc<EventFd> {
        &self.kick
    }

    /// How many entries it has.
    pub(crate) fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The device's line.
    pub(crate) fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Has requests that are there handled, by a function that returns how many bytes it wrote, and answered; the guest is told once. A guest that
    /// offers without end gets a ring's length a turn, and whoever waits for this queue is woken for the next one.
    pub(crate) fn handle(
        &mut self,
        mut handle: impl FnMut(Request<'_>) -> Result<u32, Nonsense>,
    ) -> Result<(), Nonsense> {
        self.handle_while(|| true, |request| handle(request).map(Outcome::Answered))
    }

    /// As [`Queue::handle`], for as long as `goes_on` says so, and until a request has to wait. Whoever waits for this queue is woken for the rest in the first case.
    pub(crate) fn handle_while(
        &mut self,
        goes_on: impl Fn() -> bool,
        mut handle: impl FnMut(Request<'_>) -> Result<Outcome, Nonsense>,
    ) -> Result<(), Nonsense> {
        let memory = self.memory.clone();
        let mut left = self.ring.size();
        self.quiet()?;
        loop {
            match self.next(&memory)? {
                Some(request) => {
                    let number = request.number;
                    match handle(request)? {
                        Outcome::Answered(written) => self.answer(number, written)?,
                        Outcome::Later => {
                            self.put_back(1);
                            break;
                        }
                    }
                    left -= 1;
                }
                // The guest may have put something there between the last look and this.
                None if self.wake()? => {}
                None => break,
            }
            if left == 0 || !goes_on() {
                // It is not full: it was read before.
                let _ = self.kick.write(1);
                break;
            }
        }
        if left < self.ring.size() { self.tell() } else { Ok(()) }
    }

    /// Fills requests with what a source has, as long as there is both; the guest is told once.
    pub(crate) fn fill(&mut self, source: &mut impl Source) -> Result<(), Nonsense> {
        let memory = self.memory.clone();
        loop {
            self.quiet()?;
            let mut has_answered = false;
            while source.has_something() {
                let Some(mut request) = self.next(&memory)? else { break };
                match source.fill(&mut request)? {
                    Some(written) => {
                        self.answer(request.number, written)?;
                        has_answered = true;
                    }
                    None => self.ring.go_to_previous_position(),
                }
            }
            if has_answered {
                self.tell()?;
            }
            // Without buffers, the guest is to tell when it has more; it may have meanwhile.
            if !source.has_something() || !self.wake()? {
                return Ok(());
            }
        }
    }

    /// The next request, if one is there. `memory` is this queue's.
    pub(crate) fn next<'m>(&mut self, memory: &'m Memory) -> Result<Option<Request<'m>>, Nonsense> {
        let Some(chain) = self.ring.iter(memory.regions()).map_err(nonsense)?.next() else { return Ok(None) };
        let number = chain.head_index();
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        let (mut count, mut is_whole) = (0, false);
        for descriptor in chain {
            count += 1;
            is_whole = !descriptor.has_next();
            let length = descriptor.len() as usize;
            let slice = memory.regions().get_slice(descriptor.addr(), length).ok();
            let slice = slice.filter(|_| memory.is_the_guests(descriptor.addr(), length as u64));
            let slice = slice.ok_or_else(|| {
                Nonsense(format!("a buffer of {length} bytes at {:#x} is not in memory", descriptor.addr().0))
            })?;
            let into = if descriptor.is_write_only() {
                &mut writable
            } else if writable.len() > 0 {
                // (2.7.4.2)
                return Err(Nonsense("a buffer to be read comes behind one to be written".to_owned()));
            } else {
                &mut readable
            };
            into.push(slice).ok_or_else(|| Nonsense("a request is longer than anything can be".to_owned()))?;
        }
        // What is wrong in a chain ends it, and it says that it goes on (2.7.5); none is longer than its queue (2.7.5.3.1).
        if !is_whole || count > self.ring.size() {
            return Err(Nonsense("a request's buffers break off, or are more than the queue has".to_owned()));
        }
        Ok(Some(Request { number, readable, writable }))
    }

    /// The memory that its requests are in.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Puts the last requests back that were taken, so that they are the next ones again.
    pub(crate) fn put_back(&mut self, count: usize) {
        (0..count).for_each(|_| self.ring.go_to_previous_position());
    }

    /// The guest need not tell of more requests.
    pub(crate) fn quiet(&mut self) -> Result<(), Nonsense> {
        self.ring.disable_notification(self.memory.regions()).map_err(nonsense)
    }

    /// The guest is to tell of the next request. Returns whether one has come meanwhile, of which it need not.
    pub(crate) fn wake(&mut self) -> Result<bool, Nonsense> {
        self.ring.enable_notification(self.memory.regions()).map_err(nonsense)
    }

    /// Answers a request: so many bytes of it were written.
    pub(crate) fn answer(&mut self, number: u16, written: u32) -> Result<(), Nonsense> {
        self.ring.add_used(self.memory.regions(), number, written).map_err(nonsense)
    }

    /// Tells the guest of what was answered since the last time, if it wants to know.
    pub(crate) fn tell(&mut self) -> Result<(), Nonsense> {
        if self.ring.needs_notification(self.memory.regions()).map_err(nonsense)? {
            self.interrupt.pull(USED_BUFFER);
        }
        Ok(())
    }
}

fn nonsense(error: virtio_queue::Error) -> Nonsense {
    Nonsense(error.to_string())
}
