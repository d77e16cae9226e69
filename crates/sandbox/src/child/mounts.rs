//! Mounts inside the root, before it becomes the root.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::place::{Content, Place, Places};
use super::target::{self, Make};
use super::{Halt, Note, Outcome, copy_up, rootfs};
use crate::plan::{MountKind, MountPlan, Text};
use crate::sync::Step;
use crate::sys::{self, MountAttr};

/// Clones the tree at a path or at an open place.
pub(crate) fn clone_tree(at: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    open_tree(at, path, flags)
}

/// Clones what `subpath` leads to in the tree at a path, and never out of it; all of it where that is empty.
pub(crate) fn clone_beneath(at: BorrowedFd<'_>, path: &CStr, subpath: &CStr, recursive: bool) -> Result<OwnedFd> {
    if subpath.is_empty() {
        return clone_tree(at, path, recursive);
    }
    let root = rustix::fs::openat(at, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    clone_tree(target::open(root.as_fd(), subpath)?.as_fd(), c"", recursive)
}

/// Puts a detached tree onto an open place.
pub(super) fn attach(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", place, c"", flags)
}

/// Makes a new file system, not attached anywhere. On refusal the kernel's own words are in the note.
pub(super) fn new_filesystem(
    fstype: &CStr,
    source: Option<&CStr>,
    parameters: &[(Text<'_>, Option<Text<'_>>)],
    mode: Option<u32>,
    attributes: u64,
) -> std::result::Result<OwnedFd, (Errno, Note)> {
    let fs = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| (errno, Note::default()))?;
    let configure = || -> Result<OwnedFd> {
        if let Some(source) = source {
            fsconfig_set_string(fs.as_fd(), c"source", source)?;
        }
        for (key, value) in parameters {
            match value {
                Some(value) => fsconfig_set_string(fs.as_fd(), key.as_c_str(), value.as_c_str())?,
                // A mode without a value is that of the directory beneath.
                None if key.as_c_str() == c"mode" => {
                    if let Some(mode) = mode {
                        fsconfig_set_string(fs.as_fd(), c"mode", octal(mode, &mut [0; 8])?)?;
                    }
                }
                None => fsconfig_set_flag(fs.as_fd(), key.as_c_str())?,
            }
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
    };
    configure().map_err(|errno| (errno, Note::of_filesystem(fs.as_fd())))
}

fn octal(mode: u32, buffer: &mut [u8; 8]) -> Result<&CStr> {
    for (at, digit) in buffer.iter_mut().take(4).enumerate() {
        *digit = b'0' + (mode >> (9 - 3 * at) & 7) as u8;
    }
    buffer[4] = 0;
    CStr::from_bytes_until_nul(buffer).map_err(|_| Errno::INVAL)
}

/// Makes one of the spec's mounts. `tree` is what the parent has prepared for it, if anything; `scratch` a directory of
/// the host's on which something may be mounted for a moment.
pub(super) fn mount<'p>(
    plan: &'p MountPlan<'p>,
    places: &mut Places<'_, 'p>,
    tree: Option<&OwnedFd>,
    scratch: &CStr,
) -> Outcome<'p, ()> {
    let halt = |errno| Halt::new(Step::Mount, errno, plan.label.to_bytes());
    let no_place = |errno| Halt::new(Step::MountPoint, errno, plan.target.to_bytes());
    match &plan.kind {
        MountKind::Symlink { to } => {
            let made = match places.in_own(&plan.target) {
                Some((directory, name)) => rustix::fs::symlinkat(to.as_c_str(), directory, name),
                None => {
                    let (parent, name) = target::parent(places.root(), &plan.target).map_err(no_place)?;
                    rustix::fs::symlinkat(to.as_c_str(), parent, name)
                }
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Halt::new(Step::Symlink, errno, plan.target.to_bytes())),
            }
        }
        MountKind::Remount => {
            if let Some(tree) = places.own_at(&plan.target) {
                return set_attributes(plan, tree).map_err(halt);
            }
            let place = target::open(places.root(), &plan.target).map_err(no_place)?;
            set_attributes(plan, place.as_fd()).map_err(halt)?;
        }
        MountKind::Bind { source, subpath, recursive } => {
            let own;
            let tree = match tree {
                Some(tree) => tree,
                None => {
                    own = clone_beneath(rustix::fs::CWD, source, subpath, *recursive).map_err(halt)?;
                    &own
                }
            };
            foreign(plan, places, tree.as_fd())?;
        }
        // The parent has looked for it.
        MountKind::Given { .. } => foreign(plan, places, tree.ok_or_else(|| halt(Errno::BADF))?.as_fd())?,
        MountKind::Overlay { overlay, subpath } => {
            let own;
            let tree = match tree {
                Some(tree) => tree,
                None => {
                    own = rootfs::overlay_beneath(overlay, scratch, subpath)
                        .map_err(|(errno, note)| Halt { note, ..halt(errno) })?;
                    &own
                }
            };
            foreign(plan, places, tree.as_fd())?;
        }
        MountKind::New { fstype, source, parameters } => new(plan, places, fstype, source, parameters)?,
        MountKind::Classic { fstype, source, data } => {
            let place = place(plan, places, || Ok(Make::Directory)).map_err(no_place)?;
            let place = place.into_fd().map_err(no_place)?;
            let mut buffer = [0; 32];
            let path = super::fd_path(place.as_fd(), &mut buffer);
            rustix::mount::mount(
                source.as_c_str(),
                path,
                fstype.as_c_str(),
                rustix::mount::MountFlags::empty(),
                data.as_c_str(),
            )
            .map_err(halt)?;
            // Whether a link led there is not asked again.
            places.mounted(&plan.target, false, Content::Foreign);
            let mounted = target::open(places.root(), &plan.target).map_err(no_place)?;
            set_attributes(plan, mounted.as_fd()).map_err(halt)?;
            set_propagation(plan, mounted.as_fd()).map_err(halt)?;
        }
    }
    Ok(())
}

