//! What the parent makes before the clone: arrays of pointers, open files, trees that only the parent can open.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::trees::Trees;
use super::{Fds, Home, MappedNamespaces, SpawnError, Stdio};
use crate::child::mounts::clone_beneath;
use crate::child::{Namespace, Prepared, pid1, rootfs};
use crate::plan::{
    CgroupPlan, IdMap, IdMaps, InitPlan, NamespaceKind, NamespaceSource, OverlayPlan, ProcessPlan, Text,
};
use crate::sys::{self, MountAttr};

fn pointers(strings: &[Text<'_>]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

pub(super) fn text(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

pub(super) fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd, SpawnError> {
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(SpawnError::prepare("open", text(path)))
}

/// Opens a namespace file, or what is bound over one.
pub(super) fn open_namespace(path: &CStr) -> Result<OwnedFd, SpawnError> {
    open(path, OFlags::RDONLY)
}

/// The directory for `CLONE_INTO_CGROUP`.
pub(super) fn unified_cgroup(placement: Option<&CgroupPlan<'_>>) -> Result<Option<OwnedFd>, SpawnError> {
    placement
        .and_then(|plan| plan.unified.as_ref())
        .map(|path| open(path, OFlags::RDONLY | OFlags::DIRECTORY))
        .transpose()
}

/// What both kinds of processes need.
pub(super) fn common<'f>(
    process: &ProcessPlan<'_>,
    fds: &Fds<'f>,
    sync: OwnedFd,
    cgroup: Option<&CgroupPlan<'_>>,
) -> Result<Prepared<'f>, SpawnError> {
    let own = rustix::fs::stat(c"/proc/self/exe").map_err(SpawnError::prepare("look at", "/proc/self/exe"))?;
    let tasks = cgroup.into_iter().flat_map(|plan| &plan.tasks);
    Ok(Prepared {
        sync,
        proc: open(c"/proc", OFlags::PATH | OFlags::DIRECTORY)?,
        cgroup_tasks: tasks.map(|path| open(path, OFlags::WRONLY)).collect::<Result<_, _>>()?,
        join: Vec::new(),
        trees: Vec::new(),
        device_trees: Vec::new(),
        null: None,
        root: None,
        init: None,
        argv: pointers(&process.argv),
        envp: pointers(&process.envp),
        hooks: Vec::new(),
        stdio: match fds.stdio {
            Stdio::Inherit => None,
            Stdio::Fds(streams) => Some(streams),
        },
        console_socket: fds.console_socket,
        gate: fds.start_gate,
        own_program: (own.st_dev, own.st_ino),
        wait_for_maps: false,
        container: None,
        shares_table: fds.lend,
    })
}

/// What only a container's first process needs.
pub(super) fn container<'f>(
    plan: &InitPlan<'_>,
    fds: &Fds<'f>,
    home: &mut Home,
    ready: &mut Prepared<'f>,
) -> Result<(), SpawnError> {
    ready.wait_for_maps = plan.namespaces.is_new(NamespaceKind::User);
    if plan.init {
        ready.init = Some(pid1::program().map_err(SpawnError::prepare("write", "the container's init"))?);
    }
    for join in plan.namespaces.join.iter().filter(|join| join.kind != NamespaceKind::Pid) {
        let namespace = match &join.source {
            NamespaceSource::Path(path) => Namespace::Owned(open_namespace(path)?),
            NamespaceSource::Slot(slot) => {
                let fd = fds.namespaces.get(usize::from(*slot));
                Namespace::Given(*fd.ok_or(SpawnError::NoNamespace(join.kind.name()))?)
            }
        };
        ready.join.push((join.kind, namespace));
    }
    let hooks = plan.create_container.iter().chain(&plan.start_container);
    ready.hooks = hooks.map(|hook| (pointers(&hook.argv), pointers(&hook.envp))).collect();
    let mut trees = match fds.opened {
        true => Trees::take(plan, fds)?,
        false => Trees::open(plan, home)?,
    };
    trees.add_given(plan, fds)?;
    (ready.trees, ready.device_trees) = (trees.mounts, trees.devices);
    (ready.null, ready.root) = (trees.null, trees.root);
    Ok(())
}

/// A detached clone that follows the host's mounts but never leads back to them.
pub(super) fn tree(at: BorrowedFd<'_>, path: &CStr, subpath: &CStr, recursive: bool) -> Result<OwnedFd, SpawnError> {
    let name = if subpath.is_empty() { text(path) } else { format!("{}/{}", text(path), text(subpath)) };
    detached_at(at, path, subpath, recursive).map_err(SpawnError::prepare("open", name))
}

/// As [`tree`], of a path of the host's.
pub(crate) fn detached(path: &CStr, subpath: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    detached_at(CWD, path, subpath, recursive)
}

fn detached_at(at: BorrowedFd<'_>, path: &CStr, subpath: &CStr, recursive: bool) -> Result<OwnedFd, Errno> {
    let tree = clone_beneath(at, path, subpath, recursive)?;
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), true, &slave)?;
    Ok(tree)
}

pub(super) fn map(
    tree: &OwnedFd,
    maps: &IdMaps,
    deep: bool,
    mapped: &mut MappedNamespaces,
    name: &str,
) -> Result<(), SpawnError> {
    use std::os::fd::AsRawFd;
    let namespace = mapped.get(maps)?;
    let attr =
        MountAttr { set: libc::MOUNT_ATTR_IDMAP, userns_fd: namespace.as_raw_fd() as u64, ..MountAttr::default() };
    sys::mount_setattr(tree.as_fd(), deep, &attr).map_err(SpawnError::prepare("map the ids of", name))
}

