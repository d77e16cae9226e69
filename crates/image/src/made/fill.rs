//! What is copied into a layer: it comes to lie as if it had been copied into a root file system that has the layers below.
//!
//! Directories on the way look as they do below, as overlayfs would make them; nothing else of what is below is touched or
//! copied. Names are looked up in the new layer's directory, which no link in it leads out of.

use super::filled::{Filled, Made, Verdict, What};
use super::{Content, NewLayer, only_changed};
use crate::tar::Attributes;
use crate::tree;
use crate::{Digest, Error, MountedRootfs, PathReason, Result, archive, pack, unpack};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whose something is, who may do what with it, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Owner and group.
    pub owner: (u32, u32),
    /// Twelve bits of permissions.
    pub mode: u32,
    /// Seconds since 1970, and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes that belong to the contents.
    pub attributes: Attributes,
}

impl Look {
    /// A directory that nobody said anything about: `rwxr-xr-x`.
    pub fn of_directory(owner: (u32, u32), mtime: i64) -> Look {
        Look { owner, mode: 0o755, mtime: (mtime, 0), attributes: Attributes::new() }
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// What a file holds, in a directory of a file system; it never changes any more. It becomes a copy, which shares its blocks
    /// where the file system can, and never a further name of the file: overlayfs shows a step how many names a file has, so
    /// what the step makes would depend on who else has it.
    Of {
        /// The directory.
        parent: BorrowedFd<'a>,
        /// The file's name there.
        name: &'a [u8],
        /// The digest of what it holds and how many bytes that is, where somebody looked.
        known: Option<(Digest, u64)>,
    },
}

/// What becomes of a directory that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It looks as it did.
    Keep,
    /// It looks as the new one.
    Change,
}

/// Where a directory's look is taken from that nobody has said yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// From what the layer lies upon, else from what is below it.
    All,
    /// From what is below the layer alone.
    Below,
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// A layer that is being filled.
pub struct Filling {
    layer: NewLayer,
    root: OwnedFd,
    /// The directory that it lies upon.
    under: Option<OwnedFd>,
    below: Option<Arc<MountedRootfs>>,
    /// Times of directories, set at the end: what is put into a directory changes its time.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
}

impl NewLayer {
    /// Begins to fill it. `below` shows the layers that it will lie on; `None`: none, or it does not depend on them.
    ///
    /// # Errors
    /// Where its directory can't be opened.
    pub fn fill(mut self, below: Option<Arc<MountedRootfs>>) -> Result<Filling> {
        let root = pack::open(&self.directory())?;
        if let Content::Whole = self.content {
            self.content = Content::Filled(Filled::default());
        }
        let under = self.under().map(|under| pack::open(&under)).transpose()?;
        let filling = Filling { layer: self, root, under, below, times: BTreeMap::new() };
        // overlayfs shows the root directory of the uppermost layer.
        if let Some(look) = filling.look_below(b"", Seen::All)? {
            dress(&filling.root, &look).map_err(|errno| failed(b"", errno))?;
        }
        Ok(filling)
    }
}

impl Filling {
    /// Whether that is what the layer is to be: `false` where it was to be [like another](Images::begin_layer_like), and is not.
    pub fn fits(&self) -> bool {
        match &self.layer.content {
            Content::Upon(upon) => upon.former.fits(),
            Content::Whole | Content::Filled(_) => true,
        }
    }

    /// Takes note of what comes next.
    fn note(&mut self, path: &[u8], what: What, look: &Look) -> Verdict {
        let made = Made { what, look: look.clone() };
        match &mut self.layer.content {
            Content::Whole => {}
            Content::Filled(filled) => filled.note(path, made),
            Content::Upon(upon) => {
                let verdict = upon.former.note(path, &made);
                let there = |under: &OwnedFd| look_at(under.as_fd(), path).ok().flatten();
                let hides = || self.under.as_ref().and_then(there).is_some_and(|stat| is_directory(&stat));
                // It would hide what a directory of the former has.
                if verdict == Verdict::Make && made.what != What::Directory && hides() {
                    return upon.former.give_up();
                }
                return verdict;
            }
        }
        Verdict::Make
    }

    /// Whether a directory that is to look otherwise was made already as the former layer's is, attributes included: nobody would take
    /// those out again, so this layer then can't lie upon that.
    fn is_like_the_former(&mut self, path: &[u8]) -> bool {
        let Content::Upon(upon) = &mut self.layer.content else { return false };
        let there = look_at(self.root.as_fd(), path).is_ok_and(|there| there.is_some());
        let gives_up = there && !path.is_empty();
        if gives_up {
            upon.former.give_up();
        }
        gives_up
    }

