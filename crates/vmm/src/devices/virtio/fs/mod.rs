//! A file system of the host's (5.11), which a process of its own serves by vhost-user.
//!
//! Such a server usually reads and writes the guest's memory itself. It can't here: that memory is private to this process where the kernel, the initramfs or a
//! snapshot is mapped from a file. So each request is copied into memory that the two share, and its answer back: this device is itself the driver of
//! the server's rings, and the server sees nothing of the guest but what is asked of it.
//!
//! - [`shared`]: that memory, and the rings in it
//! - [`server`]: how the server comes by them, says what it knows, and takes over what another one knew
//! - [`known`]: what of that has to be understood
//! - [`session`]: what is saved of a guest that has it mounted
//! - [`place`]: where one may come while the machine runs
//! - here: the device and the thread that copies

#[cfg(any(test, feature = "fuzzing"))]
mod echo;
mod known;
mod place;
mod server;
mod session;
mod shared;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use echo::Echo;

pub(crate) use place::Place;
pub(crate) use server::connect;
use session::{ANSWER_MAX, GREETING_MAX, Mounted, Session};
pub(crate) use shared::Ring;

use super::Device;
use super::buffers::Buffers;
use super::queue::{Nonsense, Position, Queue};
use crate::confine::Kind;
use crate::end::Ending;
use crate::error::Result;
use crate::events::Waited;
use crate::memory::Memory;
use crate::threads::{Gate, Thread, Wake, Wanted, wake};
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Its number.
const KIND: u32 = 26;
/// Bytes of the longest tag.
pub(crate) const TAG_MAX: usize = 36;
/// Queues: one for what must not wait behind others, one for requests.
const QUEUES: usize = 2;
/// Entries of each. Linux has a request's data in as many pages as its queue has entries, without four for the rest (fs/fuse/virtio_fs.c).
const QUEUE: u16 = 128;

/// The device.
pub(crate) struct Fs {
    configuration: [u8; TAG_MAX + 4],
    work: Arc<Work>,
    thread: Thread,
    /// The server ends with its connection.
    server: Option<server::Connection>,
}

/// What the device and its thread share.
struct Work {
    /// The thread has it while it serves.
    state: Mutex<State>,
    /// Tells the thread that there are queues now, or that it is to rest.
    wake: Wake,
}

struct State {
    lanes: [Lane; QUEUES],
    /// The guest did what makes no sense: nothing more is answered until it starts over.
    is_wrong: bool,
}

/// A queue of the guest's, and the server's ring for it.
struct Lane {
    ring: Ring,
    queue: Option<Queue>,
    session: Session,
}

/// Which of them requests go through, but for urgent ones.
const REQUEST_LANE: usize = 1;

/// Requests that the server has, by their slots in its ring: the guest's number, and where the answer goes. A slot of the ring may be taken by none of these:
/// then nobody waits for its answer any more.
type Pending<'m> = Vec<Option<(u16, Buffers<'m>)>>;

impl Fs {
    /// A file system as a device, with its thread; `tag` is its name, of [`TAG_MAX`] bytes at most.
    pub(crate) fn new(
        tag: &str,
        rings: [Ring; QUEUES],
        server: Option<server::Connection>,
        ending: &Arc<Ending>,
    ) -> Result<Fs> {
        let mut configuration = [0; TAG_MAX + 4];
        configuration.iter_mut().zip(tag.bytes().take(TAG_MAX)).for_each(|(to, byte)| *to = byte);
        configuration[TAG_MAX..].copy_from_slice(&1u32.to_le_bytes());
        let lanes = rings.map(|ring| Lane { ring, queue: None, session: Session::default() });
        let work = Arc::new(Work { state: Mutex::new(State { lanes, is_wrong: false }), wake: wake()? });
        let (works, event) = (Arc::clone(&work), Arc::clone(&work.wake));
        let thread = Thread::new("files".to_owned(), Kind::Files, Some(event), ending, move |gate| {
            while gate.pass() {
                while gate.is_open() {
                    works.serve(gate);
                }
            }
        })?;
        Ok(Fs { configuration, work, thread, server })
    }
}

impl Device for Fs {
    fn kind(&self) -> u32 {
        KIND
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> &'static [u16] {
        &[QUEUE; QUEUES]
    }

    fn configuration(&self) -> &[u8] {
        &self.configuration
    }

    fn thread(&self) -> Option<&Thread> {
        Some(&self.thread)
    }

    fn activate(&mut self, queues: Vec<Option<Queue>>, _features: u64) {
        let mut state = self.work.state();
        state.is_wrong = false;
        for (lane, queue) in state.lanes.iter_mut().zip(queues) {
            lane.queue = queue;
        }
        // It is not full: the thread reads it.
        let _ = self.work.wake.write(1);
    }

    fn positions(&self) -> Vec<Option<Position>> {
        self.work.state().lanes.iter().map(|lane| lane.queue.as_ref().map(Queue::position)).collect()
    }

