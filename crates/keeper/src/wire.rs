//! One message in one datagram, with its descriptors.
//!
//! The first byte says where the message is: 0, it follows; 1, it was too long for a datagram and is the content of a sealed memory
//! file, whose descriptor is the last one attached. Its number follows then, in eight bytes: where no descriptor is left for the body,
//! it is known still whose request fails.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::SealFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Messages up to this many bytes travel in the datagram itself. Well below the smallest usual socket buffer.
pub const MAX_INLINE: usize = 64 << 10;
/// No message is longer.
pub const MAX_MESSAGE: usize = 16 << 20;
/// No message has more descriptors, the one of a long message's body included. The kernel takes 253.
pub const MAX_DESCRIPTORS: usize = 250;

const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Why a message could not be encoded, sent, received or understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed.
    #[error("{tried}: {source}")]
    Socket {
        /// What was tried.
        tried: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The message breaks the framing, or isn't one of the protocol.
    #[error("not a message of the keeper's protocol: {0}")]
    Malformed(&'static str),
    /// The message has come, but nothing of what came with it: the process has no descriptor left. The connection is as before.
    #[error("no descriptor is left for what came with the message: raise the limit of open files (RLIMIT_NOFILE)")]
    NoDescriptor {
        /// The message's number.
        number: u64,
    },
    /// More bytes or descriptors than a message may have.
    #[error(
        "a message of {bytes} bytes and {descriptors} descriptors is more than {MAX_MESSAGE} and {MAX_DESCRIPTORS}"
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// Its descriptors.
        descriptors: usize,
    },
}

impl WireError {
    fn socket(tried: &'static str) -> impl Fn(rustix::io::Errno) -> WireError {
        move |errno| WireError::Socket { tried, source: errno.into() }
    }

    /// Whether trying again later can help: the socket's buffer is full, or nothing is there to be received.
    pub fn would_block(&self) -> bool {
        matches!(self, WireError::Socket { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
    }
}

/// What is sent.
pub trait Message: Serialize + DeserializeOwned {
    /// By which request and answer belong to each other; 0 for everything else.
    fn number(&self) -> u64;
}

/// A message ready to be sent.
#[derive(Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// Encodes a message. Descriptors that belong to it go with it.
    pub fn encode<T: Message>(message: &T, mut descriptors: Vec<OwnedFd>) -> Result<Packet, WireError> {
        let malformed = |_| WireError::Malformed("it cannot be encoded");
        // Measured first: a plan has thousands of bytes, and growing memory byte by byte means to copy it again and again.
        let size = postcard::serialize_with_flavor(message, postcard::ser_flavors::Size::default());
        let mut bytes = Vec::with_capacity(1 + size.map_err(malformed)?);
        bytes.push(INLINE);
        let bytes = postcard::to_extend(message, bytes).map_err(malformed)?;
        let long = bytes.len() > MAX_INLINE;
        if bytes.len() > MAX_MESSAGE || descriptors.len() + usize::from(long) > MAX_DESCRIPTORS {
            return Err(WireError::TooLarge { bytes: bytes.len(), descriptors: descriptors.len() });
        }
        if !long {
            return Ok(Packet { bytes, descriptors });
        }
        let body = sandbox::memory::sealed(c"stratus-message", &bytes[1..]);
        descriptors.push(body.map_err(WireError::socket("put a long message into memory"))?);
        let mut head = vec![IN_MEMFD];
        head.extend_from_slice(&message.number().to_le_bytes());
        Ok(Packet { bytes: head, descriptors })
    }

    /// Sends it in one piece or not at all.
    pub fn send(&self, socket: BorrowedFd<'_>) -> Result<(), WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(WireError::TooLarge { bytes: self.bytes.len(), descriptors: descriptors.len() });
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &[IoSlice::new(&self.bytes)], &mut control, flags))
            .map_err(WireError::socket("send to the peer"))?;
        Ok(())
    }

    pub(crate) fn parts(&self) -> (&[u8], &[OwnedFd]) {
        (&self.bytes, &self.descriptors)
    }

    pub(crate) fn from_parts(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> Packet {
        Packet { bytes, descriptors }
    }

    /// About how much memory it takes while it waits.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.len() + 256 * (1 + self.descriptors.len())
    }
}

/// The room into which messages are received; used again and again.
#[derive(Debug)]
pub struct ReceiveBuffer {
    bytes: Box<[u8]>,
}

impl Default for ReceiveBuffer {
    fn default() -> ReceiveBuffer {
        ReceiveBuffer { bytes: vec![0; MAX_INLINE + 1].into_boxed_slice() }
    }
}

/// Receives one message, without waiting. `None`: the peer has closed. After [`WireError::NoDescriptor`] the next one can be received.
pub fn receive<T: Message>(
    socket: BorrowedFd<'_>,
    buffer: &mut ReceiveBuffer,
) -> Result<Option<(T, Vec<OwnedFd>)>, WireError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buffer.bytes)], &mut control, flags)
    })
    .map_err(WireError::socket("receive from the peer"))?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let cut = received.flags.contains(ReturnFlags::CTRUNC);
    // The kernel leaves out of the descriptors what has no room here, and also what the process may not have.
    if received.flags.contains(ReturnFlags::TRUNC) || cut && descriptors.len() == MAX_DESCRIPTORS {
        return Err(WireError::Malformed("it is longer than a datagram may be, or has too many descriptors"));
    }
    match &buffer.bytes[..received.bytes] {
        [INLINE, body @ ..] => {
            let message: T = decode(body)?;
            if cut {
                return Err(WireError::NoDescriptor { number: message.number() });
            }
            Ok(Some((message, descriptors)))
        }
        [IN_MEMFD, number @ ..] => {
            let number = number.try_into().map_err(|_| WireError::Malformed("its number is missing"))?;
            if cut {
                return Err(WireError::NoDescriptor { number: u64::from_le_bytes(number) });
            }
            let body = descriptors.pop().ok_or(WireError::Malformed("its body is missing"))?;
            Ok(Some((decode(&from_memfd(body.as_fd())?)?, descriptors)))
        }
        _ => Err(WireError::Malformed("its first byte says nothing known")),
    }
}

/// Decodes the whole of `bytes` as one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(WireError::Malformed("something follows its end")),
        Err(_) => Err(WireError::Malformed("it cannot be decoded")),
    }
}

/// Only a sealed memory file is read: reading it cannot block, and its content is settled.
fn from_memfd(file: BorrowedFd<'_>) -> Result<Vec<u8>, WireError> {
    let sealed = rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS));
    if !sealed {
        return Err(WireError::Malformed("its body is not in a sealed memory file"));
    }
    let error = WireError::socket("read a long message");
    let size = rustix::fs::fstat(file).map_err(&error)?.st_size;
    let size = usize::try_from(size).ok().filter(|size| *size <= MAX_MESSAGE);
    let mut bytes = vec![0; size.ok_or(WireError::Malformed("its body is too long"))?];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64).map_err(&error)? {
            0 => return Err(WireError::Malformed("its body is cut short")),
            count => filled += count,
        }
    }
    Ok(bytes)
}
