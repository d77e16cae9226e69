//! `cp`, `export`, `diff` and `commit` of a container in a microVM that runs: by its agent, as its files are in the machine.
//!
//! What it has changed goes with its end, so that one that does not run has its image's files.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use guest_protocol::files::Stat;
use image::pace::Thread;

use super::archive::ArchiveStat;
use super::{Container, Life};
use crate::guest_files::{self, DIRECTORY, Guest, KIND, LINK, ReadOptions, WriteOptions};
use crate::model::{ContainerRecord, Phase, Timestamp};
use crate::streams::ByteStream;
use crate::{Engine, Error, Result};

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
            _ => return Ok(None),
        }
        let engine = self.clone();
        crate::blocking(move || engine.machine_connection(&record.id).map(Guest::new).map(Some)).await
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
            Ok((guest, found))
        })
        .await?;
        let name = if as_dot { ".".into() } else { PathBuf::from(found.shown.name.trim_start_matches('/')) };
        let name = if name.as_os_str().is_empty() { ".".into() } else { name };
        let options = ReadOptions { name, one_file_system: false };
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
            guest_files::write(&mut guest, &guest_files::root(&found.at), reader, &options)
        });
        unpacked.await.map_err(crate::images::error).flatten()
    }

    /// A machine's root file system, without what is mounted in it, as an archive.
    pub(super) fn export_of_guest(&self, container: &Container, mut guest: Guest, thread: Thread) -> ByteStream {
        self.tell_container(&container.record(), "export", []);
        ByteStream::produced(thread, move |writer| {
            let found = find(&mut guest, Path::new("/"), "the root is gone")?;
            let options = ReadOptions { name: PathBuf::from("."), one_file_system: true };
            guest_files::read(&mut guest, &guest_files::root(Path::new("/")), &found.stat, &options, writer)
        })
    }

    /// Does something with what a container changed, which is where an ordinary one has it for as long. Whoever holds the container's life has it so.
    pub(super) async fn with_changes<T>(
        &self,
        life: &Life<'_>,
        mut guest: Guest,
        still: bool,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let record = life.record();
        let upper = self.upper(&record)?;
        let (pulled_to, most) = (upper.clone(), most(&record));
        crate::blocking(move || {
            if still {
                guest.freeze(true)?;
            }
            // A daemon that was killed meanwhile has left it there.
            clear(&pulled_to);
            let pulled = open(&pulled_to).and_then(|into| guest_files::pull(&mut guest, into.as_fd(), most));
            if still {
                guest.freeze(false)?;
            }
            pulled.inspect_err(|_| clear(&pulled_to))
        })
        .await?;
        let done = work.await;
        crate::blocking(move || {
            clear(&upper);
            Ok(())
        })
        .await?;
        done
    }

    /// Takes away what a daemon that was killed has left of a machine's changes.
    pub(super) fn forget_changes(&self, record: &ContainerRecord) {
        if let Ok(upper) = self.upper(record) {
            clear(&upper);
        }
    }

    fn upper(&self, record: &ContainerRecord) -> Result<PathBuf> {
        let directories = self.graph_dirs(&record.id);
        Ok(directories.ok_or_else(|| Error::system("the container has no root file system"))?.upper)
    }
}

/// Bytes of a machine's files at most: they are in its memory.
fn most(record: &ContainerRecord) -> u64 {
    u64::try_from(record.host.resources.memory).ok().filter(|limit| *limit > 0).unwrap_or(1 << 30)
}

fn open(directory: &Path) -> Result<std::fs::File> {
    std::fs::File::open(directory).map_err(|error| Error::step(format!("open {}", directory.display()), error))
}

/// Takes everything out of a directory, which has what it had before it was filled: nothing.
fn clear(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "could not remove a copy of a machine's file");
        }
    }
}

/// What is at a path. A last symbolic link is not followed, unless the path ends in a slash.
fn find(guest: &mut Guest, path: &Path, missing: &str) -> Result<Found> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let follow = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
    let at = if follow { guest.target(path)? } else { path.to_owned() };
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