    /// What the server knows of the guest: nothing as long as that has not mounted it.
    fn state(&self) -> Result<Vec<u8>, String> {
        let state = self.work.state();
        match (state.lanes[REQUEST_LANE].session.greeting(), &self.server) {
            (Some(greeting), Some(server)) => {
                Mounted { greeting: greeting.to_vec(), server: server.save()? }.to_bytes()
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Has the server take that over. It is greeted first as the guest did once: what the two agreed on then, its own state has only in part.
    fn set_state(&mut self, state: &[u8]) -> Result<(), String> {
        let Some(mounted) = Mounted::from_bytes(state)? else { return Ok(()) };
        let server = self.server.as_ref().ok_or("a file system that has no server")?;
        self.work.state().lanes[REQUEST_LANE].greet(&mounted.greeting)?;
        server.load(&mounted.server)
    }

    fn reset(&mut self) {
        // It rests once the server has answered what it has.
        self.thread.rest();
        for lane in &mut self.work.state().lanes {
            (lane.queue, lane.session) = (None, Session::default());
        }
        self.thread.want(Wanted::Run);
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the queues, where there are some, for as long as the gate is open; else it waits until something changes.
    fn serve(&self, gate: &Gate) {
        let mut state = self.state();
        let memory = state.lanes.iter().find_map(|lane| lane.queue.as_ref()).map(|queue| queue.memory().clone());
        let Some(memory) = memory.filter(|_| !state.is_wrong) else {
            drop(state);
            // It fails where a signal came: looked at again.
            let _ = poll(&mut [PollFd::new(&Waited(&self.wake), PollFlags::IN)], None);
            let _ = self.wake.read();
            return;
        };
        if let Err(nonsense) = self.copy(&mut state.lanes, &memory, gate) {
            state.is_wrong = true;
            if let Some(queue) = state.lanes.iter().find_map(|lane| lane.queue.as_ref()) {
                queue.interrupt().fail(&nonsense);
            }
        }
    }

    /// Copies requests and answers until the gate closes and no request is with the server.
    fn copy(&self, lanes: &mut [Lane; QUEUES], memory: &Memory, gate: &Gate) -> Result<(), Nonsense> {
        let mut pending: [Pending<'_>; QUEUES] = [const { Vec::new() }; QUEUES];
        loop {
            for (lane, pending) in lanes.iter_mut().zip(&mut pending) {
                lane.take_answers(pending)?;
                if gate.is_open() {
                    let taken = lane.take_requests(memory, pending);
                    // Also where the guest went wrong after some: else their slots would be taken for ever.
                    lane.ring.tell();
                    taken?;
                }
            }
            let is_idle = pending.iter().flatten().all(Option::is_none);
            if !gate.is_open() && (is_idle || gate.is_over()) {
                return Ok(());
            }
            self.wait(lanes);
        }
    }

    /// Waits until the guest or the server has done something, or the thread is to do something else.
    fn wait(&self, lanes: &[Lane; QUEUES]) {
        let mut events = vec![&*self.wake];
        for lane in lanes {
            events.push(lane.ring.answered());
            events.extend(lane.queue.as_ref().map(|queue| &**queue.kick()));
        }
        let waited: Vec<_> = events.iter().map(|event| Waited(event)).collect();
        let mut polled: Vec<_> = waited.iter().map(|event| PollFd::new(event, PollFlags::IN)).collect();
        // It fails where a signal came, or for want of memory: looked at again.
        let _ = poll(&mut polled, None);
        for (event, _) in events.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty()) {
            let _ = event.read();
        }
    }
}

impl Lane {
    /// Tells the server what a guest once greeted it with.
    fn greet(&mut self, greeting: &[u8]) -> Result<(), String> {
        let answer = self.ring.ask(greeting, ANSWER_MAX, server::PATIENCE)?;
        self.session.note(greeting);
        session::check(&answer)
    }

    /// Gives the server what the guest asks for, as long as there are slots for it.
    fn take_requests<'m>(&mut self, memory: &'m Memory, pending: &mut Pending<'m>) -> Result<(), Nonsense> {
        let Some(queue) = &mut self.queue else { return Ok(()) };
        loop {
            queue.quiet()?;
            while let Some(slot) = self.ring.free() {
                let Some(mut request) = queue.next(memory)? else { break };
                request.readable.touch(memory.whole());
                if !memory.whole().is() {
                    return Err(Nonsense("a request of a guest of whose memory a part is lost".to_owned()));
                }
                self.ring.give(slot, &mut request.readable, request.writable.len())?;
                self.session.note(&self.ring.request(slot, GREETING_MAX)?);
                pending.resize_with(pending.len().max(slot + 1), || None);
                pending[slot] = Some((request.number, request.writable));
            }
            // Without a slot, nothing more can be taken until the server has answered something; then it is looked at again.
            if self.ring.free().is_none() || !queue.wake()? {
                return Ok(());
            }
        }
    }

    /// Answers the guest with what the server has answered.
    fn take_answers(&mut self, pending: &mut Pending<'_>) -> Result<(), Nonsense> {
        let mut has_answered = false;
        while let Some((slot, length)) = self.ring.answer()? {
            let waiting = pending.get_mut(slot).and_then(Option::take);
            if let (Some((number, mut writable)), Some(queue)) = (waiting, &mut self.queue) {
                let written = self.ring.read(slot, length, &mut writable);
                queue.answer(number, written)?;
                has_answered = true;
            }
            self.ring.release(slot);
        }
        match &mut self.queue {
            Some(queue) if has_answered => queue.tell(),
            _ => Ok(()),
        }
    }
}
