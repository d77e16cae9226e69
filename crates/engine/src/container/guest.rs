//! `cp`, `export`, `diff` and `commit` of a container in a microVM that runs: by its agent, as its files are in the machine.
//!
//! What it has changed goes with its end, so that one that does not run has its image's files, and what was copied into it; or it is on a disk of its own, which only a machine reads ([`super::file_machine`]).

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_protocol::files::Stat;
use image::pace::Thread;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use super::Container;
use super::archive::ArchiveStat;
use super::disk::has_disk;
use crate::guest_files::{self, DIRECTORY, Guest, KIND, LINK, ReadOptions, WriteOptions};
use crate::model::{ContainerRecord, MountPointKind, Phase, Timestamp};
use crate::streams::ByteStream;
use crate::{Engine, Error, ErrorKind, Result};

/// Whether it is in a machine, ran, and could write to its root.
fn has_lost_changes(record: &ContainerRecord) -> bool {
    record.is_machine() && record.state.started_at.is_some() && !record.host.readonly_rootfs
}

fn lost(record: &ContainerRecord) -> Error {
    if has_disk(record) {
        return Error::conflict(format!(
            "a link in a volume of container {}, which does not run, leads to its disk: copy that by its own path, or start the container first",
            record.name
        ));
    }
    Error::conflict(format!(
        "container {} has ended, and what it changed went with its microVM's memory: do this while it runs, or give it a disk that keeps what is written (--storage-opt size=…)",
        record.name
    ))
}

/// Refuses to write where a link in a volume leads out of it, of a container that does not run and has a disk: what is on the disk its machine alone reads.
pub(super) fn check_off_disk(record: &ContainerRecord, root: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let is_on_disk = has_disk(record) && record.state.started_at.is_some();
    if is_on_disk && !is_in_volume(root, at) { Err(lost(record)) } else { Ok(()) }
}

/// Whether what is at a path in the `root` of a container that does not run, or would be, is what the container had there: of a machine's, what is in a volume is.
///
/// # Errors
/// It was in the machine's memory, if anywhere.
pub(super) fn check_kept(record: &ContainerRecord, root: BorrowedFd<'_>, at: &Path) -> Result<()> {
    if has_lost_changes(record) && !is_in_volume(root, at) { Err(lost(record)) } else { Ok(()) }
}

/// What is said where nothing is found at a path in the `root` of a container that does not run: of a machine's it may have been there while that ran.
pub(super) fn or_lost(record: &ContainerRecord, root: BorrowedFd<'_>, at: &Path, error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => check_kept(record, root, at).err().unwrap_or(error),
        _ => error,
    }
}

/// By the mount that it is in, or, where there is nothing, its parent would be.
fn is_in_volume(root: BorrowedFd<'_>, at: &Path) -> bool {
    let mount =
        |fd: BorrowedFd<'_>| statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|found| found.stx_mnt_id);
    let mut looked = at.ancestors().map(|at| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(root, at, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    });
    // The root is there.
    let Some(Ok(found)) = looked.find(Result::is_ok) else { return false };
    mount(found.as_fd()).is_ok_and(|found| mount(root) != Ok(found))
}

/// What is at a path in a guest.
struct Found {
    shown: ArchiveStat,
    stat: Stat,
    /// Where it is, after a last link where the path ends in a slash.
    at: PathBuf,
}

impl Engine {
    /// The agent of a container's machine that runs; `None`: its files are on the host, as it is no machine or does not run.
    pub(super) async fn guest(&self, container: &Arc<Container>) -> Result<Option<Guest>> {
        let record = container.settled().await;
        if !record.is_machine() {
            return Ok(None);
        }
        match record.state.phase {
            Phase::Running => {}
            // Its machine does not answer.
            Phase::Paused => {
                return Err(Error::conflict(format!("container {} is paused: unpause it first", record.name)));
            }
            _ if record.state.suspended.is_some() => {
                return Err(Error::conflict(format!("container {} is suspended: resume it first", record.name)));
            }
            // One that never ran has nothing on it.
            _ if self.written_disk(&record)?.is_some() => {
                return match self.guest_of_disk(container).await? {
                    Some(guest) => Ok(Some(guest)),
                    // Its own machine is there by now.
                    None => Box::pin(self.guest(container)).await,
                };
            }
            _ => return Ok(None),
        }
        let engine = self.clone();
        crate::blocking(move || engine.machine_of(&record).map(Guest::new).map(Some)).await
    }

