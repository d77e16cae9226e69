//! How much stays: what is unwanted of a list, by age and by size, and how that goes on without being asked.

use super::inventory::{Cached, CachedKind};
use crate::intermediate;
use crate::solve::Builder;
use crate::{Error, Result};
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

/// How much stays of what builds keep. What an image has, too, costs nothing and counts for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheLimits {
    /// The most bytes.
    pub bytes: Option<u64>,
    /// The longest time that something stays without being used.
    pub age: Option<Duration>,
}

impl CacheLimits {
    /// The most bytes, unless somebody says: a tenth of the disk, and no more than this.
    const BYTES: u64 = 20_000_000_000;
    /// How long something stays, unless somebody says.
    const AGE: Duration = Duration::from_secs(30 * 24 * 3600);

    /// What is kept in a data directory where nobody says anything.
    pub fn of_disk(data_dir: &Path) -> CacheLimits {
        // It need not be there yet.
        let there = data_dir.ancestors().find(|directory| directory.is_dir());
        let disk = there
            .and_then(|there| rustix::fs::statvfs(there).ok())
            .map(|disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        let bytes = disk.map_or(Self::BYTES, |disk| Self::BYTES.min(disk / 10));
        CacheLimits { bytes: Some(bytes), age: Some(Self::AGE) }
    }
}

/// Says of something whether it is meant.
pub type Meant = Box<dyn Fn(&Cached) -> bool + Send + Sync>;

/// What is taken out.
#[derive(Default)]
pub struct PruneOptions {
    /// Also what images have.
    pub all: bool,
    /// Only what was not used since then.
    pub unused_since: Option<Timestamp>,
    /// So many bytes stay in any case, of what was used last.
    pub keep: u64,
    /// No more bytes than these stay. Without it and without [`free`](Self::free), no more than are kept in any case.
    pub most: Option<u64>,
    /// Only so much goes that the disk has so many bytes free.
    pub free: u64,
    /// Only what fits.
    pub only: Option<Meant>,
}

/// What was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What it was called.
    pub ids: Vec<String>,
    /// Bytes on the disk.
    pub reclaimed: u64,
}

impl PruneOptions {
    /// How many bytes stay of so many, on a disk that has so many free. `None`: nothing has to.
    fn goal(&self, all: u64, free: u64) -> Option<u64> {
        let for_room = match self.free {
            0 => None,
            wanted => Some(all.saturating_sub(wanted.saturating_sub(free))),
        };
        match for_room.into_iter().chain(self.most).min() {
            Some(goal) => Some(goal.max(self.keep)),
            None => Some(self.keep).filter(|keep| *keep > 0),
        }
    }

    fn fits(&self, one: &Cached) -> bool {
        !one.in_use
            && (self.all || !one.shared)
            && self.unused_since.is_none_or(|since| one.used < since)
            && self.only.as_ref().is_none_or(|only| only(one))
    }

    /// What goes of a list, on a disk that has so many bytes free.
    fn unwanted(&self, mut list: Vec<Cached>, free: u64) -> Vec<Cached> {
        by_worth(&mut list);
        let goal = self.goal(sum(list.iter().map(cost)), free);
        let (mut kept, mut full) = (0_u64, false);
        list.retain(|one| {
            // Once something does not fit, nothing does that is worth less: it may be of no use without.
            full = full || goal.is_none_or(|goal| kept.saturating_add(cost(one)) > goal);
            let goes = full && self.fits(one);
            kept = kept.saturating_add(if goes { 0 } else { cost(one) });
            goes
        });
        list
    }
}

/// All bytes; files with holes may say more of them than there are numbers.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Bytes that something takes by itself.
fn cost(one: &Cached) -> u64 {
    if one.shared { 0 } else { one.size }
}

