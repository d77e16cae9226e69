//! The hypervisor of this program.
//!
//! Its threads live in this process, each behind a filter for what it does. The agent's connections come from one of them, as pairs of sockets:
//! nothing of it is in a file system.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use guest_protocol::VSOCK_PORT;
use rustix::event::{EventfdFlags, eventfd};
use vmm::{
    Backing, Config, Console, Contents, Dial, Disk, End, Files, FilesParts, Machine, MemorySize, Snapshot,
    SnapshotFiles, VsockParts, WorkingSet,
};

use super::{Extent, Laid, command_line};
use crate::error::{Error, Result};
use crate::plan::{Card, LAYERS, LAYERS_SIZE, MachinePlan, Origin, TOUCHED, UPPER};

/// The guest's address; each machine has a vsock of its own, so that it need not differ.
const CID: u32 = 3;
/// Connections that nobody has taken yet; a guest that makes more is refused.
const WAITING: usize = 4;
/// The most snapshots that are read one over the other: each is mapped by pieces, of which a process may have 65,530 (`vm.max_map_count`).
const LAYERED: usize = 8;

/// A machine within this process.
pub(crate) struct Running {
    machine: Box<Machine>,
    /// How many snapshots it went on from, one over the other; a template counts for none, as nothing may depend on it.
    layered: usize,
}

impl Running {
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.machine.ended()
    }

    pub(crate) fn save(&mut self, into: &SnapshotFiles) -> Result<Extent> {
        if (1..LAYERED).contains(&self.layered) {
            self.machine.save_difference(into)?;
            return Ok(Extent::Difference);
        }
        self.machine.save(into)?;
        Ok(Extent::Whole)
    }

    pub(crate) fn resume(&mut self) {
        self.machine.resume();
    }

    pub(crate) fn resize(&self, memory: MemorySize) -> Result<()> {
        Ok(self.machine.resize(memory)?)
    }

    pub(crate) fn plug(&self, place: usize, card: &Card) -> Result<()> {
        Ok(self.machine.plug(place, self::card(card).open()?)?)
    }

    pub(crate) fn unplug(&self, place: usize) -> Result<()> {
        Ok(self.machine.unplug(place)?)
    }

    pub(crate) fn plug_files(&self, tag: &str, server: OwnedFd) -> Result<String> {
        let number = self.machine.plug_files(FilesParts { tag: tag.to_owned(), server: server.into() })?;
        // As Linux numbers devices of one kind that ACPI names (its drivers/acpi/scan.c).
        Ok(format!("LNRO0005:{number:02x}"))
    }

    pub(crate) fn unplug_files(&self) -> Result<()> {
        Ok(self.machine.unplug_files()?)
    }

    pub(crate) fn lay(&self, start: u64, file: Option<File>) -> Result<()> {
        Ok(self.machine.lay(LAYERS, start, file)?)
    }

    pub(crate) fn touched(&self) -> Option<WorkingSet> {
        self.machine.working_set()
    }

    pub(crate) fn end(&mut self) -> String {
        self.machine.end().map_or_else(|| "its end was not told".to_owned(), words)
    }
}

/// The connections that the agent makes.
pub(crate) struct Calls {
    streams: Receiver<UnixStream>,
    /// Counts them.
    event: Arc<OwnedFd>,
}

impl Calls {
    /// The next one, if there is one.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        let stream = self.streams.try_recv().ok()?;
        // As many were counted as were sent.
        let _ = rustix::io::read(&*self.event, &mut [0; 8]);
        stream.set_nonblocking(true).ok()?;
        Some(stream.into())
    }
}

impl AsFd for Calls {
    /// Readable while there are some.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Whether a line of interrupts is left for the place of that file system.
pub(super) fn has_files_place(plan: &MachinePlan) -> bool {
    // The one for the agent's sockets is no part of what is opened by paths.
    const ELSEWHERE: usize = 1;
    Config { files_place: false, ..config(plan, PathBuf::new()) }.devices_left() > ELSEWHERE
}

pub(super) fn start(plan: &MachinePlan, layers: Vec<Laid>) -> Result<(Running, Calls)> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE;
    let event = Arc::new(eventfd(0, flags).map_err(Error::system("make", "an eventfd"))?);
    let (sender, streams) = sync_channel(WAITING);
    let mut parts = config(plan, zeros(plan)?).open()?;
    parts.devices.vsock = Some(VsockParts { cid: CID, listener: None, dial: dial(sender, Arc::clone(&event)) });
    if plan.hardware.console {
        let console = std::io::stderr().as_fd().try_clone_to_owned();
        parts.devices.console = console.ok();
    }
    let (snapshots, layered) = match &plan.origin {
        Some(Origin::Template(directory)) => (std::slice::from_ref(directory), 0),
        Some(Origin::Snapshot { snapshots, .. }) => (&snapshots[..], snapshots.len()),
        None => (&[][..], 0),
    };
    let mut machine = match read(snapshots).map_err(Error::saved)? {
        Some(snapshot) => {
            let backing = backing(&plan.backing, snapshots);
            Machine::restore_by(&snapshot, parts.devices, &backing).map_err(Error::saved)?
        }
        None => Machine::of(parts)?,
    };
    layers.into_iter().try_for_each(|layer| machine.lay(LAYERS, layer.start, Some(layer.file)))?;
    machine.start();
    Ok((Running { machine: Box::new(machine), layered }, Calls { streams, event }))
}

