//! What a container may not write, and what it may not see.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{clone_tree, new_filesystem};
use super::place::{Content, Place, Places};
use super::{Context, Halt, Outcome};
use crate::sync::Step;
use crate::sys::{self, MountAttr};

/// Makes the spec's `readonlyPaths` so.
pub(super) fn readonly<'p>(context: &Context<'p>, places: &mut Places<'_, 'p>) -> Outcome<'p, ()> {
    for path in &context.init.readonly {
        match cover_by_itself(relative(path), places) {
            Ok(literal) => places.mounted(relative(path), literal, Content::Foreign),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Halt::new(Step::Readonly, errno, path.to_bytes())),
        }
    }
    Ok(())
}

/// Mounts what is at `path` onto itself, read-only. Tells whether no link led there.
fn cover_by_itself<'p>(path: &'p CStr, places: &Places<'_, 'p>) -> Result<bool> {
    let cover = |tree: OwnedFd, place: &Place<'_>| -> Result<bool> {
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        sys::mount_setattr(tree.as_fd(), true, &attr)?;
        place.attach(tree.as_fd()).map(|()| place.is_literal())
    };
    if let Some((directory, name, _)) = directly(path, places)? {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        return cover(open_tree(directory, name, flags)?, &Place::named(directory, name));
    }
    let place = places.open(path)?;
    let literal = place.is_literal();
    let place = place.into_fd()?;
    let tree = clone_tree(place.as_fd(), c"", true)?;
    cover(tree, &Place::open(place, literal))
}

/// Covers the spec's `maskedPaths`: a directory by an empty one, anything else by /dev/null.
pub(super) fn masked<'p>(context: &Context<'p>, places: &mut Places<'_, 'p>) -> Outcome<'p, ()> {
    // One of each serves all: the first is mounted, the others are clones of it.
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in &context.init.masked {
        let halt = |errno| Halt::new(Step::Mask, errno, path.to_bytes());
        let (place, kind) = match find(relative(path), places) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            Err(errno) => return Err(halt(errno)),
        };
        let directory = kind == FileType::Directory;
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
        place.attach(tree.as_fd()).map_err(halt)?;
        let literal = place.is_literal();
        places.mounted(relative(path), literal, Content::Foreign);
        *mounted = Some(tree);
    }
    Ok(())
}

/// The place at a path, and what is there.
fn find<'a, 'p: 'a>(path: &'p CStr, places: &'a Places<'_, 'p>) -> Result<(Place<'a>, FileType)> {
    if let Some((directory, name, kind)) = directly(path, places)? {
        return Ok((Place::named(directory, name), kind));
    }
    let place = places.open(path)?;
    let literal = place.is_literal();
    let place = place.into_fd()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
    Ok((Place::open(place, literal), kind))
}

/// Directory, name and kind of what lies directly in a file system of our own. A link of the kernel's there (/proc/net)
/// is left to the search.
fn directly<'a, 'p: 'a>(
    path: &'p CStr,
    places: &'a Places<'_, 'p>,
) -> Result<Option<(BorrowedFd<'a>, &'p CStr, FileType)>> {
    let Some((directory, name)) = places.in_own(path) else { return Ok(None) };
    let status = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    Ok((kind != FileType::Symlink).then_some((directory, name, kind)))
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