    /// The agent that reads and writes what is at a path in a container, and the path; no agent: it is on the host. Volumes are, and a machine of one that does not run has none of them. `into`: what a last link leads
    /// to is meant, as with a slash at the path's end.
    pub(super) async fn guest_at(
        &self,
        container: &Arc<Container>,
        at: PathBuf,
        into: bool,
    ) -> Result<(Option<Guest>, PathBuf)> {
        self.own_again(container).await?;
        let Some(mut guest) = self.guest(container).await? else { return Ok((None, at)) };
        let record = container.record();
        let mounts = record.mounts.iter().filter(|mount| mount.kind != MountPointKind::Tmpfs);
        let targets: Vec<_> = mounts.map(|mount| Path::new(&mount.target).join(".")).collect();
        if !guest.is_at_rest() || targets.is_empty() {
            return Ok((Some(guest), at));
        }
        crate::blocking(move || {
            guest.cover(&targets)?;
            let follows = into || guest_files::is_followed(&at);
            let wanted = |path: PathBuf| if follows { path.join(".") } else { path };
            let found = guest.resolve(&wanted(at.clone()))?;
            match guest.is_covered(&found) {
                true => Ok((None, wanted(found))),
                false => Ok((Some(guest), at)),
            }
        })
        .await
    }

    /// As [`Engine::guest`], for whoever needs all files that the container has.
    ///
    /// # Errors
    /// It has ended, and what it changed went with its machine: an image without that would not be the container's.
    pub(super) async fn guest_of_all(&self, container: &Arc<Container>) -> Result<Option<Guest>> {
        let guest = self.guest(container).await?;
        let record = container.record();
        if guest.is_none() && has_lost_changes(&record) { Err(lost(&record)) } else { Ok(guest) }
    }

    /// What is at a path in a machine.
    pub(super) async fn stat_of_guest(&self, mut guest: Guest, at: PathBuf, missing: String) -> Result<ArchiveStat> {
        crate::blocking(move || find(&mut guest, &at, &missing).map(|found| found.shown)).await
    }

    /// An archive of what is at a path in a machine; `as_dot`: of what is in a directory, under the name `.`.
    pub(super) async fn archive_of_guest(
        &self,
        container: &Container,
        mut guest: Guest,
        thread: Thread,
        (at, missing): (PathBuf, String),
        as_dot: bool,
    ) -> Result<(ArchiveStat, ByteStream)> {
        let (mut guest, found) = crate::blocking(move || {
            let found = find(&mut guest, &at, &missing)?;
            if found.stat.mode & KIND == DIRECTORY {
                guest.check_whole(&found.at)?;
            }
            Ok((guest, found))
        })
        .await?;
        let name = if as_dot { ".".into() } else { PathBuf::from(found.shown.name.trim_start_matches('/')) };
        let name = if name.as_os_str().is_empty() { ".".into() } else { name };
        let options = ReadOptions { name, one_file_system: false, skip_kernel: true };
        let shown = found.shown.clone();
        let stream = ByteStream::produced(thread, move |writer| {
            guest_files::read(&mut guest, &guest_files::root(&found.at), &found.stat, &options, writer)
        });
        self.tell_container(&container.record(), "archive-path", []);
        Ok((shown, stream))
    }

    /// Unpacks an archive into a directory in a machine.
    pub(super) async fn unpack_into_guest(
        &self,
        record: Arc<ContainerRecord>,
        mut guest: Guest,
        thread: Thread,
        (at, missing): (PathBuf, String),
        options: WriteOptions,
        body: ByteStream,
    ) -> Result<()> {
        let reader = body.into_reader();
        let unpacked = thread.run(move || {
            let at = guest.target(&at)?;
            let found = find(&mut guest, &at, &missing)?;
            if found.stat.mode & KIND != DIRECTORY {
                return Err(Error::invalid("extraction point is not a directory"));
            }
            check_writable(&record, &mut guest, &found)?;
            guest_files::write(&mut guest, &guest_files::root(&found.at), reader, &options)?;
            // A machine that is there for this alone is killed afterwards, or with the daemon.
            if guest.is_at_rest() { guest.sync() } else { Ok(()) }
        });
        unpacked.await.map_err(crate::images::error).flatten()
    }

    /// A machine's root file system, without what is mounted in it, as an archive.
    pub(super) fn export_of_guest(&self, container: &Container, mut guest: Guest, thread: Thread) -> ByteStream {
        self.tell_container(&container.record(), "export", []);
        ByteStream::produced(thread, move |writer| {
            let found = find(&mut guest, Path::new("/"), "the root is gone")?;
            let options = ReadOptions { name: PathBuf::from("."), one_file_system: true, skip_kernel: true };
            guest_files::read(&mut guest, &guest_files::root(Path::new("/")), &found.stat, &options, writer)
        })
    }

