//! Where containers are in the hierarchy of cgroups: `PARENT/ID`, below a parent that is this instance's own.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use oci_spec::runtime::{LinuxResources, Spec};
use sandbox::cgroup::{self, Cgroup, Layout, Placement};

use super::parents::{self, Parents};
use crate::limits::Limits;
use crate::model::{ContainerId, ContainerRecord, Phase};
use crate::{Error, Result};

/// The cgroups of this instance.
pub(crate) struct Placements {
    parent: String,
    layout: &'static Layout,
    /// Held while parents that containers name are made, or removed.
    parents: parking_lot::Mutex<()>,
    /// Looked at when it is first asked for, and then known: nobody mounts other hierarchies while this runs.
    limits: OnceLock<Limits>,
}

/// A container's cgroup, made.
pub(super) struct Placed {
    pub(super) placement: Placement,
    /// Where what is left of it is killed if the keeper dies.
    pub(super) directories: Vec<PathBuf>,
}

/// What a run used, at its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastUsage {
    pub(crate) oom_killed: bool,
    pub(crate) usage: Option<cgroup::Usage>,
}

impl Placements {
    pub(crate) fn new(parent: &str) -> Result<Self> {
        let layout = Layout::detect().map_err(failed)?;
        Ok(Self {
            parent: parent.trim_end_matches('/').to_owned(),
            layout,
            parents: Default::default(),
            limits: OnceLock::new(),
        })
    }

    /// Which cgroups this machine has.
    pub(crate) fn layout(&self) -> &'static Layout {
        self.layout
    }

    /// What this machine can limit.
    pub(super) fn limits(&self) -> &Limits {
        self.limits.get_or_init(|| Limits::look(self.layout))
    }

    /// Whether v2 is all there is.
    pub(crate) fn is_pure_v2(&self) -> bool {
        self.layout.is_unified()
    }

    /// The path of a container's cgroup.
    pub(crate) fn path(&self, record: &ContainerRecord) -> String {
        match record.host.resources.cgroup_parent.as_str() {
            "" => format!("{}/{}", self.parent, record.id),
            slice if slice.ends_with(".slice") => format!("{slice}:stratus:{}", record.id),
            parent => format!("/{}/{}", parent.trim_matches('/'), record.id),
        }
    }

    pub(super) fn cgroup(&self, record: &ContainerRecord) -> Result<Cgroup> {
        Cgroup::new(&self.path(record)).map_err(failed)
    }

    /// Makes a container's cgroup, with the limits of its specification.
    pub(super) fn create(&self, record: &ContainerRecord, spec: &Spec) -> Result<Placed> {
        let cgroup = self.cgroup(record)?;
        let parents = Parents::of(record);
        let _one = parents.is_some().then(|| self.parents.lock());
        let missing = parents.as_ref().map(|parents| parents.missing(self.layout)).unwrap_or_default();
        let placed = made(&cgroup, spec)?;
        parents::mark(&missing);
        Ok(placed)
    }

    /// Makes the cgroup of something that is no container, beside theirs: what is left of it is swept as theirs are.
    pub(super) fn create_beside(&self, id: &ContainerId, spec: &Spec) -> Result<Placed> {
        made(&self.beside(id)?, spec)
    }

    /// Changes the limits of such a thing.
    pub(super) fn update_beside(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        self.beside(id)?.update(resources).map_err(failed)
    }

    fn beside(&self, id: &ContainerId) -> Result<Cgroup> {
        Cgroup::new(&format!("{}/{id}", self.parent)).map_err(failed)
    }

    /// Where a further process of a running container goes.
    pub(super) fn placement(&self, record: &ContainerRecord) -> Result<Placement> {
        self.cgroup(record)?.placement().map_err(failed)
    }

    /// Changes the limits of a running container.
    pub(super) fn update(&self, record: &ContainerRecord, resources: &LinuxResources) -> Result<()> {
        self.cgroup(record)?.update(resources).map_err(failed)
    }

    pub(super) fn freeze(&self, record: &ContainerRecord, frozen: bool) -> Result<()> {
        let cgroup = self.cgroup(record)?;
        if frozen { cgroup.freeze() } else { cgroup.thaw() }.map_err(failed)
    }

    /// Freezes or thaws a container that is not as its record says: a daemon that was killed in between left it so.
    pub(super) fn settle_freezer(&self, record: &ContainerRecord) -> Result<()> {
        let paused = record.state.phase == Phase::Paused;
        match self.cgroup(record)?.is_frozen() == paused {
            true => Ok(()),
            false => self.freeze(record, paused),
        }
    }

    /// Ends whatever is left in a container's cgroup, and removes it; with the last one below a parent of its own, that too, if it was
    /// made for one.
    pub(super) fn remove(&self, record: &ContainerRecord) -> Result<()> {
        let cgroup = self.cgroup(record)?;
        match cgroup.delete() {
            Ok(()) => {}
            // Processes of a container without a PID namespace of its own outlive its first one.
            Err(_) => {
                let _ = cgroup.thaw();
                cgroup.kill(9).map_err(failed)?;
                cgroup.delete().map_err(failed)?;
            }
        }
        if let Some(parents) = Parents::of(record) {
            let _one = self.parents.lock();
            parents.remove_made(self.layout);
        }
        Ok(())
    }

    pub(super) fn last_usage(&self, record: &ContainerRecord) -> LastUsage {
        let Ok(cgroup) = self.cgroup(record) else { return LastUsage::default() };
        let oom_killed = cgroup.oom_kills().is_ok_and(|kills| kills > 0);
        LastUsage { oom_killed, usage: cgroup.usage().ok() }
    }

    /// What a container has used so far, for its bill; `None`: it has no cgroup any more.
    pub(crate) fn usage(&self, record: &ContainerRecord) -> Option<cgroup::Usage> {
        self.cgroup(record).ok()?.usage().ok()
    }

    /// The containers that have a cgroup below the parent.
    pub(super) fn placed(&self) -> BTreeSet<String> {
        let Ok(parent) = Cgroup::new(&self.parent) else { return BTreeSet::new() };
        let entries = parent.directories().into_iter().filter_map(|(_, directory)| std::fs::read_dir(directory).ok());
        let directories = entries.flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let names = directories.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.len() == 64).collect()
    }

    /// Ends whatever is in the cgroup of a container that does not run, and removes it.
    pub(super) fn clean(&self, id: &str) -> Result<()> {
        cgroup::clean(&format!("{}/{id}", self.parent)).map_err(failed)
    }
}

/// Makes a cgroup with the limits of a specification.
fn made(cgroup: &Cgroup, spec: &Spec) -> Result<Placed> {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    cgroup.create(&resources).map_err(failed)?;
    let placement = cgroup.placement().map_err(failed)?;
    Ok(Placed { placement, directories: cgroup.kill_directories() })
}

fn failed(error: cgroup::CgroupError) -> Error {
    Error::system(error.to_string())
}
