//! What the daemon and the forwarder say to each other.
//!
//! One `SOCK_SEQPACKET` message holds one request or one reply (unix(7)): a version byte, then the `postcard` encoding.
//! A listening socket travels beside its message as `SCM_RIGHTS`. Variants are only ever added at the end, so that a newer
//! daemon can talk to the forwarder that an older one left running; what the older one does not know it refuses as
//! [`Refusal::NotUnderstood`].

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

/// First byte of every message. It changes only when the envelope itself does.
const ENVELOPE: u8 = 1;

/// Longest message in bytes. A page of [`Reply::Holds`] stays well below it.
pub(super) const MAX_MESSAGE: usize = 64 << 10;

/// Longest key in bytes.
pub const MAX_KEY: usize = 256;

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Proto {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
    /// sctp(7): its ports can be reserved, not proxied.
    Sctp,
}

/// What the forwarder does with a socket it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Keep it bound, so that nobody else takes the port. Packets reach the container some other way (nftables).
    Reserve,
    /// Accept what arrives and pass it on to `target`.
    Proxy {
        /// Where the container listens, as seen from the forwarder's network namespace.
        target: SocketAddr,
    },
}

/// One published port as the forwarder should hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The caller's name for it, unique per forwarder, at most [`MAX_KEY`] bytes. Holding a key again replaces what was held.
    pub key: String,
    /// Transport protocol; has to fit the socket.
    pub proto: Proto,
    /// What to do with it.
    pub mode: Mode,
}

/// One published port as the forwarder holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Key, protocol and mode as they were asked for.
    pub hold: Hold,
    /// The address its socket is bound to.
    pub local: SocketAddr,
}

/// What the forwarder tells about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// Version of the program it was started from.
    pub version: String,
    /// Sockets it holds.
    pub holds: u32,
    /// TCP connections it carries now.
    pub connections: u32,
    /// UDP clients it remembers now.
    pub sessions: u32,
    /// TCP connections it turned away since it started, as it carried its maximum.
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Ping,
    /// With the socket beside it.
    Hold(Hold),
    /// Changes the mode of something held.
    Retarget {
        key: String,
        mode: Mode,
    },
    Release {
        key: String,
    },
    /// The holds whose keys come after the given one, in order, as many as fit a page.
    List {
        after: Option<String>,
    },
    /// A duplicate of a held socket.
    Fetch {
        key: String,
    },
    /// Connections that it carries break.
    Shutdown,
    /// Go on as another program, whose file is beside it.
    Upgrade,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Pong(Status),
    Holds {
        held: Vec<Held>,
        more: bool,
    },
    /// With the socket beside it.
    Socket,
    Refused(Refusal),
}

/// Why the forwarder did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The message does not decode: it is damaged, or of a newer version.
    #[error("the forwarder does not understand the request; an older version of it may be running")]
    NotUnderstood,
    /// Nothing is held under that key.
    #[error("nothing is held under {key:?}")]
    UnknownKey {
        /// The key asked for.
        key: String,
    },
    /// The key is empty or longer than [`MAX_KEY`].
    #[error("a key has 1 to {MAX_KEY} bytes")]
    BadKey,
    /// No socket came with the request, or one that does not fit the protocol.
    #[error("the socket for {key:?} is no bound {proto:?} socket: {why}")]
    BadSocket {
        /// The key asked for.
        key: String,
        /// The protocol asked for.
        proto: Proto,
        /// What is wrong with it.
        why: String,
    },
    /// SCTP can only be reserved.
    #[error("{proto:?} cannot be proxied, only reserved")]
    CannotProxy {
        /// The protocol asked for.
        proto: Proto,
    },
    /// It goes on as the program that it is.
    #[error("the forwarder cannot go on as that program: {why}")]
    CannotUpgrade {
        /// What is in the way.
        why: String,
    },
}

/// Encodes one message.
pub(super) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(message, vec![ENVELOPE])
}

/// Decodes one message; `None` where it is none of ours.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (&ENVELOPE, body) = bytes.split_first()? else { return None };
    postcard::from_bytes(body).ok()
}

/// Sends one message, with a descriptor beside it where one is given.
pub(super) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// What [`recv`] got.
pub(super) struct Received {
    /// Bytes in the buffer; 0 at the end of the connection.
    pub(super) len: usize,
    /// The first descriptor that came along; others are closed.
    pub(super) fd: Option<OwnedFd>,
    /// The message was longer than the buffer, or had more descriptors than anyone may send.
    pub(super) cut_short: bool,
}

/// Receives one message into `buffer`.
pub(super) fn recv(socket: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fd = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            for received in fds {
                fd.get_or_insert(received);
            }
        }
    }
    let cut_short = message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Received { len: message.bytes.min(buffer.len()), fd, cut_short })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_survives_the_way() {
        let hold = Hold {
            key: "c1/tcp/[::]:80".into(),
            proto: Proto::Tcp,
            mode: Mode::Proxy { target: "172.17.0.2:80".parse().unwrap() },
        };
        let bytes = encode(&Request::Hold(hold.clone())).unwrap();
        assert_eq!(decode::<Request>(&bytes), Some(Request::Hold(hold)));
    }

    #[test]
    fn another_envelope_is_not_understood() {
        let mut bytes = encode(&Request::Ping).unwrap();
        bytes[0] = 2;
        assert_eq!(decode::<Request>(&bytes), None);
        assert_eq!(decode::<Request>(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_do_not(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }
}
