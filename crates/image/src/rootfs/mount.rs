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

impl MountedRootfs {
    pub(super) fn into_root(self) -> OwnedFd {
        self.root
    }
}

impl AsFd for MountedRootfs {
    /// The root directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Where a mount is put together, in a namespace of its own; relative to the directory of the layers.
pub(super) const STAGING: &str = "../staging";

/// What is stacked.
pub(super) struct Stack<'a> {
    pub(super) lower: &'a [String],
    pub(super) own: Own<'a>,
}

/// A container's own changes in a stack.
#[derive(Clone, Copy)]
pub(super) enum Own<'a> {
    /// They are left out.
    Absent,
    /// They are seen, and not written to: others may have them mounted as well.
    Below(&'a Path),
    /// Upper and work directory: nobody else may have them mounted.
    Above([&'a Path; 2]),
}

/// What is stacked, as overlayfs takes it.
pub(super) struct Names {
    lower: Vec<String>,
    upper: Option<[String; 2]>,
    /// What the names lead to.
    held: Vec<OwnedFd>,
}

impl Stack<'_> {
    /// Opens what is stacked. Overlayfs takes only what was opened in the mount namespace where it is mounted.
    pub(super) fn names(&self) -> Result<Names, Errno> {
        let mut names = Names { lower: self.lower.to_vec(), upper: None, held: Vec::new() };
        match self.own {
            Own::Absent => {}
            Own::Below(own) => {
                let own = names.hold(own)?;
                names.lower.insert(0, own);
            }
            Own::Above(own) => return names.with_upper(own),
        }
        Ok(names)
    }
}

impl Names {
    /// The same below other directories, upper and work.
    pub(super) fn with_upper(mut self, [upper, work]: [&Path; 2]) -> Result<Self, Errno> {
        self.upper = Some([self.hold(upper)?, self.hold(work)?]);
        Ok(self)
    }

    /// The path of an open directory: short, and without whatever characters its own has.
    fn hold(&mut self, path: &Path) -> Result<String, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        self.held.push(directory);
        Ok(name)
    }

    /// With mount(2).
    pub(super) fn mount_at(&self, place: &str) -> Result<(), Errno> {
        let mut options = format!("lowerdir={}", self.lower.join(":"));
        if let Some([upper, work]) = &self.upper {
            options += &format!(",upperdir={upper},workdir={work}");
        }
        for (key, value) in OVERLAY_OPTIONS {
            options += &format!(",{key}={value}");
        }
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("overlay", place, "overlay", flags, options.as_c_str())
    }
}

/// Mounts a whole root file system, to be written to. Nobody else may have it mounted.
pub(super) fn writable(root: &Path, rootfs: &Rootfs) -> Result<MountedRootfs> {
    mount(root, &Stack { lower: &rootfs.lower, own: Own::Above([&rootfs.upper, &rootfs.work]) })
}

/// Mounts a whole root file system, to be read. Others may have it mounted.
pub(super) fn readable(root: &Path, rootfs: &Rootfs) -> Result<MountedRootfs> {
    mount(root, &Stack { lower: &rootfs.lower, own: Own::Below(&rootfs.upper) })
}

/// Mounts layers alone, without what a container changed.
pub(super) fn layers(root: &Path, lower: &[String]) -> Result<MountedRootfs> {
    mount(root, &Stack { lower, own: Own::Absent })
}

fn mount(root: &Path, stack: &Stack<'_>) -> Result<MountedRootfs> {
    let failed = |errno| Error::io(format!("mounting an overlay of {}", root.join("layers").display()), errno);
    in_layers_dir(root, || match detached(stack) {
        // Before Linux 6.5 layers could not be given one by one, and all together do not fit into one string of
        // fsconfig(2).
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => in_private_namespace(stack).map_err(failed),
        other => other.map_err(failed),
    })
}

/// Does something on a thread whose working directory is that of the layers, to which short names are relative.
pub(super) fn in_layers_dir(root: &Path, work: impl FnOnce() -> Result<OwnedFd> + Send) -> Result<MountedRootfs> {
    let layers = root.join("layers");
    let failed = |errno: Errno| Error::io(format!("entering {} to mount", layers.display()), errno);
    let worker = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).map_err(|errno| failed(from_nix(errno)))?;
        rustix::process::chdir(&layers).map_err(failed)?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, worker);
        let thread = thread.map_err(|e| Error::io("starting a thread to mount", e))?;
        let mounted = thread.join().map_err(|_| Error::Interrupted("mounting an overlay".into()))?;
        Ok(MountedRootfs { root: mounted? })
    })
}

/// With the mount API of Linux 5.2, and overlayfs' `lowerdir+` of Linux 6.5.
fn detached(stack: &Stack<'_>) -> Result<OwnedFd, Errno> {
    let names = stack.names()?;
    if let (None, [only]) = (&names.upper, &names.lower[..]) {
        // Overlayfs has nothing to do for a single directory.
        return rustix::mount::open_tree(
            rustix::fs::CWD,
            only.as_str(),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        );
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &names.lower {
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", lower.as_str())?;
    }
    if let Some([upper, work]) = &names.upper {
        rustix::mount::fsconfig_set_string(&fs, "upperdir", upper.as_str())?;
        rustix::mount::fsconfig_set_string(&fs, "workdir", work.as_str())?;
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
    in_own_namespace()?;
    stack.names()?.mount_at(STAGING)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    rustix::mount::open_tree(rustix::fs::CWD, STAGING, flags)
}

/// From here on, what the thread mounts is seen by nobody else.
pub(crate) fn in_own_namespace() -> Result<(), Errno> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(from_nix)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
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
        let stack = Stack { lower: &["1/fs".into(), "0/fs".into()], own: Own::Above([&upper, &work]) };
        let shows_it = |mounted: MountedRootfs| {
            let file = rustix::fs::openat(&mounted, "a", OFlags::RDONLY, Mode::empty()).unwrap();
            assert_eq!(std::io::read_to_string(fs::File::from(file)).unwrap(), "above");
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(root.to_str().unwrap()), "nothing is on the host's table");
        };
        let failed = |errno| Error::io("mounting", errno);
        shows_it(in_layers_dir(root, || in_private_namespace(&stack).map_err(failed)).unwrap());
        // Layers one by one take Linux 6.5; what is before it goes the other way.
        match in_layers_dir(root, || detached(&stack).map_err(failed)) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput => {}
            mounted => shows_it(mounted.unwrap()),
        }
        shows_it(mount(root, &stack).unwrap());
        // Beside the one that writes.
        let written = mount(root, &stack).unwrap();
        shows_it(mount(root, &Stack { own: Own::Below(&upper), ..stack }).unwrap());
        drop(written);
    }
}
