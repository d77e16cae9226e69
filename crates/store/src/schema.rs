//! How the store's contents lie in redb: the tables, and the steps that read and change them.
//!
//! Every change is kept once, in `changes`, under its revision and its place among the changes of that revision.
//! `keys` says for each present key which of them is the last. So the present and the past share their bytes:
//! what `keys` points at is the present, everything else in `changes` is history.

use crate::txn::{Conflict, Expect, Op, Request};
use crate::{Change, ChangeKind, Entry, Revision};
use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

/// The version of this layout. A store with a greater one was written by a newer program.
pub(crate) const VERSION: u64 = 1;

/// Where a change lies: its revision, and its place in it.
pub(crate) type Place = (u64, u32);
/// A change: key, revision that made the key, how often it was put since, and the value; no value is a deletion.
pub(crate) type Record<'a> = (&'a str, u64, u64, Option<&'a [u8]>);

pub(crate) const CHANGES: TableDefinition<'static, Place, Record<'static>> = TableDefinition::new("changes");
pub(crate) const KEYS: TableDefinition<'static, &'static str, Place> = TableDefinition::new("keys");
pub(crate) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");

/// `META`: the version of the layout.
pub(crate) const META_VERSION: &str = "version";
/// `META`: where history begins: of what changed before, only what is present is still there.
pub(crate) const META_OLDEST: &str = "oldest";
/// `META`: a revision that the store has reached, if `changes` shows no later one (after a restored backup, and after
/// relaxed changes were lost).
pub(crate) const META_REVISION: &str = "revision";
/// `META`: up to where relaxed changes may have been given revisions without this file knowing.
pub(crate) const META_RESERVED: &str = "reserved";
/// `META`: the oldest revision that a watch may start with, where that is later than `META_OLDEST`: after changes were
/// lost, whoever was told of them has to look anew.
pub(crate) const META_SINCE: &str = "since";

/// The tables, open for writing.
pub(crate) struct Tables<'t> {
    pub(crate) changes: Table<'t, Place, Record<'static>>,
    pub(crate) keys: Table<'t, &'static str, Place>,
    pub(crate) meta: Table<'t, &'static str, u64>,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(txn: &'t WriteTransaction) -> Result<Tables<'t>, redb::Error> {
        Ok(Tables { changes: txn.open_table(CHANGES)?, keys: txn.open_table(KEYS)?, meta: txn.open_table(META)? })
    }

    /// The first key of `expects` that is not as expected.
    fn unmet(&self, expects: &[(String, Expect)]) -> Result<Option<Conflict>, redb::Error> {
        for (key, expected) in expects {
            let found = self.keys.get(key.as_str())?.map(|place| Revision(place.value().0));
            let met = match (expected, found) {
                (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
                (Expect::Revision(expected), Some(found)) => *expected == found,
                _ => false,
            };
            if !met {
                return Ok(Some(Conflict { key: key.clone(), expected: *expected, found }));
            }
        }
        Ok(None)
    }

    /// Applies a request as revision `revision`, or finds the conflict and changes nothing. `oldest` is where history
    /// begins: what is superseded from before is dropped right here. Tells the keys that changed.
    pub(crate) fn apply(
        &mut self,
        request: &Request,
        revision: Revision,
        oldest: Revision,
    ) -> Result<Result<Vec<String>, Conflict>, redb::Error> {
        if let Some(conflict) = self.unmet(&request.expects)? {
            return Ok(Err(conflict));
        }
        let mut step = Step { tables: self, revision, oldest, changed: Vec::new() };
        for op in &request.ops {
            match op {
                Op::Put { key, value } => step.put(key, value)?,
                Op::Delete { key } => step.delete(key)?,
                Op::DeletePrefix { prefix } => {
                    for (key, _) in places(&step.tables.keys, prefix)? {
                        step.delete(&key)?;
                    }
                }
            }
        }
        Ok(Ok(step.changed))
    }
}

/// One transaction's changes on their way in.
struct Step<'a, 't> {
    tables: &'a mut Tables<'t>,
    revision: Revision,
    oldest: Revision,
    changed: Vec<String>,
}

impl Step<'_, '_> {
    fn place(&self) -> Place {
        (self.revision.0, u32::try_from(self.changed.len()).unwrap_or(u32::MAX))
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), redb::Error> {
        let before = self.tables.keys.get(key)?.map(|place| place.value());
        let (created, version) = match before {
            Some(before) => {
                let record = self.tables.changes.get(before)?.ok_or_else(|| dangling(key, before))?;
                (record.value().1, record.value().2 + 1)
            }
            None => (self.revision.0, 1),
        };
        let place = self.place();
        self.tables.changes.insert(place, (key, created, version, Some(value)))?;
        self.tables.keys.insert(key, place)?;
        self.supersede(before)?;
        self.changed.push(key.to_owned());
        Ok(())
    }

    fn delete(&mut self, key: &str) -> Result<(), redb::Error> {
        let Some(before) = self.tables.keys.remove(key)?.map(|place| place.value()) else { return Ok(()) };
        let place = self.place();
        self.tables.changes.insert(place, (key, 0, 0, None))?;
        self.supersede(Some(before))?;
        self.changed.push(key.to_owned());
        Ok(())
    }

    /// A change that is no longer the last of its key stays as history, unless history begins after it.
    fn supersede(&mut self, before: Option<Place>) -> Result<(), redb::Error> {
        match before {
            Some(place) if place.0 < self.oldest.0 => self.tables.changes.remove(place).map(drop).map_err(Into::into),
            _ => Ok(()),
        }
    }
}

/// The keys that begin with `prefix`, and where their last changes lie.
pub(crate) fn places(
    keys: &impl ReadableTable<&'static str, Place>,
    prefix: &str,
) -> Result<Vec<(String, Place)>, redb::Error> {
    let mut found = Vec::new();
    for row in keys.range::<&str>(prefix..)? {
        let (key, place) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), place.value()));
    }
    Ok(found)
}

