//! Mounting an overlay where nobody sees it.

use super::{OVERLAY_OPTIONS, Rootfs};
use crate::{Error, Result};
use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, OpenTreeFlags};
use std::path::Path;

/// A root file system that is mounted for the holder of this alone: on no mount table, gone when this is dropped.
#[derive(Debug)]
pub struct MountedRootfs {
    root: OwnedFd,
}

impl AsFd for MountedRootfs {
    /// The root directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What is stacked.
struct Stack<'a> {
    lower: &'a [String],
    /// Upper and work directory.
    upper: Option<[&'a Path; 2]>,
}

/// Mounts a whole root file system. Nobody else may have it mounted.
pub(super) fn writable(root: &Path, rootfs: &Rootfs) -> Result<MountedRootfs> {
    mount(root, &Stack { lower: &rootfs.lower, upper: Some([&rootfs.upper, &rootfs.work]) })
}

/// Mounts layers alone, without what a container changed.
pub(super) fn layers(root: &Path, lower: &[String]) -> Result<MountedRootfs> {
    mount(root, &Stack { lower, upper: None })
}

fn mount(root: &Path, stack: &Stack<'_>) -> Result<MountedRootfs> {
    in_layers_dir(root, || match detached(stack) {
        // Before Linux 6.5 layers could not be given one by one, and all together do not fit into one string of
        // fsconfig(2).
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => in_private_namespace(stack),
        other => other,
    })
}

/// Does something on a thread whose working directory is that of the layers, to which short names are relative.
fn in_layers_dir(root: &Path, work: impl FnOnce() -> Result<OwnedFd, Errno> + Send) -> Result<MountedRootfs> {
    let layers = root.join("layers");
    let failed = |errno: Errno| Error::io(format!("mounting an overlay of {}", layers.display()), errno);
    let worker = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).map_err(from_nix)?;
        rustix::process::chdir(&layers)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, worker);
        let thread = thread.map_err(|e| Error::io("starting a thread to mount", e))?;
        let mounted = thread.join().map_err(|_| Error::Interrupted("mounting an overlay".into()))?;
        Ok(MountedRootfs { root: mounted.map_err(failed)? })
    })
}

/// With the mount API of Linux 5.2, and overlayfs' `lowerdir+` of Linux 6.5.
fn detached(stack: &Stack<'_>) -> Result<OwnedFd, Errno> {
    if let (None, [only]) = (stack.upper, stack.lower) {
        // Overlayfs has nothing to do for a single directory.
        return rustix::mount::open_tree(
            rustix::fs::CWD,
            only.as_str(),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        );
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in stack.lower {
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower.as_str())?;
    }
    let upper = stack.upper.map(hold).transpose()?;
    if let Some([upper, work]) = &upper {
        rustix::mount::fsconfig_set_string(&fs, "upperdir", held(upper))?;
        rustix::mount::fsconfig_set_string(&fs, "workdir", held(work))?;
    }
    for (key, value) in OVERLAY_OPTIONS {
        rustix::mount::fsconfig_set_string(&fs, key, value)?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// With mount(2), in a mount namespace that ends with the thread, out of which the mount is taken by `open_tree(2)`.
fn in_private_namespace(stack: &Stack<'_>) -> Result<OwnedFd, Errno> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(from_nix)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let mut options = format!("lowerdir={}", stack.lower.join(":"));
    let upper = stack.upper.map(hold).transpose()?;
    if let Some([upper, work]) = &upper {
        options += &format!(",upperdir={},workdir={}", held(upper), held(work));
    }
    for (key, value) in OVERLAY_OPTIONS {
        options += &format!(",{key}={value}");
    }
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("overlay", "../staging", "overlay", flags, options.as_c_str())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, "../staging", flags)
}

/// Opens directories. Overlayfs takes those only that were opened in the mount namespace where it is mounted.
fn hold(paths: [&Path; 2]) -> Result<[OwnedFd; 2], Errno> {
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Ok([open(paths[0])?, open(paths[1])?])
}

/// The path of an open directory: short, and without whatever characters its own has.
fn held(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn from_nix(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn both_ways_of_mounting_show_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        for dir in ["layers/1/fs", "layers/0/fs", "elsewhere/c/upper", "elsewhere/c/work", "staging"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("layers/0/fs/a"), "below").unwrap();
        fs::write(root.join("layers/1/fs/a"), "above").unwrap();
        let (upper, work) = (root.join("elsewhere/c/upper"), root.join("elsewhere/c/work"));
        let stack = Stack { lower: &["1/fs".into(), "0/fs".into()], upper: Some([&upper, &work]) };
        let shows_it = |mounted: MountedRootfs| {
            let file = rustix::fs::openat(&mounted, "a", OFlags::RDONLY, Mode::empty()).unwrap();
            assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), "above");
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(root.to_str().unwrap()), "nothing is on the host's table");
        };
        shows_it(in_layers_dir(root, || in_private_namespace(&stack)).unwrap());
        // Layers one by one take Linux 6.5; what is before it goes the other way.
        match in_layers_dir(root, || detached(&stack)) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => {}
            mounted => shows_it(mounted.unwrap()),
        }
        shows_it(mount(root, &stack).unwrap());
    }
}
