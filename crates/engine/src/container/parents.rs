//! Parents of cgroups that containers name (`--cgroup-parent /NAME`): those that were made for a container go with the last one.
//!
//! Which these are, an extended attribute of the directories says: what an administrator made, perhaps with limits, has none, and stays.

use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use sandbox::cgroup::Layout;

use crate::model::ContainerRecord;

/// On the directories that were made here.
const MADE: &str = "trusted.stratus.made";

/// The paths of a container's parents in the hierarchies, the innermost first: `a/b`, `a`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parents(Vec<PathBuf>);

impl Parents {
    /// `None`: the container names none, or one of systemd's, which are systemd's own business.
    pub(super) fn of(record: &ContainerRecord) -> Option<Parents> {
        Parents::named(&record.host.resources.cgroup_parent)
    }

    fn named(parent: &str) -> Option<Parents> {
        let path = Path::new(parent.trim_matches('/'));
        let is_own = !parent.ends_with(".slice") && !path.as_os_str().is_empty();
        is_own
            .then(|| Parents(path.ancestors().filter(|one| !one.as_os_str().is_empty()).map(Path::to_owned).collect()))
    }

    /// Their directories in every hierarchy, whether they are there or not, the innermost first.
    fn directories(&self, layout: &Layout) -> Vec<PathBuf> {
        let mounts: Vec<&Path> =
            layout.v1().iter().map(|hierarchy| hierarchy.mount_point()).chain(layout.v2()).collect();
        self.0.iter().flat_map(|path| mounts.iter().map(move |mount| mount.join(path))).collect()
    }

    /// Those that are not there.
    pub(super) fn missing(&self, layout: &Layout) -> Vec<PathBuf> {
        self.directories(layout).into_iter().filter(|directory| !directory.exists()).collect()
    }

    /// Removes those that were made here, and have nothing in them any more.
    pub(super) fn remove_made(&self, layout: &Layout) {
        for directory in self.directories(layout) {
            if rustix::fs::getxattr(&directory, MADE, &mut [0_u8; 1][..]).is_ok() {
                // The kernel refuses where something is in it.
                let _ = std::fs::remove_dir(&directory);
            }
        }
    }
}

/// Notes that these were made here. Where a kernel takes no such note, they stay, as at dockerd.
pub(super) fn mark(made: &[PathBuf]) {
    for directory in made {
        let _ = rustix::fs::setxattr(directory, MADE, b"1", XattrFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_has_parents() {
        let of = |text: &str| Parents::named(text).map(|Parents(paths)| paths);
        assert_eq!(of("/a/b/"), Some(vec![PathBuf::from("a/b"), PathBuf::from("a")]));
        assert_eq!((of(""), of("/"), of("a.slice")), (None, None, None));
    }
}
