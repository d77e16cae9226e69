//! A disk (5.2).
//!
//! - [`disk`]: where its contents are
//! - [`qcow2`]: contents that are in an image of that format
//! - [`request`]: what the guest may ask
//! - here: its configuration, and the thread that works the requests off

mod disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod qcow2;
#[cfg(not(any(test, feature = "fuzzing")))]
mod qcow2;
mod request;

pub(crate) use disk::Disk;
pub use qcow2::ImageError;

use super::Device;
use super::limit::Limiter;
use super::queue::{Outcome, Position, Queue};
use crate::config::Limits;
use crate::confine::Kind;
use crate::end::{End, Ending};
use crate::error::Result;
use crate::events::Waited;
use crate::threads::{Gate, Thread, Wake, Wanted, wake};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use vmm_sys_util::eventfd::EventFd;

/// Its number.
const KIND: u32 = 2;
/// Bytes of a sector, whatever a disk's own are.
pub(super) const SECTOR: u64 = 512;

/// What it can do (5.2.3).
pub(super) mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Entries of its queue: a request takes one of them, as its buffers are in a table of their own.
const QUEUE: u16 = 256;
/// Buffers of a request: its header and its status take two more.
const BUFFERS: u32 = QUEUE as u32 - 2;
/// Bytes of a request that are no data: its header, and its status.
const NO_DATA: usize = 17;
/// The size by which a guest's file system should write: 512 << 3. Its blocks have 512 bytes all the same, as partition tables are written in those.
const PHYSICAL_EXPONENT: u8 = 3;
const PHYSICAL_SECTORS: u16 = 1 << PHYSICAL_EXPONENT;
/// Sectors that a request may give back at once: a GiB.
pub(super) const MOST_SECTORS: u32 = 1 << 21;

/// The device.
pub(crate) struct Block {
    configuration: [u8; 60],
    features: u64,
    work: Arc<Work>,
    thread: Thread,
}

/// What the device and its thread share.
struct Work {
    /// The thread has it while it works requests off.
    ring: Mutex<Ring>,
    /// Tells the thread that there is a queue now, or that it is to rest.
    wake: Wake,
}

/// The disk, and what the guest wants of it.
struct Ring {
    disk: Disk,
    queue: Option<Queue>,
    /// The guest did what makes no sense: nothing more is answered until it starts over.
    is_wrong: bool,
    limiter: Limiter,
    /// The next request waits until then, as there were too many, or too much.
    until: Option<Instant>,
}

impl Block {
    /// A disk as a device, with its thread.
    pub(crate) fn new(disk: Disk, limits: Limits, ending: &Arc<Ending>) -> Result<Block> {
        let writable = feature::DISCARD | feature::WRITE_ZEROES;
        let features = feature::SEG_MAX
            | feature::TOPOLOGY
            | feature::FLUSH
            | if disk.is_read_only() { feature::READ_ONLY } else { 0 }
            | if disk.gives_back().is_some() { writable } else { 0 };
        let configuration = configuration(&disk);
        let limiter = Limiter::new(limits);
        let ring = Mutex::new(Ring { disk, queue: None, is_wrong: false, limiter, until: None });
        let work = Arc::new(Work { ring, wake: wake()? });
        let (works, event, ends) = (Arc::clone(&work), Arc::clone(&work.wake), Arc::clone(ending));
        let thread = Thread::new("disk".to_owned(), Kind::Disk, Some(event), ending, move |gate| {
            while gate.pass() {
                while gate.is_open() {
                    works.once(gate);
                }
                works.settle(&ends);
            }
        })?;
        Ok(Block { configuration, features, work, thread })
    }

    /// The disk, beside the device.
    pub(crate) fn disk(&self) -> DiskHandle {
        DiskHandle(Arc::clone(&self.work))
    }
}

/// A disk, for whoever has the machine.
pub(crate) struct DiskHandle(Arc<Work>);

impl DiskHandle {
    /// Whether it is the disk with this serial number.
    pub(crate) fn is(&self, serial: &str) -> bool {
        *self.0.ring().disk.serial() == disk::serial_of(serial)
    }

    /// See [`Disk::lay`]. What the guest is having answered at that moment is waited for.
    pub(crate) fn lay(&self, start: u64, file: Option<File>) -> io::Result<()> {
        self.0.ring().disk.lay(start, file)
    }
}

