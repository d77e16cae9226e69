//! Devices that a guest knows to be virtual: OASIS "Virtual I/O Device (VIRTIO) Version 1.2", whose sections are named here as (5.2.6).
//!
//! A [`Device`] is what a kind of device does; [`transport`] has the registers by which a guest finds and sets up each of them; [`queue`]
//! has the rings over which they speak. Whatever the guest writes into registers, rings and buffers may be wrong on purpose: what makes no
//! sense sets the device's `DEVICE_NEEDS_RESET`, and the device does nothing more until the guest resets it.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod buffers;
pub(crate) mod fs;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "what fuzzing uses is public"))]
pub(crate) mod hostile;
pub(crate) mod limit;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod queue;
pub(crate) mod rng;
pub(crate) mod transport;
pub(crate) mod vsock;

use crate::confine::Kind;
use crate::threads::{Thread, Wanted};
use queue::{Interrupt, Nonsense, Position, Queue};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vmm_sys_util::eventfd::EventFd;

/// Feature bits that are of no kind of device (6).
pub(crate) mod feature {
    /// Descriptors in a table of their own.
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    /// Each side says when it wants to be told.
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    /// A device of this specification, and not of the one before it.
    pub(crate) const VERSION_1: u64 = 1 << 32;
    /// What all devices here have.
    pub(crate) const ALL: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What a kind of device does, behind a transport.
///
/// It is made once; then, any number of times, it is activated, has events handled, and is reset.
pub(crate) trait Device: Send {
    /// Its number (5).
    fn kind(&self) -> u32;
    /// What it can do beyond what all can.
    fn features(&self) -> u64;
    /// The most entries of each of its queues: powers of two.
    fn queues(&self) -> &'static [u16];
    /// Its configuration, as the guest reads it.
    fn configuration(&self) -> &[u8];
    /// How often its configuration has changed since it was made, but for what the guest writes there.
    fn changes(&self) -> u32 {
        0
    }
    /// Which bytes of its configuration may be others when it goes on from a snapshot. The guest is told to look again.
    fn may_change(&self) -> Range<usize> {
        0..0
    }
    /// The guest writes into its configuration. Most have nothing to be written.
    fn configure(&mut self, _offset: u64, _data: &[u8]) {}
    /// The guest has set it up, with these queues, of which those that it does not use are missing, and these features of those offered.
    fn activate(&mut self, queues: Vec<Option<Queue>>, features: u64);
    /// The thread that waits for what the guest puts into its queues, if it has one of its own: then [`Device::notified`] is never called. It runs whenever the
    /// guest does.
    fn thread(&self) -> Option<&Thread> {
        None
    }
    /// Whether it has such a thread, or is to have one. It is the same for as long as the device lives.
    fn has_own_thread(&self) -> bool {
        self.thread().is_some()
    }
    /// The guest has put something into a queue.
    ///
    /// # Errors
    /// What the guest did wrong: the device needs a reset then.
    fn notified(&mut self, _queue: usize) -> Result<(), Nonsense> {
        Ok(())
    }
    /// What else it waits for: readable when there is something to be done. It is the same for as long as the device lives.
    fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// There is something to be done.
    ///
    /// # Errors
    /// As [`Device::notified`].
    fn ready(&mut self) -> Result<(), Nonsense> {
        Ok(())
    }
    /// How far it is with each of its queues, while it rests: nothing for those that the guest does not use.
    fn positions(&self) -> Vec<Option<Position>>;
    /// What it knows that neither its configuration as it was made nor its queues say, while it rests.
    ///
    /// # Errors
    /// Whoever else knows of it does not say so; the text says why.
    fn state(&self) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }
    /// It goes on from a snapshot that has this of it, before anything else happens to it. Most have nothing.
    ///
    /// # Errors
    /// It is none; the text says why.
    fn set_state(&mut self, state: &[u8]) -> Result<(), String> {
        if state.is_empty() { Ok(()) } else { Err("it has more than it can have".to_owned()) }
    }
    /// It goes on from a snapshot, on another host perhaps: it was just activated, with queues of which a part was worked off before.
    ///
    /// # Errors
    /// As [`Device::notified`].
    fn restored(&mut self) -> Result<(), Nonsense> {
        Ok(())
    }
    /// The guest starts over: everything that was under way is over when this returns, and nothing is written into the guest's memory after it.
    fn reset(&mut self);
}

