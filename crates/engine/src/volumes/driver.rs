//! The `local` driver: a directory, or with `type`, `o` and `device` whatever `mount(8)` would mount there.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::Volume;
use crate::{Error, Result};

/// The driver's options, understood.
#[derive(Debug)]
pub(super) struct Options {
    kind: String,
    device: String,
    flags: MountFlags,
    propagation: MountPropagationFlags,
    data: Vec<String>,
}

/// What a container mounts for a volume.
pub(crate) struct Source {
    /// Path on the host.
    pub(crate) path: PathBuf,
}

impl Options {
    pub(super) fn parse(name: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let refused = |why: String| Err(Error::invalid(format!("create {name}: {why}")));
        if let Some(key) = options.keys().find(|key| !matches!(key.as_str(), "type" | "o" | "device" | "size")) {
            return refused(format!("invalid option: \"{key}\""));
        }
        if let Some(size) = options.get("size").filter(|size| !matches!(size.as_str(), "" | "0")) {
            // Who asks for a limit counts on it.
            return refused(format!("quota size requested but no quota support: can't limit the volume to {size}"));
        }
        let get = |key: &str| options.get(key).cloned().unwrap_or_default();
        let mut out = Self {
            kind: get("type"),
            device: get("device"),
            flags: MountFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            data: Vec::new(),
        };
        for option in get("o").split(',').filter(|option| !option.is_empty()) {
            out.take(option);
        }
        for (given, needed) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
            if !get(given).is_empty() && get(needed).is_empty() {
                return refused(format!("missing required option: \"{needed}\""));
            }
        }
        Ok(out)
    }

    /// One word of `o`: a flag of the mount, its propagation, or something for the file system.
    fn take(&mut self, option: &str) {
        let (set, clear) = (MountFlags::empty(), MountFlags::empty());
        let (set, clear) = match option {
            "defaults" => (set, clear),
            "ro" => (MountFlags::RDONLY, clear),
            "rw" => (set, MountFlags::RDONLY),
            "nosuid" => (MountFlags::NOSUID, clear),
            "suid" => (set, MountFlags::NOSUID),
            "nodev" => (MountFlags::NODEV, clear),
            "dev" => (set, MountFlags::NODEV),
            "noexec" => (MountFlags::NOEXEC, clear),
            "exec" => (set, MountFlags::NOEXEC),
            "sync" => (MountFlags::SYNCHRONOUS, clear),
            "async" => (set, MountFlags::SYNCHRONOUS),
            "dirsync" => (MountFlags::DIRSYNC, clear),
            "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, clear),
            "nomand" => (set, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
            "noatime" => (MountFlags::NOATIME, clear),
            "atime" => (set, MountFlags::NOATIME),
            "nodiratime" => (MountFlags::NODIRATIME, clear),
            "diratime" => (set, MountFlags::NODIRATIME),
            "relatime" => (MountFlags::RELATIME, clear),
            "norelatime" => (set, MountFlags::RELATIME),
            "strictatime" => (MountFlags::STRICTATIME, clear),
            "nostrictatime" => (set, MountFlags::STRICTATIME),
            "bind" => (MountFlags::BIND, clear),
            "rbind" => (MountFlags::BIND | MountFlags::REC, clear),
            other => {
                match propagation(other) {
                    Some(propagation) => self.propagation |= propagation,
                    None => self.data.push(other.to_owned()),
                }
                return;
            }
        };
        self.flags = (self.flags | set) & !clear;
    }

    /// A directory of the data directory: nothing is mounted there.
    pub(super) fn is_plain(&self) -> bool {
        self.kind.is_empty()
    }

    /// What to mount; `first` user: what it names is mounted now.
    pub(super) fn source(&self, mountpoint: &Path, first: bool) -> Result<Source> {
        if !self.is_plain() {
            if first {
                // A daemon that was killed may have left it mounted.
                unmount_all(mountpoint)?;
            }
            // A user that an earlier daemon knew of may hold what is mounted nowhere else by now.
            if first || !is_mounted(mountpoint) {
                self.mount(mountpoint)?;
            }
        }
        Ok(Source { path: mountpoint.to_owned() })
    }

    fn mount(&self, mountpoint: &Path) -> Result<()> {
        let (device, data) = self.resolved()?;
        let failed = |errno: Errno| {
            let mut what = format!("mount {device}:{}", mountpoint.display());
            if !self.flags.is_empty() {
                what += &format!(", flags: 0x{:x}", self.flags.bits());
            }
            if !data.is_empty() {
                what += &format!(", data: {data}");
            }
            Error::step(format!("failed to mount local volume: {what}"), errno)
        };
        let options = std::ffi::CString::new(&*data);
        let options = options.map_err(|_| Error::invalid("a volume's options contain a NUL byte"))?;
        rustix::mount::mount(&*device, mountpoint, &*self.kind, self.flags, options.as_c_str()).map_err(failed)?;
        let finished = self.finish(mountpoint);
        if finished.is_err() {
            unmount_all(mountpoint)?;
        }
        finished.map_err(failed)
    }

    /// A bind takes no flags at first, and no mount a propagation.
    fn finish(&self, mountpoint: &Path) -> Result<(), Errno> {
        let own = self.flags - MountFlags::BIND - MountFlags::REC;
        if self.flags.contains(MountFlags::BIND) && !own.is_empty() {
            rustix::mount::mount_remount(mountpoint, MountFlags::BIND | own, "")?;
        }
        match self.propagation.is_empty() {
            true => Ok(()),
            false => rustix::mount::mount_change(mountpoint, self.propagation),
        }
    }

    /// Device and data as the kernel takes them: it knows addresses, and no names of hosts.
    fn resolved(&self) -> Result<(String, String)> {
        let mut device = self.device.clone();
        let mut data = self.data.clone();
        match self.kind.as_str() {
            "nfs" | "nfs4" => {
                for option in &mut data {
                    if let Some(host) = option.strip_prefix("addr=") {
                        *option = format!("addr={}", address(host)?);
                    }
                }
            }
            "cifs" => {
                let host = device.strip_prefix("//").and_then(|rest| rest.split('/').next()).map(str::to_owned);
                if let Some(host) = host.filter(|host| !host.is_empty()) {
                    let named = data.iter().find_map(|option| option.strip_prefix("addr="));
                    let address = address(named.unwrap_or(&host))?;
                    device = device.replacen(&host, &address.to_string(), 1);
                }
            }
            _ => {}
        }
        Ok((device, data.join(",")))
    }
}