    /// Copies what a container in a machine changed into a directory of its own, in the form of an overlay's upper one. `still`: it is held still
    /// meanwhile, and may be ended all the same, as whoever ends it lets it go. The caller sees to it that the container's directory stays.
    pub(super) async fn copy_of_changes(
        &self,
        record: &ContainerRecord,
        mut guest: Guest,
        still: bool,
    ) -> Result<ChangesCopy> {
        let (most, still) = (most(record), still && !guest.is_at_rest());
        let above = self.rootfs_directory(record)?;
        let copied = self.0.images.rootfs(record.id.as_str()).map_err(crate::images::error)?.upper;
        crate::blocking(move || {
            let copy = ChangesCopy::new(&above)?;
            // What its machine changed lies over what had been copied into the container.
            image::copy_changes(&copied, &copy.0).map_err(crate::images::error)?;
            let into = open(&copy.0)?;
            if still {
                guest.freeze(true)?;
            }
            guest_files::pull(&mut guest, into.as_fd(), most)?;
            if still {
                // Where this daemon is killed before, it goes on with the end of the connection.
                guest.freeze(false)?;
            }
            Ok(copy)
        })
        .await
    }

    /// Takes away what a daemon that was killed has left of copies.
    pub(super) fn forget_changes(&self, record: &ContainerRecord) {
        let Ok(above) = self.rootfs_directory(record) else { return };
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(COPY.as_bytes()) {
                drop(ChangesCopy(entry.path()));
            }
        }
    }

    /// The directory with what is a container's own of its root file system.
    pub(super) fn rootfs_directory(&self, record: &ContainerRecord) -> Result<PathBuf> {
        let directories = self.graph_dirs(&record.id);
        let upper = directories.ok_or_else(|| Error::system("the container has no root file system"))?.upper;
        Ok(upper.parent().unwrap_or(&upper).to_owned())
    }
}

/// What the names of copies begin with, in the directory of a container's root file system.
const COPY: &str = "changes-";

/// A directory with what a container in a machine changed. It goes with this.
pub(super) struct ChangesCopy(PathBuf);

impl ChangesCopy {
    fn new(above: &Path) -> Result<Self> {
        let path = above.join(format!("{COPY}{:016x}", rand::random::<u64>()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Error::step(format!("make {}", path.display()), error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it where blocking is allowed.
    pub(super) async fn remove(self) -> Result<()> {
        crate::blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }
}

impl Drop for ChangesCopy {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "could not remove a copy of a machine's files");
            }
            _ => {}
        }
    }
}

/// Bytes of a machine's files at most: they are on its disk or in its memory.
fn most(record: &ContainerRecord) -> u64 {
    if let Ok(Some(disk)) = super::disk::size(&record.host) {
        return disk;
    }
    u64::try_from(record.host.resources.memory).ok().filter(|limit| *limit > 0).unwrap_or(1 << 30)
}

fn open(directory: &Path) -> Result<std::fs::File> {
    std::fs::File::open(directory).map_err(|error| Error::step(format!("open {}", directory.display()), error))
}

/// Refuses to write where nobody may, before anything is: into a read-only root file system or volume.
fn check_writable(record: &ContainerRecord, guest: &mut Guest, found: &Found) -> Result<()> {
    let root = guest.stat(&guest_files::root(Path::new("/")))?;
    let what = if root.is_some_and(|root| root.filesystem == found.stat.filesystem) {
        record.host.readonly_rootfs.then_some("container rootfs")
    } else {
        let above = record.mounts.iter().filter(|mount| found.at.starts_with(&mount.target));
        let nearest = above.max_by_key(|mount| mount.target.len());
        nearest.is_some_and(|mount| !mount.writable).then_some("mounted volume")
    };
    match what {
        Some(what) => Err(Error::forbidden(format!("{what} is marked read-only"))),
        None => Ok(()),
    }
}

/// What is at a path. A last symbolic link is not followed, unless the path ends in a slash.
fn find(guest: &mut Guest, path: &Path, missing: &str) -> Result<Found> {
    let at = if guest_files::is_followed(path) { guest.target(path)? } else { path.to_owned() };
    let stat = guest.stat(&guest_files::root(&at))?.ok_or_else(|| Error::not_found(missing))?;
    let link_target = match stat.mode & KIND {
        LINK => guest.target(&at)?.to_string_lossy().into_owned(),
        _ => String::new(),
    };
    let name = path.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned());
    let shown = ArchiveStat {
        name,
        size: stat.size,
        mode: stat.mode,
        mtime: Timestamp::new(stat.modified.0, stat.modified.1.cast_signed()).unwrap_or_default(),
        link_target,
    };
    Ok(Found { shown, stat, at })
}
