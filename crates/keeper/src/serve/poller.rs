//! epoll, with tokens that say what is ready.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::slots::Key;
use crate::protocol::Stream;

/// What is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A daemon wants to connect.
    Listener,
    /// A signal has arrived.
    Signals,
    /// A daemon sent something, can take something, or has gone.
    Connection(Key),
    /// A process in its set-up has something to tell.
    Sync(Key),
    /// A process has written something.
    Output(Key, Stream),
    /// An attachment can take something, or has gone.
    Sink(Key),
    /// A process that is no child has ended.
    Orphan(Key),
}

impl Token {
    fn to_bits(self) -> u64 {
        let (role, key) = match self {
            Token::Listener => (0, 0),
            Token::Signals => (1, 0),
            Token::Connection(key) => (2, key.to_bits()),
            Token::Sync(key) => (3, key.to_bits()),
            Token::Output(key, Stream::Stdout) => (4, key.to_bits()),
            Token::Output(key, Stream::Stderr) => (5, key.to_bits()),
            Token::Sink(key) => (6, key.to_bits()),
            Token::Orphan(key) => (7, key.to_bits()),
        };
        role << 56 | key
    }

    fn from_bits(bits: u64) -> Token {
        let key = Key::from_bits(bits);
        match bits >> 56 {
            0 => Token::Listener,
            1 => Token::Signals,
            2 => Token::Connection(key),
            3 => Token::Sync(key),
            4 => Token::Output(key, Stream::Stdout),
            5 => Token::Output(key, Stream::Stderr),
            6 => Token::Sink(key),
            _ => Token::Orphan(key),
        }
    }
}

#[derive(Debug)]
pub(super) struct Poller(OwnedFd);

impl Poller {
    pub(super) fn new() -> Result<Poller, Errno> {
        epoll::create(CreateFlags::CLOEXEC).map(Poller)
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(token.to_bits()), flags)
    }

    pub(super) fn modify(&self, fd: impl AsFd, token: Token, flags: EventFlags) -> Result<(), Errno> {
        epoll::modify(&self.0, fd, EventData::new_u64(token.to_bits()), flags)
    }

    /// Descriptors that are closed leave by themselves only if no copy of them is open elsewhere; those that a daemon or a sandbox may
    /// share are removed by this.
    pub(super) fn remove(&self, fd: impl AsFd) {
        // It fails only for what is not there.
        _ = epoll::delete(&self.0, fd);
    }

    /// Waits, and hands on what is ready; after `at_most` also if there is nothing.
    pub(super) fn wait(&self, ready: &mut Vec<(Token, EventFlags)>, at_most: Option<Duration>) -> Result<(), Errno> {
        let mut events = [MaybeUninit::<Event>::uninit(); 64];
        let at_most = at_most.and_then(|at_most| Timespec::try_from(at_most).ok());
        let (events, _) = match epoll::wait(&self.0, &mut events, at_most.as_ref()) {
            Err(Errno::INTR) => return Ok(()),
            other => other?,
        };
        ready.extend(events.iter().map(|event| (Token::from_bits(event.data.u64()), event.flags)));
        Ok(())
    }
}
