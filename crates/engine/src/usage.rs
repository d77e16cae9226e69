//! What ran, and what it used: the ledger's records, with what still runs as far as it is counted.

use std::cmp::Reverse;
use std::collections::HashMap;

use meter::{Query, Run, Totals, Usage};

use crate::metering::LABEL;
use crate::model::{Filters, Timestamp};
use crate::{Engine, Error, Result};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct UsageQuery {
    /// Runs that ended then, or later.
    pub since: Option<Timestamp>,
    /// Runs that ended before; what still runs is none of them, unless this is to come.
    pub until: Option<Timestamp>,
    /// `kind`, `container`, `image`, `label`, `label!`
    pub filters: Filters,
    /// What is added up.
    pub by: UsageBy,
}

/// What belongs together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UsageBy {
    /// The runs of one container.
    #[default]
    Subject,
    /// The runs of one image.
    Image,
    /// The runs with one value of a label; those without it stand under the empty one.
    Label(String),
}

/// Runs that were added up.
#[derive(Clone, Debug, Default)]
pub struct UsageGroup {
    /// What kind of thing ran, where all of them are of one.
    pub kind: String,
    /// Which one, by [`UsageBy::Subject`].
    pub id: String,
    /// Its name in the last of the runs, by [`UsageBy::Subject`].
    pub name: String,
    /// The image: of the last of the runs, or what they have in common.
    pub image: String,
    /// The label's value, by [`UsageBy::Label`].
    pub label: String,
    /// Start of the first run.
    pub first: Timestamp,
    /// End of the last run; `None`: one still runs.
    pub last: Option<Timestamp>,
    /// How many of them still run.
    pub running: u64,
    /// How many they are, and what they used.
    pub totals: Totals,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct UsageReport {
    /// The greatest consumer of processor time first.
    pub groups: Vec<UsageGroup>,
    /// All of them together.
    pub totals: Totals,
    /// How many still run.
    pub running: u64,
}

impl Engine {
    /// What ran, and what it used.
    pub async fn usage(&self, query: UsageQuery) -> Result<UsageReport> {
        query.filters.only(&["kind", "container", "image", "label", "label!"])?;
        let engine = self.clone();
        crate::blocking(move || engine.usage_now(&query)).await
    }

    fn usage_now(&self, query: &UsageQuery) -> Result<UsageReport> {
        let mut sums = Sums { query, groups: HashMap::new() };
        // What ends meanwhile may be in several of them, and is counted once: its subject and its start tell it.
        let (open, closing) = self.open_counts();
        let started = |run: &Run| (run.subject.clone(), run.started);
        let mut left: HashMap<_, _> =
            open.into_iter().map(|count| (started(count.run()), (count.run().clone(), None, *count.usage()))).collect();
        left.extend(
            closing.into_iter().map(|record| (started(&record.run), (record.run, Some(record.ended), record.usage))),
        );
        let mut range = Query::all();
        if let Some(since) = query.since {
            range = range.since(since);
        }
        if let Some(until) = query.until {
            range = range.until(until);
        }
        let read = self.0.metering.ledger.visit(&range, |record| {
            left.remove(&started(&record.run));
            sums.add(&record.run, Some(record.ended), &record.usage);
        });
        read.map_err(|error| Error::step("read what ended runs used", error))?;
        let now = Timestamp::now();
        let meant = |ended: Timestamp| {
            query.since.is_none_or(|since| ended >= since) && query.until.is_none_or(|until| ended < until)
        };
        let mut left: Vec<_> = left.into_values().filter(|(_, ended, _)| meant(ended.unwrap_or(now))).collect();
        left.sort_by_key(|(run, ended, _)| (ended.is_none(), *ended, run.started));
        for (run, ended, usage) in left {
            sums.add(&run, ended, &usage);
        }
        Ok(sums.report())
    }
}

/// Runs on their way into groups.
struct Sums<'q> {
    query: &'q UsageQuery,
    groups: HashMap<String, UsageGroup>,
}

impl Sums<'_> {
    /// Adds a run, where it is asked for; `ended`: `None` while it lasts.
    fn add(&mut self, run: &Run, ended: Option<Timestamp>, usage: &Usage) {
        if !matches(&self.query.filters, run) {
            return;
        }
        let (kind, id) = (run.subject.kind(), run.subject.id());
        let text = |name: &str| run.labels.get(name).cloned().unwrap_or_default();
        let key = match &self.query.by {
            UsageBy::Subject => run.subject.to_string(),
            UsageBy::Image => text("image"),
            UsageBy::Label(name) => text(&format!("{LABEL}{name}")),
        };
        let group = self.groups.entry(key.clone()).or_insert_with(|| UsageGroup {
            kind: kind.to_owned(),
            first: run.started,
            last: ended,
            ..UsageGroup::default()
        });
        if group.kind != kind {
            group.kind.clear();
        }
        // They come in the order of their ends, and what still runs comes last.
        group.first = group.first.min(run.started);
        group.last = ended;
        group.running += u64::from(ended.is_none());
        group.totals.add(usage);
        match &self.query.by {
            UsageBy::Subject => (group.id, group.name, group.image) = (id.to_owned(), text("name"), text("image")),
            UsageBy::Image => group.image = key,
            UsageBy::Label(_) => group.label = key,
        }
    }

    fn report(self) -> UsageReport {
        let mut report = UsageReport { groups: self.groups.into_values().collect(), ..UsageReport::default() };
        report.groups.sort_by_key(|group| (Reverse(group.totals.usage.cpu_ns), group.first));
        for group in &report.groups {
            report.totals.runs += group.totals.runs;
            report.totals.usage += &group.totals.usage;
            report.running += group.running;
        }
        report
    }
}

