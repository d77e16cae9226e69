//! The virtual devices of a machine: which there are, where each is, how it is attached.

use super::virtio::block::{Block, Disk};
use super::virtio::fs::{self, Fs, TAG_MAX};
use super::virtio::net::{self, Net, Tap};
use super::virtio::queue::Interrupt;
use super::virtio::rng::Rng;
use super::virtio::transport::{self, Transport, TransportState};
use super::virtio::vsock::Vsock;
use super::virtio::{Attached, Device};
use crate::arch::current::acpi::Window;
use crate::arch::current::layout;
use crate::bus::Bus;
use crate::config::CONCATENATED_ALIGN;
use crate::end::Ending;
use crate::error::{Error, Result};
use crate::kvm::Vm;
use crate::parts::{CardParts, Devices, DiskContents, DiskParts, FilesParts};
use crate::threads::Wanted;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the devices of a machine are: ACPI's tables say so.
pub(crate) fn windows(devices: &Devices) -> Result<Vec<Window>> {
    windows_of(
        1 + usize::from(devices.vsock.is_some()) + devices.disks.len() + devices.cards.len() + devices.files.len(),
    )
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

    /// Has its own thread, if it has one, rest, and waits until it does.
    pub(crate) fn rest(&self) {
        self.attached.rest();
    }

    /// Where it is, while the machine rests.
    pub(crate) fn save(&self) -> TransportState {
        self.transport.lock().unwrap_or_else(PoisonError::into_inner).save()
    }

    /// Goes on from there.
    pub(crate) fn restore(&self, state: &TransportState) -> Result<()> {
        let restored = self.transport.lock().unwrap_or_else(PoisonError::into_inner).restore(state);
        restored.map_err(|why| Error::Snapshot(format!("go on from a snapshot with other devices: {why}")))
    }
}

/// Makes and attaches them.
pub(crate) fn attach(parts: Devices, vm: &Vm, ending: &Arc<Ending>, bus: &mut Bus) -> Result<Vec<Virtual>> {
    let Devices { console: _, disks, cards, vsock, files } = parts;
    let mut devices: Vec<Arc<Mutex<dyn Device>>> = vec![Arc::new(Mutex::new(Rng::default()))];
    for disk in disks {
        devices.push(Arc::new(Mutex::new(Block::new(of_files(disk)?, ending)?)));
    }
    for CardParts { tap, mac, mtu } in cards {
        let net = Net::new(Tap::of(tap)?, net::Card { mac, mtu });
        devices.push(Arc::new(Mutex::new(net.map_err(Error::host("wait for a tap"))?)));
    }
    if let Some(vsock) = vsock {
        let vsock = Vsock::new(vsock).map_err(Error::host("listen at the host's end of a machine's sockets"))?;
        devices.push(Arc::new(Mutex::new(vsock)));
    }
    for FilesParts { tag, server } in files {
        if tag.is_empty() || tag.len() > TAG_MAX {
            return Err(Error::Size(format!(
                "the tag of a file system has 1 to {TAG_MAX} bytes, and not {}",
                tag.len()
            )));
        }
        let (server, rings) = fs::connect(server)?;
        devices.push(Arc::new(Mutex::new(Fs::new(&tag, rings, Some(server), ending)?)));
    }
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
    Ok(attached)
}

fn of_files(DiskParts { serial, contents }: DiskParts) -> Result<Disk> {
    let failed = Error::host("look at the files of a disk");
    match contents {
        DiskContents::File { file, read_only } => Disk::of_file(file, read_only, &serial).map_err(failed),
        DiskContents::Concatenated(files) => Ok(Disk::of_files(files, CONCATENATED_ALIGN, &serial).map_err(failed)?.0),
    }
}