    /// What comes next is of a kind that nobody takes note of.
    fn note_nothing(&mut self) -> Verdict {
        match &mut self.layer.content {
            Content::Upon(upon) => return upon.former.give_up(),
            content => *content = Content::Whole,
        }
        Verdict::Make
    }

    /// Where a path leads when all links in what is below are followed, whether there is anything or not.
    ///
    /// # Errors
    /// [`PathReason::SymlinkLoop`].
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        match &self.below {
            Some(below) => archive::target(below.as_fd(), path),
            None => {
                let names = tree::components(path.as_os_str().as_bytes()).map_err(|tree::Escape| outside(path))?;
                Ok(Path::new("/").join(OsStr::from_bytes(&names.join(&b'/'))))
            }
        }
    }

    /// What is at a path, in the layer or below it.
    ///
    /// # Errors
    /// Where it can't be looked up.
    pub fn found(&self, path: &Path) -> Result<Option<FileType>> {
        let path = clean(path)?;
        let found = self.stat(&path).map_err(|errno| failed(&path, errno))?;
        Ok(found.map(|stat| FileType::from_raw_mode(stat.st_mode)))
    }

    /// Makes a directory, and those above it that are missing, which look as `above`.
    ///
    /// # Errors
    /// [`PathReason::FileInTheWay`] where something else is there.
    pub fn directory(&mut self, path: &Path, look: &Look, existing: Existing, above: &Look) -> Result<()> {
        let path = clean(path)?;
        let was = self.stat(&path).map_err(|errno| failed(&path, errno))?;
        match was.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Some(FileType::Directory) if existing == Existing::Keep => Ok(()),
            None if existing == Existing::Keep && self.came(&path) => Ok(()),
            None | Some(FileType::Directory) => {
                if self.note(&path, What::Directory, look) == Verdict::Skip || self.is_like_the_former(&path) {
                    return Ok(());
                }
                let fd = self.make_directory(&path, above, Seen::Below)?;
                self.times.insert(path.clone(), look.mtime);
                dress(&fd, look).map_err(|errno| failed(&path, errno))
            }
            Some(_) => Err(in_the_way(&path, PathReason::FileInTheWay)),
        }
    }

    /// Makes a file, in place of what is there.
    ///
    /// # Errors
    /// [`PathReason::DirectoryInTheWay`] where a directory is there.
    pub fn file(&mut self, path: &Path, contents: Contents<'_>, look: &Look, above: &Look) -> Result<()> {
        let path = clean(path)?;
        if self.note_file(&path, contents, look) == Verdict::Skip {
            return Ok(());
        }
        let (parent, name) = self.room(&path, above)?;
        let fail = |errno| failed(&path, errno);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(fail)?);
        write(&file, contents).map_err(|error| Error::io(format!("writing {}", for_people(&path)), error))?;
        dress(&OwnedFd::from(file), look).map_err(fail)
    }

    /// Gives a file of the layer a further name, in place of what is there; `false` where there is no such file.
    ///
    /// # Errors
    /// [`PathReason::DirectoryInTheWay`] where a directory is there.
    pub fn hard_link(&mut self, path: &Path, file: &Path, above: &Look) -> Result<bool> {
        let (path, file) = (clean(path)?, clean(file)?);
        if self.note_nothing() == Verdict::Skip {
            return Ok(true);
        }
        let (of, source) = tree::split(&file);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Ok(of) = tree::open(self.root.as_fd(), of, flags) else { return Ok(false) };
        let (parent, name) = self.room(&path, above)?;
        match rustix::fs::linkat(&of, source, &parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::MLINK) => Ok(false),
            Err(other) => Err(failed(&path, other)),
        }
    }

    /// Makes a symbolic link, in place of what is there.
    ///
    /// # Errors
    /// [`PathReason::DirectoryInTheWay`] where a directory is there.
    pub fn symlink(&mut self, path: &Path, target: &[u8], look: &Look, above: &Look) -> Result<()> {
        let path = clean(path)?;
        if self.note(&path, What::Symlink(target.to_vec()), look) == Verdict::Skip {
            return Ok(());
        }
        let (parent, name) = self.room(&path, above)?;
        let make = || {
            rustix::fs::symlinkat(target, &parent, name)?;
            dress_node(&parent, name, look)
        };
        make().map_err(|errno| failed(&path, errno))
    }

    /// Makes a device or a pipe, in place of what is there.
    ///
    /// # Errors
    /// [`PathReason::DirectoryInTheWay`] where a directory is there.
    pub fn node(&mut self, path: &Path, kind: FileType, device: u64, look: &Look, above: &Look) -> Result<()> {
        let path = clean(path)?;
        if self.note(&path, What::Node { kind: kind.as_raw_mode(), device }, look) == Verdict::Skip {
            return Ok(());
        }
        let (parent, name) = self.room(&path, above)?;
        let make = || {
            rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(look.mode & 0o1777), device)?;
            rustix::fs::chmodat(&parent, name, Mode::from_raw_mode(look.mode), AtFlags::empty())?;
            dress_node(&parent, name, look)
        };
        make().map_err(|errno| failed(&path, errno))
    }

    /// Unpacks an archive into a directory, which is made where it is missing, and gives its owner to everything where there
    /// is one. Links of what is below are followed above an entry's name, and directories that the archive does not have look as there.
    ///
    /// # Errors
    /// What an archive is refused for, as that of a layer is.
    pub fn archive(
        &mut self,
        path: &Path,
        archive: impl std::io::Read + Send,
        owner: Option<(u32, u32)>,
        above: &Look,
    ) -> Result<()> {
        if self.note_nothing() == Verdict::Skip {
            return Ok(());
        }
        self.directory(path, above, Existing::Keep, above)?;
        let path = clean(path)?;
        self.make_directory(&path, above, Seen::All)?;
        let limits = self.layer.limits();
        let options = unpack::Options {
            whiteouts: unpack::Whiteouts::Verbatim,
            limits,
            base: &path,
            below: self.below.as_ref().map(rustix::fd::AsFd::as_fd),
            owner,
            ids: None,
            keep_kinds: false,
            keep_top: true,
            packed: None,
        };
        let archive = archive::decompressed(archive, "an archive")?;
        let archive = std::io::BufReader::with_capacity(crate::pipeline::BUFFER, archive);
        unpack::unpack(self.root.as_fd(), archive, &options).map(drop)
    }

    /// Sets what could not be set before everything was there, and gives the layer.
    ///
    /// # Errors
    /// Where a directory can't be changed.
    pub fn finish(mut self) -> Result<NewLayer> {
        for (path, (seconds, nanoseconds)) in self.times.iter().rev() {
            let set = || {
                let directory = tree::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                rustix::fs::futimens(&directory, &only_changed(time((*seconds, *nanoseconds))))
            };
            set().map_err(|errno| failed(path, errno))?;
        }
        if matches!(&self.layer.content, Content::Filled(filled) if !filled.is_large()) {
            self.layer.content = Content::Whole;
        }
        Ok(self.layer)
    }

    /// Takes note of a file.
    fn note_file(&mut self, path: &[u8], contents: Contents<'_>, look: &Look) -> Verdict {
        let (digest, size) = match contents {
            Contents::Bytes(bytes) => (Digest::of(bytes), bytes.len() as u64),
            Contents::Of { known: None, .. } => return self.note_nothing(),
            Contents::Of { known: Some(known), .. } => known,
        };
        self.note(path, What::File { digest: *digest.as_bytes(), size }, look)
    }

    /// Whether something was found to be there in what the layer lies upon.
    fn came(&self, path: &[u8]) -> bool {
        match &self.layer.content {
            Content::Upon(upon) => upon.former.is_given_up() || upon.former.has(path),
            Content::Whole | Content::Filled(_) => false,
        }
    }

    /// What is at a path, by its very name: no link is followed.
    fn stat(&self, path: &[u8]) -> Result<Option<Stat>, Errno> {
        match look_at(self.root.as_fd(), path)? {
            Some(stat) => Ok(Some(stat)),
            None => self.below.as_ref().map_or(Ok(None), |below| look_at(below.as_fd(), path)),
        }
    }

    /// The directory in the layer; those that are below look as there, and others as `above`.
    fn make_directory(&mut self, path: &[u8], above: &Look, seen: Seen) -> Result<OwnedFd> {
        if path.is_empty() {
            return self.root.try_clone().map_err(|e| Error::io("opening a layer", e));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match tree::open(self.root.as_fd(), path, flags) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => return Err(in_the_way(path, PathReason::FileInTheWay)),
            found => return found.map_err(|errno| failed(path, errno)),
        }
        let (parent, name) = tree::split(path);
        let parent = self.make_directory(parent, above, Seen::All)?;
        let look = self.look_below(path, seen)?.unwrap_or_else(|| above.clone());
        let make = || {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))?;
            let fd = tree::open(self.root.as_fd(), path, flags)?;
            dress(&fd, &look).map(|()| fd)
        };
        let fd = make().map_err(|errno| failed(path, errno))?;
        self.times.insert(path.to_vec(), look.mtime);
        Ok(fd)
    }

    /// What a directory looks like in what the layer lies upon, or below it.
    fn look_below(&self, path: &[u8], seen: Seen) -> Result<Option<Look>> {
        let fail = |errno| failed(path, errno);
        let under = self.under.iter().filter(|_| seen == Seen::All).map(|under| under.as_fd());
        for root in under.chain(self.below.iter().map(|below| below.as_fd())) {
            let Some(stat) = look_at(root, path).map_err(fail)? else { continue };
            if !is_directory(&stat) {
                return Err(in_the_way(path, PathReason::FileInTheWay));
            }
            let opened = tree::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY);
            let attributes = opened.and_then(|directory| archive::attributes(&directory)).map_err(fail)?;
            return Ok(Some(Look {
                owner: (stat.st_uid, stat.st_gid),
                mode: stat.st_mode & 0o7777,
                mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
                attributes,
            }));
        }
        Ok(None)
    }

    /// The directory and the name of something that is about to be made; nothing is there in the layer.
    fn room<'p>(&mut self, path: &'p [u8], above: &Look) -> Result<(OwnedFd, &'p [u8])> {
        let found = self.stat(path).map_err(|errno| failed(path, errno))?;
        let in_the_way = || in_the_way(path, PathReason::DirectoryInTheWay);
        if path.is_empty() || found.is_some_and(|stat| is_directory(&stat)) {
            return Err(in_the_way());
        }
        let (parent, name) = tree::split(path);
        let parent = self.make_directory(parent, above, Seen::All)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok((parent, name)),
            Err(Errno::ISDIR) => Err(in_the_way()),
            Err(other) => Err(failed(path, other)),
        }
    }
}