/// The overlay over id-mapped layers. It is mounted in a mount namespace that exists only for this, by the host's root,
/// who alone can read the marks of opaque directories, and comes out of it as a detached tree.
pub(super) fn overlay_tree(
    overlay: &OverlayPlan<'_>,
    ids: Option<&IdMaps>,
    scratch: &CStr,
    subpath: &CStr,
    mapped: &mut MappedNamespaces,
    home: &mut Home,
) -> Result<OwnedFd, SpawnError> {
    let Some(ids) = ids else {
        return Err(SpawnError::prepare("map the layers", "for a joined user namespace without uidMappings")(
            Errno::INVAL,
        ));
    };
    // Only what is mounted in the namespace one is in can be cloned: everything is opened after the change.
    home.unshare_mounts()?;
    let layers = open(&overlay.layers_dir, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut sources: Vec<(BorrowedFd<'_>, Text<'_>)> =
        overlay.lower.iter().map(|name| (layers.as_fd(), name.clone())).collect();
    let mut data = format!("lowerdir={}", (0..sources.len()).map(|i| i.to_string()).collect::<Vec<_>>().join(":"));
    if let Some((upper, work)) = &overlay.upper {
        let (directory, upper, work) = siblings(upper, work)?;
        let number = sources.len();
        data += &format!(",upperdir={number}/{upper},workdir={number}/{work}");
        sources.push((CWD, directory.into()));
    }
    for (key, value) in &overlay.options {
        data += &format!(",{}", text(key));
        if let Some(value) = value {
            data += &format!("={}", text(value));
        }
    }
    let data = CString::new(data).map_err(|_| SpawnError::prepare("mount", "the overlay")(Errno::INVAL))?;
    let trees = sources
        .iter()
        .map(|(at, name)| {
            let tree = tree(*at, name, c"", false)?;
            map(&tree, ids, false, mapped, &text(name))?;
            Ok(tree)
        })
        .collect::<Result<Vec<_>, SpawnError>>();
    let root = trees.and_then(|trees| {
        let _identity = FileIdentity::assume(ids)?;
        rootfs::overlay_over(&trees, scratch, &data, subpath)
            .map_err(|(errno, _)| SpawnError::prepare("mount", refused_overlay(errno, &text(subpath)))(errno))
    });
    home.go_back()?;
    root
}

/// What an overlay over id-mapped layers is called in an error. A kernel that has none says no more than that it is invalid.
fn refused_overlay(errno: Errno, subpath: &str) -> String {
    let what = if subpath.is_empty() { "the overlay" } else { subpath };
    match errno {
        Errno::INVAL => {
            format!("{what} (of a user namespace: an overlay over id-mapped layers, which Linux has since 5.19)")
        }
        _ => what.to_owned(),
    }
}

/// The identity under which this thread touches files: that of the container's root, with the host's capabilities.
///
/// The overlay works under its mounter's identity. That of the host's root has no place in the mapped layers, where the
/// work directory could then not be made, and the overlay would be read-only.
struct FileIdentity {
    permitted: u64,
}

impl FileIdentity {
    fn assume(ids: &IdMaps) -> Result<Self, SpawnError> {
        let failed = || SpawnError::prepare("take on", "the identity of the container's root");
        let root =
            |maps: &[IdMap]| maps.iter().find(|map| map.inside == 0).or(maps.first()).map_or(0, |map| map.outside);
        let identity = Self { permitted: sys::permitted().map_err(failed())? };
        sys::set_file_ids(root(&ids.uids), root(&ids.gids));
        // The change has taken the capabilities over files away.
        sys::capset(identity.permitted, identity.permitted, 0).map_err(failed())?;
        Ok(identity)
    }
}

impl Drop for FileIdentity {
    fn drop(&mut self) {
        sys::set_file_ids(0, 0);
        // What this thread had a moment ago, it may have again.
        let _ = sys::capset(self.permitted, self.permitted, 0);
    }
}

/// Upper and work must come in by one mount: the directory that holds both.
fn siblings(upper: &CStr, work: &CStr) -> Result<(CString, String, String), SpawnError> {
    use std::ffi::OsStr;
    let split = |path: &CStr| {
        let path = Path::new(OsStr::from_bytes(path.to_bytes())).to_owned();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        path.parent().map(Path::to_owned).zip(name)
    };
    match (split(upper), split(work)) {
        (Some((directory, upper)), Some((other, work))) if directory == other => {
            CString::new(directory.as_os_str().as_bytes())
                .map(|directory| (directory, upper, work))
                .map_err(|_| SpawnError::prepare("open", "upper")(Errno::INVAL))
        }
        _ => Err(SpawnError::prepare("map", format!("{} and {}: not in one directory", text(upper), text(work)))(
            Errno::INVAL,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_maps_no_overlays_is_said_to_be_too_old() {
        assert!(refused_overlay(Errno::INVAL, "").ends_with("which Linux has since 5.19)"));
        assert_eq!(refused_overlay(Errno::NOSPC, ""), "the overlay");
        assert_eq!(refused_overlay(Errno::NOENT, "srv/data"), "srv/data");
    }
}
