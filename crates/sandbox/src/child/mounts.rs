//! Mounts, devices, links, and what is hidden: everything inside the root before it becomes the root.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::target::{self, Make};
use super::{Context, Halt, Note, Outcome, copy_up};
use crate::plan::{DevicePlan, MountKind, MountPlan};
use crate::sync::Step;
use crate::sys::{self, MountAttr};

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Clones the tree at a path or at an open place.
pub(crate) fn clone_tree(at: BorrowedFd<'_>, path: &CStr, recursive: bool) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
    open_tree(at, path, flags)
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
    parameters: &[(std::ffi::CString, Option<std::ffi::CString>)],
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

/// Makes one of the spec's mounts. `tree` is what the parent has prepared for it, if anything.
pub(super) fn mount<'p>(plan: &'p MountPlan, root: BorrowedFd<'_>, tree: Option<&OwnedFd>) -> Outcome<'p, ()> {
    let halt = |errno| Halt::new(Step::Mount, errno, plan.label.to_bytes());
    let no_place = |errno| Halt::new(Step::MountPoint, errno, plan.target.to_bytes());
    match &plan.kind {
        MountKind::Symlink { to } => {
            let (parent, name) = target::parent(root, &plan.target).map_err(no_place)?;
            return match rustix::fs::symlinkat(to.as_c_str(), parent, name) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(errno) => Err(Halt::new(Step::Symlink, errno, plan.target.to_bytes())),
            };
        }
        MountKind::Remount => {
            let place = target::open(root, &plan.target).map_err(no_place)?;
            return set_attributes(plan, place.as_fd()).map_err(halt);
        }
        MountKind::Bind { source, recursive } => {
            let own;
            let tree = match tree {
                Some(tree) => tree.as_fd(),
                None => {
                    own = clone_tree(rustix::fs::CWD, source, *recursive).map_err(halt)?;
                    own.as_fd()
                }
            };
            let kind = match FileType::from_raw_mode(rustix::fs::fstat(tree).map_err(halt)?.st_mode) {
                FileType::Directory => Make::Directory,
                _ => Make::File,
            };
            let place = place(plan, root, kind).map_err(no_place)?;
            set_attributes(plan, tree).map_err(halt)?;
            attach(tree, place.as_fd()).map_err(halt)?;
            set_propagation(plan, tree).map_err(halt)?;
        }
        MountKind::New { fstype, source, parameters } => {
            let existing = target::open(root, &plan.target).and_then(rustix::fs::fstat).ok();
            let place = match fstype.to_bytes() {
                // A link here would let an image choose where the kernel's own files appear.
                b"proc" | b"sysfs" => target::make(root, &plan.target, Make::Directory)
                    .and_then(|_| target::open_without_links(root, &plan.target, rustix::fs::OFlags::PATH)),
                _ => place(plan, root, Make::Directory),
            }
            .map_err(no_place)?;
            let late = if plan.copy_up { libc::MOUNT_ATTR_RDONLY } else { 0 };
            let mode = existing.map(|status| status.st_mode & 0o7777);
            let tree = new_filesystem(fstype, Some(source), parameters, mode, plan.set & !late)
                .map_err(|(errno, note)| Halt { note, ..halt(errno) })?;
            if plan.copy_up && existing.is_some() {
                copy_up::copy(place.as_fd(), tree.as_fd())
                    .map_err(|errno| Halt::new(Step::CopyUp, errno, plan.target.to_bytes()))?;
            }
            attach(tree.as_fd(), place.as_fd()).map_err(halt)?;
            if late != 0 || plan.recursive_set | plan.recursive_clear != 0 {
                set_attributes(plan, tree.as_fd()).map_err(halt)?;
            }
            set_propagation(plan, tree.as_fd()).map_err(halt)?;
        }
        MountKind::Classic { fstype, source, data } => {
            let place = place(plan, root, Make::Directory).map_err(no_place)?;
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
            let mounted = target::open(root, &plan.target).map_err(no_place)?;
            set_attributes(plan, mounted.as_fd()).map_err(halt)?;
            set_propagation(plan, mounted.as_fd()).map_err(halt)?;
        }
    }
    Ok(())
}

