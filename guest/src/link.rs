//! The stream to the host.

use std::fs;
use std::os::fd::OwnedFd;

use guest_protocol::frame::Decoder;
use guest_protocol::message::Failure;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::{failed, refused, sys};

/// Where the host is.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// A port of the host's over vsock.
    Vsock(u32),
    /// A port of a virtio-serial device, by its name.
    Port(String),
    /// A Unix socket, for tests.
    Unix(String),
}

impl Address {
    /// From `vsock:PORT`, `port:NAME` or `unix:PATH`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || refused(format!("{text:?} is no address of a host: vsock:PORT, port:NAME or unix:PATH are"));
        match text.split_once(':').ok_or_else(wrong)? {
            ("vsock", port) => port.parse().map(Self::Vsock).map_err(|_| wrong()),
            ("port", name) => Ok(Self::Port(name.to_owned())),
            ("unix", path) => Ok(Self::Unix(path.to_owned())),
            _ => Err(wrong()),
        }
    }

    /// Begins to connect. What comes of it is known when the descriptor can be written to.
    pub(crate) fn connect(&self) -> Result<OwnedFd, Failure> {
        match self {
            Self::Vsock(port) => {
                sys::connect_to_host(*port).map_err(failed("connect to", format!("vsock port {port}")))
            }
            Self::Port(name) => open_port(name),
            Self::Unix(path) => connect(path).map_err(failed("connect to", path)),
        }
    }

    /// Whether whoever connects to the other end is told apart from who was there before.
    pub(crate) fn has_connections(&self) -> bool {
        !matches!(self, Self::Port(_))
    }
}

fn connect(path: &str) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Finds the port by its name (`/sys/class/virtio-ports/vport0p1/name`).
fn open_port(name: &str) -> Result<OwnedFd, Failure> {
    let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
    let port = ports
        .into_iter()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name));
    let port = port.ok_or_else(|| Failure::Unknown { what: format!("port of virtio-serial with the name {name}") })?;
    let path = format!("/dev/{}", port.file_name().to_string_lossy());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(failed("open", path))
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) fd: OwnedFd,
    pub(crate) decoder: Decoder,
    /// What waits to be written.
    pub(crate) out: Vec<u8>,
    pub(crate) written: usize,
    /// The host has greeted.
    pub(crate) greeted: bool,
    /// It is watched for room.
    pub(crate) full: bool,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd, connections: bool) -> Self {
        // The host's first frame needs no preamble where its connection is new.
        let decoder = if connections { Decoder::aligned() } else { Decoder::new() };
        Self { fd, decoder, out: Vec::new(), written: 0, greeted: false, full: true }
    }

    /// What waits to be written, in bytes.
    pub(crate) fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes as much as goes.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        while self.waiting() > 0 {
            match rustix::io::write(&self.fd, &self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::AGAIN) => {
                    self.full = true;
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.out.clear();
        self.out.shrink_to(64 << 10);
        self.written = 0;
        Ok(())
    }
}
