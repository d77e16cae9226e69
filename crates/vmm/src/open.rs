//! The files that a [`Config`] names, opened.

use crate::config::{Card, Config, Console, Contents, Disk, Files, Vsock};
use crate::devices::virtio::net::Tap;
use crate::error::{Error, Result};
use crate::parts::{Boot, CardParts, Devices, DiskContents, DiskParts, FilesParts, Parts, VsockParts};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

impl Config {
    /// Opens all that it names.
    ///
    /// # Errors
    /// What can't be opened, with its path and why.
    pub fn open(&self) -> Result<Parts> {
        let initrd = self.initrd.as_deref().map(|path| file("the initramfs", path)).transpose()?;
        let boot = Boot {
            kernel: file("the kernel", &self.kernel)?,
            kernel_name: self.kernel.clone(),
            initrd,
            command_line: self.command_line.clone(),
        };
        Ok(Parts {
            vcpus: self.vcpus,
            processor: self.processor,
            memory: self.memory,
            most_memory: self.most_memory,
            pages: self.pages,
            boot,
            devices: self.open_devices()?,
        })
    }

    /// Opens what its devices are of alone: for a machine that goes on from a snapshot.
    ///
    /// # Errors
    /// As [`Config::open`].
    pub fn open_devices(&self) -> Result<Devices> {
        Ok(Devices {
            console: self.console.open()?,
            disks: self.disks.iter().map(Disk::open).collect::<Result<_>>()?,
            cards: self.cards.iter().map(|card| card.as_ref().map(Card::open).transpose()).collect::<Result<_>>()?,
            vsock: self.vsock.as_ref().map(Vsock::open).transpose()?,
            files: self.files.iter().map(Files::open).collect::<Result<_>>()?,
            files_place: self.files_place,
            balloon: self.balloon,
        })
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

fn file(what: &'static str, path: &Path) -> Result<File> {
    File::open(path).map_err(failed(what, path))
}

impl Console {
    fn open(&self) -> Result<Option<OwnedFd>> {
        match self {
            Console::Off => Ok(None),
            Console::Stdout => {
                io::stdout().as_fd().try_clone_to_owned().map(Some).map_err(Error::host("have standard output twice"))
            }
            Console::File(path) => {
                let opened = File::options().append(true).create(true).open(path);
                opened.map(|file| Some(file.into())).map_err(failed("the console's file", path))
            }
        }
    }
}

impl Disk {
    fn open(&self) -> Result<DiskParts> {
        let what = "a disk's file";
        let open = |path: &Path, read_only: bool| {
            File::options().read(true).write(!read_only).open(path).map_err(failed(what, path))
        };
        let contents = match &self.contents {
            Contents::File { path, read_only } => {
                DiskContents::File { file: open(path, *read_only)?, read_only: *read_only }
            }
            Contents::Qcow2 { path, read_only } => {
                DiskContents::Qcow2 { file: open(path, *read_only)?, read_only: *read_only }
            }
            Contents::Concatenated(paths) => {
                DiskContents::Concatenated(paths.iter().map(|path| file(what, path)).collect::<Result<_>>()?)
            }
        };
        Ok(DiskParts { serial: self.serial.clone(), contents, limits: self.limits })
    }
}

impl Card {
    /// Attaches to its tap.
    ///
    /// # Errors
    /// There is none that this process may have.
    pub fn open(&self) -> Result<CardParts> {
        let Card { tap, mac, mtu, receive, send } = self;
        Ok(CardParts { tap: Tap::attach(tap)?, mac: *mac, mtu: *mtu, receive: *receive, send: *send })
    }
}

impl Files {
    fn open(&self) -> Result<FilesParts> {
        let server = UnixStream::connect(&self.server).map_err(failed("the socket of a file server", &self.server))?;
        Ok(FilesParts { tag: self.tag.clone(), server })
    }
}

impl Vsock {
    pub(crate) fn open(&self) -> Result<VsockParts> {
        let failed = failed("the host's end of a machine's sockets", &self.path);
        let listener = bind(&self.path).map_err(failed)?;
        let bound = Bound(self.path.clone());
        let dial = Box::new(move |port| dial(&bound.beside(port)));
        Ok(VsockParts { cid: self.cid, listener: Some(listener), dial })
    }
}

/// Listens at a path: also where a socket was left that nobody listens at any more, as by a process that was killed.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match dial(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

/// A path that a socket was bound to, which goes with its machine.
struct Bound(PathBuf);

impl Bound {
    /// Where who listens at a port of the host does.
    fn beside(&self, port: u32) -> PathBuf {
        let mut path = OsString::from(&self.0);
        path.push(format!("_{port}"));
        path.into()
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // Whoever took the directory away took it along.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Connects to a socket that somebody listens on, without waiting for them to have time.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}
