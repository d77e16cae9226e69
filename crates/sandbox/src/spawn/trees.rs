//! What a plan shows of the host and its child can't open by itself: detached trees.
//!
//! In a user namespace the child may neither pass the host's directories nor clone its mounts, and nobody but the host's root may map
//! ids. So somebody else opens what it mounts, and a file system of the host may hang in that. A process that holds others does
//! not: it is given the trees ([`super::Fds::opened`]) by whoever wants something begun, who opened them with [`open_trees`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::{Fds, Home, MappedNamespaces, SpawnError, prepare};
use crate::plan::{InitPlan, MountKind, NamespaceKind, NamespaceSource, RootSource};

/// The trees of one plan.
#[derive(Default)]
pub(super) struct Trees {
    /// For each mount.
    pub(super) mounts: Vec<Option<OwnedFd>>,
    /// For each device.
    pub(super) devices: Vec<Option<OwnedFd>>,
    /// /dev/null, for masking.
    pub(super) null: Option<OwnedFd>,
    pub(super) root: Option<OwnedFd>,
}

/// Opens what [`super::spawn`] needs of the host for a plan beyond what is in the plan's slots: to be given behind those, in this
/// order. Nothing, for most plans without a user namespace. Blocks as long as the file systems do; may be called in a process with threads.
///
/// # Errors
/// What could not be opened or mapped.
pub fn open_trees(plan: &InitPlan<'_>) -> Result<Vec<OwnedFd>, SpawnError> {
    if !wants_trees(plan) {
        return Ok(Vec::new());
    }
    // It goes into a mount namespace of its own, and need not return.
    let open = || Trees::open(plan, &mut Home::default()).map(Trees::into_descriptors);
    std::thread::scope(|scope| {
        let failed = || SpawnError::prepare("start", "a thread that opens what is mounted");
        let thread = std::thread::Builder::new().name("trees".into()).spawn_scoped(scope, open);
        let thread = thread.map_err(|error| failed()(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        thread.join().map_err(|_| failed()(Errno::CANCELED))?
    })
}

fn in_user_namespace(plan: &InitPlan<'_>) -> bool {
    plan.namespaces.isolated(NamespaceKind::User)
}

/// Whether the tree of a mount has to be opened for the child.
fn is_opened(plan: &InitPlan<'_>, at: usize) -> bool {
    let user = in_user_namespace(plan);
    plan.mounts.get(at).is_some_and(|mount| match &mount.kind {
        MountKind::Bind { .. } => user || mount.idmap.is_some(),
        MountKind::Overlay { .. } => user,
        _ => false,
    })
}

fn wants_trees(plan: &InitPlan<'_>) -> bool {
    in_user_namespace(plan)
        || (0..plan.mounts.len()).any(|at| is_opened(plan, at))
        || plan.devices.iter().any(|device| device.bind)
}

/// How many places the plan refers to.
fn slots(plan: &InitPlan<'_>) -> usize {
    let namespaces = plan.namespaces.join.iter().filter_map(|join| match join.source {
        NamespaceSource::Slot(slot) => Some(slot),
        NamespaceSource::Path(_) => None,
    });
    let trees = plan.mounts.iter().filter_map(|mount| match mount.kind {
        MountKind::Given { slot } => Some(slot),
        _ => None,
    });
    namespaces.chain(trees).map(|slot| usize::from(slot) + 1).max().unwrap_or(0)
}

impl Trees {
    /// Opens them, in as many stays in a mount namespace of its own as there are overlays.
    pub(super) fn open(plan: &InitPlan<'_>, home: &mut Home) -> Result<Self, SpawnError> {
        let mut mapped = MappedNamespaces::new();
        let mut trees = Self::default();
        for (at, mount) in plan.mounts.iter().enumerate() {
            let tree = match &mount.kind {
                _ if !is_opened(plan, at) => None,
                MountKind::Bind { source, subpath, recursive } => {
                    let tree = prepare::tree(rustix::fs::CWD, source, subpath, *recursive)?;
                    if let Some((maps, deep)) = &mount.idmap {
                        prepare::map(&tree, maps, *deep, &mut mapped, &prepare::text(source))?;
                    }
                    Some(tree)
                }
                MountKind::Overlay { overlay, subpath } => {
                    let (ids, scratch) = (plan.ids.as_ref(), &plan.root.mount_point);
                    Some(prepare::overlay_tree(overlay, ids, scratch, subpath, &mut mapped, home)?)
                }
                _ => None,
            };
            trees.mounts.push(tree);
        }
        for device in &plan.devices {
            let tree = device.bind.then(|| prepare::tree(rustix::fs::CWD, &device.host_path, c"", false));
            trees.devices.push(tree.transpose()?);
        }
        if in_user_namespace(plan) {
            trees.null = Some(prepare::tree(rustix::fs::CWD, c"/dev/null", c"", false)?);
            trees.root = Some(match (&plan.root.source, &plan.ids) {
                (RootSource::Path(path), _) => prepare::tree(rustix::fs::CWD, path, c"", true)?,
                (RootSource::Overlay(overlay), ids) => {
                    let scratch = &plan.root.mount_point;
                    prepare::overlay_tree(overlay, ids.as_ref(), scratch, c"", &mut mapped, home)?
                }
            });
        }
        Ok(trees)
    }

    fn into_descriptors(self) -> Vec<OwnedFd> {
        let listed = self.mounts.into_iter().chain(self.devices).chain([self.null, self.root]);
        listed.flatten().collect()
    }

    /// Takes those that came behind the plan's slots, as [`Trees::into_descriptors`] gave them.
    pub(super) fn take(plan: &InitPlan<'_>, fds: &Fds<'_>) -> Result<Self, SpawnError> {
        let first = slots(plan);
        let mut given = fds.namespaces.iter().enumerate().skip(first);
        let mut next = || {
            let (_, fd) = given.next().ok_or(SpawnError::NotOpened)?;
            copy(*fd)
        };
        let mounts = (0..plan.mounts.len()).map(|at| is_opened(plan, at).then(&mut next).transpose());
        let mounts = mounts.collect::<Result<_, _>>()?;
        let devices = plan.devices.iter().map(|device| device.bind.then(&mut next).transpose());
        let devices = devices.collect::<Result<_, _>>()?;
        let user = in_user_namespace(plan);
        Ok(Self { mounts, devices, null: user.then(&mut next).transpose()?, root: user.then(&mut next).transpose()? })
    }

    /// Adds those that are in the plan's slots.
    pub(super) fn add_given(&mut self, plan: &InitPlan<'_>, fds: &Fds<'_>) -> Result<(), SpawnError> {
        for (mount, tree) in plan.mounts.iter().zip(&mut self.mounts) {
            if let MountKind::Given { slot } = mount.kind {
                let given = fds.namespaces.get(usize::from(slot)).ok_or(SpawnError::NoTree(slot))?;
                *tree = Some(copy(*given)?);
            }
        }
        Ok(())
    }
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd, SpawnError> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).map_err(SpawnError::prepare("take", "what is to be mounted"))
}
