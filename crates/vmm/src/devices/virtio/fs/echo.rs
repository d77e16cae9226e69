//! A server for tests, on a thread: it answers each request with as much of itself as there is room for.

use super::shared::{REQUESTS, Ring, Shared, URGENT};
use super::{Fs, QUEUES};
use crate::end::Ending;
use crate::error::{Error, Result};
use crate::events::Waited;
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// The server; it ends with this.
pub(in super::super) struct Echo {
    is_over: Arc<AtomicBool>,
    /// It was told of a request.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests alone ask"))]
    is_asked: Arc<AtomicBool>,
    /// It has this while it answers.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests alone have it wait"))]
    turn: Arc<Mutex<()>>,
    kick: EventFd,
    thread: Option<JoinHandle<()>>,
}

/// A ring as its server sees it.
struct Served {
    queue: virtio_queue::Queue,
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
}

impl Echo {
    /// A file system that is called `echo`, and its server.
    pub(in super::super) fn serve() -> Result<(Fs, Echo)> {
        let (shared, rings) = Shared::with_rings([URGENT, REQUESTS])?;
        let failed = || Error::host("serve in a test");
        let copy = |event: &EventFd| event.try_clone().map_err(Error::host("have an event twice"));
        let mut served = Vec::with_capacity(QUEUES);
        for ring in &rings {
            let queue = queue(ring).map_err(std::io::Error::other).map_err(failed())?;
            let memory = shared.memory.clone();
            served.push(Served { queue, memory, kick: copy(ring.kick())?, call: copy(ring.answered())? });
        }
        let kick = copy(rings[0].kick())?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (is_asked, turn) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(())));
        let (ends, asked, turns) = (Arc::clone(&is_over), Arc::clone(&is_asked), Arc::clone(&turn));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                let waited: Vec<_> = served.iter().map(|served| Waited(&served.kick)).collect();
                let mut polled: Vec<_> = waited.iter().map(|event| PollFd::new(event, PollFlags::IN)).collect();
                let _ = poll(&mut polled, None);
                asked.store(true, Ordering::SeqCst);
                let _turn = turns.lock().unwrap_or_else(PoisonError::into_inner);
                served.iter_mut().for_each(Served::answer);
            }
        });
        let fs = Fs::new("echo", rings, None, &Arc::new(Ending::new()?))?;
        Ok((fs, Echo { is_over, is_asked, turn, kick, thread: Some(thread) }))
    }

    /// It answers nothing until what this returns is dropped.
    #[cfg(test)]
    pub(in super::super) fn hang(&self) -> std::sync::MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was ever told of a request.
    #[cfg(test)]
    pub(in super::super) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::SeqCst)
    }
}

fn queue(ring: &Ring) -> Result<virtio_queue::Queue, virtio_queue::Error> {
    let mut queue = virtio_queue::Queue::new(ring.entries())?;
    let halves = ring.tables().map(|table| (Some(table as u32), Some((table >> 32) as u32)));
    queue.set_desc_table_address(halves[0].0, halves[0].1);
    queue.set_avail_ring_address(halves[1].0, halves[1].1);
    queue.set_used_ring_address(halves[2].0, halves[2].1);
    queue.set_ready(true);
    Ok(queue)
}

impl Served {
    fn answer(&mut self) {
        // It may be the other ring's turn.
        if self.kick.read().is_err() {
            return;
        }
        while let Some(chain) = self.queue.iter(&self.memory).ok().and_then(|mut chains| chains.next()) {
            let (number, mut request, mut written) = (chain.head_index(), Vec::new(), 0);
            for descriptor in chain {
                let length = descriptor.len() as usize;
                if descriptor.is_write_only() {
                    written = length.min(request.len());
                    self.memory.write_slice(&request[..written], descriptor.addr()).expect("it is in the memory");
                } else {
                    request.resize(length, 0);
                    self.memory.read_slice(&mut request, descriptor.addr()).expect("it is in the memory");
                }
            }
            self.queue.add_used(&self.memory, number, written as u32).expect("the ring is in the memory");
        }
        let _ = self.call.write(1);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let _ = self.kick.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