/// A device as the machine has it. Clones are the same device.
#[derive(Clone)]
pub(crate) struct Attached {
    device: Arc<Mutex<dyn Device>>,
    interrupt: Arc<Interrupt>,
    /// One for each queue: written to when the guest put something there.
    kicks: Vec<Arc<EventFd>>,
}

impl Attached {
    pub(crate) fn new(device: Arc<Mutex<dyn Device>>, interrupt: Interrupt, kicks: Vec<Arc<EventFd>>) -> Attached {
        Attached { device, interrupt: Arc::new(interrupt), kicks }
    }

    /// The device.
    fn device(&self) -> MutexGuard<'_, dyn Device + 'static> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells its own thread, if it has one, what to do.
    pub(crate) fn want(&self, wanted: Wanted) {
        if let Some(thread) = self.device().thread() {
            thread.want(wanted);
        }
    }

    /// Has its own thread, if it has one, rest, and waits until it does.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn rest(&self) {
        if let Some(thread) = self.device().thread() {
            thread.rest();
        }
    }

    /// Has its own thread, if it has one, rest, and waits until it does, but no longer than that.
    ///
    /// # Errors
    /// It does not rest by then; the kind of thread that does not.
    pub(crate) fn rest_until(&self, until: Instant) -> Result<(), Kind> {
        self.device().thread().map_or(Ok(()), |thread| thread.rest_until(until))
    }

    /// What is to be waited for on the device's behalf, one for each queue.
    pub(crate) fn waited_for(&self) -> &[Arc<EventFd>] {
        if self.device().has_own_thread() { &[] } else { &self.kicks }
    }

    /// Has `wait` wait for what the device waits for besides.
    pub(crate) fn waits_for<R>(&self, wait: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        self.device().waits_for().map(wait)
    }

    /// The guest has put something into a queue.
    pub(crate) fn notified(&self, queue: usize) {
        self.handle(|device| device.notified(queue));
    }

    /// What the device waits for besides is there.
    pub(crate) fn ready(&self) {
        self.handle(Device::ready);
    }

    /// The configuration is another one: the guest is told to look.
    pub(crate) fn changed(&self) {
        self.interrupt.pull(queue::CONFIGURATION);
    }

    /// Does something with the device that the guest has to do with.
    pub(crate) fn with<D: Device + 'static, R>(
        &self,
        device: &Mutex<D>,
        does: impl FnOnce(&mut D) -> Result<R, Nonsense>,
    ) -> Option<R> {
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        match does(&mut device) {
            Ok(done) => Some(done),
            Err(nonsense) => {
                device.reset();
                self.interrupt.fail(&nonsense);
                None
            }
        }
    }

    /// It was activated as it was in a snapshot. What the guest put into its queues before is looked at, as nobody tells of it again; and the guest looks at what
    /// was answered, as an interrupt may have been on its way.
    fn restored(&self) {
        self.handle(Device::restored);
        self.look();
        self.interrupt.pull(queue::USED_BUFFER);
    }

    /// Has what is in the queues already looked at, of which nobody told since the device was activated.
    fn look(&self) {
        for kick in &self.kicks {
            // One that is full was written to before.
            let _ = kick.write(1);
        }
    }

    fn handle(&self, handle: impl FnOnce(&mut (dyn Device + 'static)) -> Result<(), Nonsense>) {
        let mut device = self.device();
        if let Err(nonsense) = handle(&mut *device) {
            // It has no queues any more: what happens on the host's side it still takes note of, so that nobody there waits for nothing.
            device.reset();
            self.interrupt.fail(&nonsense);
        }
    }
}