/// Sorts a list by what is worth most: what was used last, and a step before those that follow it, which are of no use without. What has a
/// directory in common with something that is worth more, which stays longer, costs nothing for that.
fn by_worth(list: &mut [Cached]) {
    let steps: HashMap<&str, &Cached> = list.iter().map(|one| (one.id.as_str(), one)).collect();
    let mut used: HashMap<String, Timestamp> = HashMap::new();
    for one in list.iter() {
        // A step is as new as the newest that follows it.
        let mut above: Vec<&String> = one.parents.iter().collect();
        while let Some(id) = above.pop() {
            let Some(parent) = steps.get(id.as_str()) else { continue };
            let known = used.entry(id.clone()).or_insert(parent.used);
            if *known < one.used {
                *known = one.used;
                above.extend(&parent.parents);
            }
        }
    }
    list.sort_by_cached_key(|one| (Reverse(*used.get(&one.id).unwrap_or(&one.used)), one.made, one.id.clone()));
    let mut counted = HashSet::new();
    for one in list.iter_mut().filter(|one| !one.parts.is_empty()) {
        let parts = one.parts.iter().filter(|(dir, _)| counted.insert(dir.clone()));
        one.size = sum(parts.map(|(_, bytes)| *bytes));
    }
}

impl Builder {
    /// All that builds keep, what is worth most first. Blocks, for as long as it takes to look at each.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn cached(&self) -> Result<Vec<Cached>> {
        let mut list = self.cache().list()?;
        for part in self.parts() {
            list.extend(part.list()?);
        }
        by_worth(&mut list);
        Ok(list)
    }

    /// Takes out what is unwanted of what builds keep, and off the disk what nothing else needs.
    ///
    /// # Errors
    /// Where it can't be read or removed.
    pub async fn prune(&self, options: PruneOptions) -> Result<Pruned> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("removing what builds keep", e);
        let everything = options.all && options.unused_since.is_none() && options.goal(0, 0).is_none();
        let steps = if everything { 0 } else { intermediate::MOST };
        let builder = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let list = builder.cached()?;
            let free = match options.free {
                0 => 0,
                _ => free(builder.data_dir())?,
            };
            Ok::<_, Error>(options.unwanted(list, free))
        });
        let unwanted = looked.await.map_err(|e| failed(&e))??;
        let (cached, others): (Vec<Cached>, Vec<Cached>) =
            unwanted.into_iter().partition(|one| one.kind == CachedKind::Step);
        let mut ids: Vec<String> = cached.into_iter().map(|step| step.id).collect();
        self.cache().remove(&ids).await?;
        let builder = self.clone();
        let removing = tokio::task::spawn_blocking(move || {
            let mut removed = Vec::new();
            for one in others {
                for part in builder.parts().into_iter().filter(|part| part.kind() == one.kind) {
                    if part.remove(&one.id)? {
                        removed.push((one.id.clone(), one.size));
                    }
                }
            }
            Ok::<_, Error>(removed)
        });
        let removed: Vec<(String, u64)> = removing.await.map_err(|e| failed(&e))??;
        let collected = self.engine().image_store().gc(false).await.map_err(|e| failed(&e))?;
        let builder = self.clone();
        let bounding = tokio::task::spawn_blocking(move || builder.steps().bound(steps));
        bounding.await.map_err(|e| failed(&e))??;
        let reclaimed = collected.bytes.saturating_add(sum(removed.iter().map(|(_, size)| *size)));
        ids.extend(removed.into_iter().map(|(id, _)| id));
        Ok(Pruned { ids, reclaimed })
    }

    /// Takes out what is too old, and what is too much. One at a time does.
    pub(crate) async fn collect(&self) {
        let Ok(_alone) = self.collecting().try_lock() else { return };
        let limits = self.limits();
        let since = limits.age.and_then(|age| SignedDuration::try_from(age).ok());
        let since = since.and_then(|age| Timestamp::now().checked_sub(age).ok());
        let old = PruneOptions { unused_since: since, ..PruneOptions::default() };
        let many = PruneOptions { most: limits.bytes, ..PruneOptions::default() };
        let wanted = [(since.is_some(), old), (limits.bytes.is_some(), many)];
        for options in wanted.into_iter().filter_map(|(wanted, options)| wanted.then_some(options)) {
            match self.prune(options).await {
                Ok(Pruned { ids, reclaimed }) if !ids.is_empty() => {
                    tracing::info!(
                        number = ids.len(),
                        bytes = reclaimed,
                        "what builds keep was old or too much: it was removed"
                    );
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "could not bound what builds keep"),
            }
        }
    }
}