/// An address of a host: of several, the first of IPv4.
fn address(host: &str) -> Result<IpAddr> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let failed = |why: String| Error::system(format!("error resolving passed in network volume address {host}: {why}"));
    let found = (host, 0).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    let mut found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    found.first().copied().ok_or_else(|| failed("it has none".to_owned()))
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (option, all) = match option.strip_prefix('r') {
        Some(rest) => (rest, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    let kind = match option {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | all)
}

/// Unmounts what `source` mounted.
pub(super) fn unmount(volume: &Volume) -> Result<()> {
    match Options::parse(&volume.name, &volume.options)?.is_plain() {
        true => Ok(()),
        false => unmount_all(&volume.mountpoint),
    }
}

fn is_mounted(mountpoint: &Path) -> bool {
    rustix::fs::statx(rustix::fs::CWD, mountpoint, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<Options> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Options::parse("v", &options)
    }

    #[test]
    fn words_are_flags_or_for_the_file_system() {
        let words = "rbind,ro,nosuid,suid,nodiratime,sync,async,exec,rshared,vers=4";
        let options = parse(&[("type", "none"), ("device", "/x"), ("o", words)]).unwrap();
        let flags = MountFlags::BIND | MountFlags::REC | MountFlags::RDONLY | MountFlags::NODIRATIME;
        assert_eq!(options.flags, flags);
        assert_eq!(options.propagation, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
        assert_eq!(options.data, ["vers=4"]);
    }

    #[test]
    fn what_needs_what() {
        let refused = |options: &[(&str, &str)]| parse(options).unwrap_err().to_string();
        assert_eq!(refused(&[("type", "tmpfs")]), "create v: missing required option: \"device\"");
        assert_eq!(refused(&[("o", "ro")]), "create v: missing required option: \"device\"");
        assert!(refused(&[("size", "1m")]).contains("quota size requested but no quota support"));
        assert_eq!(refused(&[("kind", "tmpfs")]), "create v: invalid option: \"kind\"");
    }

    #[test]
    fn hosts_are_given_as_addresses() {
        let nfs = parse(&[("type", "nfs"), ("device", ":/srv"), ("o", "addr=localhost,vers=4")]).unwrap();
        assert_eq!(nfs.resolved().unwrap(), (":/srv".to_owned(), "addr=127.0.0.1,vers=4".to_owned()));
        let cifs = parse(&[("type", "cifs"), ("device", "//localhost/share"), ("o", "user=x")]).unwrap();
        assert_eq!(cifs.resolved().unwrap(), ("//127.0.0.1/share".to_owned(), "user=x".to_owned()));
    }
}
