//! A disk (5.2).
//!
//! - [`disk`]: where its contents are
//! - [`request`]: what the guest may ask
//! - here: its configuration, and the thread that works the requests off

mod disk;
mod request;

pub(crate) use disk::Disk;

use super::Device;
use super::queue::{Nonsense, Queue};
use crate::events::{Waited, event};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
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
/// The size by which a guest's file system should write: 512 << 3. Its blocks have 512 bytes all the same, as partition tables are written in those.
const PHYSICAL_EXPONENT: u8 = 3;
const PHYSICAL_SECTORS: u16 = 1 << PHYSICAL_EXPONENT;
/// Sectors that a request may give back at once: a GiB.
pub(super) const MOST_SECTORS: u32 = 1 << 21;

/// The device.
pub(crate) struct Block {
    configuration: [u8; 60],
    features: u64,
    state: State,
}

enum State {
    /// Nobody uses it.
    Idle(Box<Disk>),
    /// A thread does, and gives the disk back at its end.
    Running { stop: Arc<EventFd>, thread: JoinHandle<Box<Disk>> },
    /// The thread could not be started, or ended badly: no request is answered any more.
    Lost,
}

impl Block {
    /// A disk as a device.
    pub(crate) fn new(disk: Disk) -> Block {
        let writable = feature::DISCARD | feature::WRITE_ZEROES;
        let features = feature::SEG_MAX
            | feature::TOPOLOGY
            | feature::FLUSH
            | if disk.is_read_only() { feature::READ_ONLY } else { writable };
        Block { configuration: configuration(&disk), features, state: State::Idle(Box::new(disk)) }
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
    if !disk.is_read_only() {
        // Discarding and zeroing: how much at once, in how many parts, and how aligned; zeroes may be holes.
        put(36, &MOST_SECTORS.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &u32::from(PHYSICAL_SECTORS).to_le_bytes());
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

    fn waits_by_itself(&self) -> bool {
        true
    }

    fn activate(&mut self, mut queues: Vec<Option<Queue>>, features: u64) {
        let Some(queue) = queues.pop().flatten() else { return };
        let Ok(stop) = event().map(Arc::new) else {
            return queue.interrupt().fail(&Nonsense("the host has no descriptor left for a disk".to_owned()));
        };
        let State::Idle(mut disk) = std::mem::replace(&mut self.state, State::Lost) else { return };
        disk.set_write_through(features & feature::FLUSH == 0);
        let (stopped, interrupt) = (Arc::clone(&stop), Arc::clone(queue.interrupt()));
        let thread = thread::Builder::new().name("disk".to_owned()).spawn(move || work(disk, queue, &stopped));
        match thread {
            Ok(thread) => self.state = State::Running { stop, thread },
            Err(error) => interrupt.fail(&Nonsense(format!("start a thread for a disk: {error}"))),
        }
    }

    fn reset(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Lost) {
            State::Running { stop, thread } => {
                // It is not full: nobody else writes to it.
                let _ = stop.write(1);
                thread.join().map_or(State::Lost, State::Idle)
            }
            other => other,
        };
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Works requests off until it is told to stop. Returns the disk.
fn work(mut disk: Box<Disk>, mut queue: Queue, stop: &EventFd) -> Box<Disk> {
    let kick = Arc::clone(queue.kick());
    let mut is_right = true;
    loop {
        // Waiting fails for want of memory alone: what is there is worked off all the same.
        let (kicked, stopped) = wait(&kick, stop, is_right).unwrap_or((true, false));
        if stopped {
            return disk;
        }
        if kicked && is_right {
            let _ = kick.read();
            if let Err(nonsense) = queue.handle(|request| request::answer(&mut disk, request)) {
                queue.interrupt().fail(&nonsense);
                is_right = false;
            }
        }
    }
}

/// Which of the two was written to. The first only counts while the guest makes sense.
fn wait(kick: &EventFd, stop: &EventFd, is_right: bool) -> rustix::io::Result<(bool, bool)> {
    let (kick, stop) = (Waited(kick), Waited(stop));
    let mut waited = [PollFd::new(&stop, PollFlags::IN), PollFd::new(&kick, PollFlags::IN)];
    let count = if is_right { 2 } else { 1 };
    match poll(&mut waited[..count], None) {
        Ok(_) => Ok((!waited[1].revents().is_empty(), !waited[0].revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok((false, false)),
        Err(error) => Err(error),
    }
}
