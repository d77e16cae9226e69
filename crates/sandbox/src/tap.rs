//! Taps: links of a network namespace whose other end is a file (the kernel's Documentation/networking/tuntap.rst).
//!
//! Rtnetlink makes every other kind of link; a tap takes ioctl(2).

use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use thiserror::Error;

/// Why there is no tap.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TapError {
    /// The kernel has no taps, or nobody has made the node.
    #[error(
        "the kernel's taps can't be had, as /dev/net/tun does not open ({0}): \
         load its module (modprobe tun), or make the node (mknod /dev/net/tun c 10 200)"
    )]
    NoTun(io::Error),
    /// A name that no link can have.
    #[error("{0:?} is no name of a link: it has 1 to 15 bytes, none of which is zero")]
    Name(String),
    /// The kernel refused.
    #[error("cannot {what} the tap {name}: {source}")]
    Refused {
        /// What was tried: `make`, `attach to`…
        what: &'static str,
        /// The tap's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Requests to a tap (`linux/if_tun.h`).
mod request {
    pub(super) const SET_INTERFACE: libc::Ioctl = 0x4004_54ca;
    pub(super) const SET_PERSISTENT: libc::Ioctl = 0x4004_54cb;
    pub(super) const SET_OWNER: libc::Ioctl = 0x4004_54cc;
}

/// `IFF_TUN_EXCL`: make it, and don't attach to one that is there.
const EXCLUSIVE: libc::c_int = 0x8000;

/// Makes a tap with one queue in the calling thread's network namespace. It stays, with nobody attached, until the namespace goes
/// or it is deleted as a link; the user `owner` may attach to it without any capability. It is down.
///
/// Five system calls.
///
/// # Errors
/// [`TapError`]: `EBUSY` where there is a link of that name.
pub fn make(name: &str, owner: u32) -> Result<(), TapError> {
    let tap = attach_with(name, EXCLUSIVE, "make")?;
    let refused = |what| move |source| TapError::Refused { what, name: name.to_owned(), source };
    number(&tap, request::SET_OWNER, owner.into()).map_err(refused("give away"))?;
    number(&tap, request::SET_PERSISTENT, 1).map_err(refused("keep"))
}

/// Attaches to a tap of the calling thread's network namespace: a frame a read(2) and write(2), each behind a virtio header of
/// ten bytes (`struct virtio_net_hdr`). Where there is none, one is made, which goes with the descriptor. Not blocking.
///
/// # Errors
/// [`TapError`]: `EBUSY` where somebody else is attached, `EPERM` where it is another user's, `EINVAL` where the link is no tap.
pub fn attach(name: &str) -> Result<OwnedFd, TapError> {
    attach_with(name, 0, "attach to")
}

fn attach_with(name: &str, flags: libc::c_int, what: &'static str) -> Result<OwnedFd, TapError> {
    let tun = open()?;
    attach_to(&tun, name, flags, what)?;
    Ok(tun)
}

/// A file that is no tap's end yet, in the calling thread's network namespace: it stays in that.
fn open() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| TapError::NoTun(errno.into()))
}

fn attach_to(tun: &OwnedFd, name: &str, flags: libc::c_int, what: &'static str) -> Result<(), TapError> {
    // SAFETY: all zero bytes are a valid request.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= interface.ifr_name.len() || name.contains('\0') {
        return Err(TapError::Name(name.to_owned()));
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    interface.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | flags) as i16;
    // SAFETY: the request takes a `struct ifreq`, which lives for the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), request::SET_INTERFACE, &raw mut interface) } < 0 {
        return Err(TapError::Refused { what, name: name.to_owned(), source: io::Error::last_os_error() });
    }
    Ok(())
}

/// A request that takes a number.
fn number(tap: &OwnedFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: these requests take a number, and no pointer.
    if unsafe { libc::ioctl(tap.as_raw_fd(), request, value) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_link_can_have_is_refused() {
        for name in ["", "sixteen-letters-", "a\0b"] {
            assert!(matches!(make(name, 0), Err(TapError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn its_owner_attaches_without_any_capability_and_nobody_else() {
        let inside = || {
            crate::sys::unshare(libc::CLONE_NEWNET as u64).expect("tests of taps need root");
            let (owner, other) = (65534, 65533);
            make("tap0", owner).unwrap();
            // The node may be root's alone.
            let files = [open().unwrap(), open().unwrap()];
            // Each thread has a user of its own, and one who is not root has no capability.
            let attach_as = |user: u32, file: &OwnedFd| {
                let user = rustix::process::Uid::from_raw(user);
                rustix::thread::set_thread_res_uid(user, user, user).unwrap();
                attach_to(file, "tap0", 0, "attach to")
            };
            let [one, two] = &files;
            let refused = std::thread::scope(|scope| scope.spawn(|| attach_as(other, one)).join().unwrap());
            match refused.unwrap_err() {
                TapError::Refused { source, .. } => assert_eq!(source.kind(), io::ErrorKind::PermissionDenied),
                error => panic!("{error}"),
            }
            std::thread::scope(|scope| scope.spawn(|| attach_as(owner, two)).join().unwrap()).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    }

    #[test]
    fn a_tap_that_is_made_stays_and_one_attaches_to_it() {
        let inside = || {
            crate::sys::unshare(libc::CLONE_NEWNET as u64).expect("tests of taps need root");
            let refusal = |result: Result<(), TapError>| match result.unwrap_err() {
                TapError::Refused { source, .. } => source.kind(),
                other => panic!("{other}"),
            };
            make("tap0", 65534).unwrap();
            assert_eq!(refusal(make("tap0", 0)), io::ErrorKind::ResourceBusy);
            assert_eq!(refusal(make("lo", 0)), io::ErrorKind::ResourceBusy);
            assert_eq!(refusal(attach("lo").map(drop)), io::ErrorKind::InvalidInput);
            let attached = attach("tap0").unwrap();
            assert_eq!(refusal(attach("tap0").map(drop)), io::ErrorKind::ResourceBusy);
            drop(attached);
            drop(attach("tap0").unwrap());
            // Else a tap of that name goes with its descriptor.
            drop(attach("tap1").unwrap());
            make("tap1", 0).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    }
}
