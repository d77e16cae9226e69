//! The virtual devices of a machine: which there are, where each is, how it is attached.

use super::virtio::balloon::Balloon;
use super::virtio::block::{Block, Disk, DiskHandle};
use super::virtio::fs::{self, Fs, TAG_MAX};
use super::virtio::memory::Blocks;
use super::virtio::net::{self, Net, Tap};
use super::virtio::queue::{Interrupt, Nonsense};
use super::virtio::rng::Rng;
use super::virtio::transport::{self, Transport, TransportState};
use super::virtio::vsock::Vsock;
use super::virtio::{Attached, Device};
use crate::arch::current::acpi::Window;
use crate::arch::current::layout;
use crate::bus::Bus;
use crate::config::{CONCATENATED_ALIGN, Config};
use crate::confine::Kind;
use crate::end::Ending;
use crate::error::{Error, Result};
use crate::kvm::Vm;
use crate::memory::Memory;
use crate::parts::{CardParts, Devices, DiskContents, DiskParts, FilesParts};
use crate::threads::Wanted;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// How often somebody looks who waits for what another one may keep for ever.
const LOOKS: Duration = Duration::from_millis(1);

/// Where the devices of a machine are: ACPI's tables say so.
pub(crate) fn windows(devices: &Devices, memory: &Memory) -> Result<Vec<Window>> {
    let Devices { console: _, disks, cards, vsock, files, files_place, balloon } = devices;
    let single = [vsock.is_some(), *files_place, *balloon, memory.more().is_some()];
    windows_of(count(disks.len() + cards.len() + files.len(), single))
}

/// How many there are: these, of which a machine may have many, those of which it has one or none, and one that gives random numbers.
fn count(many: usize, single: [bool; 4]) -> usize {
    1 + many + single.into_iter().filter(|is_there| *is_there).count()
}

impl Config {
    /// How many more devices its machine could have: none where it has too many already. Each takes a line of interrupts, of which there are few.
    pub fn devices_left(&self) -> usize {
        let single = [self.vsock.is_some(), self.files_place, self.balloon, self.most_memory > self.memory];
        layout::LINES.len().saturating_sub(count(self.disks.len() + self.cards.len() + self.files.len(), single))
    }
}

fn windows_of(count: usize) -> Result<Vec<Window>> {
    if count > layout::LINES.len() {
        let most = layout::LINES.len();
        return Err(Error::Size(format!(
            "a machine has at most {most} virtual devices, and not {count}: give it fewer disks or network cards"
        )));
    }
    let window = |(number, line): (usize, &u32)| Window {
        start: layout::DEVICES.0 as u32 + number as u32 * transport::SIZE as u32,
        length: transport::SIZE as u32,
        line: *line,
    };
    Ok(layout::LINES.iter().enumerate().map(window).take(count).collect())
}

/// A device as its machine has it.
pub(crate) struct Virtual {
    attached: Attached,
    transport: Arc<Mutex<Transport>>,
}

impl Virtual {
    /// The device, for who serves its queues.
    pub(crate) fn attached(&self) -> Attached {
        self.attached.clone()
    }

    /// Tells its own thread, if it has one, what to do.
    pub(crate) fn want(&self, wanted: Wanted) {
        self.attached.want(wanted);
    }

    /// Has its own thread, if it has one, rest, and waits until it does, but no longer than that.
    ///
    /// # Errors
    /// As [`Attached::rest_until`].
    pub(crate) fn rest_until(&self, until: Instant) -> Result<(), Kind> {
        self.attached.rest_until(until)
    }

    /// Where it is, while the machine rests.
    pub(crate) fn save(&self) -> Result<TransportState> {
        let saved = self.transport.lock().unwrap_or_else(PoisonError::into_inner).save();
        saved.map_err(|why| Error::Snapshot(format!("save a device: {why}")))
    }

    /// Goes on from there.
    pub(crate) fn restore(&self, state: &TransportState) -> Result<()> {
        let restored = self.transport.lock().unwrap_or_else(PoisonError::into_inner).restore(state);
        restored.map_err(|why| Error::Snapshot(format!("go on from a snapshot with other devices: {why}")))
    }
}

/// The place of a network card.
pub(crate) struct Place {
    net: Arc<Mutex<Net>>,
    transport: Arc<Mutex<Transport>>,
}

impl Place {
    /// Whether a card is there.
    pub(crate) fn is_taken(&self) -> bool {
        self.net.lock().unwrap_or_else(PoisonError::into_inner).is_plugged()
    }

