//! User and group id mappings.

use oci_spec::runtime::{Linux, LinuxIdMapping};
use serde::{Deserialize, Serialize};

use super::{NamespaceKind, NamespacePlan, PlanError};

/// The kernel's limit of extents in a map.
const EXTENTS_MAX: usize = 340;

/// One line of `/proc/PID/uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMap {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) size: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdMap>,
    pub(crate) gids: Vec<IdMap>,
}

impl IdMaps {
    /// From the two lists of a spec or of a mount.
    pub(crate) fn new(field: &str, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self, PlanError> {
        let list = |mappings: &[LinuxIdMapping]| -> Result<Vec<IdMap>, PlanError> {
            let maps: Vec<IdMap> = mappings
                .iter()
                .map(|m| IdMap { inside: m.container_id(), outside: m.host_id(), size: m.size() })
                .collect();
            if maps.is_empty() {
                return Err(PlanError::invalid(field, "uidMappings and gidMappings must both be given"));
            }
            if maps.len() > EXTENTS_MAX {
                return Err(PlanError::invalid(field, format!("more than {EXTENTS_MAX} id mappings")));
            }
            if maps.iter().any(|map| map.size == 0) {
                return Err(PlanError::invalid(field, "an id mapping has the size 0"));
            }
            Ok(maps)
        };
        Ok(Self { uids: list(uids)?, gids: list(gids)? })
    }

    /// The text that goes into `/proc/PID/uid_map` or `gid_map`.
    pub(crate) fn text(maps: &[IdMap]) -> String {
        maps.iter().map(|map| format!("{} {} {}\n", map.inside, map.outside, map.size)).collect()
    }
}

/// The maps of the container's user namespace.
pub(crate) fn compile(linux: &Linux, namespaces: &NamespacePlan) -> Result<Option<IdMaps>, PlanError> {
    let uids = linux.uid_mappings().as_deref().unwrap_or(&[]);
    let gids = linux.gid_mappings().as_deref().unwrap_or(&[]);
    let given = !uids.is_empty() || !gids.is_empty();
    if given && !namespaces.isolated(NamespaceKind::User) {
        return Err(PlanError::invalid("linux.uidMappings", "id mappings need a user namespace in linux.namespaces"));
    }
    // Those of a joined namespace are there already; given all the same, they say how layers are to be mapped.
    if given || namespaces.is_new(NamespaceKind::User) {
        return IdMaps::new("linux.uidMappings", uids, gids).map(Some);
    }
    Ok(None)
}
