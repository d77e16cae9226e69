//! QEMU's monitor: the machine protocol (QMP), of which a machine needs its stops, its snapshots and nothing else.
//!
//! A snapshot is what QEMU calls a migration, of which the memory is no part where it is shared (`x-ignore-shared`). Its stream goes through a pair of
//! sockets, as not every version writes one to a file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use qapi::qmp::{
    MigrationCapability, MigrationCapabilityStatus, MigrationStatus, add_fd, balloon, cont, getfd, migrate,
    migrate_incoming, migrate_set_capabilities, qom_set, query_migrate, remove_fd, stop,
};
use qapi::{Command, Qmp, Stream};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::memory::MORE;
use crate::error::{Error, Result};

/// How long QEMU may take for an answer, and for all of a snapshot but its memory: it is the machine's neighbour, and no friend of ours.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked how far it is.
const LOOK: Duration = Duration::from_millis(2);
/// What the descriptor of a snapshot's stream is called.
const STREAM: &str = "snapshot";

/// The connection, which is taken up when something is wanted for the first time.
pub(super) struct Monitor {
    qmp: Qmp<Stream<BufReader<UnixStream>, Sender>>,
    is_greeted: bool,
}

impl Monitor {
    pub(super) fn new(socket: OwnedFd) -> Result<Self> {
        let socket = UnixStream::from(socket);
        let set = socket.set_read_timeout(Some(PATIENCE)).and_then(|()| socket.set_write_timeout(Some(PATIENCE)));
        let sender = set.and_then(|()| socket.try_clone()).map(|socket| Sender { socket, bytes: Vec::new(), fd: None });
        let sender = sender.map_err(failed("set up its monitor"))?;
        Ok(Self { qmp: Qmp::new(Stream::new(BufReader::new(socket), sender)), is_greeted: false })
    }

