//! The threads of a machine: each runs, rests or ends as it is told.
//!
//! All of them are made with the machine and rest until it starts. Whoever pauses it tells each to rest, wakes it from whatever it waits for, and waits until it
//! rests: from then on until it is told to run again it touches nothing, neither the guest's memory nor what it keeps of the guest.

use crate::confine::{self, Kind};
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use crate::events::event;
use crate::kvm::signal;
use crate::stack;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use vmm_sys_util::eventfd::EventFd;

/// What a thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Wanted {
    /// Nothing, until it is told something else.
    Rest,
    /// What it is there for.
    Run,
    /// To end.
    End,
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Runs,
    Rests,
    Ended,
}

/// What a thread passes before it does something, and again and again while it does.
#[derive(Debug)]
pub(crate) struct Gate {
    /// A copy of what `state` says, for a look without a lock.
    wanted: AtomicU8,
    state: Mutex<(Wanted, Doing)>,
    changed: Condvar,
}

impl Gate {
    fn new() -> Gate {
        Gate {
            wanted: AtomicU8::new(Wanted::Rest as u8),
            state: Mutex::new((Wanted::Rest, Doing::Runs)),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, (Wanted, Doing)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the thread is to go on with what it does.
    pub(crate) fn is_open(&self) -> bool {
        self.wanted.load(Ordering::Acquire) == Wanted::Run as u8
    }

    /// Whether the thread is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.wanted.load(Ordering::Acquire) == Wanted::End as u8
    }

    /// The thread rests for as long as it is to. Returns whether it is to run then; else it is to end.
    pub(crate) fn pass(&self) -> bool {
        let mut state = self.state();
        loop {
            match state.0 {
                Wanted::Run => {
                    state.1 = Doing::Runs;
                    return true;
                }
                Wanted::End => return false,
                Wanted::Rest => {
                    state.1 = Doing::Rests;
                    self.changed.notify_all();
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Says so to the thread. Returns whether it rests, and so hears of it by this alone.
    fn want(&self, wanted: Wanted) -> bool {
        let mut state = self.state();
        // Nobody wants anything of what is to end.
        if state.0 != Wanted::End {
            state.0 = wanted;
            self.wanted.store(wanted as u8, Ordering::Release);
            self.changed.notify_all();
        }
        state.1 == Doing::Rests
    }

    fn ended(&self) {
        self.state().1 = Doing::Ended;
        self.changed.notify_all();
    }

    /// Waits until the thread rests, or has ended.
    fn wait_for_rest(&self) {
        let mut state = self.state();
        while state.1 == Doing::Runs {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As before, but no longer than that. Returns whether it does.
    fn wait_for_rest_until(&self, until: Instant) -> bool {
        let mut state = self.state();
        while state.1 == Doing::Runs {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// An event by which a thread is taken out of what it waits for, if it waits for it with the rest. A signal comes besides: it ends a system call that waits, and
/// has the next entry into a guest return.
pub(crate) type Wake = Arc<EventFd>;

/// Makes one.
pub(crate) fn wake() -> Result<Wake> {
    event().map(Arc::new)
}

/// A thread of a machine. When this is dropped it is told to end, and waited for.
#[derive(Debug)]
pub(crate) struct Thread {
    kind: Kind,
    gate: Arc<Gate>,
    wake: Option<Wake>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts one that is to rest, and may then ask the kernel for nothing but what its kind needs. It does `work` until that returns, which it is to
    /// do when its gate says so. A panic ends the machine.
    pub(crate) fn new(
        name: String,
        kind: Kind,
        wake: Option<Wake>,
        ending: &Arc<Ending>,
        work: impl FnOnce(&Gate) + Send + 'static,
    ) -> Result<Thread> {
        signal::install()?;
        let _ = stack::page_size();
        let gate = Arc::new(Gate::new());
        let filter = confine::filter(kind)?;
        let told = Told { ending: Arc::clone(ending), gate: Arc::clone(&gate) };
        let thread = thread::Builder::new().name(name).stack_size(stack::SIZE).spawn(move || {
            signal::let_through();
            let confined = confine::apply(&filter);
            // The kernel has a copy.
            drop(filter);
            stack::give_back();
            match confined {
                Ok(()) => work(&told.gate),
                Err(error) => told.ending.tell(End::Failed(error.to_string())),
            }
            drop(told);
        });
        Ok(Thread { kind, gate, wake, thread: Some(thread.map_err(Error::host("start a thread of a machine"))?) })
    }

    /// Tells it what to do, and does not wait until it does.
    pub(crate) fn want(&self, wanted: Wanted) {
        let rests = self.gate.want(wanted);
        if let Some(event) = &self.wake {
            // It is not full: the thread reads it.
            let _ = event.write(1);
        }
        // What rests is in no call that a signal would have to end, and its handler would take a page of the stack.
        if let Some(thread) = self.thread.as_ref().filter(|_| !rests) {
            signal::send(thread);
        }
    }

    /// Waits until it rests, as it was told to, or has ended.
    pub(crate) fn wait_for_rest(&self) {
        self.gate.wait_for_rest();
    }

    /// As [`Thread::wait_for_rest`], but no longer than that.
    ///
    /// # Errors
    /// It goes on with what it does, or waits for; what kind of thread it is.
    pub(crate) fn wait_for_rest_until(&self, until: Instant) -> Result<(), Kind> {
        if self.gate.wait_for_rest_until(until) { Ok(()) } else { Err(self.kind) }
    }

    /// Tells it to rest, and waits until it does.
    pub(crate) fn rest(&self) {
        self.want(Wanted::Rest);
        self.wait_for_rest();
    }

    /// As [`Thread::rest`], but waits no longer than that. Where it does not rest by then, it is told to run again by whoever gives up.
    ///
    /// # Errors
    /// As [`Thread::wait_for_rest_until`].
    pub(crate) fn rest_until(&self, until: Instant) -> Result<(), Kind> {
        self.want(Wanted::Rest);
        self.wait_for_rest_until(until)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.want(Wanted::End);
        if let Some(thread) = self.thread.take() {
            // It panicked: the end of the machine was told.
            let _ = thread.join();
        }
    }
}

/// Tells that a thread ended, and that it panicked if it did, so that nobody waits for what does nothing more.
struct Told {
    ending: Arc<Ending>,
    gate: Arc<Gate>,
}

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            self.ending
                .tell(End::Failed("a fault in the hypervisor itself, which it wrote to standard error".to_owned()));
        }
        self.gate.ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn counting(count: Arc<AtomicU64>, ending: &Arc<Ending>) -> Thread {
        let event = wake().unwrap();
        Thread::new("counts".to_owned(), Kind::Disk, Some(Arc::clone(&event)), ending, move |gate| {
            while gate.pass() {
                let _ = event.read();
                while gate.is_open() {
                    count.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                }
            }
        })
        .unwrap()
    }

    #[test]
    fn what_rests_does_nothing_until_it_is_told_to_run() {
        let (count, ending) = (Arc::new(AtomicU64::new(0)), Arc::new(Ending::new().unwrap()));
        let thread = counting(Arc::clone(&count), &ending);
        thread.wait_for_rest();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        for _ in 0..50 {
            let before = count.load(Ordering::SeqCst);
            thread.want(Wanted::Run);
            while count.load(Ordering::SeqCst) == before {
                thread::yield_now();
            }
            thread.rest();
            let resting = count.load(Ordering::SeqCst);
            (0..100).for_each(|_| thread::yield_now());
            assert_eq!(count.load(Ordering::SeqCst), resting);
        }
        drop(thread);
        assert_eq!(ending.told(), None);
    }

    #[test]
    fn a_panic_is_told_and_nobody_waits_for_who_panicked() {
        let ending = Arc::new(Ending::new().unwrap());
        // What is written down of a panic besides its message is not within the filter.
        std::panic::set_hook(Box::new(|_| {}));
        let thread = Thread::new("faulty".to_owned(), Kind::Events, None, &ending, |gate| {
            assert!(!gate.pass(), "this is what the test wants");
        })
        .unwrap();
        thread.want(Wanted::Run);
        while ending.told().is_none() {
            thread::yield_now();
        }
        thread.rest();
        assert!(matches!(ending.told(), Some(End::Failed(_))));
    }
}
