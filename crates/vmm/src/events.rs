//! One thread that waits for many things, and does what belongs to each.

use crate::error::{Error, Result};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use vmm_sys_util::eventfd::EventFd;

/// A counter that whoever waits for it is told of, and nobody ever waits in.
pub(crate) fn event() -> Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(Error::host("make an eventfd"))
}

/// An event as something that can be waited for.
pub(crate) struct Waited<'a>(pub(crate) &'a EventFd);

impl AsFd for Waited<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the event is, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// Descriptors to wait for, each with what is to be done when it is readable. The descriptors are kept open by whoever does it.
pub(crate) struct Events {
    epoll: OwnedFd,
    handlers: Vec<Box<dyn FnMut() + Send>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("count", &self.handlers.len()).finish()
    }
}

impl Events {
    pub(crate) fn new() -> Result<Events> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(Error::host("make an epoll instance"))?;
        Ok(Events { epoll, handlers: Vec::new() })
    }

    /// Has `handle` called whenever `fd` is readable, which stays open for as long as the handler is kept.
    pub(crate) fn add(&mut self, fd: &impl AsFd, handle: impl FnMut() + Send + 'static) -> Result<()> {
        let number = EventData::new_u64(self.handlers.len() as u64);
        epoll::add(&self.epoll, fd, number, EventFlags::IN).map_err(Error::host("wait for a descriptor"))?;
        self.handlers.push(Box::new(handle));
        Ok(())
    }

    /// Waits until something is readable, and does what belongs to it.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let mut ready = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; 16];
        let count = match epoll::wait(&self.epoll, &mut ready, None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(Error::host("wait for what a machine does")(error)),
        };
        for event in &ready[..count] {
            if let Some(handle) =
                usize::try_from(event.data.u64()).ok().and_then(|number| self.handlers.get_mut(number))
            {
                handle();
            }
        }
        Ok(())
    }
}
