//! The files of a container in a microVM, which are in the machine's memory: its agent reads and writes them piece by piece, and archives are made
//! and read here.
//!
//! What the agent says is a stranger's, and so is the machine's process, through which it comes: each answer is held against its request on this side
//! ([`Connection::ask`]), and what is made of it is an archive for a client, or files below a directory of the host that were made there one by one.

mod changes;
mod contents;
mod patience;
mod read;
mod users;
mod write;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use guest_protocol::files::{At, FileReply, FileRequest, Stat, Tree};
use guest_protocol::message::{Blob, ContainerId, Failure, Reply, Request};
use microvm::control::Connection;

pub(crate) use changes::pull;
pub(crate) use read::{ReadOptions, read};
pub(crate) use users::user_database;
pub(crate) use write::{WriteOptions, write};

use patience::Patience;

use crate::container::FileMachineUse;
use crate::{Error, Result};

/// The kinds of a file (inode(7)).
pub(crate) const KIND: u32 = 0o170_000;
pub(crate) const DIRECTORY: u32 = 0o040_000;
pub(crate) const REGULAR: u32 = 0o100_000;
pub(crate) const LINK: u32 = 0o120_000;
pub(crate) const CHARACTERS: u32 = 0o020_000;
pub(crate) const PIPE: u32 = 0o010_000;
pub(crate) const SOCKET: u32 = 0o140_000;
/// How many entries a directory may have.
const ENTRIES: usize = 1 << 20;
/// How many bytes its entries' names and extended attributes may have.
const LISTED: usize = 64 << 20;
/// How deep a tree may be.
const DEPTH: usize = 512;
/// How many symbolic links a path may lead over, as the kernel has it.
const LINKS: usize = 40;

/// The agent of a container's machine, asked for files. Every call waits for its answer.
pub(crate) struct Guest {
    machine: Connection,
    container: ContainerId,
    /// The machine is there for the files of a container that does not run, for as long as this is.
    at_rest: Option<FileMachineUse>,
    /// Where volumes are mounted when the container runs: what is there now is not to be seen.
    covered: Vec<PathBuf>,
    patience: Patience,
}

impl Guest {
    pub(crate) fn new((machine, container): (Connection, ContainerId)) -> Self {
        Self { machine, container, at_rest: None, covered: Vec::new(), patience: Patience::default() }
    }

    /// That of a machine in which nothing runs.
    pub(crate) fn at_rest((machine, container): (Connection, ContainerId), used: FileMachineUse) -> Self {
        Self { machine, container, at_rest: Some(used), covered: Vec::new(), patience: Patience::default() }
    }