/// Whether a run is asked for: a container by its name or the beginning of its identifier, an image by its name.
fn matches(filters: &Filters, run: &Run) -> bool {
    let (kind, id) = (run.subject.kind(), run.subject.id());
    let is = |name: &str, value: &str| run.labels.get(name).is_some_and(|own| own == value);
    let image = run.labels.get("image").map(String::as_str).unwrap_or_default();
    let own = run.labels.iter().filter_map(|(name, value)| Some((name.strip_prefix(LABEL)?.to_owned(), value.clone())));
    filters.any("kind", |value| value == kind)
        && filters.any("container", |value| {
            is("name", value.trim_start_matches('/')) || (!value.is_empty() && id.starts_with(value))
        })
        && filters.any("image", |value| untagged(value) == untagged(image))
        && filters.labels_match(&own.collect())
}

/// An image's name without the tag that stands for none.
fn untagged(image: &str) -> &str {
    image.strip_suffix(":latest").unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use meter::Subject;

    use super::*;

    fn run(id: &str, name: &str, image: &str, team: &str) -> Run {
        let run = Run::new(Subject::new("container", id).unwrap(), Timestamp::UNIX_EPOCH);
        run.label("name", name).label("image", image).label("label/team", team)
    }

    fn filters(list: &[(&str, &str)]) -> Filters {
        let mut map = BTreeMap::<String, BTreeSet<String>>::new();
        for (key, value) in list {
            map.entry((*key).to_owned()).or_default().insert((*value).to_owned());
        }
        Filters::new(map)
    }

    #[test]
    fn runs_are_found_by_what_they_were() {
        let run = run("abcdef", "web", "shop:latest", "blue");
        for yes in [
            &[][..],
            &[("container", "web")],
            &[("container", "/web")],
            &[("container", "abc"), ("kind", "container")],
            &[("container", "no"), ("container", "web"), ("image", "shop")],
            &[("label", "team")],
            &[("label", "team=blue"), ("image", "shop:latest")],
            &[("label!", "team=red")],
        ] {
            assert!(matches(&filters(yes), &run), "{yes:?}");
        }
        for no in [
            &[("container", "we")][..],
            &[("container", "")],
            &[("kind", "function")],
            &[("image", "shop:1")],
            // What is known of a run beside its labels is none of them.
            &[("label", "name=web")],
            &[("label", "team"), ("label", "other")],
            &[("label!", "team")],
        ] {
            assert!(!matches(&filters(no), &run), "{no:?}");
        }
    }

    #[test]
    fn groups_are_what_is_asked_for() {
        let usage = |cpu_ns| Usage { cpu_ns, ..Usage::default() };
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let report = |by| {
            let query = UsageQuery { by, ..UsageQuery::default() };
            let mut sums = Sums { query: &query, groups: HashMap::new() };
            sums.add(&run("a", "old", "one", "blue"), at(1), &usage(1));
            sums.add(&run("b", "b", "two", "red"), at(2), &usage(10));
            sums.add(&run("a", "new", "two", "blue"), None, &usage(2));
            sums.report()
        };
        let shown = |by, of: fn(&UsageGroup) -> &String| -> Vec<(String, u64, u64, u64)> {
            let groups = report(by).groups;
            let group =
                |group: &UsageGroup| (of(group).clone(), group.totals.runs, group.running, group.totals.usage.cpu_ns);
            groups.iter().map(group).collect()
        };
        let row = |name: &str, runs, running, cpu| (name.to_owned(), runs, running, cpu);
        assert_eq!(shown(UsageBy::Subject, |group| &group.name), [row("b", 1, 0, 10), row("new", 2, 1, 3)]);
        assert_eq!(shown(UsageBy::Image, |group| &group.image), [row("two", 2, 1, 12), row("one", 1, 0, 1)]);
        let team = UsageBy::Label("team".to_owned());
        assert_eq!(shown(team, |group| &group.label), [row("red", 1, 0, 10), row("blue", 2, 1, 3)]);
        let whole = report(UsageBy::Subject);
        assert_eq!((whole.totals.runs, whole.running, whole.totals.usage.cpu_ns), (3, 1, 13));
        assert_eq!((whole.groups[0].last, whole.groups[1].last), (at(2), None));
    }
}