/// Reads snapshots, each over the one before.
fn read(directories: &[PathBuf]) -> Result<Option<Arc<Snapshot>>> {
    let mut read: Option<Arc<Snapshot>> = None;
    for directory in directories {
        let files = SnapshotFiles::open(directory)?;
        read = Some(Arc::new(match read {
            Some(base) => Snapshot::read_over(base, files)?,
            None => Snapshot::read(files)?,
        }));
    }
    Ok(read)
}

/// With what an earlier machine touched of the newest snapshot, where that is kept beside it. It is there to save time: one that can't be read is none.
fn backing(planned: &Backing, snapshots: &[PathBuf]) -> Backing {
    match planned {
        Backing::Faulted { ahead: None } => {
            let kept = snapshots.last().and_then(|directory| File::open(directory.join(TOUCHED)).ok());
            Backing::Faulted { ahead: kept.and_then(|file| WorkingSet::read(&file).ok()) }
        }
        other => other.clone(),
    }
}

/// Who is at the host's ports: the agent's, and nobody else. It is called on a thread of the machine.
fn dial(sender: SyncSender<UnixStream>, event: Arc<OwnedFd>) -> Dial {
    Box::new(move |port| {
        if port != VSOCK_PORT {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        sender.try_send(ours).map_err(|_| IoError::from(ErrorKind::ConnectionRefused))?;
        rustix::io::write(&*event, &1u64.to_ne_bytes())?;
        Ok(theirs)
    })
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

/// What the server of volumes serves.
fn files(plan: &MachinePlan) -> Files {
    Files { tag: crate::volumes::TAG.to_owned(), server: plan.scratch.join(crate::files::SOCKET) }
}

fn card(Card { tap, mac, mtu, receive, send }: &Card) -> vmm::Card {
    vmm::Card { tap: tap.clone(), mac: *mac, mtu: *mtu, receive: *receive, send: *send }
}

/// What the layers are laid over: a file of zeros, as large as their disk.
fn zeros(plan: &MachinePlan) -> Result<PathBuf> {
    let path = plan.scratch.join("zeros");
    let made = File::create(&path).and_then(|file| file.set_len(LAYERS_SIZE));
    made.map_err(|source| Error::File { what: "the layers' disk", path: path.clone(), source })?;
    Ok(path)
}

fn config(plan: &MachinePlan, zeros: PathBuf) -> Config {
    let hardware = &plan.hardware;
    let contents = Contents::File { path: zeros, read_only: true };
    let mut disks = vec![Disk { serial: LAYERS.to_owned(), contents, limits: hardware.limits.layers }];
    if let Some(path) = &hardware.upper {
        let contents = Contents::File { path: path.clone(), read_only: false };
        disks.push(Disk { serial: UPPER.to_owned(), contents, limits: hardware.limits.upper });
    }
    Config {
        vcpus: hardware.vcpus,
        processor: hardware.processor,
        memory: hardware.memory,
        most_memory: hardware.most_memory,
        pages: plan.pages(),
        kernel: hardware.kernel.clone(),
        initrd: Some(hardware.initramfs.clone()),
        // There is no PCI bus: a kernel that looks for one comes out of the guest 92 times.
        command_line: format!("{} pci=off", command_line(plan, &format!("vsock:{VSOCK_PORT}"))),
        console: Console::Off,
        disks,
        cards: hardware.cards.iter().map(|place| place.as_ref().map(card)).collect(),
        vsock: None,
        files: hardware.volumes.iter().map(|_| files(plan)).collect(),
        files_place: hardware.files_place,
        balloon: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_files_where_a_line_is_left_for_it() {
        use crate::plan::tests::plan;
        use vmm::Limits;
        let card =
            Card { tap: String::new(), mac: [0; 6], mtu: 1500, receive: Limits::default(), send: Limits::default() };
        let of = |cards: usize, disk: bool, more: u64| {
            let mut plan = plan(512);
            plan.hardware.cards = vec![Some(card.clone()); cards];
            plan.hardware.volumes = Some(PathBuf::from("/volumes"));
            plan.hardware.upper = disk.then(|| PathBuf::from("/upper"));
            plan.hardware.most_memory = MemorySize::from_mib(512 + more).unwrap();
            has_files_place(&plan)
        };
        assert!(of(8, true, 512) && !of(9, true, 512));
        assert!(of(9, false, 512) && of(9, true, 0));
        // One that has too much already is refused for that.
        assert!(!of(20, true, 512));
    }

    #[test]
    fn what_was_touched_before_is_read_ahead_where_it_can_be() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths = directories.each_ref().map(|directory| directory.path().to_owned());
        let none = Backing::Faulted { ahead: None };
        assert_eq!(backing(&none, &paths), none);
        assert_eq!(backing(&none, &[]), none);
        std::fs::write(paths[1].join(TOUCHED), "nonsense").unwrap();
        assert_eq!(backing(&none, &paths), none);
        let set = WorkingSet::default();
        std::fs::write(paths[1].join(TOUCHED), set.to_bytes()).unwrap();
        assert_eq!(backing(&none, &paths), Backing::Faulted { ahead: Some(set) });
        // It is that of the newest one alone.
        assert_eq!(backing(&none, &paths[..1]), none);
        assert_eq!(backing(&Backing::Mapped, &paths), Backing::Mapped);
    }
}
