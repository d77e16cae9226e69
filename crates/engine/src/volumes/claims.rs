//! Who is about to use a volume, and which volumes are about to go.
//!
//! A container that is being made is found by nobody yet, so its volumes would look unused until it is there: it claims
//! them first. Who removes a volume has seen that nobody uses it, and until its name is free nobody claims it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::model::ContainerId;

/// All claims and removals under way.
#[derive(Default)]
pub(crate) struct Claims(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    removed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: HashMap<String, Vec<ContainerId>>,
    going: HashSet<String>,
}

/// The volume stays until this is dropped.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    name: String,
    by: ContainerId,
}

/// Nobody claims the volume until this is dropped.
pub(crate) struct Removal {
    shared: Arc<Shared>,
    name: String,
}

impl Claims {
    /// Claims a volume for a container that is being made, whether it is there yet or not. Waits for a removal, which
    /// takes no longer than a record and a name.
    pub(crate) fn claim(&self, name: &str, by: &ContainerId) -> Claim {
        let mut state = self.0.state.lock();
        while state.going.contains(name) {
            self.0.removed.wait(&mut state);
        }
        state.claimed.entry(name.to_owned()).or_default().push(by.clone());
        drop(state);
        Claim { shared: self.0.clone(), name: name.to_owned(), by: by.clone() }
    }

    /// Begins to remove a volume, if nobody claims it or removes it already.
    pub(crate) fn try_remove(&self, name: &str) -> Option<Removal> {
        let mut state = self.0.state.lock();
        let free = !state.claimed.contains_key(name) && state.going.insert(name.to_owned());
        drop(state);
        free.then(|| Removal { shared: self.0.clone(), name: name.to_owned() })
    }

    /// Begins to remove a volume; the identifiers of those who claim it where somebody does. Waits for another removal of
    /// it.
    pub(crate) fn remove(&self, name: &str) -> Result<Removal, Vec<ContainerId>> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(claimed) = state.claimed.get(name) {
                return Err(claimed.clone());
            }
            if state.going.insert(name.to_owned()) {
                break;
            }
            self.0.removed.wait(&mut state);
        }
        drop(state);
        Ok(Removal { shared: self.0.clone(), name: name.to_owned() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let Some(claimed) = state.claimed.get_mut(&self.name) else { return };
        if let Some(own) = claimed.iter().position(|by| *by == self.by) {
            claimed.swap_remove(own);
        }
        if claimed.is_empty() {
            state.claimed.remove(&self.name);
        }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.shared.state.lock().going.remove(&self.name);
        self.shared.removed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_stays() {
        let (claims, one, two) = (Claims::default(), ContainerId::random(), ContainerId::random());
        let first = claims.claim("data", &one);
        let second = claims.claim("data", &two);
        drop(first);
        assert_eq!(claims.remove("data").err(), Some(vec![two]));
        drop(second);
        assert!(claims.remove("data").is_ok() && claims.remove("data").is_ok());
    }

    #[test]
    fn a_claim_waits_for_a_removal() {
        let (claims, id) = (Claims::default(), ContainerId::random());
        let removal = claims.remove("data").unwrap_or_else(|_| unreachable!("nobody claims it"));
        std::thread::scope(|scope| {
            let claimed = scope.spawn(|| claims.claim("data", &id));
            assert!(!claimed.is_finished());
            drop(removal);
            let claim = claimed.join().unwrap();
            assert!(claims.remove("data").is_err());
            drop(claim);
        });
    }
}
