//! Pipes that bytes pass through on their way from one socket to another (splice(2)).
//!
//! A connection has a pipe only while bytes are in it. Idle connections, which are most, cost two descriptors instead of six.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

/// Empty pipes kept for the next user.
const KEPT: usize = 64;

/// Both ends of a pipe.
pub(super) struct Pipe {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

/// A stock of empty pipes.
#[derive(Default)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe; the system's error where it has no more descriptors.
    pub(super) fn take(&mut self) -> rustix::io::Result<Pipe> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(pipe);
        }
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { reader, writer })
    }

    /// Takes back a pipe, which has to be empty.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.empty.len() < KEPT {
            self.empty.push(pipe);
        }
    }
}
