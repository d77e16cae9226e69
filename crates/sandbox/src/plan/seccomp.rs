//! Seccomp profiles, compiled to BPF by libseccomp, and made short (`ranges`).

#[cfg(feature = "profiles")]
mod profile;

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use super::{Bytes, PlanError};

/// How many compiled profiles are kept. Nearly every container has the same one.
const CACHED_MAX: usize = 32;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct SeccompPlan<'p> {
    /// `struct sock_filter`s, 8 bytes each.
    pub(crate) filter: Bytes<'p>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u64,
    /// Whether the filter notifies an agent.
    pub(crate) notify: bool,
}

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct SeccompFilter(Arc<SeccompPlan<'static>>);

impl SeccompFilter {
    /// Compiles a profile, or finds it among those compiled before.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self, PlanError> {
        static COMPILED: Mutex<Vec<(LinuxSeccomp, SeccompFilter)>> = Mutex::new(Vec::new());
        let lock = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |compiled: &Vec<(LinuxSeccomp, Self)>| {
            compiled.iter().find(|(known, _)| known == profile).map(|(_, filter)| filter.clone())
        };
        if let Some(filter) = find(&lock()) {
            return Ok(filter);
        }
        // Compiled outside of the lock: two at once may do it twice, but nobody waits for somebody else's profile.
        let filter = Self(Arc::new(profile::build(profile)?));
        let mut compiled = lock();
        if find(&compiled).is_none() {
            if compiled.len() >= CACHED_MAX {
                compiled.remove(0);
            }
            compiled.push((profile.clone(), filter.clone()));
        }
        Ok(filter)
    }

    pub(crate) fn plan(&self) -> SeccompPlan<'static> {
        SeccompPlan::clone(&self.0)
    }
}

/// Without the library: for whoever spawns what others have compiled.
#[cfg(not(feature = "profiles"))]
mod profile {
    use super::{LinuxSeccomp, PlanError, SeccompPlan};

    pub(super) fn build(_: &LinuxSeccomp) -> Result<SeccompPlan<'static>, PlanError> {
        Err(PlanError::Seccomp(
            "this program compiles no profiles: give it the filter that another has compiled".into(),
        ))
    }
}
