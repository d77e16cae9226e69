//! Volumes: mounted before the roots of containers that have something of them, and left where they are to go again.

use std::fs;
use std::time::{Duration, Instant};

use guest_protocol::configuration::{Root, Volume, VolumeKind};
use guest_protocol::message::{ContainerId, Failure};
use guest_protocol::place;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::{cards, disks, failed_io, plain, refused};

/// How long a device may take to be there that has just come: on a bus of PCI its port is switched on first, by a machine that may be emulated.
const COMES: Duration = Duration::from_secs(20);

/// Whether a root has something of volumes that come and go.
pub(crate) fn come(root: &Root) -> bool {
    root.volumes.iter().any(comes)
}

fn comes(volume: &Volume) -> bool {
    matches!(volume.kind, VolumeKind::Plugged { .. })
}

/// Mounts those of a root's volumes that are there for as long as the machine is.
pub(crate) fn make_those_that_stay(root: &Root) -> Result<(), Failure> {
    root.volumes.iter().filter(|volume| !comes(volume)).try_for_each(make)
}

/// Mounts those that come and go. Waits for their server.
pub(crate) fn make_those_that_come(root: &Root) -> Result<(), Failure> {
    root.volumes.iter().filter(|volume| comes(volume)).try_for_each(make)
}

/// Mounts a volume, unless it is.
fn make(volume: &Volume) -> Result<(), Failure> {
    let target = place::volume(plain(&volume.name)?);
    if disks::is_mounted(&target) {
        return Ok(());
    }
    let flags = if volume.readonly { MountFlags::RDONLY } else { MountFlags::empty() };
    let mount = |tag: &str| disks::mount_device(tag, &target, "virtiofs", flags, &volume.options);
    match &volume.kind {
        VolumeKind::Virtiofs { tag } => mount(tag),
        VolumeKind::Plugged { tag, place } => {
            cards::look_at(place);
            let until = Instant::now() + COMES;
            loop {
                match mount(tag) {
                    // As the kernel says of a tag that it does not know.
                    Err(Failure::System { errno, .. }) if errno == Errno::INVAL.raw_os_error() => {
                        if Instant::now() > until {
                            let why = format!("no file system {tag} came to {place}: restart the microVM");
                            return Err(refused(why));
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    mounted => return mounted,
                }
            }
        }
        VolumeKind::Memory { size } => {
            let size = if *size == 0 { String::new() } else { format!("size={size}") };
            let options: Vec<&str> =
                [size.as_str(), &volume.options].into_iter().filter(|text| !text.is_empty()).collect();
            disks::mount_device("volume", &target, "tmpfs", flags, &options.join(","))
        }
    }
}

/// Lets go of what a container had of volumes that come and go, and of those that none of the other roots has. What was written there is at the host's when this returns, for which it waits.
pub(crate) fn leave<'r>(root: &Root, others: impl Iterator<Item = &'r Root>) -> Result<(), Failure> {
    let others: Vec<_> = others.collect();
    for volume in &root.volumes {
        let VolumeKind::Plugged { place, .. } = &volume.kind else { continue };
        let target = place::volume(plain(&volume.name)?);
        unmount_below(&target, root.container)?;
        if others.iter().any(|other| other.volumes.iter().any(|its| its.name == volume.name)) {
            // Of single files, which are no mounts of their own.
            disks::sync_one(&target);
            continue;
        }
        // It is no mount where it could not be made.
        let _ = unmount(target.as_str(), UnmountFlags::DETACH);
        cards::leave_place(place);
    }
    Ok(())
}

/// Each volume of the host's is a mount of its own below the device's, by the number of its container.
fn unmount_below(directory: &str, container: ContainerId) -> Result<(), Failure> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read_to_string(TABLE).map_err(failed_io("read", TABLE))?;
    let own = format!("{directory}/{container}.");
    // The fifth field (proc_pid_mountinfo(5)); those that are mounted on others come behind them.
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| place.starts_with(&own));
    for place in places.collect::<Vec<_>>().into_iter().rev() {
        let _ = unmount(place, UnmountFlags::DETACH);
    }
    Ok(())
}