fn write(mut file: &File, contents: Contents<'_>) -> std::io::Result<()> {
    use std::io::Write as _;
    match contents {
        Contents::Bytes(bytes) => file.write_all(bytes),
        Contents::Of { parent, name, .. } => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
            // By copy_file_range(2): blocks are shared where they can be.
            std::io::copy(&mut &source, &mut file).map(drop)
        }
    }
}

/// Owner first: a change of owner takes set-uid and capabilities away.
fn dress(fd: &OwnedFd, look: &Look) -> Result<(), Errno> {
    rustix::fs::fchown(fd, Some(Uid::from_raw(look.owner.0)), Some(Gid::from_raw(look.owner.1)))?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(look.mode))?;
    for (name, value) in &look.attributes {
        unpack::set_attribute(fd, name, value)?;
    }
    rustix::fs::futimens(fd, &only_changed(time(look.mtime)))
}

fn dress_node(parent: &OwnedFd, name: &[u8], look: &Look) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(look.owner.0), Gid::from_raw(look.owner.1));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::utimensat(parent, name, &only_changed(time(look.mtime)), AtFlags::SYMLINK_NOFOLLOW)
}

fn time((seconds, nanoseconds): (i64, u32)) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) as _ }
}

/// What is at a path below a root, with no link followed.
fn look_at(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<Stat>, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => rustix::fs::fstat(&fd).map(Some),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(other) => Err(other),
    }
}

fn clean(path: &Path) -> Result<Vec<u8>> {
    let names = tree::components(path.as_os_str().as_bytes()).map_err(|tree::Escape| outside(path))?;
    Ok(names.join(&b'/'))
}

fn outside(path: &Path) -> Error {
    Error::Path { path: path.to_owned(), reason: PathReason::NotFound }
}

fn in_the_way(path: &[u8], reason: PathReason) -> Error {
    Error::Path { path: for_people_path(path), reason }
}

fn for_people_path(path: &[u8]) -> PathBuf {
    Path::new("/").join(OsStr::from_bytes(path))
}

fn for_people(path: &[u8]) -> String {
    for_people_path(path).display().to_string()
}

fn failed(path: &[u8], errno: Errno) -> Error {
    Error::io(format!("making {}", for_people(path)), errno)
}
