//! Device nodes, and the links of /dev.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};
use rustix::io::{Errno, Result};

use super::place::Places;
use super::target::{self, Make};
use super::{Context, Halt, Outcome};
use crate::plan::DevicePlan;
use crate::sync::Step;

/// Makes device nodes, or binds the host's.
pub(super) fn nodes<'p>(context: &Context<'p>, places: &Places<'_, 'p>) -> Outcome<'p, ()> {
    // Those that are searched for lie in the same directory, nearly all of them.
    let mut known: Option<(&[u8], OwnedFd)> = None;
    for (plan, tree) in context.init.devices.iter().zip(&context.prepared.device_trees) {
        let halt = |errno| Halt::new(Step::Device, errno, plan.path.to_bytes());
        if let Some(tree) = tree {
            let place = places.make(&plan.path, || Ok(Make::File)).map_err(halt)?;
            place.attach(tree.as_fd()).map_err(halt)?;
            continue;
        }
        if let Some((directory, name)) = places.in_own(&plan.path) {
            node(plan, directory, name).map_err(halt)?;
            continue;
        }
        let path = plan.path.to_bytes();
        let directory = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
        if known.as_ref().is_none_or(|(same, _)| *same != directory) {
            known = Some((directory, target::parent(places.root(), &plan.path).map_err(halt)?.0));
        }
        if let Some((_, parent)) = &known {
            let name_at = if directory.is_empty() { 0 } else { directory.len() + 1 };
            let name = CStr::from_bytes_with_nul(&plan.path.to_bytes_with_nul()[name_at..]);
            let name = name.map_err(|_| halt(Errno::INVAL))?;
            node(plan, parent.as_fd(), name).map_err(halt)?;
        }
    }
    Ok(())
}

fn node(plan: &DevicePlan, parent: BorrowedFd<'_>, name: &CStr) -> Result<()> {
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
            rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
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
    let (uid, gid) = (Uid::from_raw(plan.uid), Gid::from_raw(plan.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// The links of /dev.
pub(super) fn links<'p>(context: &Context<'p>, places: &Places<'_, 'p>) -> Outcome<'p, ()> {
    let links = &context.init.symlinks;
    let Some((first, _)) = links.first() else { return Ok(()) };
    let found;
    let dev = match places.in_own(first) {
        Some((dev, _)) => dev,
        None => {
            let halt = |errno| Halt::new(Step::Symlink, errno, first.to_bytes());
            found = target::parent(places.root(), first).map_err(halt)?.0;
            found.as_fd()
        }
    };
    for (link, to) in links {
        let halt = |errno| Halt::new(Step::Symlink, errno, link.to_bytes());
        let name = link.to_bytes_with_nul().strip_prefix(b"dev/").unwrap_or(link.to_bytes_with_nul());
        let name = CStr::from_bytes_with_nul(name).map_err(|_| halt(Errno::INVAL))?;
        match rustix::fs::symlinkat(to.as_c_str(), dev, name) {
            Ok(()) => {}
            Err(Errno::EXIST) if link.as_c_str() == c"dev/ptmx" => {
                // An image's own node would belong to the host's terminals.
                rustix::fs::unlinkat(dev, name, AtFlags::empty()).map_err(halt)?;
                rustix::fs::symlinkat(to.as_c_str(), dev, name).map_err(halt)?;
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(halt(errno)),
        }
    }
    Ok(())
}
