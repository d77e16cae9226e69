//! How a machine ended, told by whoever saw it to whoever waits.

use crate::error::{Error, Result};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Why a machine runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A processor shut down, as after a fault within the handling of a fault within the handling of a fault.
    TripleFault,
    /// It was stopped from outside.
    Stopped,
    /// A processor can't go on, and this is why.
    Failed(String),
}

/// Where an end is told, once: the first one counts.
#[derive(Debug)]
pub(crate) struct Ending {
    told: Mutex<Option<End>>,
    event: OwnedFd,
}

impl Ending {
    pub(crate) fn new() -> Result<Ending> {
        let event =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(Error::host("make an eventfd"))?;
        Ok(Ending { told: Mutex::new(None), event })
    }

    /// Says that the machine ended, and how.
    pub(crate) fn tell(&self, end: End) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none() {
            *told = Some(end);
        }
        // A counter that is full is readable, too.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    /// How it ended, if it did.
    pub(crate) fn told(&self) -> Option<End> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl AsFd for Ending {
    /// Readable as soon as there is an end.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_counts() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.told(), None);
        ending.tell(End::Reset);
        ending.tell(End::PowerOff);
        assert_eq!(ending.told(), Some(End::Reset));
    }
}