    /// Has a card come, or go. In either case nothing remains of what the guest has set up there.
    pub(crate) fn change(&self, card: Option<CardParts>) -> Result<()> {
        let card = card.map(of_tap).transpose()?;
        // In this order a processor takes them that accesses a register.
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.reset();
        let mut net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        match card {
            Some((tap, card)) => net.plug(tap, card).map_err(Error::host("wait for a tap")),
            None => {
                net.unplug();
                Ok(())
            }
        }
    }
}

/// The place for a file system.
pub(crate) struct FilesPlace {
    place: Arc<Mutex<fs::Place>>,
    transport: Arc<Mutex<Transport>>,
    /// Which of the devices it is, in the order in which the guest finds them.
    number: usize,
    ending: Arc<Ending>,
}

impl FilesPlace {
    /// The place of a device, which has that number.
    pub(crate) fn new(
        place: Arc<Mutex<fs::Place>>,
        transport: Arc<Mutex<Transport>>,
        number: usize,
        ending: &Arc<Ending>,
    ) -> Self {
        Self { place, transport, number, ending: Arc::clone(ending) }
    }

    /// Which of the devices it is, in the order in which the guest finds them, from 0 on.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Whether a file system is there.
    pub(crate) fn is_taken(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).is_taken()
    }

    /// Has a file system come where none is, which does what is `wanted`. Nothing remains of what the guest has set up there.
    pub(crate) fn fill(&self, files: FilesParts, wanted: Wanted) -> Result<()> {
        let fs = of_server(files, &self.ending)?;
        if let Some(thread) = fs.thread() {
            thread.want(wanted);
        }
        // In this order a processor takes them that accesses a register.
        let mut transport = self.transport.lock().unwrap_or_else(PoisonError::into_inner);
        transport.reset();
        self.place.lock().unwrap_or_else(PoisonError::into_inner).put(Some(fs));
        Ok(())
    }

    /// Has the file system go that is there, once its server has answered what it was asked. Nothing remains of what the guest has set up there.
    ///
    /// # Errors
    /// By then the server has not, and the file system stays, and goes on: as [`Attached::rest_until`].
    pub(crate) fn clear(&self, until: Instant) -> Result<(), Kind> {
        // A processor that resets the device waits for its server as well, and has this meanwhile.
        let mut transport = lock_until(&self.transport, until).ok_or(Kind::Files)?;
        self.place.lock().unwrap_or_else(PoisonError::into_inner).rest_until(until)?;
        transport.reset();
        self.place.lock().unwrap_or_else(PoisonError::into_inner).put(None);
        Ok(())
    }
}

/// Waits no longer than that.
fn lock_until<T>(mutex: &Mutex<T>, until: Instant) -> Option<MutexGuard<'_, T>> {
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => return None,
            Err(TryLockError::WouldBlock) => thread::sleep(LOOKS),
        }
    }
}

/// A file system of a server's.
fn of_server(FilesParts { tag, server }: FilesParts, ending: &Arc<Ending>) -> Result<Fs> {
    if tag.is_empty() || tag.len() > TAG_MAX {
        return Err(Error::Size(format!("the tag of a file system has 1 to {TAG_MAX} bytes, and not {}", tag.len())));
    }
    let (server, rings) = fs::connect(server)?;
    Fs::new(&tag, rings, Some(server), ending)
}

fn of_tap(CardParts { tap, mac, mtu, receive, send }: CardParts) -> Result<(Tap, net::Card)> {
    Ok((Tap::of(tap)?, net::Card { mac, mtu, receive, send }))
}

/// All virtual devices of a machine.
pub(crate) struct All {
    /// In the order in which the guest finds them.
    pub(crate) devices: Vec<Virtual>,
    /// Those of them that are places of network cards.
    pub(crate) cards: Vec<Place>,
    /// The one of them that is a place for a file system, if there is one.
    pub(crate) files_place: Option<FilesPlace>,
    /// The one of them that is the balloon, if there is one.
    pub(crate) balloon: Option<Spoken<Balloon>>,
    /// The one of them by which memory comes, if any may.
    pub(crate) blocks: Option<Spoken<Blocks>>,
    /// Its disks.
    pub(crate) disks: Vec<DiskHandle>,
}

/// A device that whoever has the machine speaks with.
pub(crate) struct Spoken<D> {
    device: Arc<Mutex<D>>,
    attached: Attached,
}

impl<D: Device + 'static> Spoken<D> {
    /// Does something with it. `None`: the guest did what makes no sense, and the device needs a reset.
    pub(crate) fn with<R>(&self, does: impl FnOnce(&mut D) -> Result<R, Nonsense>) -> Option<R> {
        self.attached.with(&self.device, does)
    }

    /// Its configuration is another one.
    pub(crate) fn changed(&self) {
        self.attached.changed();
    }
}

