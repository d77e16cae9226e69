//! `cp`, `export` and `diff`: files out of a container and into it.
//!
//! A running container's files are seen through `/proc/PID/root`, as it sees them itself; those of another one through a
//! mount of its root file system that nobody else sees, and its volumes where they are on the host. Paths are looked up
//! from descriptors, whatever links the container puts in the way meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::MountedRootfs;
use image::archive::{self, ReadOptions, WriteOptions};
use rustix::fs::{Mode, OFlags};

use super::{Container, Life};
use crate::model::{ContainerRecord, MountPoint, MountPointKind, Timestamp};
pub use crate::streams::ByteStream;
use crate::{Engine, Error, Result};

/// What is at a path in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveStat {
    /// Its name, without directories.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Type and permissions, as in `st_mode` (inode(7)).
    pub mode: u32,
    /// When it was last written.
    pub mtime: Timestamp,
    /// Where a symbolic link leads in the end, in the container; empty: it is none.
    pub link_target: String,
}

/// A container's files.
enum Root {
    /// A directory: a running container's root, or a volume's.
    Directory(OwnedFd),
    /// A root file system mounted for this alone.
    Mounted(MountedRootfs),
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Directory(fd) => fd.as_fd(),
            Self::Mounted(rootfs) => rootfs.as_fd(),
        }
    }
}

/// A place in a container's files, while the container's life is held where that must not change.
struct Place<'a> {
    root: Root,
    path: PathBuf,
    writable: bool,
    _life: Option<Life<'a>>,
}

impl Engine {
    /// What is at a path in a container.
    pub async fn archive_stat(&self, reference: &str, path: &str) -> Result<ArchiveStat> {
        let container = self.0.containers.find(reference)?;
        let place = self.place(&container, path).await?;
        let (root, at, missing) = (place.root, place.path, missing(path, reference));
        crate::blocking(move || stat(&root, &at, &missing)).await
    }

    /// An archive of what is at a path in a container.
    pub async fn archive_get(&self, reference: &str, path: &str) -> Result<(ArchiveStat, ByteStream)> {
        let container = self.0.containers.find(reference)?;
        let place = self.place(&container, path).await?;
        let (root, at, missing) = (place.root, place.path, missing(path, reference));
        let (root, at, found) = crate::blocking(move || {
            let found = stat(&root, &at, &missing)?;
            Ok((root, at, found))
        })
        .await?;
        // `dir/.` means what is in the directory, under the name `.`.
        let name = if path.ends_with("/.") { ".".to_owned() } else { found.name.clone() };
        let options = ReadOptions { name: Some(name.into()).filter(|_| found.name != "/") };
        let stream = ByteStream::produced(move |writer| {
            archive::read_path(root.as_fd(), &at, writer, &options).map_err(crate::images::error)
        });
        self.tell_container(&container.record(), "archive-path", []);
        Ok((found, stream))
    }

