//! Hearing of new entries.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::ReadError;
use crate::protocol::LogConfig;

/// Hears when logs change, or other files beside them. One is enough for any number of logs, and should be: a user has few
/// (`fs.inotify.max_user_instances`, 128 as a rule), for all programs together.
///
/// For tokio: wait for [`AsFd::as_fd`] to become readable, then call [`Watcher::changed`], then read those logs.
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
}

/// A directory of logs that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watch(i32);

/// Which logs have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Those in these directories.
    These(HashSet<Watch>),
    /// Nobody knows any more: there were too many changes.
    Any,
}

impl Watcher {
    /// Begins to listen.
    ///
    /// # Errors
    /// `EMFILE` where the user has as many as it may.
    pub fn new() -> io::Result<Watcher> {
        Ok(Watcher { inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    /// Listens for changes of a log, whose directory must be there. The same directory is the same watch. Do this before reading to
    /// the end, so that nothing is missed.
    pub fn watch(&self, config: &LogConfig) -> Result<Watch, ReadError> {
        let path = match config {
            LogConfig::None => return Err(ReadError::NoLog),
            LogConfig::JsonFile { path, .. } | LogConfig::Local { path, .. } => path,
        };
        let directory = path.parent().unwrap_or(path);
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        inotify::add_watch(&self.inotify, directory, flags | WatchFlags::ONLYDIR)
            .map(Watch)
            .map_err(|errno| ReadError::file("follow", path)(errno.into()))
    }

    /// Listens no more for changes in a directory. It may be gone already.
    pub fn forget(&self, watch: Watch) {
        // That the kernel has forgotten it by itself is the only thing that can go wrong.
        let _ = inotify::remove_watch(&self.inotify, watch.0);
    }

    /// Waits for a change, but no longer than `within`. Says whether there was one.
    pub fn wait(&self, within: Option<Duration>) -> io::Result<bool> {
        let within = within.and_then(|within| Timespec::try_from(within).ok());
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, within.as_ref()))?;
        self.changed()?;
        Ok(ready > 0)
    }

    /// What has changed since this was asked last.
    pub fn changed(&self) -> io::Result<Changed> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        let (mut watches, mut lost) = (HashSet::new(), false);
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => lost = true,
                Ok(event) => _ = watches.insert(Watch(event.wd())),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if lost => return Ok(Changed::Any),
                Err(rustix::io::Errno::AGAIN) => return Ok(Changed::These(watches)),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
