//! The `local` driver: a directory, or with `type`, `o` and `device` whatever `mount(8)` would mount there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::Volume;
use crate::{Error, Result};

/// The driver's options, understood.
pub(super) struct Options {
    kind: String,
    device: String,
    flags: MountFlags,
    data: Vec<String>,
    bind: bool,
}

/// What a container mounts for a volume.
pub(crate) struct Source {
    /// Path on the host.
    pub(crate) path: PathBuf,
}

impl Options {
    pub(super) fn parse(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let unknown: Vec<&str> = options
            .keys()
            .map(String::as_str)
            .filter(|key| !matches!(*key, "type" | "o" | "device" | "size"))
            .collect();
        if let Some(key) = unknown.first() {
            return Err(Error::invalid(format!("create {name}: invalid option: \"{key}\"")));
        }
        let get = |key: &str| options.get(key).cloned().unwrap_or_default();
        let mut out = Self {
            kind: get("type"),
            device: get("device"),
            flags: MountFlags::empty(),
            data: Vec::new(),
            bind: false,
        };
        for option in get("o").split(',').filter(|option| !option.is_empty()) {
            match option {
                "bind" | "rbind" => out.bind = true,
                "ro" => out.flags |= MountFlags::RDONLY,
                "nosuid" => out.flags |= MountFlags::NOSUID,
                "nodev" => out.flags |= MountFlags::NODEV,
                "noexec" => out.flags |= MountFlags::NOEXEC,
                "noatime" => out.flags |= MountFlags::NOATIME,
                "relatime" => out.flags |= MountFlags::RELATIME,
                "rw" | "defaults" => {}
                other => out.data.push(other.to_owned()),
            }
        }
        if out.kind.is_empty() != out.device.is_empty() {
            let missing = if out.kind.is_empty() { "type" } else { "device" };
            return Err(Error::invalid(format!("create {name}: missing required option: \"{missing}\"")));
        }
        Ok(out)
    }

    /// What to mount; `first` user: the file system is mounted now.
    pub(super) fn source(&self, mountpoint: &Path, first: bool) -> Result<Source> {
        if self.kind.is_empty() {
            return Ok(Source { path: mountpoint.to_owned() });
        }
        if self.bind {
            // A bind needs no mount of its own: the container binds the device itself.
            let path = PathBuf::from(&self.device);
            std::fs::metadata(&path).map_err(|error| {
                Error::step(
                    format!("failed to mount local volume: mount {}:{}", path.display(), mountpoint.display()),
                    error,
                )
            })?;
            return Ok(Source { path });
        }
        if first {
            // A daemon that was killed may have left it mounted.
            unmount_all(mountpoint)?;
            let data = self.data.join(",");
            let data =
                std::ffi::CString::new(data).map_err(|_| Error::invalid("a volume's options contain a NUL byte"))?;
            rustix::mount::mount(&*self.device, mountpoint, &*self.kind, self.flags, data.as_c_str()).map_err(
                |error| {
                    Error::step(
                        format!("failed to mount local volume: mount {}:{}", self.device, mountpoint.display()),
                        error,
                    )
                },
            )?;
        }
        Ok(Source { path: mountpoint.to_owned() })
    }
}

/// Unmounts what `source` mounted.
pub(super) fn unmount(volume: &Volume) -> Result<()> {
    let options = Options::parse(&volume.name, &volume.options)?;
    if options.kind.is_empty() || options.bind {
        return Ok(());
    }
    unmount_all(&volume.mountpoint)
}

/// Unmounts whatever is mounted there.
fn unmount_all(mountpoint: &Path) -> Result<()> {
    loop {
        match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH) {
            Ok(()) => {}
            // No mount point, or not there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::step(format!("unmount {}", mountpoint.display()), error)),
        }
    }
}