/// The place to mount on. Where the path leads into /proc by a link although the plan does not say so, an image tries
/// to have the kernel's files covered.
fn place(plan: &MountPlan, root: BorrowedFd<'_>, kind: Make) -> Result<OwnedFd> {
    let place = target::make(root, &plan.target, kind)?;
    if !plan.in_proc && rustix::fs::fstatfs(&place)?.f_type as u64 == PROC_SUPER_MAGIC {
        return Err(Errno::PERM);
    }
    Ok(place)
}

/// `relatime` and the like come as a clear of the whole access-time mode.
pub(super) fn set_attributes(plan: &MountPlan, tree: BorrowedFd<'_>) -> Result<()> {
    if plan.set | plan.clear != 0 {
        sys::mount_setattr(tree, false, &MountAttr { set: plan.set, clear: plan.clear, ..MountAttr::default() })?;
    }
    if plan.recursive_set | plan.recursive_clear != 0 {
        let attr = MountAttr { set: plan.recursive_set, clear: plan.recursive_clear, ..MountAttr::default() };
        sys::mount_setattr(tree, true, &attr)?;
    }
    Ok(())
}

fn set_propagation(plan: &MountPlan, tree: BorrowedFd<'_>) -> Result<()> {
    plan.propagation.iter().try_for_each(|flags| propagate(tree, *flags))
}

/// Applies `MS_SHARED` and the like, with or without `MS_REC`.
pub(super) fn propagate(tree: BorrowedFd<'_>, flags: u64) -> Result<()> {
    let attr = MountAttr { propagation: flags & !libc::MS_REC, ..MountAttr::default() };
    sys::mount_setattr(tree, flags & libc::MS_REC != 0, &attr)
}

/// Makes device nodes, or binds the host's.
pub(super) fn devices<'p>(context: &Context<'p>, root: BorrowedFd<'_>) -> Outcome<'p, ()> {
    // Nearly all of them lie in the same directory.
    let mut known: Option<(&[u8], OwnedFd)> = None;
    for (plan, tree) in context.init.devices.iter().zip(&context.prepared.device_trees) {
        let halt = |errno| Halt::new(Step::Device, errno, plan.path.to_bytes());
        if let Some(tree) = tree {
            let place = target::make(root, &plan.path, Make::File).map_err(halt)?;
            attach(tree.as_fd(), place.as_fd()).map_err(halt)?;
            continue;
        }
        let path = plan.path.to_bytes();
        let directory = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
        if known.as_ref().is_none_or(|(same, _)| *same != directory) {
            known = Some((directory, target::parent(root, &plan.path).map_err(halt)?.0));
        }
        if let Some((_, parent)) = &known {
            let name_at = if directory.is_empty() { 0 } else { directory.len() + 1 };
            let name = CStr::from_bytes_with_nul(&plan.path.to_bytes_with_nul()[name_at..]);
            let name = name.map_err(|_| halt(Errno::INVAL))?;
            device(plan, parent.as_fd(), name).map_err(halt)?;
        }
    }
    Ok(())
}

fn device(plan: &DevicePlan, parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let make = || {
        let kind = FileType::from_raw_mode(plan.mode);
        rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(plan.mode & 0o7777), plan.device)
    };
    match make() {
        Err(Errno::EXIST) => {
            let found = target::status(parent, name)?;
            if found.st_mode == plan.mode && found.st_rdev == plan.device {
                return own(plan, parent, name);
            }
            rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::empty())?;
            make()?;
        }
        other => other?,
    }
    own(plan, parent, name)
}

