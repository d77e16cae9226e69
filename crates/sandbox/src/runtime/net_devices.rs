//! `linux.netDevices`: devices of the host that go into the container, with their addresses.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{Result, RuntimeError};
use crate::plan::NamespaceKind;
use crate::sys;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE_EXCL: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
const IFA_F_PERMANENT: u8 = 0x80;

/// Whether the spec has any.
pub(super) fn wanted(spec: &Spec) -> bool {
    spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref()).is_some_and(|devices| !devices.is_empty())
}

/// Moves every device into the network namespace of `pid`, names it, gives it back its addresses and sets it up.
pub(super) fn hand_over(spec: &Spec, pid: i32) -> Result<()> {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let Some(devices) = devices.filter(|devices| !devices.is_empty()) else { return Ok(()) };
    let path = format!("/proc/{pid}/ns/net");
    let namespace = rustix::fs::openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RuntimeError::file("open", path.as_ref())(errno.into()))?;
    let own = fs::File::open("/proc/thread-self/ns/net")
        .map_err(RuntimeError::file("open", "/proc/thread-self/ns/net".as_ref()))?;
    let same = sys::identity(namespace.as_fd()).ok() == sys::identity(own.as_fd()).ok();
    if same {
        return Err(RuntimeError::Usage("linux.netDevices needs a network namespace of the container's own".into()));
    }
    let host = Netlink::open()?;
    for (name, device) in devices {
        let new_name = device.name().clone().filter(|name| !name.is_empty()).unwrap_or_else(|| name.clone());
        let failed = |what: &'static str| move |errno| RuntimeError::System(what, errno);
        let index = index(name).map_err(|error| RuntimeError::file("find network device", name.as_ref())(error))?;
        let addresses = host.addresses(index).map_err(failed("read a network device's addresses"))?;
        host.move_to(index, &new_name, &namespace).map_err(failed("move a network device"))?;
        inside(&namespace, |there| there.set_up(&new_name, &addresses))?
            .map_err(failed("set up a network device in the container"))?;
    }
    Ok(())
}

fn index(name: &str) -> std::io::Result<u32> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: a terminated string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(std::io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Does something in another network namespace, on a thread of its own: the caller stays where it is.
fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce(&Netlink) -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::setns(namespace.as_fd(), NamespaceKind::Network.clone_flag())
                .map_err(RuntimeError::system("join the container's network namespace"))?;
            Ok(work(&Netlink::open()?))
        });
        thread.join().unwrap_or(Err(RuntimeError::System("run a thread", Errno::CANCELED)))
    })
}

/// A routing socket of the namespace in which it was opened.
struct Netlink(OwnedFd);

impl Netlink {
    fn open() -> Result<Self> {
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map(Self)
            .map_err(RuntimeError::system("open a routing socket"))
    }

    /// Sends one request, and calls `each` with the kind and body of every answer to its end.
    fn request(
        &self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> std::result::Result<(), Errno> {
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(body);
        rustix::net::send(&self.0, &message, SendFlags::empty())?;
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let (length, _) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = split(rest) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk::<4>().map_or(-libc::EIO, |bytes| i32::from_ne_bytes(*bytes));
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) };
                    }
                    kind => each(kind, body),
                }
                rest = next;
            }
        }
    }

    /// The permanent addresses of a device with a scope beyond the link, as the kernel gave them.
    fn addresses(&self, index: u32) -> std::result::Result<Vec<Vec<u8>>, Errno> {
        let mut found = Vec::new();
        self.request(RTM_GETADDR, DUMP, &[0; 8], |kind, body| {
            // family, prefix length, flags, scope, index
            let ours = body
                .get(4..8)
                .and_then(|bytes| bytes.first_chunk::<4>())
                .is_some_and(|b| u32::from_ne_bytes(*b) == index);
            if kind == RTM_NEWADDR && ours && body[3] == 0 && body[2] & IFA_F_PERMANENT != 0 {
                found.push(body.to_vec());
            }
        })?;
        Ok(found)
    }

    fn move_to(&self, index: u32, name: &str, namespace: &OwnedFd) -> std::result::Result<(), Errno> {
        use std::os::fd::AsRawFd;
        let mut body = link(index, 0, 0);
        attribute(&mut body, IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        self.request(RTM_NEWLINK, ACK, &body, |_, _| {})
    }

    fn set_up(&self, name: &str, addresses: &[Vec<u8>]) -> std::result::Result<(), Errno> {
        let index = index(name).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NODEV))?;
        for address in addresses {
            let mut body = address.clone();
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            match self.request(RTM_NEWADDR, ACK | CREATE_EXCL, &body, |_, _| {}) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.request(RTM_NEWLINK, ACK, &link(index, IFF_UP, IFF_UP), |_, _| {})
    }
}

/// One message off the front: its kind, its body, and what follows.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(16..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0];
    for word in [index, flags, change] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
