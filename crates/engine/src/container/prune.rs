//! `prune`: containers that do not run.

use std::collections::BTreeMap;

use super::RemoveOptions;
use crate::events::EventKind;
use crate::model::{ContainerRecord, Filters, Phase, Timestamp};
use crate::{Engine, Error, Result};

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Identifiers or names.
    pub deleted: Vec<String>,
    /// Bytes on disk.
    pub reclaimed: u64,
}

impl Engine {
    /// Removes containers that do not run; filters: `until`, `label`.
    pub async fn prune_containers(&self, filters: &Filters) -> Result<PruneReport> {
        filters.only(&["until", "label", "label!"])?;
        let until = until(filters)?;
        let mut report = PruneReport::default();
        let wanted = |record: &ContainerRecord| {
            // What is due has exited for all who look, but not for good: it is about to be started, and who cleans up after a
            // boot does not mean what was running before.
            // A step of a build is about to run, or what it changed is about to be kept: it goes with its build.
            matches!(record.state.phase, Phase::Created | Phase::Exited | Phase::Dead)
                && !record.step
                && until.is_none_or(|until| record.created < until)
                && filters.labels_match(&record.config.labels)
        };
        for container in self.0.containers.all() {
            let record = container.record();
            if !wanted(&record) {
                continue;
            }
            let size = self.size_of(&record).await.rw.unwrap_or(0);
            match self.remove(record.id.as_str(), RemoveOptions::default()).await {
                Ok(()) => {
                    report.reclaimed += size;
                    report.deleted.push(record.id.to_string());
                }
                Err(error) => tracing::warn!(container = %record.id.short(), %error, "could not prune it"),
            }
        }
        let reclaimed = BTreeMap::from([("reclaimed".to_owned(), report.reclaimed.to_string())]);
        self.0.events.tell(EventKind::Container, "prune", "", reclaimed);
        Ok(report)
    }
}

/// The `until` filter: a time, seconds since 1970, or a span back from now (`24h`).
///
/// # Errors
/// Invalid where it is none of these, or given twice.
pub fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut values = filters.values("until");
    let Some(text) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("more than one until filter specified"));
    }
    let invalid = || Error::invalid(format!("failed to parse value as time or duration: {text:?}"));
    crate::model_text::time(text).map(Some).ok_or_else(invalid)
}