fn own(plan: &DevicePlan, parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    if plan.uid == 0 && plan.gid == 0 {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(plan.uid), rustix::fs::Gid::from_raw(plan.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
}

/// The links of /dev.
pub(super) fn symlinks<'p>(context: &Context<'p>, root: BorrowedFd<'_>) -> Outcome<'p, ()> {
    let links = &context.init.symlinks;
    let Some((first, _)) = links.first() else { return Ok(()) };
    let halt = |errno| Halt::new(Step::Symlink, errno, first.to_bytes());
    let (dev, _) = target::parent(root, first).map_err(halt)?;
    for (link, to) in links {
        let halt = |errno| Halt::new(Step::Symlink, errno, link.to_bytes());
        let name = link.to_bytes_with_nul().strip_prefix(b"dev/").unwrap_or(link.to_bytes_with_nul());
        let name = CStr::from_bytes_with_nul(name).map_err(|_| halt(Errno::INVAL))?;
        match rustix::fs::symlinkat(to.as_c_str(), &dev, name) {
            Ok(()) => {}
            Err(Errno::EXIST) if link.as_c_str() == c"dev/ptmx" => {
                // An image's own node would belong to the host's terminals.
                rustix::fs::unlinkat(&dev, name, rustix::fs::AtFlags::empty()).map_err(halt)?;
                rustix::fs::symlinkat(to.as_c_str(), &dev, name).map_err(halt)?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(halt(errno)),
        }
    }
    Ok(())
}

/// Makes the spec's `readonlyPaths` so.
pub(super) fn readonly<'p>(context: &Context<'p>, root: BorrowedFd<'_>) -> Outcome<'p, ()> {
    for path in &context.init.readonly {
        let make = || -> Result<()> {
            let place = target::open(root, relative(path))?;
            let tree = clone_tree(place.as_fd(), c"", true)?;
            sys::mount_setattr(
                tree.as_fd(),
                true,
                &MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() },
            )?;
            attach(tree.as_fd(), place.as_fd())
        };
        match make() {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Halt::new(Step::Readonly, errno, path.to_bytes())),
        }
    }
    Ok(())
}

/// Covers the spec's `maskedPaths`: a directory by an empty one, anything else by /dev/null.
pub(super) fn masked<'p>(context: &Context<'p>, root: BorrowedFd<'_>) -> Outcome<'p, ()> {
    // One of each serves all: the first is mounted, the others are clones of it.
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in &context.init.masked {
        let halt = |errno| Halt::new(Step::Mask, errno, path.to_bytes());
        let place = match target::open(root, relative(path)) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(halt(errno)),
        };
        let directory =
            FileType::from_raw_mode(rustix::fs::fstat(&place).map_err(halt)?.st_mode) == FileType::Directory;
        let mounted = if directory { &mut empty } else { &mut null };
        let tree = match (mounted.as_ref(), directory) {
            (Some(same), _) => clone_tree(same.as_fd(), c"", false).map_err(halt)?,
            (None, true) => {
                let attributes = libc::MOUNT_ATTR_RDONLY
                    | libc::MOUNT_ATTR_NOSUID
                    | libc::MOUNT_ATTR_NODEV
                    | libc::MOUNT_ATTR_NOEXEC;
                new_filesystem(c"tmpfs", Some(c"tmpfs"), &context.init.mask_options, None, attributes)
                    .map_err(|(errno, note)| Halt { note, ..halt(errno) })?
            }
            (None, false) => null_device(context).map_err(halt)?,
        };
        attach(tree.as_fd(), place.as_fd()).map_err(halt)?;
        *mounted = Some(tree);
    }
    Ok(())
}

/// The host's /dev/null as a tree, and nothing else that goes by its name.
fn null_device(context: &Context<'_>) -> Result<OwnedFd> {
    let tree = match &context.prepared.null {
        Some(tree) => tree.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?,
        None => clone_tree(rustix::fs::CWD, c"/dev/null", false)?,
    };
    let status = rustix::fs::fstat(&tree)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice || status.st_rdev != libc::makedev(1, 3) {
        return Err(Errno::NODEV);
    }
    Ok(tree)
}

/// A path of the spec without its leading slash.
fn relative(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(0);
    CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(path)
}
