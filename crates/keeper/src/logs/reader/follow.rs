//! Hearing of new entries.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::ReadError;
use crate::protocol::LogConfig;

/// Becomes readable when a log, or another file beside it, has changed. Make it before reading to the end, so that nothing is missed.
///
/// For tokio: wait for [`AsFd::as_fd`] to become readable, then call [`Follower::acknowledge`], then read.
#[derive(Debug)]
pub struct Follower {
    inotify: OwnedFd,
}

impl Follower {
    /// Begins to listen. The log's directory must be there.
    pub fn new(config: &LogConfig) -> Result<Follower, ReadError> {
        let path = match config {
            LogConfig::None => return Err(ReadError::NoLog),
            LogConfig::JsonFile { path, .. } | LogConfig::Local { path, .. } => path,
        };
        let failed = |errno: rustix::io::Errno| ReadError::file("follow", path)(errno.into());
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let directory = path.parent().unwrap_or(path);
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        inotify::add_watch(&inotify, directory, flags | WatchFlags::ONLYDIR).map_err(failed)?;
        Ok(Follower { inotify })
    }

    /// Waits for a change, but no longer than `within`. Says whether there was one.
    pub fn wait(&self, within: Option<Duration>) -> io::Result<bool> {
        let within = within.and_then(|within| Timespec::try_from(within).ok());
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, within.as_ref()))?;
        self.acknowledge()?;
        Ok(ready > 0)
    }

    /// Forgets the changes so far.
    pub fn acknowledge(&self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut space);
        loop {
            match reader.next() {
                // That events were lost means that there were some, which is all that matters.
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {}
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsRawFd for Follower {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
