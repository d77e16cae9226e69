//! `cp`, `export` and `diff`: files out of a container and into it.
//!
//! A running container's files are seen through `/proc/PID/root`, as it sees them itself; those of another one through a
//! mount of its root file system that nobody else sees, with its volumes in it. Paths are looked up from descriptors,
//! whatever links the container puts in the way meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::archive::{self, ReadOptions, WriteOptions};
use image::{MountedRootfs, Over};
use rustix::fs::{Mode, OFlags};

use super::Container;
use super::lease::{Reading, Writing};
use crate::guest_files::Guest;
use crate::model::{ContainerRecord, MountPoint, MountPointKind, Timestamp};
pub use crate::streams::ByteStream;
use crate::{Engine, Error, Result, Volume};

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
    /// A running container's root, as it sees it.
    Running(Running),
    /// A root file system, with what is mounted in it, mounted for this alone.
    Mounted(Mounted),
}

/// Fields are dropped in this order.
struct Mounted {
    rootfs: MountedRootfs,
    _volumes: Option<HeldVolumes>,
    _lease: Lease,
}

enum Lease {
    Reading { _lease: Reading },
    Writing { _lease: Writing },
}

/// A container's volumes, ready to be mounted until this is dropped.
struct HeldVolumes {
    engine: Engine,
    record: Arc<ContainerRecord>,
}

impl Drop for HeldVolumes {
    fn drop(&mut self) {
        self.engine.release_mounted(&self.record);
    }
}

/// The root file system of a container that runs.
struct Running {
    root: OwnedFd,
    /// The identifiers that it has for itself.
    ids: Option<image::IdRange>,
}

