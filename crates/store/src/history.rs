//! How much of the past is remembered, and how the rest is forgotten: a little with each write.

use crate::schema::{META_OLDEST, Tables};
use crate::{Options, Revision};
use redb::ReadableTable;

/// However large they are, this many revisions are remembered: a watch that waits must find what it was woken for.
const FEWEST_REVISIONS: u64 = 100;

/// How many changes one write forgets beyond the number that it makes, so that a backlog shrinks and no write is slow.
const STEP: usize = 128;

/// What decides where history begins.
#[derive(Debug)]
pub(crate) struct History {
    oldest: Revision,
    /// Where history has to begin for its bytes' sake, as last measured.
    bytes_allow: Revision,
    /// Bytes written since that was measured.
    unmeasured: u64,
}

impl History {
    pub(crate) fn new(oldest: Revision) -> History {
        // Nothing is known about what an opened file holds: the first write measures.
        History { oldest, bytes_allow: Revision::ZERO, unmeasured: u64::MAX }
    }

    /// The oldest revision from which on every change is there.
    pub(crate) fn oldest(&self) -> Revision {
        self.oldest
    }

    /// Notes that `bytes` are written.
    pub(crate) fn written(&mut self, bytes: u64) {
        self.unmeasured = self.unmeasured.saturating_add(bytes);
    }

    /// Forgets what is too old, a few changes at a time; `made` were made by this write, which reaches `revision`.
    /// Where space is `scarce`, almost everything is too old.
    pub(crate) fn forget(
        &mut self,
        tables: &mut Tables<'_>,
        options: &Options,
        revision: Revision,
        made: usize,
        scarce: bool,
    ) -> Result<(), redb::Error> {
        let begin = match scarce {
            true => remember(FEWEST_REVISIONS.min(options.history_revisions), revision),
            false => self.begin(tables, options, revision)?,
        };
        if begin <= self.oldest {
            return Ok(());
        }
        let (forgotten, reached) = superseded(tables, self.oldest, begin, 2 * made + STEP)?;
        for place in forgotten {
            tables.changes.remove(place)?;
        }
        self.oldest = reached;
        tables.meta.insert(META_OLDEST, reached.0)?;
        Ok(())
    }

    /// Where history shall begin.
    fn begin(&mut self, tables: &Tables<'_>, options: &Options, revision: Revision) -> Result<Revision, redb::Error> {
        if self.unmeasured > options.history_bytes / 8 {
            self.bytes_allow = measure(tables, options.history_bytes)?;
            self.unmeasured = 0;
        }
        let by_number = remember(options.history_revisions, revision);
        let by_bytes = self.bytes_allow.min(remember(FEWEST_REVISIONS, revision));
        Ok(by_number.max(by_bytes))
    }
}

/// Where history begins that has the last `count` revisions up to `revision`.
fn remember(count: u64, revision: Revision) -> Revision {
    Revision((revision.0 + 1).saturating_sub(count.max(1)))
}

/// The oldest revision so that it and all later ones hold at most `limit` bytes of keys and values.
fn measure(tables: &Tables<'_>, limit: u64) -> Result<Revision, redb::Error> {
    let mut bytes = 0;
    for row in tables.changes.iter()?.rev() {
        let (place, record) = row?;
        let (key, _, _, value) = record.value();
        bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        if bytes > limit {
            return Ok(Revision(place.value().0 + 1));
        }
    }
    Ok(Revision::ZERO)
}

/// The places from revision `from` up to, without, `to` that are no key's present; about `limit` of them, in whole
/// revisions. With them the revision from which on nothing was looked at.
fn superseded(
    tables: &Tables<'_>,
    from: Revision,
    to: Revision,
    limit: usize,
) -> Result<(Vec<(u64, u32)>, Revision), redb::Error> {
    let mut found = Vec::new();
    let mut seen = 0;
    let mut last = from.0;
    for row in tables.changes.range((from.0, 0)..(to.0, 0))? {
        let (place, record) = row?;
        let place = place.value();
        if seen >= limit && place.0 != last {
            return Ok((found, Revision(place.0)));
        }
        (seen, last) = (seen + 1, place.0);
        let (key, ..) = record.value();
        let present = tables.keys.get(key)?.is_some_and(|present| present.value() == place);
        if !present {
            found.push(place);
        }
    }
    Ok((found, to))
}
