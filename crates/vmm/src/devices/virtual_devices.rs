//! The virtual devices of a machine: which there are, where each is, how it is attached.

use super::virtio::block::{Block, Disk};
use super::virtio::net::{self, Net, Tap};
use super::virtio::queue::Interrupt;
use super::virtio::rng::Rng;
use super::virtio::transport::{self, Transport};
use super::virtio::vsock::Vsock;
use super::virtio::{Attached, Device};
use crate::arch::current::acpi::Window;
use crate::arch::current::layout;
use crate::bus::Bus;
use crate::config::{CONCATENATED_ALIGN, Config, Contents};
use crate::error::{Error, Result};
use crate::kvm::Vm;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Where the devices of a machine are: ACPI's tables say so.
pub(crate) fn windows(config: &Config) -> Result<Vec<Window>> {
    let count = 1 + usize::from(config.vsock.is_some()) + config.disks.len() + config.cards.len();
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

/// Makes and attaches them.
pub(crate) fn attach(config: &Config, vm: &Vm, bus: &mut Bus) -> Result<Vec<Attached>> {
    let mut devices: Vec<Arc<Mutex<dyn Device>>> = vec![Arc::new(Mutex::new(Rng::default()))];
    for disk in &config.disks {
        devices.push(Arc::new(Mutex::new(Block::new(open(disk)?))));
    }
    for card in &config.cards {
        let net = Net::new(Tap::open(&card.tap)?, net::Card { mac: card.mac, mtu: card.mtu });
        devices.push(Arc::new(Mutex::new(net.map_err(Error::host("wait for a tap"))?)));
    }
    if let Some(vsock) = &config.vsock {
        let failed =
            |source| Error::File { what: "the host's end of a machine's sockets", path: vsock.path.clone(), source };
        devices.push(Arc::new(Mutex::new(Vsock::new(vsock.cid, &vsock.path).map_err(failed)?)));
    }
    let mut attached = Vec::with_capacity(devices.len());
    for (device, window) in devices.into_iter().zip(windows(config)?) {
        let start = u64::from(window.start);
        let queues = device.lock().unwrap_or_else(std::sync::PoisonError::into_inner).queues().len();
        let kick = |number| vm.doorbell(start + transport::NOTIFY, number).map(Arc::new);
        let kicks = (0..queues as u32).map(kick).collect::<Result<_>>()?;
        let device = Attached::new(device, Interrupt::new(vm.line(window.line)?), kicks);
        let transport = Transport::new(device.clone(), vm.memory().clone());
        bus.attach(start, window.length.into(), Arc::new(Mutex::new(transport)));
        attached.push(device);
    }
    Ok(attached)
}

fn open(disk: &crate::config::Disk) -> Result<Disk> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what: "a disk's file", path, source }
    };
    match &disk.contents {
        Contents::File { path, read_only } => {
            let file = File::options().read(true).write(!read_only).open(path).map_err(failed(path))?;
            Disk::of_file(file, *read_only, &disk.serial).map_err(failed(path))
        }
        Contents::Concatenated(paths) => {
            let files = paths.iter().map(|path| File::open(path).map_err(failed(path))).collect::<Result<_>>()?;
            let whole = Disk::of_files(files, CONCATENATED_ALIGN, &disk.serial);
            Ok(whole.map_err(Error::host("look at the files of a disk"))?.0)
        }
    }
}
