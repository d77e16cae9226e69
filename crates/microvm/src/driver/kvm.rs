//! The hypervisor of this program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use guest_protocol::VSOCK_PORT;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use vmm::{Config, Console, Contents, Disk, End, Machine, Vsock};

use super::command_line;
use crate::error::{Error, Result};
use crate::plan::MachinePlan;

/// The guest's address; each machine has a vsock of its own, so that it need not differ.
const CID: u32 = 3;

/// A machine whose events are served by a thread of this process.
pub(crate) struct Running {
    ended: Arc<OwnedFd>,
    end: Arc<Mutex<Option<String>>>,
}

impl Running {
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    pub(crate) fn end(&mut self) -> String {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        end.unwrap_or_else(|| "its thread ended without a word".to_owned())
    }
}

pub(super) fn start(plan: &MachinePlan) -> Result<(Running, OwnedFd)> {
    let vsock = plan.scratch.join("vsock");
    // The agent may connect as soon as the machine runs.
    let path = plan.scratch.join(format!("vsock_{VSOCK_PORT}"));
    let failed = |tried| Error::system(tried, path.display().to_string());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed("make"))?;
    let address = SocketAddrUnix::new(&path).map_err(failed("name a socket"))?;
    rustix::net::bind(&listener, &address).map_err(failed("make the socket"))?;
    rustix::net::listen(&listener, 4).map_err(failed("listen at"))?;

    let machine = Machine::new(&config(plan, vsock))?;
    let event = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("make", "an eventfd"))?;
    let running = Running { ended: Arc::new(event), end: Arc::new(Mutex::new(None)) };
    let (ended, end) = (Arc::clone(&running.ended), Arc::clone(&running.end));
    let thread = thread::Builder::new().name("machine".to_owned()).spawn(move || {
        let told = match machine.run() {
            Ok(end) => words(end),
            Err(error) => error.to_string(),
        };
        *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        // A counter of one never is full.
        let _ = rustix::io::write(&*ended, &1u64.to_ne_bytes());
    });
    thread.map_err(|source| Error::System {
        tried: "start",
        on: "the machine's thread".to_owned(),
        errno: rustix::io::Errno::from_io_error(&source).unwrap_or(rustix::io::Errno::AGAIN),
    })?;
    Ok((running, listener))
}

fn words(end: End) -> String {
    match end {
        End::PowerOff => "the guest switched it off".to_owned(),
        // As a kernel does that panics.
        End::Reset => "the guest reset it".to_owned(),
        End::TripleFault => "a processor shut down after a triple fault".to_owned(),
        End::Stopped => "it was stopped".to_owned(),
        End::Failed(why) => why,
    }
}

fn config(plan: &MachinePlan, vsock: std::path::PathBuf) -> Config {
    let hardware = &plan.hardware;
    let mut disks = Vec::new();
    if !hardware.layers.is_empty() {
        let contents = Contents::Concatenated(hardware.layers.clone());
        disks.push(Disk { serial: crate::plan::LAYERS.to_owned(), contents });
    }
    if let Some(path) = &hardware.upper {
        let contents = Contents::File { path: path.clone(), read_only: false };
        disks.push(Disk { serial: crate::plan::UPPER.to_owned(), contents });
    }
    let card = |card: &crate::plan::Card| vmm::Card { tap: card.tap.clone(), mac: card.mac, mtu: card.mtu };
    Config {
        vcpus: hardware.vcpus,
        memory: hardware.memory,
        kernel: hardware.kernel.clone(),
        initrd: Some(hardware.initramfs.clone()),
        command_line: command_line(plan, &format!("vsock:{VSOCK_PORT}")),
        console: if hardware.console { Console::File(plan.scratch.join("console")) } else { Console::Off },
        disks,
        cards: hardware.cards.iter().map(card).collect(),
        vsock: Some(Vsock { cid: CID, path: vsock }),
    }
}
