//! The root file system: made a mount, entered, and the old one left behind.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::mounts::{attach, clone_beneath, clone_tree, new_filesystem, propagate};
use super::target::{self, Make};
use super::{At, Context, Halt, Note, Outcome, fd_path};
use crate::plan::{OverlayPlan, RootSource};
use crate::sync::Step;
use crate::sys::{self, MountAttr};

/// Makes the root file system a mount of its own, and returns its place.
pub(super) fn mount<'p>(context: &Context<'p>) -> Outcome<'p, OwnedFd> {
    let plan = &context.init.root;
    let detail = plan.mount_point.to_bytes();
    let shared = plan.propagation & libc::MS_SHARED != 0;
    let flags = MountPropagationFlags::from_bits_retain(plan.propagation as u32);
    rustix::mount::mount_change(c"/", flags).at(Step::Propagation, b"/")?;
    if let Some(tree) = &context.prepared.root {
        // Over the whole of the old root: in a user namespace no path of the host may be passable.
        let place = open_place(c"/").at(Step::RootMount, detail)?;
        attach(tree.as_fd(), place.as_fd()).at(Step::RootMount, detail)?;
        return reopen(tree.as_fd()).at(Step::RootMount, detail);
    }
    let place = open_place(&plan.mount_point).at(Step::RootMount, detail)?;
    if shared {
        // pivot_root takes no shared parent, and the host would see the mount.
        private_parent(place.as_fd()).at(Step::Propagation, detail)?;
    }
    match &plan.source {
        RootSource::Path(path) => {
            let tree = clone_tree(CWD, path, true).at(Step::RootMount, detail)?;
            attach(tree.as_fd(), place.as_fd()).at(Step::RootMount, detail)?;
            reopen(tree.as_fd()).at(Step::RootMount, detail)
        }
        RootSource::Overlay(overlay) => {
            overlay_on(overlay, &plan.mount_point)
                .map_err(|(errno, note)| Halt { note, ..Halt::new(Step::RootMount, errno, detail) })?;
            open_place(&plan.mount_point).at(Step::RootMount, detail)
        }
    }
}

fn open_place(path: &CStr) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A tree's own descriptor says "detached" to some kernels even after it was attached; a fresh one does not.
fn reopen(tree: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::fs::openat(tree, c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Mounts the overlay. By `mount(2)` from within the layers' directory, so that a hundred short relative names fit into
/// the one page it takes; if they do not, layer by layer (Linux 6.5).
pub(crate) fn overlay_on(overlay: &OverlayPlan<'_>, mount_point: &CStr) -> std::result::Result<(), (Errno, Note)> {
    let plain = |errno| (errno, Note::default());
    rustix::process::chdir(overlay.layers_dir.as_c_str()).map_err(plain)?;
    if let Some(data) = &overlay.data {
        return rustix::mount::mount(c"overlay", mount_point, c"overlay", MountFlags::empty(), data.as_c_str())
            .map_err(plain);
    }
    let tree = overlay_by_layer(overlay)?;
    let place = open_place(mount_point).map_err(plain)?;
    attach(tree.as_fd(), place.as_fd()).map_err(plain)
}

/// A part of an overlay as a detached tree. The overlay is mounted on `scratch` for the moment that this takes, in a
/// mount namespace that passes nothing on from there.
pub(crate) fn overlay_beneath(
    overlay: &OverlayPlan<'_>,
    scratch: &CStr,
    subpath: &CStr,
) -> std::result::Result<OwnedFd, (Errno, Note)> {
    overlay_on(overlay, scratch)?;
    let tree = clone_beneath(CWD, scratch, subpath, false);
    let gone = rustix::mount::unmount(scratch, UnmountFlags::DETACH);
    tree.and_then(|tree| gone.map(|()| tree)).map_err(|errno| (errno, Note::default()))
}

fn overlay_by_layer(overlay: &OverlayPlan<'_>) -> std::result::Result<OwnedFd, (Errno, Note)> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
        fsopen,
    };
    let fs = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| (errno, Note::default()))?;
    let configure = || -> Result<OwnedFd> {
        fsconfig_set_string(fs.as_fd(), c"source", c"overlay")?;
        for layer in &overlay.lower {
            fsconfig_set_string(fs.as_fd(), c"lowerdir+", layer.as_c_str())?;
        }
        if let Some((upper, work)) = &overlay.upper {
            fsconfig_set_string(fs.as_fd(), c"upperdir", upper.as_c_str())?;
            fsconfig_set_string(fs.as_fd(), c"workdir", work.as_c_str())?;
        }
        for (key, value) in &overlay.options {
            match value {
                Some(value) => fsconfig_set_string(fs.as_fd(), key.as_c_str(), value.as_c_str())?,
                None => fsconfig_set_flag(fs.as_fd(), key.as_c_str())?,
            }
        }
        fsconfig_create(fs.as_fd())?;
        fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    configure().map_err(|errno| (errno, Note::of_filesystem(fs.as_fd())))
}

/// Makes the mount that `place` lies in private: found by climbing until the mount changes, its root reached.
fn private_parent(place: BorrowedFd<'_>) -> Result<()> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let id = |fd: BorrowedFd<'_>| statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|s| s.stx_mnt_id);
    let same = |a: BorrowedFd<'_>, b: BorrowedFd<'_>| Ok::<_, Errno>(sys::identity(a)? == sys::identity(b)?);
    let mut here = reopen(place)?;
    loop {
        let above = rustix::fs::openat(&here, c"..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if id(above.as_fd())? != id(here.as_fd())? || same(above.as_fd(), here.as_fd())? {
            return propagate(here.as_fd(), libc::MS_PRIVATE);
        }
        here = above;
    }
}

