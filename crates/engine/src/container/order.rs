//! Starting many containers, those that others need first.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;

use super::Container;
use crate::Engine;
use crate::model::{ContainerRecord, IpcMode, NetworkMode, PidMode};

/// How many are started at the same time.
const AT_ONCE: usize = 8;

impl Engine {
    /// Starts containers that wait for it. Nobody waits for that: a start that takes long, as something that it needs is not
    /// there, keeps neither the daemon from answering nor those that don't need it from being started.
    pub(super) fn start_in_order(&self, waiting: Vec<Arc<Container>>) {
        if waiting.is_empty() {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            let needs = waiting.iter().map(|container| engine.needs(&container.record())).collect();
            let ids: Vec<&str> = waiting.iter().map(|container| container.id.as_str()).collect();
            for wave in waves(&ids, needs) {
                let starts = wave.into_iter().map(|index| engine.start_by_policy(&waiting[index]));
                futures_util::stream::iter(starts).for_each_concurrent(AT_ONCE, |start| start).await;
            }
        });
    }

    /// Identifiers of the containers that must run before one can start.
    fn needs(&self, record: &ContainerRecord) -> BTreeSet<String> {
        let host = &record.host;
        let mut names: Vec<&str> = host.links.iter().filter_map(|link| link.split(':').next()).collect();
        if let NetworkMode::Container(name) = &host.network_mode {
            names.push(name);
        }
        if let IpcMode::Container(name) = &host.ipc_mode {
            names.push(name);
        }
        if let PidMode::Container(name) = &host.pid_mode {
            names.push(name);
        }
        names.into_iter().filter_map(|name| Some(self.0.containers.find(name).ok()?.id.to_string())).collect()
    }
}

/// Positions in `ids`, in waves: each needs only what is in earlier ones, or not in `ids`. Those that need each other in a
/// circle, which nobody can start, and what needs them come last.
fn waves(ids: &[&str], needs: Vec<BTreeSet<String>>) -> Vec<Vec<usize>> {
    let mut left: Vec<(usize, BTreeSet<String>)> = needs.into_iter().enumerate().collect();
    let mut waves = Vec::new();
    while !left.is_empty() {
        let there: BTreeSet<&str> = left.iter().map(|(index, _)| ids[*index]).collect();
        let is_ready = |needs: &BTreeSet<String>| !needs.iter().any(|need| there.contains(need.as_str()));
        let (ready, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, needs)| is_ready(needs));
        let (wave, rest) = if ready.is_empty() { (later, Vec::new()) } else { (ready, later) };
        waves.push(wave.into_iter().map(|(index, _)| index).collect());
        left = rest;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(needs: &[(&str, &[&str])]) -> Vec<Vec<usize>> {
        let ids: Vec<&str> = needs.iter().map(|(id, _)| *id).collect();
        waves(&ids, needs.iter().map(|(_, needs)| needs.iter().map(ToString::to_string).collect()).collect())
    }

    #[test]
    fn what_others_need_comes_first() {
        let web: (&str, &[&str]) = ("web", &["db", "cache"]);
        assert_eq!(order(&[web, ("cache", &["db"]), ("db", &["elsewhere"])]), [[2], [1], [0]]);
        assert_eq!(order(&[("a", &[]), ("b", &[])]), [[0, 1]]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(order(&[("a", &["b"]), ("b", &["a"]), ("c", &["a"]), ("d", &[])]), [vec![3], vec![0, 1, 2]]);
    }
}
