//! How a file server comes by its memory and its rings: as vhost-user's front end, by the crate `vhost`.

use super::super::feature;
use super::QUEUES;
use super::known::{self, Known};
use super::shared::{REQUESTS, Ring, Shared, URGENT};
use crate::error::{Error, Result};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vhost::vhost_user::message::{
    VhostTransferStateDirection as Direction, VhostTransferStatePhase, VhostUserHeaderFlag, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// Bytes of what a server may say that it knows: some hundred thousand files with their names.
const STATE_MAX: usize = 16 << 20;
/// How long it may take to say so, while its machine rests, or to answer anything else.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How much longer it may take to take it over for each file: it looks each up, on a disk that may be slow and that nobody has read from before.
const FOR_EACH: Duration = Duration::from_millis(20);
/// How long a save that took too long is looked at again: for as long as something of it comes so soon.
const LOOK: Duration = Duration::from_millis(200);
/// For how long at most.
const DRAINED: Duration = Duration::from_secs(5);

/// The connection to a server, which ends with it.
pub(crate) struct Connection {
    frontend: Frontend,
    /// A save that took too long. It goes on in the server, and one beside it would take from it what it has found, and lose it: no other one is begun until it is at its end.
    unfinished: Mutex<Option<UnixStream>>,
}

impl Connection {
    /// All that the server knows of its guest, at most [`STATE_MAX`] bytes, in a form of its own: which files and directories that has seen, and which it has
    /// open. The server has nothing to do at that moment, and goes on after it.
    ///
    /// # Errors
    /// It can't say so, says more, or takes too long, now or at an earlier time; the text says which.
    pub(super) fn save(&self) -> Result<Vec<u8>, String> {
        self.save_within(PATIENCE)
    }

    pub(super) fn save_within(&self, patience: Duration) -> Result<Vec<u8>, String> {
        let tried = "save what it knows";
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = &mut *unfinished
            && !is_at_its_end(stream)
        {
            let why = "it is still at a save that took too long before; try again later, or start the machine anew";
            return Err(failed(tried, &why));
        }
        *unfinished = None;
        let mut stream = self.transfer(Direction::SAVE).map_err(|error| failed(tried, &error))?;
        match read_all(&mut stream, STATE_MAX, Limit::of(patience)) {
            Ok(state) => self.check(tried).and_then(|()| known::with_any_root(state)),
            Err(error) => {
                *unfinished = Some(stream);
                Err(failed(tried, &error))
            }
        }
    }

    /// Has the server go on from what another one has [saved](Connection::save). Files that are not where they were are ones that the guest gets errors of.
    ///
    /// # Errors
    /// It can't make sense of it, or takes too long for so many files.
    pub(super) fn load(&self, state: &[u8]) -> Result<(), String> {
        self.load_within(state, PATIENCE, FOR_EACH)
    }

    pub(super) fn load_within(&self, state: &[u8], patience: Duration, for_each: Duration) -> Result<(), String> {
        let tried = "take over what another one knew";
        let Known { files, has_handles, .. } = Known::read(state)?;
        if !has_handles {
            let why = "it was saved by a release that kept no handles of files (name_to_handle_at(2)), by which those that are found could be told from others that took their places; start the machine anew, and save it again";
            return Err(failed(tried, &why));
        }
        let limit = Limit::of(patience + for_each.saturating_mul(u32::try_from(files).unwrap_or(u32::MAX)));
        let handed = self.transfer(Direction::LOAD).and_then(|mut stream| {
            write_all(&mut stream, state, limit)?;
            stream.shutdown(Shutdown::Write)?;
            // It closes its end once it is done.
            read_all(&mut stream, 0, limit)
        });
        handed.map_err(|error| failed(tried, &error))?;
        self.check(tried)
    }

    /// Begins to hand over a state; the server is at the other end of the stream.
    fn transfer(&self, direction: Direction) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let began = self.frontend.set_device_state_fd(direction, VhostTransferStatePhase::STOPPED, theirs.into());
        match began {
            Ok(None) => Ok(ours),
            Ok(Some(_)) => Err(io::Error::other("it wants another way to hand it over")),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Whether what was handed over arrived. It is asked only when its end of the stream is closed: it answers after that without having to wait.
    fn check(&self, tried: &str) -> Result<(), String> {
        self.frontend.check_device_state().map_err(|error| failed(tried, &error))
    }
}

fn failed(tried: &str, error: &dyn std::fmt::Display) -> String {
    format!("have the server of a file system {tried}: {error}")
}

/// For how long something is waited for, and until when.
#[derive(Clone, Copy)]
struct Limit {
    length: Duration,
    until: Instant,
}

impl Limit {
    /// It begins now.
    fn of(length: Duration) -> Limit {
        Limit { length, until: Instant::now() + length }
    }

    /// How long there is left.
    fn rest(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("it takes more than {} seconds", self.length.as_secs());
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(left)
    }
}

/// Whether the other end is closed. What is still to be read before that is read as long as it comes, but not for ever, and lost.
fn is_at_its_end(stream: &mut UnixStream) -> bool {
    let mut part = [0; 16 << 10];
    let limit = Limit::of(DRAINED);
    while limit.rest().is_ok() {
        match stream.set_read_timeout(Some(LOOK)).and_then(|()| stream.read(&mut part)) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

/// Reads until the other end is closed: so many bytes at most, and not for ever.
fn read_all(from: &mut UnixStream, most: usize, limit: Limit) -> io::Result<Vec<u8>> {
    let (mut all, mut part) = (Vec::new(), [0; 16 << 10]);
    loop {
        from.set_read_timeout(Some(limit.rest()?))?;
        match from.read(&mut part) {
            Ok(0) => return Ok(all),
            Ok(read) if all.len() + read > most => {
                let why = format!("its guest knows of too many files: they take more than {most} bytes");
                return Err(io::Error::new(ErrorKind::FileTooLarge, why));
            }
            Ok(read) => all.extend_from_slice(&part[..read]),
            Err(error) if is_to_be_tried_again(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes all of it, and not for ever.
fn write_all(to: &mut UnixStream, mut bytes: &[u8], limit: Limit) -> io::Result<()> {
    while !bytes.is_empty() {
        to.set_write_timeout(Some(limit.rest()?))?;
        match to.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if is_to_be_tried_again(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_to_be_tried_again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock)
}

/// Gives the server at the other end of a socket memory and rings of its own: one of what must not wait, one of requests.
///
/// # Errors
/// It does not speak vhost-user, or not what this needs of it.
pub(crate) fn connect(socket: UnixStream) -> Result<(Connection, [Ring; QUEUES])> {
    let (shared, rings) = Shared::with_rings([URGENT, REQUESTS])?;
    let frontend = introduce(socket, &shared, &rings);
    let frontend =
        frontend.map_err(|error| Error::Host { what: "speak with a file server", source: io::Error::other(error) })?;
    Ok((Connection { frontend, unfinished: Mutex::default() }, rings))
}

fn introduce(socket: UnixStream, shared: &Shared, rings: &[Ring; QUEUES]) -> Result<Frontend, vhost::Error> {
    let mut server = Frontend::from_stream(socket, QUEUES as u64);
    server.set_owner()?;
    let offered = server.get_features()?;
    let wanted = feature::VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    server.set_features(offered & wanted)?;
    // Each request is answered, so that one that fails is known to have.
    let answers = VhostUserProtocolFeatures::REPLY_ACK;
    let wanted = answers | VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::DEVICE_STATE;
    let protocol = server.get_protocol_features()? & wanted;
    server.set_protocol_features(protocol)?;
    if protocol.contains(answers) {
        server.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    let mapped = shared.memory.get_host_address(GuestAddress(0)).map_err(|_| vhost::Error::InvalidGuestMemory)?;
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0,
        memory_size: shared.size,
        // By these the server finds the rings, and nothing else: each side has the memory at addresses of its own.
        userspace_addr: mapped as u64,
        mmap_offset: 0,
        mmap_handle: shared.file.as_raw_fd(),
    };
    server.set_mem_table(&[region])?;
    for (number, ring) in rings.iter().enumerate() {
        let [descriptors, available, used] = ring.tables().map(|table| mapped as u64 + table);
        server.set_vring_num(number, ring.entries())?;
        let addresses = VringConfigData {
            queue_max_size: ring.entries(),
            queue_size: ring.entries(),
            flags: 0,
            desc_table_addr: descriptors,
            used_ring_addr: used,
            avail_ring_addr: available,
            log_addr: None,
        };
        server.set_vring_addr(number, &addresses)?;
        server.set_vring_base(number, 0)?;
        server.set_vring_call(number, ring.answered())?;
        server.set_vring_kick(number, ring.kick())?;
        server.set_vring_enable(number, true)?;
    }
    Ok(server)
}
