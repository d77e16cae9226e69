//! A root file system together with what is mounted over parts of it, as its container would see it.

use super::mount::{MountedRootfs, Own, STAGING, Stack, in_layers_dir, in_own_namespace};
use crate::{Error, Result, tree};
use rustix::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Something that is mounted over a part of a root file system.
#[derive(Debug)]
pub struct Over {
    tree: OwnedFd,
    /// The part of the tree that is mounted: looked up in the tree, which no link in it leads out of. Empty: all of it.
    pub subpath: PathBuf,
    /// Where: looked up in the root file system, and made where it is missing.
    pub target: PathBuf,
    /// Nobody writes to it there.
    pub read_only: bool,
}

impl Over {
    /// The file or the directory of the host at `source`, with all that is mounted below it unless `alone` is set, for
    /// `target` in the root file system.
    pub fn of_host(source: &Path, alone: bool, target: PathBuf) -> Result<Self> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if !alone {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = rustix::mount::open_tree(CWD, source, flags);
        let tree = tree.map_err(|e| Error::io(format!("opening {} to mount it", source.display()), e))?;
        Ok(Self { tree, subpath: PathBuf::new(), target, read_only: false })
    }

    /// What is mounted already, for `target` in another root file system.
    pub fn of_mounted(mounted: MountedRootfs, target: PathBuf) -> Self {
        Self { tree: mounted.into_root(), subpath: PathBuf::new(), target, read_only: true }
    }
}

/// What becomes of what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    /// It goes into the container's own directory.
    Kept,
    /// None is possible, but to what is mounted over it.
    Refused,
    /// It goes into memory, and with the mount: mount points need a place, and the container is not to be changed.
    Dropped,
}

/// Mounts a root file system, and all of `over` in it.
pub(super) fn compose(root: &Path, stack: &Stack<'_>, over: Vec<Over>, writes: Writes) -> Result<MountedRootfs> {
    // Mounts can't be put into a tree that is not in the caller's namespace (before Linux 6.15): it is made in one of
    // its own, which ends with the thread, and taken out of that.
    in_layers_dir(root, move || {
        in_own_namespace().map_err(|e| Error::io("making a mount namespace", e))?;
        let mut over = over.into_iter().map(cut).collect::<Result<Vec<Over>>>()?;
        mount_root(stack, writes).map_err(|e| Error::io("mounting an overlay", e))?;
        let root = open_staging().map_err(|e| Error::io("opening an overlay", e))?;
        // Those nearer the root first: one inside another is mounted over it.
        over.sort_by_key(|over| over.target.components().count());
        for one in over {
            let target = one.target.clone();
            put(&root, one).map_err(|e| Error::io(format!("mounting {}", target.display()), e))?;
        }
        if writes == Writes::Refused {
            seal(&root).map_err(|e| Error::io("making an overlay read-only", e))?;
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        rustix::mount::open_tree(CWD, STAGING, flags).map_err(|e| Error::io("taking a mount", e))
    })
}

fn mount_root(stack: &Stack<'_>, writes: Writes) -> Result<(), Errno> {
    match (writes, stack.own) {
        (Writes::Dropped, Own::Below(own)) => {
            let [upper, work] = scratch(own)?;
            stack.names()?.with_upper([&upper, &work])?.mount_at(STAGING)
        }
        _ => stack.names()?.mount_at(STAGING),
    }
}

/// Directories in memory, of which the first looks like `own`.
fn scratch(own: &Path) -> Result<[PathBuf; 2], Errno> {
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", STAGING, "tmpfs", flags, c"mode=700")?;
    let [upper, work] = ["upper", "work"].map(|name| Path::new(STAGING).join(name));
    for directory in [&upper, &work] {
        rustix::fs::mkdir(directory, Mode::RWXU)?;
    }
    let like = rustix::fs::stat(own)?;
    rustix::fs::chown(&upper, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))?;
    rustix::fs::chmod(&upper, Mode::from_raw_mode(like.st_mode & 0o7777))?;
    Ok([upper, work])
}

/// What is mounted is only a part of its tree: from here on that is all.
fn cut(mut over: Over) -> Result<Over> {
    if over.subpath.as_os_str().is_empty() {
        return Ok(over);
    }
    let failed = |errno| Error::io(format!("opening {} to mount it", over.subpath.display()), errno);
    over.tree = part(&over.tree, &over.subpath).map_err(failed)?;
    Ok(over)
}

fn part(tree: &OwnedFd, subpath: &Path) -> Result<OwnedFd, Errno> {
    rustix::mount::move_mount(tree, "", CWD, STAGING, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let root = open_staging()?;
    let found = tree::open(root.as_fd(), subpath.as_os_str().as_bytes(), OFlags::PATH)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let part = rustix::mount::open_tree(&found, "", flags)?;
    rustix::mount::unmount(STAGING, UnmountFlags::DETACH)?;
    Ok(part)
}

fn put(root: &OwnedFd, over: Over) -> Result<(), Errno> {
    let what = rustix::fs::fstat(&over.tree)?;
    let place = mount_point(root, &over.target, &what)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&over.tree, "", &place, "", flags)?;
    if over.read_only {
        seal(&tree::open(root.as_fd(), over.target.as_os_str().as_bytes(), OFlags::PATH)?)?;
    }
    Ok(())
}

/// What `what` is mounted on; an empty file or directory is made where there is nothing.
fn mount_point(root: &OwnedFd, target: &Path, what: &Stat) -> Result<OwnedFd, Errno> {
    let find = || tree::open(root.as_fd(), target.as_os_str().as_bytes(), OFlags::PATH);
    match find() {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let names = tree::components(target.as_os_str().as_bytes()).map_err(|tree::Escape| Errno::INVAL)?;
    let path = names.join(&b'/');
    let (parent, name) = tree::split(&path);
    let parent = tree::Tree::new(root.as_fd()).directory(parent, true)?;
    let made = match FileType::from_raw_mode(what.st_mode) {
        FileType::Directory => rustix::fs::mkdirat(&*parent, name, Mode::from_raw_mode(0o755)),
        _ => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&*parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => find(),
        Err(other) => Err(other),
    }
}

/// Makes the mount whose root this is read-only.
fn seal(root: &OwnedFd) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", root.as_raw_fd());
    rustix::mount::mount_remount(&*path, MountFlags::BIND | MountFlags::RDONLY, "")
}

fn open_staging() -> Result<OwnedFd, Errno> {
    rustix::fs::open(STAGING, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
