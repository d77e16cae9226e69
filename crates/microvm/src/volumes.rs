//! A container's binds and volumes, taken apart: what is mounted of the host for the machine's [file server](crate::files), and what the machine mounts
//! of what that serves.
//!
//! The first container's are there from the machine's start on. Those that come have a device and a server of their own, for all of them: where a volume is there has the number of its container before
//! that of the volume.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use guest_protocol::configuration::{Volume, VolumeKind};
use guest_protocol::message::ContainerId;
use guest_protocol::place;
use oci_spec::runtime::Mount;

use crate::container::{CONTAINER, at};
use crate::error::{Error, Result};

/// The tag of the first container's virtio-fs device, and the name by which the agent mounts it.
pub(crate) const TAG: &str = "volumes";
/// The same of all others.
pub(crate) const SHARED_TAG: &str = "shared-volumes";

/// What mount propagation has for options (mount_namespaces(7)).
const PROPAGATIONS: [&str; 8] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];

/// What of the host a machine's file server serves of a container's: one mount for each volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volumes {
    container: ContainerId,
    mounts: Vec<Mount>,
    /// Where each is in the container.
    targets: Vec<PathBuf>,
}

impl Default for Volumes {
    /// None of a machine's first container.
    fn default() -> Self {
        Self::of(CONTAINER)
    }
}

impl Volumes {
    /// None yet.
    pub(crate) fn of(container: ContainerId) -> Self {
        Self { container, mounts: Vec::new(), targets: Vec::new() }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// What is mounted for the file server: below [`at::VOLUMES`], or, of a container that comes, in the root of a server that runs.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The tag of the device that they are on.
    fn tag(&self) -> &'static str {
        if self.container == CONTAINER { TAG } else { SHARED_TAG }
    }

    /// What belongs to mounts of the container by their destinations, by the destinations that they have for the file server.
    pub fn moved<T>(&self, mut by_target: BTreeMap<PathBuf, T>) -> BTreeMap<PathBuf, T> {
        let places = self.targets.iter().zip(&self.mounts);
        places.filter_map(|(target, mount)| Some((mount.destination().clone(), by_target.remove(target)?))).collect()
    }

    /// What the agent mounts before the container's root: all of them at once.
    pub fn devices(&self) -> Vec<Volume> {
        let (name, tag) = (self.tag().to_owned(), self.tag().to_owned());
        let kind = match self.container {
            CONTAINER => VolumeKind::Virtiofs { tag },
            // Its machine says where it is.
            _ => VolumeKind::Plugged { tag, place: String::new() },
        };
        let device = Volume { name, kind, readonly: false, options: String::new() };
        if self.is_empty() { Vec::new() } else { vec![device] }
    }

    /// Takes a bind mount of the host from a container's specification, and leaves one of what the machine has of it.
    ///
    /// Modes are kept on both sides: whoever breaks out of the guest's kernel still can't write to what is read-only. What the host mounts below it
    /// later shows where the propagation says so; a mount made in a machine can't show on the host. `is_part`: its source is a part of a tree, which
    /// whoever mounts it finds.
    ///
    /// # Errors
    /// The source is not there, is neither a directory nor a regular file, or mounts of the container were to show on the host.
    pub(crate) fn take(&mut self, mount: &mut Mount, is_part: bool) -> Result<()> {
        let target = mount.destination().display().to_string();
        let source = mount.source().clone().unwrap_or_default();
        let not_behind = |what: &str| Err(Error::NotBehind { what: format!("{what} ({target})") });
        let options = mount.options().clone().unwrap_or_default();
        if options.iter().any(|option| matches!(option.as_str(), "shared" | "rshared")) {
            return not_behind("a volume in which the container's own mounts show on the host");
        }
        if !is_part {
            let found = fs::metadata(&source);
            let found = found.map_err(|error| Error::File { what: "a volume", path: source.clone(), source: error })?;
            match found.file_type() {
                kind if kind.is_dir() || kind.is_file() => {}
                kind if kind.is_socket() => return not_behind("a socket of the host"),
                kind if kind.is_fifo() => return not_behind("a pipe of the host"),
                _ => return not_behind("a device of the host"),
            }
        }

        let number = self.mounts.len();
        let (directory, name) = match self.container {
            CONTAINER => (at::VOLUMES, number.to_string()),
            container => ("/", format!("{container}.{number}")),
        };
        let mut outside = mount.clone();
        let more = ["nosuid", "nodev", "noexec"].map(str::to_owned);
        outside
            .set_destination(Path::new(directory).join(&name))
            .set_options(Some(options.iter().cloned().chain(more).collect()));
        self.mounts.push(outside);
        self.targets.push(mount.destination().clone());

        let within = options.into_iter().filter(|option| !PROPAGATIONS.contains(&option.as_str()));
        mount
            .set_source(Some(PathBuf::from(place::volume(self.tag())).join(name)))
            .set_options(Some(within.chain(["rprivate".to_owned()]).collect()));
        Ok(())
    }
}