/// The working directory, where an image lacks it. If it can't be made, the chdir will say so.
pub(super) fn make_directory(root: BorrowedFd<'_>, path: &CStr) {
    let bytes = path.to_bytes_with_nul();
    let start = bytes.iter().position(|byte| *byte != b'/').unwrap_or(0);
    if let Ok(relative) = CStr::from_bytes_with_nul(&bytes[start..]) {
        let _ = target::make(root, relative, Make::Directory);
    }
}

/// Makes `root` the root, and the old one unreachable.
pub(super) fn enter<'p>(context: &Context<'p>, root: OwnedFd) -> Outcome<'p, ()> {
    let plan = &context.init.root;
    let detail = plan.mount_point.to_bytes();
    if plan.readonly {
        let attr = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
        sys::mount_setattr(root.as_fd(), false, &attr).at(Step::Readonly, b"root file system")?;
    }
    if plan.no_pivot {
        move_root(root.as_fd()).at(Step::PivotRoot, detail)?;
    } else {
        pivot(root.as_fd(), plan.propagation).at(Step::PivotRoot, detail)?;
    }
    if plan.propagation & (libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_UNBINDABLE) != 0 {
        let flags = MountPropagationFlags::from_bits_retain(plan.propagation as u32);
        rustix::mount::mount_change(c"/", flags).at(Step::Propagation, b"root file system")?;
    }
    Ok(())
}

/// Stacks the old root on the new one, and takes it off: no directory is needed for it.
fn pivot(root: BorrowedFd<'_>, propagation: u64) -> Result<()> {
    let old = open_place(c"/")?;
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::process::fchdir(&old)?;
    if propagation & libc::MS_SLAVE == 0 {
        // What is unmounted here must not be unmounted on the host.
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(c".", slave)?;
    }
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

/// For a host whose own root is a RAM disk, which can't be pivoted away.
fn move_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    let mut buffer = [0; 32];
    let path = fd_path(root, &mut buffer);
    rustix::mount::mount_move(path, c"/")?;
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")
}

/// An overlay over id-mapped layers, mounted somewhere in the caller's mount namespace and cloned from there.
///
/// `mapped` are the layers, the top one first, then the directory with upper and work, as detached id-mapped trees.
/// Of the overlay comes what `subpath` leads to.
pub(crate) fn overlay_over(
    mapped: &[OwnedFd],
    scratch: &CStr,
    data: &CStr,
    subpath: &CStr,
) -> std::result::Result<OwnedFd, (Errno, Note)> {
    let plain = |errno| (errno, Note::default());
    let tmpfs = new_filesystem(c"tmpfs", Some(c"tmpfs"), &[], None, 0)?;
    let place = open_place(scratch).map_err(plain)?;
    attach(tmpfs.as_fd(), place.as_fd()).map_err(plain)?;
    for (number, tree) in mapped.iter().enumerate() {
        let mut name = [0u8; 16];
        let name = number_name(number, &mut name);
        rustix::fs::mkdirat(&tmpfs, name, Mode::from_raw_mode(0o700)).map_err(plain)?;
        let place = rustix::fs::openat(&tmpfs, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(plain)?;
        attach(tree.as_fd(), place.as_fd()).map_err(plain)?;
    }
    rustix::fs::mkdirat(&tmpfs, c"root", Mode::from_raw_mode(0o700)).map_err(plain)?;
    rustix::process::fchdir(&tmpfs).map_err(plain)?;
    rustix::mount::mount(c"overlay", c"root", c"overlay", MountFlags::empty(), data).map_err(plain)?;
    clone_beneath(tmpfs.as_fd(), c"root", subpath, false).map_err(plain)
}

fn number_name(number: usize, buffer: &mut [u8; 16]) -> &CStr {
    use std::io::Write;
    let mut rest = &mut buffer[..15];
    let _ = write!(rest, "{number}");
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"0")
}