fn free(directory: &Path) -> Result<u64> {
    let disk = rustix::fs::statvfs(directory);
    let disk =
        disk.map_err(|e| Error::failed(format!("looking for room on the disk of {}", directory.display()), e))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(id: &str, used: i64, size: u64, parents: &[&str]) -> Cached {
        Cached {
            id: id.into(),
            kind: CachedKind::Step,
            what: String::new(),
            size,
            made: Timestamp::from_second(id.len() as i64).unwrap(),
            used: Timestamp::from_second(used).unwrap(),
            uses: 0,
            parents: parents.iter().map(|&parent| parent.to_owned()).collect(),
            in_use: false,
            shared: false,
            parts: Vec::new(),
        }
    }

    fn gone(options: &PruneOptions, list: &[Cached]) -> Vec<String> {
        options.unwanted(list.to_vec(), 50).into_iter().map(|one| one.id).collect()
    }

    #[test]
    fn what_was_used_last_stays_with_all_that_it_follows() {
        // "a", "ab" and "abc" follow each other; "x" stands alone.
        let list =
            [step("a", 1, 10, &[]), step("x", 5, 10, &[]), step("ab", 2, 10, &["a"]), step("abc", 9, 10, &["ab"])];
        let keep = |keep| PruneOptions { keep, ..PruneOptions::default() };
        assert_eq!(gone(&keep(30), &list), ["x"]);
        assert_eq!(gone(&keep(29), &list), ["abc", "x"]);
        assert_eq!(gone(&keep(100), &list), Vec::<String>::new());
        assert_eq!(gone(&keep(0), &list), ["a", "ab", "abc", "x"]);
        let most = |most, keep| PruneOptions { most: Some(most), keep, ..PruneOptions::default() };
        assert_eq!(
            (gone(&most(30, 0), &list), gone(&most(0, 30), &list)),
            (vec!["x".to_owned()], vec!["x".to_owned()])
        );
        // 50 are free, 10 more are wanted.
        assert_eq!(gone(&PruneOptions { free: 60, ..PruneOptions::default() }, &list), ["x"]);
        assert_eq!(gone(&PruneOptions { free: 50, ..PruneOptions::default() }, &list), Vec::<String>::new());
    }

    #[test]
    fn a_directory_that_lies_under_several_counts_once() {
        let upon = |id: &str, used: i64, parts: &[(&str, u64)]| {
            let parts: Vec<_> = parts.iter().map(|(dir, bytes)| ((*dir).to_owned(), *bytes)).collect();
            Cached { parts, ..step(id, used, 101, &[]) }
        };
        let mut list =
            [upon("a", 1, &[("d", 100)]), upon("b", 2, &[("e", 1), ("d", 100)]), upon("c", 3, &[("f", 1), ("d", 100)])];
        by_worth(&mut list);
        assert_eq!(list.clone().map(|one| (one.id, one.size)), [("c".into(), 101), ("b".into(), 1), ("a".into(), 0)]);
        let most = |most| PruneOptions { most: Some(most), ..PruneOptions::default() };
        assert_eq!(gone(&most(102), &list), Vec::<String>::new());
        assert_eq!(gone(&most(101), &list), ["b", "a"]);
    }

    #[test]
    fn what_is_needed_or_costs_nothing_stays() {
        let mut list = [step("a", 1, 10, &[]), step("b", 2, 10, &[]), step("c", 3, 10, &[])];
        list[0].in_use = true;
        list[1].shared = true;
        let all = |all| PruneOptions { all, ..PruneOptions::default() };
        assert_eq!(
            (gone(&all(false), &list), gone(&all(true), &list)),
            (vec!["c".to_owned()], vec!["c".into(), "b".into()])
        );
        let old = PruneOptions { unused_since: Timestamp::from_second(3).ok(), ..all(true) };
        assert_eq!(gone(&old, &list), ["b"]);
        let only = PruneOptions { only: Some(Box::new(|one| one.id == "c")), ..all(true) };
        assert_eq!(gone(&only, &list), ["c"]);
    }
}
