//! The backup beside the store's file: the present values, without history, in a store of its own.

use crate::file::{self, DatabaseFile};
use crate::schema::{self, CHANGES, KEYS, META};
use crate::{BackupError, Options, Revision};
use redb::{Database, ReadTransaction, ReadableTable};
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// A restored store continues this far above the revision of its backup, so that no revision is ever given out twice:
/// what the lost store counted since the backup is less.
const GAP: u64 = 1 << 32;

/// Memory for pages of the backup while it is written, in bytes.
const CACHE: usize = 1 << 20;

/// When the backup is due.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: Duration,
    /// When the next one may be written.
    due: Instant,
    /// The revision that the last one holds, where this process wrote it.
    holds: Option<Revision>,
}

impl Schedule {
    /// The schedule for `file`; `None` where it is to have no backup.
    pub(crate) fn new(file: &DatabaseFile) -> Option<Schedule> {
        let interval = file.options().backup_interval?;
        let path = file.backup_path()?;
        let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let age = written.and_then(|written| SystemTime::now().duration_since(written).ok());
        let wait = age.map_or(Duration::ZERO, |age| interval.saturating_sub(age));
        Some(Schedule { interval, due: Instant::now() + wait, holds: None })
    }

    /// Whether one is due for a store at `revision`: when its time has come, something changed and nobody waits; or
    /// when it is overdue by a whole interval, since somebody always waits.
    pub(crate) fn is_due(&self, revision: Revision, idle: bool) -> bool {
        let patience = if idle { Duration::ZERO } else { self.interval };
        self.is_wanted(revision) && Instant::now() >= self.due + patience
    }

    /// How long until its time has come, for a store at `revision`; `None` if nothing changed since the last one.
    pub(crate) fn wait(&self, revision: Revision) -> Option<Duration> {
        self.is_wanted(revision).then(|| self.due.saturating_duration_since(Instant::now()))
    }

    fn is_wanted(&self, revision: Revision) -> bool {
        self.holds != Some(revision)
    }

    /// Notes the outcome of writing one.
    pub(crate) fn done(&mut self, holds: Option<Revision>) {
        self.due = Instant::now() + self.interval;
        self.holds = holds.or(self.holds);
    }
}

/// Writes the backup of `file`, replacing the one before when it is whole. Returns the revision it holds.
pub(crate) fn write(file: &DatabaseFile) -> Result<Revision, BackupError> {
    let Some(path) = file.backup_path() else { return Ok(Revision::ZERO) };
    let _alone = file.lock_backup();
    let fresh = file::beside(&path, ".new");
    let written = file.read("everything", |txn| Ok(copy(txn, &fresh))).map_err(BackupError::Read);
    let failed = |source: io::Error| BackupError::Write { path: path.clone(), source };
    let placed = written.and_then(|copied| {
        let revision = copied.map_err(|error| failed(io::Error::other(error.to_string())))?;
        fs::rename(&fresh, &path).and_then(|()| file::sync_directory(&path)).map_err(failed)?;
        Ok(revision)
    });
    if placed.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    placed
}

fn copy(from: &ReadTransaction, to: &Path) -> Result<Revision, redb::Error> {
    let options = Options { cache_bytes: CACHE, ..Options::default() };
    let revision = schema::revision(&from.open_table(CHANGES)?, &from.open_table(META)?)?;
    file::write_fresh(to, &options, |database| fill(from, database, revision))?;
    Ok(revision)
}

fn fill(from: &ReadTransaction, to: &Database, revision: Revision) -> Result<(), redb::Error> {
    file::initialise(to)?;
    let (keys, changes) = (from.open_table(KEYS)?, from.open_table(CHANGES)?);
    let txn = to.begin_write()?;
    {
        let mut tables = schema::Tables::open(&txn)?;
        for row in keys.iter()? {
            let (key, place) = row?;
            let place = place.value();
            let record = changes.get(place)?.ok_or_else(|| schema::dangling(key.value(), place))?;
            tables.changes.insert(place, record.value())?;
            tables.keys.insert(key.value(), place)?;
        }
        let reached = revision.0 + GAP;
        tables.meta.insert(schema::META_REVISION, reached)?;
        tables.meta.insert(schema::META_OLDEST, reached + 1)?;
    }
    txn.commit()?;
    Ok(())
}