/// What a user namespace has for its users (`/proc/PID/uid_map`); `None`: the host's.
fn own_ids(map: &str) -> Option<image::IdRange> {
    let mut numbers = map.split_whitespace().map(str::parse::<u32>);
    let (inside, first, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    (inside == 0 && first != 0 && numbers.next().is_none()).then_some(image::IdRange { first, count })
}

impl Root {
    /// The identifiers that its files are shown with, where they are not the container's.
    fn ids(&self) -> Option<image::IdRange> {
        match self {
            Self::Running(running) => running.ids,
            Self::Mounted(_) => None,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Running(running) => running.root.as_fd(),
            Self::Mounted(mounted) => mounted.rootfs.as_fd(),
        }
    }
}

impl Engine {
    /// What is at a path in a container.
    pub async fn archive_stat(&self, reference: &str, path: &str) -> Result<ArchiveStat> {
        let container = self.0.containers.find(reference)?;
        let (at, missing) = (absolute(path)?, missing(path, reference));
        let (guest, at) = self.guest_at(&container, at, false).await?;
        if let Some(guest) = guest {
            return self.stat_of_guest(guest, at, missing).await;
        }
        let root = self.files_to_read(&container, reference).await?;
        let record = container.record();
        crate::blocking(move || {
            // Who copies into it asks what is there, too: what its next start has.
            stat(&root, &at, &missing).map_err(|error| super::guest::or_lost(&record, root.as_fd(), &at, error))
        })
        .await
    }

    /// An archive of what is at a path in a container.
    pub async fn archive_get(&self, reference: &str, path: &str) -> Result<(ArchiveStat, ByteStream)> {
        let container = self.0.containers.find(reference)?;
        let (at, missing) = (absolute(path)?, missing(path, reference));
        let thread = self.archive_thread().await?;
        let (guest, at) = self.guest_at(&container, at, false).await?;
        if let Some(guest) = guest {
            let as_dot = path.ends_with("/.");
            return self.archive_of_guest(&container, guest, thread, (at, missing), as_dot).await;
        }
        let root = self.files_to_read(&container, reference).await?;
        let record = container.record();
        let (root, at, found) = crate::blocking(move || {
            super::guest::check_kept(&record, root.as_fd(), &at)?;
            let found = stat(&root, &at, &missing)?;
            Ok((root, at, found))
        })
        .await?;
        // `dir/.` means what is in the directory, under the name `.`.
        let name = if path.ends_with("/.") { ".".to_owned() } else { found.name.clone() };
        let name = Some(name.into()).filter(|_| found.name != "/");
        let options = ReadOptions { name, skip_kernel: true, ids: root.ids() };
        let stream = ByteStream::produced(thread, move |writer| {
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
        let (at, missing) = (absolute(path)?, missing(path, reference));
        let (guest, at) = self.guest_at(&container, at, true).await?;
        let body = body.paced(self.0.images.threads().pace());
        // Before the container's files are held for it.
        let thread = self.archive_thread().await?;
        let record = container.record();
        let (guest, owner) = match copy_owner {
            true => self.owner_of_copies(&record, guest).await?,
            false => (guest, None),
        };
        if let Some(guest) = guest {
            let options = crate::guest_files::WriteOptions { keep_kinds, owner };
            let mut turns = container.turns();
            let removed = Error::conflict(format!("container {reference} is removed"));
            let body = body.until(async move {
                drop(turns.wait_for(|turn| turn.removed).await);
                removed
            });
            self.unpack_into_guest(record.clone(), guest, thread, (at, missing), options, body).await?;
            self.tell_container(&record, "extract-to-dir", []);
            return Ok(());
        }
        let root = self.files_to_write(&container, reference).await?;
        let body = match &root {
            Root::Mounted(Mounted { _lease: Lease::Writing { _lease: lease }, .. }) => {
                let ended = lease.ended();
                let removed = Error::conflict(format!("container {reference} is removed"));
                body.until(async move {
                    ended.await;
                    removed
                })
            }
            _ => body,
        };
        let (options, reader) =
            (WriteOptions { keep_kinds, owner, ids: root.ids(), ..WriteOptions::default() }, body.into_reader());
        let of = record.clone();
        let unpacked = thread.run(move || {
            let found =
                stat(&root, &at, &missing).map_err(|error| super::guest::or_lost(&of, root.as_fd(), &at, error))?;
            let is_directory = found.mode & 0o170_000 == 0o040_000 || !found.link_target.is_empty();
            if !is_directory {
                return Err(Error::invalid("extraction point is not a directory"));
            }
            super::guest::check_off_disk(&of, root.as_fd(), &at)?;
            check_writable(&root, &at)?;
            archive::write_path(root.as_fd(), &at, reader, &options).map_err(crate::images::error)
        });
        unpacked.await.map_err(crate::images::error).flatten()?;
        self.tell_container(&record, "extract-to-dir", []);
        Ok(())
    }

    /// What a container changed in its root file system.
    pub async fn changes(&self, reference: &str) -> Result<Vec<image::Change>> {
        let container = self.0.containers.find(reference)?;
        self.own_again(&container).await?;
        let listed = async |upper| self.0.images.diff(container.id.as_str(), upper).await.map_err(crate::images::error);
        let (record, _files) = {
            let life = container.life(reference).await?;
            // It is there to the end, even if the container is removed meanwhile.
            (life.record(), container.files.read(&life)?)
        };
        // Whoever has this is waited for by a start, which has the life.
        let Some(guest) = self.guest_of_all(&container).await? else { return listed(None).await };
        let copy = self.copy_of_changes(&record, guest, false).await?;
        let listed = listed(Some(copy.path().to_owned())).await;
        copy.remove().await?;
        listed
    }

    /// A container's root file system, without its volumes and whatever else is mounted in it, as an archive.
    pub async fn export(&self, reference: &str) -> Result<ByteStream> {
        let container = self.0.containers.find(reference)?;
        let thread = self.archive_thread().await?;
        self.own_again(&container).await?;
        if let Some(guest) = self.guest_of_all(&container).await? {
            return Ok(self.export_of_guest(&container, guest, thread));
        }
        let lease = container.files.read(&container.life(reference).await?)?;
        let rootfs = self.0.images.view_rootfs(container.id.as_str(), Vec::new()).await;
        let rootfs = rootfs.map_err(crate::images::error)?;
        self.tell_container(&container.record(), "export", []);
        Ok(ByteStream::produced(thread, move |writer| {
            let _lease = lease;
            archive::read_path(rootfs.as_fd(), Path::new("/"), writer, &ReadOptions::default())
                .map_err(crate::images::error)
        }))
    }

    /// A thread for an archive that a client sends or takes.
    pub(crate) async fn archive_thread(&self) -> Result<image::pace::Thread> {
        self.0.images.threads().take().await.map_err(crate::images::error)
    }

    /// What a container that runs sees. That of a machine's process is not its container's, whose files whoever found it not running has not asked its agent for.
    async fn root_of_live(&self, record: &Arc<ContainerRecord>) -> Result<Root> {
        if record.is_machine() {
            return Err(Error::conflict(format!("container {} was started in this moment: try again", record.name)));
        }
        self.running_root(record).await.map(Root::Running)
    }

    async fn files_to_read(&self, container: &Arc<Container>, reference: &str) -> Result<Root> {
        let (record, lease) = {
            let life = container.life(reference).await?;
            (life.record(), container.files.read(&life)?)
        };
        if record.state.phase.is_live() {
            return self.root_of_live(&record).await;
        }
        let (volumes, over) = self.mounted_over(&record).await?;
        let rootfs = self.0.images.view_rootfs(record.id.as_str(), over).await.map_err(crate::images::error)?;
        Ok(Root::Mounted(Mounted { rootfs, _volumes: volumes, _lease: Lease::Reading { _lease: lease } }))
    }

    async fn files_to_write(&self, container: &Arc<Container>, reference: &str) -> Result<Root> {
        let (record, lease) = loop {
            let life = container.life(reference).await?;
            let record = life.record();
            if record.state.phase.is_live() {
                return self.root_of_live(&record).await;
            }
            // What is written to anything else is gone with it.
            self.own_again_of(&life).await?;
            let lease = container.files.write(&life)?;
            drop(life);
            match lease {
                Some(lease) => break (record, lease),
                None => container.files.written().await,
            }
        };
        // With a disk only volumes are written to, whatever links an archive has, and what lies below the disk stays.
        let has_disk = record.is_machine() && self.written_disk(&record)?.is_some();
        if record.is_machine() && !has_disk {
            let (engine, record) = (self.clone(), record.clone());
            crate::blocking(move || engine.forget_copied_layer(&record)).await?;
        }
        let (volumes, over) = self.mounted_over(&record).await?;
        let images = &self.0.images;
        let rootfs = images.mount_rootfs(record.id.as_str(), over, record.host.readonly_rootfs || has_disk).await;
        let rootfs = rootfs.map_err(crate::images::error)?;
        Ok(Root::Mounted(Mounted { rootfs, _volumes: volumes, _lease: Lease::Writing { _lease: lease } }))
    }

    /// What a run of the container would have mounted over its root file system, but for memory, which is empty.
    async fn mounted_over(&self, record: &Arc<ContainerRecord>) -> Result<(Option<HeldVolumes>, Vec<Over>)> {
        if record.mounts.iter().all(|mount| mount.kind == MountPointKind::Tmpfs) {
            return Ok((None, Vec::new()));
        }
        let (engine, record) = (self.clone(), record.clone());
        crate::blocking(move || {
            let sources = engine.acquire_volumes(&record)?;
            let volumes = HeldVolumes { engine, record };
            let mut over = Vec::new();
            for mount in &volumes.record.mounts {
                over.extend(volumes.engine.over(&volumes.record, mount, sources.get(&mount.target))?);
            }
            Ok((Some(volumes), over))
        })
        .await
    }

    /// What is mounted for a mount point: `source`, a part of it, or an image; `None`: memory. Blocks.
    fn over(&self, record: &ContainerRecord, mount: &MountPoint, source: Option<&String>) -> Result<Option<Over>> {
        let target = PathBuf::from(&mount.target);
        let mut over = match (source, crate::images::image_id(&mount.source)) {
            (Some(source), _) => {
                let alone = mount.options.iter().any(|option| option == "bind");
                Over::of_host(Path::new(source), alone, target).map_err(crate::images::error)?
            }
            (None, Some(image)) if mount.kind == MountPointKind::Image => {
                let mounted = self.0.images.mount_image(record.id.as_str(), &image);
                let mounted = tokio::runtime::Handle::current().block_on(mounted);
                Over::of_mounted(mounted.map_err(crate::images::error)?, target)
            }
            _ => return Ok(None),
        };
        over.subpath = PathBuf::from(&mount.subpath);
        over.read_only = !mount.writable;
        Ok(Some(over))
    }

    async fn running_root(&self, record: &ContainerRecord) -> Result<Running> {
        self.of_process(record, |pid| {
            let root = open_directory(Path::new(&format!("/proc/{pid}/root")))?;
            let ids = std::fs::read_to_string(format!("/proc/{pid}/uid_map"));
            let ids = ids.map_err(|error| Error::step("reading the identifiers of a container", error))?;
            Ok(Running { root, ids: own_ids(&ids) })
        })
        .await
    }

    /// Whose what is copied into a container becomes: its user's, and the user's group's, by the container's own files. They are its guest's where it has one.
    async fn owner_of_copies(
        &self,
        record: &Arc<ContainerRecord>,
        mut guest: Option<Guest>,
    ) -> Result<(Option<Guest>, Option<(u32, u32)>)> {
        let (engine, record) = (self.clone(), record.clone());
        crate::blocking(move || {
            let own = guest.as_mut().map(crate::guest_files::user_database).transpose()?.flatten();
            let identity = match own {
                Some(database) => database.identify(&record.config.user, &[])?,
                None => engine.identify(&record, &record.config.user, &[])?,
            };
            Ok((guest, Some((identity.uid, identity.gid))))
        })
        .await
    }

    /// Copies what the image has at the targets of empty volumes into them. `new`: those among them that nobody finds yet.
    pub(super) async fn fill_volumes(&self, record: &ContainerRecord, new: &[Volume]) -> Result<()> {
        for mount in record.mounts.iter().filter(|mount| mount.copy_up) {
            let Some(name) = mount.volume() else { continue };
            let volume = match new.iter().find(|volume| volume.name == name) {
                Some(volume) => volume.clone(),
                None => (*self.0.volumes.get(name)?).clone(),
            };
            let rootfs = self.0.images.view_rootfs(record.id.as_str(), Vec::new()).await;
            let rootfs = rootfs.map_err(crate::images::error)?;
            let (engine, target) = (self.clone(), PathBuf::from(&mount.target));
            crate::blocking(move || {
                let found = archive::stat_path(rootfs.as_fd(), &target);
                if !found.is_ok_and(|found| found.mode & 0o170_000 == 0o040_000) {
                    return Ok(());
                }
                engine.0.volumes.fill(&volume, |directory| copy_up(rootfs.as_fd(), &target, directory))
            })
            .await?;
        }
        Ok(())
    }

    /// Whether a container wrote its user database itself.
    pub(crate) fn writes_etc(&self, id: &crate::model::ContainerId) -> bool {
        let Some(dirs) = self.graph_dirs(id) else { return false };
        ["etc/passwd", "etc/group"].iter().any(|file| std::fs::symlink_metadata(dirs.upper.join(file)).is_ok())
    }

    /// Reads the user database of a container's root file system. Blocks.
    pub(crate) fn read_user_database(&self, record: &ContainerRecord) -> Result<crate::spec::UserDatabase> {
        let runtime = tokio::runtime::Handle::current();
        let read = |root: BorrowedFd<'_>| {
            let (passwd, group) = (read_file(root, "etc/passwd")?, read_file(root, "etc/group")?);
            Ok(crate::spec::UserDatabase { passwd, group })
        };
        // The root of a machine's process is not the container's.
        if record.state.phase.is_live() && !record.is_machine() {
            return read(runtime.block_on(self.running_root(record))?.root.as_fd());
        }
        let mounted = runtime.block_on(self.0.images.view_rootfs(record.id.as_str(), Vec::new()));
        read(mounted.map_err(crate::images::error)?.as_fd())
    }
}

/// The path as seen from the root.
fn absolute(path: &str) -> Result<PathBuf> {
    if path.is_empty() {
        return Err(Error::invalid("bad parameter: path cannot be empty"));
    }
    if path.contains('\0') {
        return Err(Error::invalid("bad parameter: path contains a NUL byte"));
    }
    Ok(Path::new("/").join(path))
}

/// Refuses to write where nobody may, before anything is: into a read-only root file system or volume. The kernel knows
/// which the path leads to, whatever links are on the way.
fn check_writable(root: &Root, path: &Path) -> Result<()> {
    use rustix::fs::{AtFlags, ResolveFlags, StatVfsMountFlags, StatxFlags};
    let failed = |error| Error::step(format!("look at {} in the container", path.display()), error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // What is not there, unpacking has a better word for.
    let Ok(place) = rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), resolve) else { return Ok(()) };
    if !rustix::fs::fstatvfs(&place).map_err(failed)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = |fd: BorrowedFd<'_>| {
        let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_err(failed)?;
        Ok::<u64, Error>(found.stx_mnt_id)
    };
    let what = match mount(place.as_fd())? == mount(root.as_fd())? {
        true => "container rootfs",
        false => "mounted volume",
    };
    Err(Error::forbidden(format!("{what} is marked read-only")))
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::step(format!("open {}", path.display()), error))
}

/// A small file in a container's root file system; empty where it is not there.
fn read_file(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    use std::io::Read as _;
    const MOST: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), rustix::fs::ResolveFlags::IN_ROOT) {
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

/// Fills an empty volume with what the image has at its target, owner and mode of the directory included.
fn copy_up(rootfs: BorrowedFd<'_>, target: &Path, volume: &OwnedFd) -> Result<()> {
    let (mut reader, writer) = std::io::pipe().map_err(|error| Error::step("make a pipe", error))?;
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let options = ReadOptions { name: Some(".".into()), ..ReadOptions::default() };
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