/// `struct virtio_blk_config` (5.2.4).
fn configuration(disk: &Disk) -> [u8; 60] {
    let mut bytes = [0; 60];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &(disk.size() / SECTOR).to_le_bytes());
    put(12, &BUFFERS.to_le_bytes());
    put(24, &[PHYSICAL_EXPONENT, 0]);
    put(26, &PHYSICAL_SECTORS.to_le_bytes());
    if let Some(part) = disk.gives_back() {
        // Discarding and zeroing: how much at once, in how many parts, and how aligned; zeroes may be holes.
        put(36, &MOST_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &u32::try_from(part / SECTOR).unwrap_or(u32::MAX).to_le_bytes());
        put(48, &MOST_SECTORS.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
    }
    bytes
}

impl Device for Block {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    /// How large it is: a machine that was saved with an empty disk goes on with what is to be run.
    fn may_change(&self) -> Range<usize> {
        0..8
    }

    fn thread(&self) -> Option<&Thread> {
        Some(&self.thread)
    }

    fn activate(&mut self, mut queues: Vec<Option<Queue>>, features: u64) {
        let mut ring = self.work.ring();
        ring.disk.set_write_through(features & feature::FLUSH == 0);
        (ring.queue, ring.is_wrong, ring.until) = (queues.pop().flatten(), false, None);
        // It is not full: the thread reads it.
        let _ = self.work.wake.write(1);
    }

    fn positions(&self) -> Vec<Option<Position>> {
        vec![self.work.ring().queue.as_ref().map(Queue::position)]
    }

    fn reset(&mut self) {
        // It rests after the request that it is at: no guest keeps it from that.
        self.thread.rest();
        self.work.ring().queue = None;
        self.thread.want(Wanted::Run);
    }
}

impl Work {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before the thread rests: whoever waits for that may copy the disk's file, or open it.
    fn settle(&self, ending: &Ending) {
        if let Err(error) = self.ring().disk.settle() {
            ending.tell(End::Failed(format!("write the tables of a disk's image: {error}")));
        }
    }

    /// Waits until the guest has put something into the queue, or what is there may go on, and works it off, for as long as the gate is open.
    fn once(&self, gate: &Gate) {
        let (kick, until) = self.ring().waits();
        if wait(kick.as_deref(), &self.wake, until) {
            self.work_off(gate);
        }
    }

    /// Apart from who waits: what this takes of the stack, one that never does anything need not have.
    #[inline(never)]
    fn work_off(&self, gate: &Gate) {
        let mut ring = self.ring();
        let Ring { disk, queue: Some(queue), is_wrong, limiter, until } = &mut *ring else { return };
        let _ = queue.kick().read();
        *until = None;
        let handled = queue.handle_while(
            || gate.is_open(),
            |request| {
                if let Some(wait) = limiter.wait() {
                    *until = Some(Instant::now() + wait);
                    return Ok(Outcome::Later);
                }
                limiter.take(request.len().saturating_sub(NO_DATA));
                request::answer(disk, request).map(Outcome::Answered)
            },
        );
        if let Err(nonsense) = handled {
            queue.interrupt().fail(&nonsense);
            *is_wrong = true;
        }
    }
}

impl Ring {
    /// What the guest writes to, while that counts; or until when nothing that it asks for does.
    fn waits(&self) -> (Option<Arc<EventFd>>, Option<Instant>) {
        match self.queue.as_ref().filter(|_| !self.is_wrong) {
            Some(_) if self.until.is_some() => (None, self.until),
            queue => (queue.map(|queue| Arc::clone(queue.kick())), None),
        }
    }
}

/// Waits until one of the two is written to, or that time has come. Returns whether it has, or the first one is.
fn wait(kick: Option<&EventFd>, wake: &EventFd, until: Option<Instant>) -> bool {
    let (woken, kicked) = (Waited(wake), kick.map(Waited));
    let mut waited = vec![PollFd::new(&woken, PollFlags::IN)];
    waited.extend(kicked.as_ref().map(|kick| PollFd::new(kick, PollFlags::IN)));
    let rest = until.map(|until| until.saturating_duration_since(Instant::now()));
    // What is too long for the kernel is looked at again.
    let rest = rest.map(|rest| Timespec::try_from(rest).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }));
    // It fails where a signal came, or for want of memory: looked at again.
    let _ = poll(&mut waited, rest.as_ref());
    if !waited[0].revents().is_empty() {
        let _ = wake.read();
    }
    until.is_some_and(|until| Instant::now() >= until) || waited.get(1).is_some_and(|kick| !kick.revents().is_empty())
}
