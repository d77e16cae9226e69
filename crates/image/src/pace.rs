//! Work that is as fast as a client is: an archive that it sends, or one that it takes.
//!
//! Such work keeps a thread for as long as its client likes. It has a number of threads of its own, so that clients who
//! stall take nothing away but from work of the same kind. Where all of these are taken and somebody waits for one, who
//! has stalled for a while is given up. As long as nobody waits, a client may take its time: what is piped into
//! `docker import -` may be made by a program that says nothing for minutes.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::{Error, Result};

/// The threads of a daemon for such work.
pub struct Threads {
    free: Arc<Semaphore>,
    rules: Rules,
    /// How many wait for one.
    waiting: watch::Sender<usize>,
}

/// How many threads there are, and how long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Threads. 128: more archives at a time only make all of them slower.
    pub threads: usize,
    /// How long a client may do nothing while others wait. 30 s.
    pub stall: Duration,
    /// How long a thread is waited for. 60 s: longer than a stall, so that clients who do nothing keep nobody else out.
    pub patience: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { threads: 128, stall: Duration::from_secs(30), patience: Duration::from_secs(60) }
    }
}

impl Threads {
    /// As many as the rules say. None is started before it has something to do.
    pub fn new(rules: Rules) -> Threads {
        Threads { free: Arc::new(Semaphore::new(rules.threads)), rules, waiting: watch::Sender::new(0) }
    }

    /// What one who stalls is told by.
    pub fn pace(&self) -> Pace {
        Pace { waiting: self.waiting.subscribe(), stall: self.rules.stall }
    }

    /// A thread, as soon as one is free.
    ///
    /// # Errors
    /// [`Error::Busy`] where none is for a while.
    pub async fn take(&self) -> Result<Thread> {
        let free = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(free) => free,
            Err(_) => {
                self.waiting.send_modify(|waiting| *waiting += 1);
                let _waits = Waits(&self.waiting);
                let free = tokio::time::timeout(self.rules.patience, Arc::clone(&self.free).acquire_owned()).await;
                free.ok().and_then(|free| free.ok()).ok_or(Error::Busy { archives: self.rules.threads })?
            }
        };
        Ok(Thread { _taken: free, pace: self.pace() })
    }
}

/// One more who waits, while it lives.
struct Waits<'a>(&'a watch::Sender<usize>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

/// A thread that is taken.
pub struct Thread {
    _taken: OwnedSemaphorePermit,
    pace: Pace,
}

impl Thread {
    /// What a client of this work who stalls is told by.
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// Does work that may block, in the context of the caller's runtime. It goes on to its end where nobody waits for
    /// that any more.
    ///
    /// # Errors
    /// Where the system gives no thread, and where the work panicked.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (tell, told) = oneshot::channel();
        let runtime = Handle::current();
        let body = move || {
            let _entered = runtime.enter();
            let done = work();
            // Free before anybody knows, so that who does one after the other never waits for itself.
            drop(self);
            let _ = tell.send(done);
        };
        let thread = std::thread::Builder::new().name("archive".into());
        thread.spawn(body).map_err(|e| Error::io("starting a thread for an archive", e))?;
        told.await.map_err(|_| Error::Interrupted("work on an archive".into()))
    }
}

/// Knows when a client has stalled for too long.
#[derive(Clone, Debug)]
pub struct Pace {
    waiting: watch::Receiver<usize>,
    stall: Duration,
}

impl Pace {
    /// What a client does; `None` where it does nothing for a while, and others wait for a thread.
    pub async fn unless_stalled<T>(&self, client: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = client => Some(done),
            () = self.stalled() => None,
        }
    }

    async fn stalled(&self) {
        tokio::time::sleep(self.stall).await;
        let mut waiting = self.waiting.clone();
        if waiting.wait_for(|waiting| *waiting > 0).await.is_err() {
            // Without the threads nobody waits for one.
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn more_than_there_are_wait_and_are_refused_after_a_while() {
        let threads = Threads::new(Rules { threads: 2, stall: NEVER, patience: SOON });
        let (first, _second) = (threads.take().await.expect("one"), threads.take().await.expect("two"));
        let refused = threads.take().await.map(drop).expect_err("there is no third");
        assert!(matches!(refused, Error::Busy { archives: 2 }), "{refused}");
        assert_eq!(first.run(|| 7).await.expect("done"), 7);
        threads.take().await.expect("the first is free again");
    }

    #[tokio::test]
    async fn who_stalls_is_given_up_only_where_somebody_waits() {
        let threads = Arc::new(Threads::new(Rules { threads: 1, stall: SOON, patience: NEVER }));
        let held = threads.take().await.expect("the only one");
        let pace = held.pace();
        let stalled = tokio::spawn(async move { pace.unless_stalled(pending::<()>()).await });
        tokio::time::sleep(20 * SOON).await;
        assert!(!stalled.is_finished(), "nobody waits");
        let other = tokio::spawn({
            let threads = Arc::clone(&threads);
            async move { threads.take().await.map(drop) }
        });
        assert_eq!(stalled.await.expect("the end of the stalled one"), None);
        drop(held);
        other.await.expect("no panic").expect("it had its turn");
        assert_eq!(*threads.waiting.borrow(), 0);
    }

    #[tokio::test]
    async fn work_that_panics_gives_its_thread_back() {
        let threads = Threads::new(Rules { threads: 1, stall: NEVER, patience: NEVER });
        let thread = threads.take().await.expect("one");
        let lost = thread.run(|| std::panic::resume_unwind(Box::new("on purpose"))).await;
        assert!(matches!(lost, Err::<(), _>(Error::Interrupted(_))));
        threads.take().await.expect("it is free");
    }
}