/// The entry of `key`, whose last change lies at `place`.
pub(crate) fn entry(
    changes: &impl ReadableTable<Place, Record<'static>>,
    key: &str,
    place: Place,
) -> Result<Entry, redb::Error> {
    let record = changes.get(place)?.ok_or_else(|| dangling(key, place))?;
    let (of, created, version, value) = record.value();
    match value {
        Some(value) if of == key => {
            Ok(Entry { value: value.to_owned(), revision: Revision(place.0), created: Revision(created), version })
        }
        _ => Err(dangling(key, place)),
    }
}

/// The change that a record at `place` tells of.
pub(crate) fn change(place: Place, record: Record<'_>) -> Change {
    let (key, created, version, value) = record;
    let kind = match value {
        Some(value) => ChangeKind::Put { value: value.to_owned(), created: Revision(created), version },
        None => ChangeKind::Delete,
    };
    Change { revision: Revision(place.0), key: key.to_owned(), kind }
}

/// The store's revision, as its tables tell it.
pub(crate) fn revision(
    changes: &impl ReadableTable<Place, Record<'static>>,
    meta: &impl ReadableTable<&'static str, u64>,
) -> Result<Revision, redb::Error> {
    Ok(last_change(changes)?.max(number(meta, META_REVISION)?))
}

/// The revision of the last change.
pub(crate) fn last_change(changes: &impl ReadableTable<Place, Record<'static>>) -> Result<Revision, redb::Error> {
    Ok(Revision(changes.last()?.map_or(0, |(place, _)| place.value().0)))
}

/// A revision that `META` holds; zero where it does not.
pub(crate) fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<Revision, redb::Error> {
    Ok(Revision(meta.get(name)?.map_or(0, |number| number.value())))
}

/// The oldest revision that a watch may start with.
pub(crate) fn watchable(meta: &impl ReadableTable<&'static str, u64>) -> Result<Revision, redb::Error> {
    Ok(number(meta, META_OLDEST)?.max(number(meta, META_SINCE)?))
}

/// The error for a key whose last change is not where `keys` says.
pub(crate) fn dangling(key: &str, place: Place) -> redb::Error {
    redb::Error::Corrupted(format!("the last change of {key:?} is not at {}/{}", place.0, place.1))
}
