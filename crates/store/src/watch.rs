//! Watches: every change below a prefix, from a revision on, in order.

use crate::{Change, WatchError};

/// A stream of the changes below a prefix. See [`crate::Store::watch`].
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// The next change, waiting for one. Cancel-safe: a dropped future loses no change.
    pub async fn next(&mut self) -> Result<Change, WatchError> {
        std::future::pending().await
    }

    /// The next change, blocking the thread until there is one. Not for asynchronous tasks.
    pub fn next_blocking(&mut self) -> Result<Change, WatchError> {
        unimplemented!()
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Change>, WatchError> {
        unimplemented!()
    }
}