/// Mounts a tree that comes from elsewhere.
fn foreign<'p>(plan: &'p MountPlan<'p>, places: &mut Places<'_, 'p>, tree: BorrowedFd<'_>) -> Outcome<'p, ()> {
    let halt = |errno| Halt::new(Step::Mount, errno, plan.label.to_bytes());
    let kind = || match FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode) {
        FileType::Directory => Ok(Make::Directory),
        _ => Ok(Make::File),
    };
    let no_place = |errno| Halt::new(Step::MountPoint, errno, plan.target.to_bytes());
    let place = place(plan, places, kind).map_err(no_place)?;
    set_attributes(plan, tree).map_err(halt)?;
    place.attach(tree).map_err(halt)?;
    let literal = place.is_literal();
    places.mounted(&plan.target, literal, Content::Foreign);
    set_propagation(plan, tree).map_err(halt)
}

/// Mounts a new file system.
fn new<'p>(
    plan: &'p MountPlan<'p>,
    places: &mut Places<'_, 'p>,
    fstype: &CStr,
    source: &CStr,
    parameters: &'p [(Text<'p>, Option<Text<'p>>)],
) -> Outcome<'p, ()> {
    let halt = |errno| Halt::new(Step::Mount, errno, plan.label.to_bytes());
    let no_place = |errno| Halt::new(Step::MountPoint, errno, plan.target.to_bytes());
    // Some are like the directory that they cover.
    let like = plan.copy_up || parameters.iter().any(|(key, value)| key.as_c_str() == c"mode" && value.is_none());
    let existing = if like { target::open(places.root(), &plan.target).and_then(rustix::fs::fstat).ok() } else { None };
    let late = if plan.copy_up { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let mode = existing.map(|status| status.st_mode & 0o7777);
    let place = match fstype.to_bytes() {
        // A link here would let an image choose where the kernel's own files appear.
        b"proc" | b"sysfs" => places.make_without_links(&plan.target),
        _ => place(plan, places, || Ok(Make::Directory)),
    }
    .map_err(no_place)?;
    let tree = new_filesystem(fstype, Some(source), parameters, mode, plan.set & !late)
        .map_err(|(errno, note)| Halt { note, ..halt(errno) })?;
    let literal = place.is_literal();
    if plan.copy_up && existing.is_some() {
        let place = place.into_fd().map_err(no_place)?;
        copy_up::copy(place.as_fd(), tree.as_fd())
            .map_err(|errno| Halt::new(Step::CopyUp, errno, plan.target.to_bytes()))?;
        attach(tree.as_fd(), place.as_fd()).map_err(halt)?;
    } else {
        place.attach(tree.as_fd()).map_err(halt)?;
    }
    if late != 0 || plan.recursive_set | plan.recursive_clear != 0 {
        set_attributes(plan, tree.as_fd()).map_err(halt)?;
    }
    set_propagation(plan, tree.as_fd()).map_err(halt)?;
    let content = match fstype.to_bytes() {
        b"tmpfs" if !plan.copy_up => Content::Own { tree, proc: false },
        b"sysfs" => Content::Own { tree, proc: false },
        b"proc" => Content::Own { tree, proc: true },
        _ => Content::Foreign,
    };
    places.mounted(&plan.target, literal, content);
    Ok(())
}

/// The place to mount on. Where the path leads into /proc by a link although the plan does not say so, an image tries
/// to have the kernel's files covered.
fn place<'a, 'p: 'a>(
    plan: &'p MountPlan<'p>,
    places: &'a Places<'_, 'p>,
    kind: impl Fn() -> Result<Make>,
) -> Result<Place<'a>> {
    let place = places.make(&plan.target, kind)?;
    if place.is_in_proc() && !plan.in_proc { Err(Errno::PERM) } else { Ok(place) }
}

/// `relatime` and the like come as a clear of the whole access-time mode.
pub(crate) fn set_attributes(plan: &MountPlan<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    if plan.set | plan.clear != 0 {
        sys::mount_setattr(tree, false, &MountAttr { set: plan.set, clear: plan.clear, ..MountAttr::default() })?;
    }
    if plan.recursive_set | plan.recursive_clear != 0 {
        let attr = MountAttr { set: plan.recursive_set, clear: plan.recursive_clear, ..MountAttr::default() };
        sys::mount_setattr(tree, true, &attr)?;
    }
    Ok(())
}

fn set_propagation(plan: &MountPlan<'_>, tree: BorrowedFd<'_>) -> Result<()> {
    plan.propagation.iter().try_for_each(|flags| propagate(tree, *flags))
}

/// Applies `MS_SHARED` and the like, with or without `MS_REC`.
pub(crate) fn propagate(tree: BorrowedFd<'_>, flags: u64) -> Result<()> {
    let attr = MountAttr { propagation: flags & !libc::MS_REC, ..MountAttr::default() };
    sys::mount_setattr(tree, flags & libc::MS_REC != 0, &attr)
}
