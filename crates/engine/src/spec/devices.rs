//! Host devices that a container sees.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::model::{DeviceMapping, HostConfig};
use crate::{Error, Result};

/// A device node.
pub(crate) struct Device {
    pub(crate) path: String,
    pub(crate) kind: char,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) permissions: String,
}

impl Device {
    pub(crate) fn to_spec(&self) -> LinuxDevice {
        let kind = if self.kind == 'b' { LinuxDeviceType::B } else { LinuxDeviceType::C };
        let mut out = LinuxDevice::default();
        out.set_path(self.path.clone().into())
            .set_typ(kind)
            .set_major(self.major)
            .set_minor(self.minor)
            .set_file_mode(Some(self.mode & 0o7777))
            .set_uid(Some(self.uid))
            .set_gid(Some(self.gid));
        out
    }
}

/// The devices that `host` asks for: all of the host's for a privileged container.
pub(crate) fn requested(host: &HostConfig) -> Result<Vec<Device>> {
    if let Some(request) = host.resources.device_requests.first() {
        let alternatives: Vec<String> = request.capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
        return Err(Error::not_implemented(format!(
            "could not select device driver \"{}\" with capabilities: [{}]: stratus maps devices by path: --device /dev/NAME",
            request.driver,
            alternatives.join(" ")
        )));
    }
    let mut devices = Vec::new();
    if host.privileged {
        collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut devices)?;
    }
    for mapping in &host.resources.devices {
        map(mapping, &mut devices)?;
    }
    Ok(devices)
}

fn map(mapping: &DeviceMapping, devices: &mut Vec<Device>) -> Result<()> {
    let host = Path::new(&mapping.host_path);
    let missing = || {
        Error::invalid(format!(
            "error gathering device information while adding custom device \"{}\": no such file or directory",
            mapping.host_path
        ))
    };
    let host = host.canonicalize().map_err(|_| missing())?;
    let permissions = if mapping.permissions.is_empty() { "rwm" } else { &mapping.permissions };
    let inside = if mapping.container_path.is_empty() { &mapping.host_path } else { &mapping.container_path };
    if host.is_dir() {
        return collect(&host, Path::new(inside), permissions, devices);
    }
    match node(&host, inside, permissions) {
        Some(device) => devices.push(device),
        None => {
            return Err(Error::invalid(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                mapping.host_path
            )));
        }
    }
    Ok(())
}

/// Every device below `host`, shown below `inside`. What a container has of its own is left out.
fn collect(host: &Path, inside: &Path, permissions: &str, devices: &mut Vec<Device>) -> Result<()> {
    const OWN: [&str; 9] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console", "ptmx"];
    let entries = std::fs::read_dir(host).map_err(|error| Error::step(format!("read {}", host.display()), error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let own = host == Path::new("/dev") && OWN.iter().any(|own| name == *own);
        let Ok(kind) = entry.file_type() else { continue };
        if own || kind.is_symlink() {
            continue;
        }
        let target = inside.join(&name);
        if kind.is_dir() {
            collect(&entry.path(), &target, permissions, devices)?;
        } else if let Some(device) = node(&entry.path(), &target.to_string_lossy(), permissions) {
            devices.push(device);
        }
    }
    Ok(())
}

fn node(host: &Path, inside: &str, permissions: &str) -> Option<Device> {
    let meta = std::fs::symlink_metadata(host).ok()?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return None,
    };
    Some(Device {
        path: inside.to_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()).into(),
        minor: rustix::fs::minor(meta.rdev()).into(),
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        permissions: permissions.to_owned(),
    })
}
