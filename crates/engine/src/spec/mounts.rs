//! What is mounted in a container, in order: the kernel's own file systems, the files that stratus writes, volumes.

use std::path::PathBuf;

use oci_spec::runtime::Mount;

use super::SpecContext;
use crate::model::{ContainerRecord, IpcMode, MountPoint, MountPointKind};

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut out = Mount::default();
    out.set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    out
}

/// All mounts of `record`.
pub(super) fn all(record: &ContainerRecord, context: &SpecContext<'_>) -> Vec<Mount> {
    let mut mounts = kernel_mounts(record, context);
    let volumes: Vec<&MountPoint> = sorted(&record.mounts);
    let taken = |target: &str| volumes.iter().any(|volume| volume.target == target);
    mounts.retain(|mount| !taken(&mount.destination().to_string_lossy()));
    for (file, target) in context.files.named() {
        if !taken(target) {
            mounts.push(mount(target, "bind", &file.to_string_lossy(), &["bind", "rprivate"]));
        }
    }
    if let Some(directory) = context.shared_shm.filter(|_| !taken("/dev/shm")) {
        mounts.push(mount("/dev/shm", "bind", &directory.to_string_lossy(), &["rbind", "rprivate"]));
    }
    mounts.extend(volumes.iter().map(|volume| of_volume(volume, context)));
    mounts
}

fn kernel_mounts(record: &ContainerRecord, context: &SpecContext<'_>) -> Vec<Mount> {
    let privileged = record.host.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let sys_source = if context.joins_host_network && context.user_namespace.is_some() { "bind" } else { "sysfs" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    if sys_source == "sysfs" {
        mounts.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]));
    } else {
        mounts.push(mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", access]));
    }
    mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]));
    match record.host.ipc_mode {
        IpcMode::Host => {
            mounts.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["bind", "nosuid", "noexec", "nodev"]));
            mounts.push(mount("/dev/shm", "bind", "/dev/shm", &["bind", "nosuid", "noexec", "nodev"]));
        }
        IpcMode::None => mounts.push(mqueue()),
        IpcMode::Private => {
            mounts.push(mqueue());
            let size = if record.host.shm_size == 0 { super::defaults::SHM_SIZE } else { record.host.shm_size };
            let size = format!("size={size}");
            mounts.push(mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]));
        }
        IpcMode::Shareable | IpcMode::Container(_) => mounts.push(mqueue()),
    }
    if !std::path::Path::new("/dev/mqueue").is_dir() && record.host.ipc_mode == IpcMode::Host {
        mounts.retain(|mount| mount.destination().as_path() != "/dev/mqueue");
    }
    mounts
}

fn mqueue() -> Mount {
    mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])
}

/// Volumes, those nearer the root first, so that one inside another is mounted over it.
fn sorted(mounts: &[MountPoint]) -> Vec<&MountPoint> {
    let mut sorted: Vec<&MountPoint> = mounts.iter().collect();
    sorted.sort_by_key(|mount| mount.target.trim_end_matches('/').matches('/').count());
    sorted
}

fn of_volume(point: &MountPoint, context: &SpecContext<'_>) -> Mount {
    match point.kind {
        MountPointKind::Tmpfs => {
            let mut options: Vec<&str> = point.options.iter().map(String::as_str).collect();
            if !point.writable {
                options.push("ro");
            }
            mount(&point.target, "tmpfs", "tmpfs", &options)
        }
        MountPointKind::Image => {
            let name = point.name.as_deref().unwrap_or(&point.source);
            mount(&point.target, "bind", name, &["rbind", "ro", &point.propagation])
        }
        MountPointKind::Bind | MountPointKind::Volume => {
            // `create` is for whoever looks for the source, not for the kernel.
            let mut options: Vec<&str> =
                point.options.iter().map(String::as_str).filter(|option| *option != "create").collect();
            if !options.contains(&"bind") {
                options.insert(0, "rbind");
            }
            if !point.writable {
                options.push("ro");
            }
            if !point.propagation.is_empty() {
                options.push(&point.propagation);
            }
            if context.user_namespace.is_some() && point.kind == MountPointKind::Volume {
                options.push("idmap");
            }
            let source = context.sources.get(&point.target).map_or(point.source.as_str(), String::as_str);
            mount(&point.target, "bind", source, &options)
        }
    }
}
