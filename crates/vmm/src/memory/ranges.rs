//! Ranges of addresses, each address in one of them or in none.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges, of which none begins where another one ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether an address is in one.
    pub(super) fn contains(&self, at: u64) -> bool {
        self.0.range(..=at).next_back().is_some_and(|(_, end)| at < *end)
    }

    /// What they have of a range, in order.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let before = self.0.range(..range.start).next_back();
        let from = self.0.range(range.start..range.end.max(range.start));
        let part = |(start, end): (&u64, &u64)| range.start.max(*start)..range.end.min(*end);
        before.into_iter().chain(from).map(part).filter(|part| part.start < part.end).collect()
    }

    /// What they have not of a range, in order.
    pub(super) fn without(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for part in self.within(range) {
            if at < part.start {
                gaps.push(at..part.start);
            }
            at = part.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// They with the gaps of less than `gap` between them, and, where they are more than `most` then, with all that lies between the first and the last.
    pub(super) fn joined(&self, gap: u64, most: usize) -> Vec<Range<u64>> {
        let mut joined: Vec<Range<u64>> = Vec::new();
        for (start, end) in &self.0 {
            match joined.last_mut() {
                Some(last) if *start < last.end.saturating_add(gap) => last.end = *end,
                _ => joined.push(*start..*end),
            }
        }
        match &joined[..] {
            [first, .., last] if joined.len() > most => std::iter::once(first.start..last.end).collect(),
            _ => joined,
        }
    }

    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // All that it touches become one with it.
        while let Some((next, until)) = self.0.range(..=end).next_back().filter(|(_, until)| **until >= start) {
            let (next, until) = (*next, *until);
            start = start.min(next);
            end = end.max(until);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: &Range<u64>) {
        for part in self.within(range) {
            let Some((start, end)) = self.0.range(..=part.start).next_back().map(|(start, end)| (*start, *end)) else {
                continue;
            };
            self.0.remove(&start);
            if start < part.start {
                self.0.insert(start, part.start);
            }
            if part.end < end {
                self.0.insert(part.end, end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn they_are_what_a_set_of_addresses_is(changes in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..40), look in (0u64..45, 0u64..20)) {
            let (mut ranges, mut set) = (Ranges::default(), std::collections::BTreeSet::new());
            for (insert, start, length) in changes {
                let range = start..start + length;
                if insert {
                    set.extend(range.clone());
                    ranges.insert(range);
                } else {
                    set.retain(|at| !range.contains(at));
                    ranges.remove(&range);
                }
                let mut last = None;
                for (start, end) in &ranges.0 {
                    prop_assert!(start < end && last.is_none_or(|last| last < start), "{:?}", ranges);
                    last = Some(end);
                }
            }
            let look = look.0..look.0 + look.1;
            let all = |parts: Vec<Range<u64>>| parts.into_iter().flatten().collect::<Vec<_>>();
            let is_in = |at: &u64| set.contains(at);
            prop_assert_eq!(all(ranges.within(&look)), look.clone().filter(is_in).collect::<Vec<_>>());
            prop_assert_eq!(all(ranges.without(&look)), look.clone().filter(|at| !is_in(at)).collect::<Vec<_>>());
            prop_assert!((0..60).all(|at| ranges.contains(at) == set.contains(&at)));
        }
    }
}
