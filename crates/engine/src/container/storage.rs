//! A container's volumes at its creation, its start and its end, and memory that it shares with others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::propagation;
use crate::model::{ContainerId, ContainerRecord, IpcMode, MountPoint, MountPointKind};
use crate::{Engine, Error, Result};

impl Engine {
    /// Makes a container's volumes ready, and tells what is mounted, or a part of it, at each target.
    pub(super) fn acquire_volumes(&self, record: &ContainerRecord) -> Result<BTreeMap<String, String>> {
        let mut sources = BTreeMap::new();
        let mut acquired: Vec<&str> = Vec::new();
        for mount in &record.mounts {
            let source = match (mount.kind, mount.volume()) {
                (MountPointKind::Volume, Some(name)) => self.0.volumes.acquire(name).map(|source| {
                    acquired.push(name);
                    source.path
                }),
                (MountPointKind::Bind, _) => bind_source(&mount.source, mount.options.iter().any(|o| o == "create"))
                    .and_then(|source| propagation::check(&source, &mount.propagation).map(|()| source)),
                _ => continue,
            };
            match source {
                Ok(source) => sources.insert(mount.target.clone(), source.to_string_lossy().into_owned()),
                Err(error) => {
                    // The caller releases the rest of what it made; these were not yet the record's.
                    acquired.iter().for_each(|name| self.0.volumes.release(name));
                    return Err(error);
                }
            };
        }
        Ok(sources)
    }

    /// The run is over.
    pub(super) fn release_volumes(&self, record: &ContainerRecord) {
        self.release_mounted(record);
        if record.host.ipc_mode == IpcMode::Shareable {
            self.unmount_shm(record.id.as_str());
        }
    }

    /// One user of a container's volumes less.
    pub(super) fn release_mounted(&self, record: &ContainerRecord) {
        for name in record.mounts.iter().filter_map(MountPoint::volume) {
            self.0.volumes.release(name);
        }
    }

    /// Takes the memory away that a container shared.
    pub(super) fn unmount_shm(&self, id: &str) {
        let directory = self.0.config.run_dir.join("shm").join(id);
        // A start that was cut short may have left it there, and the next one mounted over it.
        while rustix::mount::unmount(&directory, UnmountFlags::DETACH).is_ok() {}
        let _ = std::fs::remove_dir(&directory);
    }

    /// The containers that share memory, or did.
    pub(super) fn with_shm(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.0.config.run_dir.join("shm")) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The host's view of a container's `/dev/shm`, where it shares it.
    pub(crate) fn shm_dir(&self, id: &ContainerId) -> PathBuf {
        self.0.config.run_dir.join("shm").join(id.as_str())
    }

    /// Mounts the memory that a container shares. It must be seen from other containers' mount namespaces, so it is on
    /// the host's mount table for as long as the container runs.
    pub(crate) fn mount_shm(&self, record: &ContainerRecord) -> Result<PathBuf> {
        let directory = self.shm_dir(&record.id);
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::step(format!("create {}", directory.display()), error))?;
        let data = format!("mode=1777,size={}", record.host.shm_size);
        let data = std::ffi::CString::new(data).map_err(|error| Error::system(error.to_string()))?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("shm", &directory, "tmpfs", flags, data.as_c_str())
            .map_err(|error| Error::step(format!("mount {}", directory.display()), error))?;
        Ok(directory)
    }
}

/// A path of the host; `-v` makes it where it is missing, `--mount` does not.
fn bind_source(source: &str, create: bool) -> Result<PathBuf> {
    let path = Path::new(source);
    match std::fs::metadata(path) {
        Ok(_) => Ok(path.to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(path).map_err(|error| {
                Error::system(format!("error while creating mount source path '{source}': mkdir {source}: {error}"))
            })?;
            Ok(path.to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {source}"
        ))),
        Err(error) => Err(Error::step(format!("look at the mount source {source}"), error)),
    }
}