    /// Whether nothing runs in the machine.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest.is_some()
    }

    /// Notes where volumes are mounted when the container runs.
    pub(crate) fn cover(&mut self, targets: &[PathBuf]) -> Result<()> {
        self.covered = targets.iter().map(|target| self.resolve(target)).collect::<Result<_>>()?;
        Ok(())
    }

    /// Whether what is at a path, in which no link leads elsewhere, is below a volume.
    pub(crate) fn is_covered(&self, path: &Path) -> bool {
        self.covered.iter().any(|covered| path.starts_with(covered))
    }

    /// Refuses to read a directory in which there is a volume, as that would be left out.
    pub(crate) fn check_whole(&mut self, directory: &Path) -> Result<()> {
        if self.covered.is_empty() {
            return Ok(());
        }
        let directory = self.resolve(&directory.join("."))?;
        match self.covered.iter().find(|covered| covered.starts_with(&directory)) {
            Some(covered) => Err(apart(covered)),
            None => Ok(()),
        }
    }

    /// Refuses to write what a volume would hide.
    fn check_uncovered(&mut self, at: &At) -> Result<()> {
        if self.covered.is_empty() {
            return Ok(());
        }
        match self.resolve(Path::new(OsStr::from_bytes(&at.path.0)))? {
            path if self.is_covered(&path) => Err(apart(&path)),
            _ => Ok(()),
        }
    }

    /// Has the guest write to its disk what it has to.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.order(FileRequest::Sync(Tree::Changes))
    }

    fn request(&mut self, request: Request) -> Result<Result<Reply, Failure>> {
        let asked = Instant::now();
        let answer = self.machine.ask(request).map_err(|error| Error::system(error.to_string()))?;
        self.patience.answered(asked.elapsed())?;
        Ok(answer)
    }

    /// Stops the container's processes, or lets them go on. The agent is none of them.
    pub(crate) fn freeze(&mut self, frozen: bool) -> Result<()> {
        let answer = self.request(Request::Freeze { container: self.container, frozen })?;
        answer.map(drop).map_err(|failure| Error::system(failure.to_string()))
    }

    fn try_ask(&mut self, request: FileRequest) -> Result<Result<FileReply, Failure>> {
        match self.request(Request::File { container: self.container, request })? {
            Ok(Reply::File(reply)) => Ok(Ok(reply)),
            Ok(_) => Err(unfit()),
            Err(failure) => Ok(Err(failure)),
        }
    }

    fn ask(&mut self, request: FileRequest) -> Result<FileReply> {
        self.try_ask(request)?.map_err(|failure| Error::system(failure.to_string()))
    }

    /// What has to be done, and nothing comes back of it.
    fn order(&mut self, request: FileRequest) -> Result<()> {
        self.ask(request).map(drop)
    }

    /// What is at a path, a link itself; `None`: nothing is.
    pub(crate) fn stat(&mut self, at: &At) -> Result<Option<Stat>> {
        match self.try_ask(FileRequest::Stat(at.clone()))? {
            Ok(FileReply::Stat(stat)) => Ok(Some(stat)),
            Ok(_) => Err(unfit()),
            Err(Failure::System { errno, .. }) if is_absence(errno) => Ok(None),
            Err(failure) => Err(Error::system(failure.to_string())),
        }
    }

    fn read_link(&mut self, at: &At) -> Result<PathBuf> {
        match self.ask(FileRequest::ReadLink(at.clone()))? {
            FileReply::Link(to) => Ok(OsStr::from_bytes(&to.0).into()),
            _ => Err(unfit()),
        }
    }

    /// Where a path leads in the end: its last links are followed, as those on the way are by the guest's kernel.
    pub(crate) fn target(&mut self, path: &Path) -> Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let at = root(&path);
            if self.stat(&at)?.is_none_or(|stat| stat.mode & KIND != LINK) {
                return Ok(path);
            }
            let to = self.read_link(&at)?;
            path = normal(&path.parent().unwrap_or(Path::new("/")).join(to));
        }
        Err(Error::invalid(format!("too many levels of symbolic links: {}", path.display())))
    }

    /// The path of what is at a path without any link in it, as the guest's kernel goes it; a last one is followed where that [is meant](is_followed). What is not there is where it would be made.
    pub(crate) fn resolve(&mut self, path: &Path) -> Result<PathBuf> {
        let parts = |path: &Path| -> Vec<OsString> {
            let parts = path.components().filter_map(|part| match part {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some("..".into()),
                _ => None,
            });
            parts.rev().collect()
        };
        let (mut todo, mut done, mut links) = (parts(path), PathBuf::from("/"), 0);
        while let Some(part) = todo.pop() {
            // What is below a volume the host finds, where that is mounted: what the machine has there is hidden when the container runs.
            if self.is_covered(&done) {
                done.push(part);
                done.extend(todo.into_iter().rev());
                return Ok(done);
            }
            if part == ".." {
                done.pop();
                continue;
            }
            let at = root(&done.join(&part));
            let is_on_the_way = !todo.is_empty() || is_followed(path);
            if !is_on_the_way || self.stat(&at)?.is_none_or(|stat| stat.mode & KIND != LINK) {
                done.push(part);
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(Error::invalid(format!("too many levels of symbolic links: {}", path.display())));
            }
            let to = self.read_link(&at)?;
            if to.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(parts(&to));
        }
        Ok(done)
    }

    /// All entries of a directory.
    fn list(&mut self, at: &At) -> Result<Vec<(Blob, Stat)>> {
        let (mut all, mut bytes) = (Vec::new(), 0);
        loop {
            let list = FileRequest::List { at: at.clone(), skip: all.len() as u64 };
            let FileReply::Entries { entries, more } = self.ask(list)? else { return Err(unfit()) };
            if all.len() + entries.len() > ENTRIES {
                return Err(Error::invalid(format!("a directory in the microVM has more than {ENTRIES} entries")));
            }
            bytes += entries.iter().map(|(name, stat)| name.0.len() + of_attributes(stat)).sum::<usize>();
            if bytes > LISTED {
                let most = LISTED >> 20;
                return Err(Error::invalid(format!(
                    "names and attributes of a directory in the microVM take more than {most} MiB"
                )));
            }
            all.extend(entries);
            if !more {
                return Ok(all);
            }
        }
    }
}

/// How many bytes the extended attributes of a file take.
fn of_attributes(stat: &Stat) -> usize {
    stat.extended.iter().map(|(key, value)| key.0.len() + value.0.len()).sum()
}

/// Whether a last link of a path is followed, as with a slash at its end.
pub(crate) fn is_followed(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

/// What has to do with a volume of a container that does not run can't go through a machine that has none.
fn apart(covered: &Path) -> Error {
    Error::conflict(format!(
        "there is a volume of a container that does not run at {}: copy that by its own path, or start the container first",
        guest_protocol::plain::name(covered.as_os_str().as_bytes())
    ))
}

/// A path in the container, as it sees it.
pub(crate) fn root(path: &Path) -> At {
    At { tree: Tree::Root, path: Blob(path.as_os_str().as_bytes().to_vec()) }
}

/// What is in a directory.
fn below(at: &At, name: &[u8]) -> At {
    let mut path = at.path.0.clone();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend(name);
    At { tree: at.tree, path: Blob(path) }
}

/// A path without `.` and `..`, which can't lead above the root.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(name) => normal.push(name),
            _ => {}
        }
    }
    normal
}

/// `ENOENT`, `ENOTDIR` (errno(3)).
fn is_absence(errno: i32) -> bool {
    matches!(errno, 2 | 20)
}

/// The error for an answer of another kind than the question.
pub(crate) fn unfit() -> Error {
    Error::system("the microVM's agent answered something else than was asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_above_the_root() {
        assert_eq!(normal(Path::new("/a/../../../etc/./passwd")), Path::new("/etc/passwd"));
        assert_eq!(below(&root(Path::new("/")), b"x").path.0, b"/x");
        assert_eq!(below(&root(Path::new("/a")), b"x").path.0, b"/a/x");
    }
}
