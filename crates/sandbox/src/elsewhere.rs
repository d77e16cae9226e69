//! Mounts of the host's that appear in the mount namespace of a process that runs.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, mount_change, move_mount};

use crate::child::mounts::{propagate, set_attributes};
use crate::child::rootfs::overlay_beneath;
use crate::plan::{self, MountKind, MountPlan, MountTree, NamespaceKind, PlanError};
use crate::spawn::detached;
use crate::sys;

/// Why it could not be.
#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// What is to be mounted makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel refused.
    #[error("{tried} {on}: {}", std::io::Error::from(*errno))]
    System {
        /// What was tried.
        tried: &'static str,
        /// On what.
        on: String,
        /// Its reason.
        errno: Errno,
    },
}

/// A directory of the host's on which something is mounted for a moment, in a mount namespace of its own.
const SCRATCH: &CStr = c"/dev";

/// Has mounts of the host's appear to a process, by its pidfd, in its root, which is the directory `root` of the host's: binds alone, with their options, as a specification has them. Places for them are
/// made there, and must not be there before. `trees` are what they show where that is a part of a tree, by their destinations. Nobody sees one before it has its options. Blocks as long as the file systems do.
///
/// # Errors
/// One is no bind, its source is not there, or its place is; or the process is gone. Those before it are there.
pub fn mount_in(
    process: BorrowedFd<'_>,
    root: &Path,
    mounts: &[Mount],
    trees: &BTreeMap<PathBuf, MountTree>,
) -> Result<(), ElsewhereError> {
    let plans = plan::binds(mounts, trees)?;
    // It goes into mount namespaces, and does not return.
    std::thread::scope(|scope| {
        let failed = || failed("start", "a thread that mounts");
        let work = || mount_all(process, root, &plans);
        let thread = std::thread::Builder::new().name("mounts".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed()(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        thread.join().map_err(|_| failed()(Errno::CANCELED))?
    })
}

fn mount_all(process: BorrowedFd<'_>, root: &Path, plans: &[MountPlan<'_>]) -> Result<(), ElsewhereError> {
    sys::unshare(NamespaceKind::Mount.clone_flag()).map_err(failed("make", "a mount namespace"))?;
    // What is mounted here for a moment shows nowhere else; what the host mounts shows here, and where a volume is to follow that.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(failed("set the propagation of", "a mount namespace"))?;
    let trees = plans.iter().map(tree).collect::<Result<Vec<_>, _>>()?;
    for (plan, tree) in plans.iter().zip(&trees) {
        make_place(tree, &root.join(plan.target.to_string_lossy().as_ref()))?;
    }
    sys::setns(process, NamespaceKind::Mount.clone_flag())
        .map_err(failed("enter", "the mount namespace of a process"))?;
    for (plan, tree) in plans.iter().zip(&trees) {
        let place = format!("/{}", plan.target.to_string_lossy());
        move_mount(tree, "", CWD, place.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("mount", plan.label.to_string_lossy()))?;
    }
    Ok(())
}

/// A directory, or a file, as is to be mounted there.
fn make_place(tree: &OwnedFd, place: &Path) -> Result<(), ElsewhereError> {
    let found = rustix::fs::fstat(tree).map_err(failed("look at", "what is to be mounted"))?;
    let made = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => fs::create_dir(place),
        _ => File::create_new(place).map(drop),
    };
    made.map_err(|error| failed("make", place.display().to_string())(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
}

/// What one shows, with all of its options, and mounted nowhere.
fn tree(plan: &MountPlan<'_>) -> Result<OwnedFd, ElsewhereError> {
    let refused = |errno| failed("mount", plan.label.to_string_lossy())(errno);
    let tree = match &plan.kind {
        MountKind::Bind { source, subpath, recursive } => detached(source, subpath, *recursive),
        MountKind::Overlay { overlay, subpath } => {
            overlay_beneath(overlay, SCRATCH, subpath).map_err(|(errno, _)| errno)
        }
        _ => Err(Errno::INVAL),
    };
    let tree = tree.map_err(refused)?;
    set_attributes(plan, tree.as_fd()).map_err(refused)?;
    plan.propagation.iter().try_for_each(|flags| propagate(tree.as_fd(), *flags)).map_err(refused)?;
    Ok(tree)
}

fn failed(tried: &'static str, on: impl Into<String>) -> impl FnOnce(Errno) -> ElsewhereError {
    let on = on.into();
    move |errno| ElsewhereError::System { tried, on, errno }
}
