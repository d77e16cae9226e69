//! The host's end of a network device: a tap of the kernel's (its Documentation/networking/tuntap.rst), or whatever takes and gives
//! packets as one does.

use super::feature;
use crate::error::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Bytes of the header before each packet (5.1.6): `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;

/// Requests to a tap (linux/if_tun.h).
mod request {
    pub(super) const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;
    pub(super) const SET_OFFLOAD: libc::Ioctl = 0x4004_54d0;
    pub(super) const SET_HEADER_SIZE: libc::Ioctl = 0x4004_54d8;
}

/// What a tap may leave to who receives from it.
mod offload {
    pub(super) const CHECKSUM: libc::c_ulong = 1;
    pub(super) const TSO4: libc::c_ulong = 2;
    pub(super) const TSO6: libc::c_ulong = 4;
}

/// The host's end.
#[derive(Debug)]
pub(crate) struct Tap {
    fd: OwnedFd,
    /// Whether it can be told what the guest takes off its hands.
    is_tap: bool,
}

impl Tap {
    /// Attaches to the tap of that name in this process's network namespace. It is made where there is none and this process may.
    pub(crate) fn attach(name: &str) -> Result<OwnedFd> {
        let failed = Error::host("open /dev/net/tun");
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        // By the call that std opens files by as well: the filter of whoever has a card plugged in knows no other one.
        let fd = rustix::fs::openat(CWD, "/dev/net/tun", flags, Mode::empty()).map_err(failed)?;
        // SAFETY: all zero bytes are a valid request.
        let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= interface.ifr_name.len() {
            return Err(Error::Size(format!(
                "{name:?} is too long for the name of an interface, which has 15 bytes at most"
            )));
        }
        for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        interface.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // SAFETY: the request takes a `struct ifreq`, which lives for the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request::SET_INTERFACE, &raw mut interface) } < 0 {
            return Err(Error::Host { what: "attach to a tap", source: io::Error::last_os_error() });
        }
        Ok(fd)
    }

    /// A tap that somebody has opened and attached to, which gives and takes a header before each packet.
    pub(crate) fn of(fd: OwnedFd) -> Result<Tap> {
        let size: libc::c_int = HEADER as libc::c_int;
        // SAFETY: the request takes a pointer to an int, which lives for the call.
        if unsafe { libc::ioctl(fd.as_raw_fd(), request::SET_HEADER_SIZE, &raw const size) } < 0 {
            return Err(Error::Host { what: "set up a tap", source: io::Error::last_os_error() });
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(Error::host("set up a tap"))?;
        Ok(Tap { fd, is_tap: true })
    }

    /// A socket that keeps packets apart, for who has no tap.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_socket(fd: OwnedFd) -> Tap {
        Tap { fd, is_tap: false }
    }

    /// Tells the tap what the guest, which has accepted those features, takes off its hands.
    pub(super) fn set_offload(&self, features: u64) -> io::Result<()> {
        if !self.is_tap {
            return Ok(());
        }
        let pairs = [
            (feature::GUEST_CHECKSUM, offload::CHECKSUM),
            (feature::GUEST_TSO4, offload::TSO4),
            (feature::GUEST_TSO6, offload::TSO6),
        ];
        let taken =
            pairs.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, offload)| all | offload);
        // SAFETY: the request takes a number.
        let set = unsafe { libc::ioctl(self.fd.as_raw_fd(), request::SET_OFFLOAD, taken) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one packet into a list of buffers.
    pub(super) fn receive(&self, list: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: whoever made the list answers for its buffers, which are parts of a guest's memory.
        let count = unsafe { libc::readv(self.fd.as_raw_fd(), list.as_ptr(), list.len() as i32) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Sends one packet from a list of buffers.
    pub(super) fn send(&self, list: &[libc::iovec]) -> io::Result<usize> {
        // SAFETY: as above.
        let count = unsafe { libc::writev(self.fd.as_raw_fd(), list.as_ptr(), list.len() as i32) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