    /// Unpacks an archive into a directory in a container.
    pub async fn archive_put(
        &self,
        reference: &str,
        path: &str,
        keep_kinds: bool,
        copy_owner: bool,
        body: ByteStream,
    ) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let place = self.place(&container, path).await?;
        let record = container.record();
        if !place.writable {
            return Err(Error::forbidden("container rootfs is marked read-only"));
        }
        let owner = match copy_owner {
            true => {
                let identity = self.identify_off_thread(&record).await?;
                Some((identity.uid, identity.gid))
            }
            false => None,
        };
        let options = WriteOptions { keep_kinds, owner };
        let (root, at, missing, reader) = (place.root, place.path, missing(path, reference), body.into_reader());
        crate::blocking(move || {
            let found = stat(&root, &at, &missing)?;
            let is_directory = found.mode & 0o170_000 == 0o040_000 || !found.link_target.is_empty();
            if !is_directory {
                return Err(Error::invalid("extraction point is not a directory"));
            }
            archive::write_path(root.as_fd(), &at, reader, &options).map_err(crate::images::error)
        })
        .await?;
        self.tell_container(&record, "extract-to-dir", []);
        Ok(())
    }

    /// What a container changed in its root file system.
    pub async fn changes(&self, reference: &str) -> Result<Vec<image::Change>> {
        let container = self.0.containers.find(reference)?;
        self.0.images.diff(container.id.as_str()).await.map_err(crate::images::error)
    }

    /// A container's root file system, without its volumes, as an archive.
    pub async fn export(&self, reference: &str) -> Result<ByteStream> {
        let container = self.0.containers.find(reference)?;
        let place = self.place(&container, "/").await?;
        self.tell_container(&container.record(), "export", []);
        let root = place.root;
        Ok(ByteStream::produced(move |writer| {
            archive::read_path(root.as_fd(), Path::new("/"), writer, &ReadOptions::default())
                .map_err(crate::images::error)
        }))
    }

    async fn place<'a>(&self, container: &'a Arc<Container>, path: &str) -> Result<Place<'a>> {
        if path.is_empty() {
            return Err(Error::invalid("bad parameter: path cannot be empty"));
        }
        if path.contains('\0') {
            return Err(Error::invalid("bad parameter: path contains a NUL byte"));
        }
        let absolute = Path::new("/").join(path);
        let record = container.record();
        if record.state.phase.is_live() {
            let root = open_directory(Path::new(&format!("/proc/{}/root", record.state.pid)))?;
            let writable = is_writable(&record, &absolute);
            return Ok(Place { root: Root::Directory(root), path: absolute, writable, _life: None });
        }
        let life = container.life(container.id.as_str()).await?;
        let writable = is_writable(&record, &absolute);
        if let Some((directory, below)) = self.in_mount(&record, &absolute).await? {
            return Ok(Place { root: Root::Directory(directory), path: below, writable, _life: Some(life) });
        }
        let mounted = self.0.images.mount_rootfs(record.id.as_str()).await.map_err(crate::images::error)?;
        Ok(Place { root: Root::Mounted(mounted), path: absolute, writable, _life: Some(life) })
    }

    /// The directory, and the path below it, of what a container that does not run has in a volume or an image that
    /// would be mounted.
    async fn in_mount(&self, record: &ContainerRecord, path: &Path) -> Result<Option<(OwnedFd, PathBuf)>> {
        let inside = |target: &str| path.strip_prefix(target).ok().map(Path::to_owned);
        let nearest = record
            .mounts
            .iter()
            .filter(|mount| mount.kind != MountPointKind::Tmpfs)
            .filter_map(|mount| Some((mount, inside(&mount.target)?)))
            .max_by_key(|(mount, _)| mount.target.len());
        let Some((mount, below)) = nearest else { return Ok(None) };
        // The mount point itself has a name that its volume does not know.
        if below.as_os_str().is_empty() && !path.as_os_str().to_string_lossy().ends_with('/') {
            return Ok(None);
        }
        let directory = match crate::images::image_id(&mount.source) {
            Some(image) if mount.kind == MountPointKind::Image => {
                // What was opened in it stays for as long as it is open.
                let mounted = self.0.images.mount_image(record.id.as_str(), &image).await;
                open_part(&mounted.map_err(crate::images::error)?, mount)?
            }
            _ => open_part(&open_directory(Path::new(&mount.source))?, mount)?,
        };
        Ok(Some((directory, Path::new("/").join(below))))
    }

    async fn identify_off_thread(&self, record: &Arc<ContainerRecord>) -> Result<crate::spec::Identity> {
        let (engine, record) = (self.clone(), record.clone());
        crate::blocking(move || engine.identify(&record, &record.config.user, &[])).await
    }

    /// Copies what the image has at the targets of fresh volumes into them.
    pub(super) async fn fill_volumes(&self, record: &ContainerRecord) -> Result<()> {
        for mount in record.mounts.iter().filter(|mount| mount.copy_up && mount.kind == MountPointKind::Volume) {
            let empty = std::fs::read_dir(&mount.source).is_ok_and(|mut entries| entries.next().is_none());
            if !empty {
                continue;
            }
            let rootfs = self.0.images.mount_rootfs(record.id.as_str()).await.map_err(crate::images::error)?;
            let (target, volume) = (PathBuf::from(&mount.target), open_directory(Path::new(&mount.source))?);
            crate::blocking(move || copy_up(rootfs.as_fd(), &target, &volume)).await?;
        }
        Ok(())
    }

    /// Whether a container wrote its user database itself.
    pub(crate) fn writes_etc(&self, id: &crate::model::ContainerId) -> bool {
        let Some(dirs) = self.graph_dirs(id) else { return false };
        ["etc/passwd", "etc/group"].iter().any(|file| std::fs::symlink_metadata(dirs.upper.join(file)).is_ok())
    }

    /// Reads the user database of a container's root file system.
    pub(crate) fn read_user_database(&self, record: &ContainerRecord) -> Result<crate::spec::UserDatabase> {
        let root = if record.state.phase.is_live() {
            Root::Directory(open_directory(Path::new(&format!("/proc/{}/root", record.state.pid)))?)
        } else {
            let mounted = tokio::runtime::Handle::current().block_on(self.0.images.mount_rootfs(record.id.as_str()));
            Root::Mounted(mounted.map_err(crate::images::error)?)
        };
        Ok(crate::spec::UserDatabase { passwd: read_file(&root, "etc/passwd")?, group: read_file(&root, "etc/group")? })
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::step(format!("open {}", path.display()), error))
}