/// Makes and attaches them.
pub(crate) fn attach(parts: Devices, vm: &Vm, ending: &Arc<Ending>, bus: &mut Bus) -> Result<All> {
    let Devices { console: _, disks, cards, vsock, files, files_place, balloon } = parts;
    let mut devices: Vec<Arc<Mutex<dyn Device>>> = vec![Arc::new(Mutex::new(Rng::default()))];
    let mut handles = Vec::with_capacity(disks.len());
    for disk in disks {
        let limits = disk.limits;
        let block = Block::new(of_files(disk)?.of_guest(vm.memory().whole().clone()), limits, ending)?;
        handles.push(block.disk());
        devices.push(Arc::new(Mutex::new(block)));
    }
    let first_card = devices.len();
    let mut nets = Vec::with_capacity(cards.len());
    for card in cards {
        let net = match card.map(of_tap).transpose()? {
            Some((tap, card)) => Net::new(tap, card),
            None => Net::place(),
        };
        nets.push(Arc::new(Mutex::new(net.map_err(Error::host("wait for a tap"))?)));
    }
    devices.extend(nets.iter().map(|net| Arc::clone(net) as _));
    if let Some(vsock) = vsock {
        let vsock = Vsock::new(vsock).map_err(Error::host("listen at the host's end of a machine's sockets"))?;
        devices.push(Arc::new(Mutex::new(vsock)));
    }
    for files in files {
        devices.push(Arc::new(Mutex::new(of_server(files, ending)?)));
    }
    let files_at = devices.len();
    let files_place = files_place.then(|| Arc::new(Mutex::new(fs::Place::default())));
    devices.extend(files_place.iter().map(|place| Arc::clone(place) as _));
    let balloon = balloon.then(|| Arc::new(Mutex::new(Balloon::default())));
    devices.extend(balloon.iter().map(|balloon| Arc::clone(balloon) as _));
    let blocks = match vm.memory().more() {
        Some(more) => {
            let blocks = Blocks::new(vm.memory().clone(), more, vm.opener());
            Some(Arc::new(Mutex::new(blocks.map_err(Error::host("give a guest the memory that it had"))?)))
        }
        None => None,
    };
    devices.extend(blocks.iter().map(|blocks| Arc::clone(blocks) as _));
    let windows = windows_of(devices.len())?;
    let mut attached = Vec::with_capacity(devices.len());
    for (device, window) in devices.into_iter().zip(windows) {
        let start = u64::from(window.start);
        let queues = device.lock().unwrap_or_else(PoisonError::into_inner).queues().len();
        let kick = |number| vm.doorbell(start + transport::NOTIFY, number).map(Arc::new);
        let kicks = (0..queues as u32).map(kick).collect::<Result<_>>()?;
        let device = Attached::new(device, Interrupt::new(vm.line(window.line)?), kicks);
        let transport = Arc::new(Mutex::new(Transport::new(device.clone(), vm.memory().clone())));
        bus.attach(start, window.length.into(), Arc::clone(&transport) as _);
        attached.push(Virtual { attached: device, transport });
    }
    let transports = attached[first_card..].iter().map(|device| Arc::clone(&device.transport));
    let cards = nets.into_iter().zip(transports).map(|(net, transport)| Place { net, transport }).collect();
    let files_place = files_place.and_then(|place| {
        let transport = Arc::clone(&attached.get(files_at)?.transport);
        Some(FilesPlace::new(place, transport, files_at, ending))
    });
    // These are the last ones.
    let mut last = attached.iter().rev().map(Virtual::attached);
    let blocks = blocks.and_then(|device| Some(Spoken { device, attached: last.next()? }));
    let balloon = balloon.and_then(|device| Some(Spoken { device, attached: last.next()? }));
    Ok(All { devices: attached, cards, files_place, balloon, blocks, disks: handles })
}

fn of_files(DiskParts { serial, contents, limits: _ }: DiskParts) -> Result<Disk> {
    let failed = Error::host("look at the files of a disk");
    match contents {
        DiskContents::File { file, read_only } => Disk::of_file(file, read_only, &serial).map_err(failed),
        DiskContents::Qcow2 { file, read_only } => {
            Disk::of_qcow2(file, read_only, &serial).map_err(|source| Error::Image { serial, source })
        }
        DiskContents::Concatenated(files) => Ok(Disk::of_files(files, CONCATENATED_ALIGN, &serial).map_err(failed)?.0),
    }
}
