//! Where descriptors lie in the table.
//!
//! A new process takes a copy of the table up to the highest number that it needs ([`sandbox::Fds::lend`]). What is kept
//! for as long as something runs, a few for each, has higher numbers, so that a start costs the same whatever runs.

use std::os::fd::{OwnedFd, RawFd};

/// Above what a few dozen launches at the same time have open in passing.
const LASTING: RawFd = 256;

/// Moves a descriptor that is kept for long out of the way. It stays where it is if the limit of descriptors is lower.
pub(crate) fn lasting(fd: OwnedFd) -> OwnedFd {
    rustix::io::fcntl_dupfd_cloexec(&fd, LASTING).unwrap_or(fd)
}