/// Opens the part of a tree that a mount shows, which links in the tree don't lead out of.
fn open_part(tree: &impl AsFd, mount: &MountPoint) -> Result<OwnedFd> {
    let part = if mount.subpath.is_empty() { "." } else { mount.subpath.as_str() };
    let how = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(tree, part, flags, Mode::empty(), how)
        .map_err(|error| Error::step(format!("open {part} of what is mounted at {}", mount.target), error))
}

/// A small file in a container's root file system; empty where it is not there.
fn read_file(root: &Root, path: &str) -> Result<String> {
    use std::io::Read as _;
    const MOST: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), rustix::fs::ResolveFlags::IN_ROOT) {
        Ok(fd) => {
            let mut bytes = Vec::new();
            let file = std::fs::File::from(fd);
            if !file.metadata().is_ok_and(|meta| meta.is_file()) {
                return Ok(String::new());
            }
            file.take(MOST)
                .read_to_end(&mut bytes)
                .map_err(|error| Error::step(format!("read the container's /{path}"), error))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => Ok(String::new()),
        Err(error) => Err(Error::step(format!("open the container's /{path}"), error)),
    }
}

/// What is said where nothing is at a path.
fn missing(path: &str, container: &str) -> String {
    format!("Could not find the file {path} in container {container}")
}

fn stat(root: &Root, path: &Path, missing: &str) -> Result<ArchiveStat> {
    let found = archive::stat_path(root.as_fd(), path).map_err(|error| match error {
        image::Error::Path { reason: image::PathReason::NotFound, .. } => Error::not_found(missing),
        other => crate::images::error(other),
    })?;
    let text = |os: &OsStr| os.to_string_lossy().into_owned();
    Ok(ArchiveStat {
        name: text(&found.name),
        size: found.size,
        mode: found.mode,
        mtime: Timestamp::new(found.mtime.0, found.mtime.1.cast_signed()).unwrap_or_default(),
        link_target: found.link_target.map(|target| text(target.as_os_str())).unwrap_or_default(),
    })
}

/// Whether files may be put there: not into a read-only root file system or volume.
fn is_writable(record: &ContainerRecord, path: &Path) -> bool {
    let over =
        record.mounts.iter().filter(|mount| path.starts_with(&mount.target)).max_by_key(|mount| mount.target.len());
    over.map_or(!record.host.readonly_rootfs, |mount| mount.writable)
}

/// Fills an empty volume with what the image has at its target, owner and mode of the directory included.
fn copy_up(rootfs: BorrowedFd<'_>, target: &Path, volume: &OwnedFd) -> Result<()> {
    let Ok(found) = archive::stat_path(rootfs, target) else { return Ok(()) };
    if found.mode & 0o170_000 != 0o040_000 {
        return Ok(());
    }
    let (mut reader, writer) = std::io::pipe().map_err(|error| Error::step("make a pipe", error))?;
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let options = ReadOptions { name: Some(".".into()) };
            archive::read_path(rootfs, target, writer, &options).map_err(crate::images::error)
        });
        let unpacked = archive::write_path(volume.as_fd(), Path::new("/"), &mut reader, &WriteOptions::default());
        drop(reader);
        let written = written.join().unwrap_or_else(|_| Err(Error::system("a thread that copies files was lost")));
        unpacked.map_err(crate::images::error).and(written)
    })?;
    copy_identity(rootfs, target, volume)
}

/// Gives a volume's directory the owner and the mode of the directory that it is mounted over.
fn copy_identity(rootfs: BorrowedFd<'_>, target: &Path, volume: &OwnedFd) -> Result<()> {
    use rustix::fs::{AtFlags, Gid, ResolveFlags, Uid};
    let failed = |error| Error::step(format!("give a volume the owner and mode of {}", target.display()), error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = rustix::fs::openat2(rootfs, target, flags, Mode::empty(), ResolveFlags::IN_ROOT).map_err(failed)?;
    let below = rustix::fs::fstat(&below).map_err(failed)?;
    let (owner, group) = (Uid::from_raw(below.st_uid), Gid::from_raw(below.st_gid));
    rustix::fs::chownat(volume, "", Some(owner), Some(group), AtFlags::EMPTY_PATH).map_err(failed)?;
    // A descriptor that is a path only can't change modes.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(volume, ".", flags, Mode::empty()).map_err(failed)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(below.st_mode)).map_err(failed)
}