    /// Has the guest rest.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.execute("stop the machine", &stop {}).map(drop)
    }

    /// Has it go on.
    pub(super) fn resume(&mut self) -> Result<()> {
        self.execute("have the machine go on", &cont {}).map(drop)
    }

    /// Has a machine that has `at_start` bytes of memory from its start on have `more`, or `less` than that.
    pub(super) fn resize(&mut self, at_start: u64, more: Option<u64>, less: u64) -> Result<()> {
        let tried = "change the machine's memory";
        if let Some(more) = more {
            let (path, property) = (format!("/machine/peripheral/{MORE}"), "requested-size".to_owned());
            self.execute(tried, &qom_set { path, property, value: more.into() })?;
        }
        // QEMU's number is what is left of what the guest had at its start: memory that came in blocks it does not count.
        let value = i64::try_from(at_start - less).unwrap_or(i64::MAX);
        self.execute(tried, &balloon { value }).map(drop)
    }

    /// Writes all of a machine that rests but its memory.
    pub(super) fn save(&mut self, state: &File) -> Result<()> {
        let tried = "save the machine";
        let (ours, theirs) = UnixStream::pair().map_err(failed(tried))?;
        let to = state.try_clone().map_err(failed(tried))?;
        let copied = copies(tried, ours, to)?;
        self.without_memory(tried)?;
        self.lend(tried, STREAM, theirs.into())?;
        let uri = Some(format!("fd:{STREAM}"));
        self.execute(tried, &migrate { channels: None, detach: None, resume: None, uri })?;
        match self.wait(tried) {
            // Where the copy failed, as the disk is full, QEMU knows no more than that nobody reads. Where it did not, QEMU may have the other end still, and there is no end to wait for.
            Err(error) if ends(&copied) => joined(tried, copied).and(Err(error)),
            Err(error) => Err(error),
            Ok(()) => joined(tried, copied),
        }
    }

    /// Has a machine that was started for that go on from all that was saved. `memory` gives it the memory, of which QEMU reads nothing: that is done once its devices are there. It rests then.
    pub(super) fn go_on(&mut self, state: File, memory: impl FnOnce() -> Result<()>) -> Result<()> {
        let tried = "go on from a snapshot";
        let (ours, theirs) = UnixStream::pair().map_err(failed(tried))?;
        let copied = copies(tried, state, ours)?;
        // It answers when all of it is made.
        self.without_memory(tried)?;
        memory()?;
        self.lend(tried, STREAM, theirs.into())?;
        let uri = Some(format!("fd:{STREAM}"));
        self.execute(tried, &migrate_incoming { channels: None, exit_on_error: None, uri })?;
        self.wait(tried)?;
        joined(tried, copied)
    }

    /// Leaves the memory out of what is saved or read.
    fn without_memory(&mut self, tried: &'static str) -> Result<()> {
        let capability = MigrationCapabilityStatus { capability: MigrationCapability::x_ignore_shared, state: true };
        self.execute(tried, &migrate_set_capabilities { capabilities: vec![capability] }).map(drop)
    }

    /// Gives QEMU a descriptor, which has that name there until it is used.
    pub(super) fn lend(&mut self, tried: &'static str, name: &str, fd: OwnedFd) -> Result<()> {
        self.greet(tried)?;
        self.qmp.inner_mut().get_mut_write().fd = Some(fd);
        self.execute(tried, &getfd { fdname: name.to_owned() }).map(drop)
    }

    /// Gives QEMU a descriptor, which it finds at `/dev/fdset/N` from then on: the number.
    pub(super) fn give(&mut self, fd: OwnedFd) -> Result<i64> {
        let tried = "give QEMU a file";
        self.greet(tried)?;
        self.qmp.inner_mut().get_mut_write().fd = Some(fd);
        Ok(self.execute(tried, &add_fd { fdset_id: None, opaque: None })?.fdset_id)
    }

    /// Takes back a descriptor that QEMU was given, once it has it open no more.
    pub(super) fn take_back(&mut self, set: i64) -> Result<()> {
        self.execute("take a file back from QEMU", &remove_fd { fd: None, fdset_id: set }).map(drop)
    }

    /// Until what it does in the background is done.
    fn wait(&mut self, tried: &'static str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let information = self.execute(tried, &query_migrate {})?;
            match information.status {
                Some(MigrationStatus::completed) => return Ok(()),
                Some(MigrationStatus::failed | MigrationStatus::cancelled) => {
                    let why = information.error_desc.unwrap_or_else(|| "it does not say why".to_owned());
                    return Err(Error::Monitor { tried, why });
                }
                _ if Instant::now() >= until => {
                    return Err(Error::Monitor { tried, why: format!("it takes longer than {PATIENCE:?}") });
                }
                _ => thread::sleep(LOOK),
            }
        }
    }

    pub(super) fn execute<C: Command>(&mut self, tried: &'static str, command: &C) -> Result<C::Ok> {
        self.greet(tried)?;
        self.qmp.execute(command).map_err(|error| Error::Monitor { tried, why: error.to_string() })
    }

    fn greet(&mut self, tried: &'static str) -> Result<()> {
        if self.is_greeted {
            return Ok(());
        }
        // The library takes it for granted that somebody is there.
        let first = self.qmp.inner_mut().fill_buf().map(<[u8]>::len);
        if first.map_err(failed(tried))? == 0 {
            return Err(Error::Monitor { tried, why: "QEMU is gone".to_owned() });
        }
        self.qmp.handshake().map_err(|error| Error::Monitor { tried, why: error.to_string() })?;
        self.is_greeted = true;
        Ok(())
    }
}

fn failed(tried: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Monitor { tried, why: error.to_string() }
}

/// Whether a copy that may have failed has ended within a second.
fn ends(copied: &JoinHandle<io::Result<()>>) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    while !copied.is_finished() && Instant::now() < until {
        thread::sleep(LOOK);
    }
    copied.is_finished()
}

/// What came of a copy.
fn joined(tried: &'static str, copied: JoinHandle<io::Result<()>>) -> Result<()> {
    copied.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())).map_err(failed(tried))
}

/// Copies one end's bytes to the other until there are no more.
fn copies<R, W>(tried: &'static str, mut from: R, mut to: W) -> Result<JoinHandle<io::Result<()>>>
where
    R: io::Read + Send + 'static,
    W: Write + Send + 'static,
{
    let copying = move || io::copy(&mut from, &mut to).map(drop);
    thread::Builder::new().name("snapshot".to_owned()).spawn(copying).map_err(failed(tried))
}

/// The way to QEMU, by which a descriptor can come along with a command.
struct Sender {
    socket: UnixStream,
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fd = self.fd.take();
        let lent = fd.as_ref().map(|fd| [fd.as_fd()]);
        if let Some(lent) = &lent {
            control.push(SendAncillaryMessage::ScmRights(lent));
        }
        let sent = rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        (&self.socket).write_all(&bytes[sent..])
    }
}
