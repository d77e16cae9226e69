//! Layers on a disk: each is a partition with an EROFS file system, mounted once for all containers that lie upon it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use guest_protocol::configuration::Disk;
use guest_protocol::message::{ContainerId, Failure};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::{disks, failed, refused, sys};

/// The directory with their mount points: `DISK/N`, by their partitions.
pub(crate) const LAYERS: &str = "/run/layers";
/// The most partitions of a disk that the kernel has numbers for (its `DISK_MAX_PARTS`).
const PARTITIONS: i32 = 255;

/// What is mounted, by disk and offset.
#[derive(Debug, Default)]
pub(crate) struct Layers(BTreeMap<(String, u64), Layer>);

#[derive(Debug)]
struct Layer {
    length: u64,
    partition: i32,
    /// Who lies upon it.
    under: BTreeSet<ContainerId>,
    /// Who was the last to lie upon it, where nobody does and it could not be let go of.
    last: Option<ContainerId>,
}

impl Layers {
    /// Mounts parts of a disk, each given by its offset and length in bytes, for a container. Says where, relative to [`LAYERS`], in the same order. On an error none of them is the
    /// container's.
    pub(crate) fn mount(
        &mut self,
        container: ContainerId,
        disk: &Disk,
        layers: &[(u64, u64)],
    ) -> Result<Vec<String>, Failure> {
        let name = disks::find(disk)?;
        let device = open(&name)?;
        let mounted = layers.iter().map(|(offset, length)| self.mount_one(container, &name, &device, *offset, *length));
        let mounted: Result<_, _> = mounted.collect();
        if mounted.is_err() {
            self.release(container);
        }
        mounted
    }

    fn mount_one(
        &mut self,
        container: ContainerId,
        disk: &str,
        device: &OwnedFd,
        offset: u64,
        length: u64,
    ) -> Result<String, Failure> {
        if let Some(layer) = self.0.get_mut(&(disk.to_owned(), offset)) {
            if layer.length != length {
                return Err(refused(format!("a layer at {offset} has {} bytes, and not {length}", layer.length)));
            }
            if layer.under.is_empty() {
                return Err(refused(format!("a layer at {offset} was to go, and something has it open still")));
            }
            layer.under.insert(container);
            return Ok(relative(disk, layer.partition));
        }
        if !offset.is_multiple_of(512) || !length.is_multiple_of(512) {
            return Err(refused(format!("a layer at {offset} with {length} bytes: both have to be multiples of 512")));
        }
        let taken: BTreeSet<_> =
            self.0.iter().filter(|((of, _), _)| of == disk).map(|(_, layer)| layer.partition).collect();
        let partition = (1..=PARTITIONS).find(|number| !taken.contains(number));
        let partition = partition.ok_or_else(|| refused(format!("a disk has {PARTITIONS} layers at most")))?;
        let (part, relative) = (part(disk, partition), relative(disk, partition));
        sys::add_partition(device.as_fd(), partition, offset, length).map_err(failed("make a partition", &part))?;
        let flags = MountFlags::RDONLY | MountFlags::NODEV;
        let mounted = disks::mount_device(&part, &format!("{LAYERS}/{relative}"), "erofs", flags, "");
        if mounted.is_err() {
            let _ = sys::remove_partition(device.as_fd(), partition);
        }
        mounted?;
        let under = BTreeSet::from([container]);
        self.0.insert((disk.to_owned(), offset), Layer { length, partition, under, last: None });
        Ok(relative)
    }

    /// A container lies upon none any more: those upon which nobody does are unmounted, and their partitions go. `false`: something has one open still (a file that was handed to
    /// another container, a loop device); it is tried again with the next that goes.
    pub(crate) fn release(&mut self, container: ContainerId) -> bool {
        for layer in self.0.values_mut() {
            if layer.under.remove(&container) && layer.under.is_empty() {
                layer.last = Some(container);
            }
        }
        self.0.retain(|(disk, _), layer| {
            if !layer.under.is_empty() {
                return true;
            }
            let target = format!("{LAYERS}/{}", relative(disk, layer.partition));
            let _ = unmount(target.as_str(), UnmountFlags::empty());
            let gone = open(disk).map(|device| sys::remove_partition(device.as_fd(), layer.partition));
            !matches!(gone, Ok(Ok(())))
        });
        !self.0.values().any(|layer| layer.under.is_empty() && layer.last == Some(container))
    }
}

fn open(disk: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/dev/{disk}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed("open", &path))
}

fn relative(disk: &str, partition: i32) -> String {
    format!("{disk}/{partition}")
}

/// The device of a partition.
fn part(disk: &str, partition: i32) -> String {
    let p = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("/dev/{disk}{p}{partition}")
}
