//! Filters of lists, prunes and events: a key and any of several values.

use std::collections::{BTreeMap, BTreeSet};

use image::LabelFilter;
use regex_lite::Regex;

use crate::Error;

/// Filters as clients send them: for each key, the values of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// The values of a key whose values are regular expressions, found anywhere in a text. What is none, or would mean something
/// else as one, still stands for itself.
#[derive(Clone, Debug)]
pub struct Patterns(Vec<(String, Option<Regex>)>);

impl Filters {
    /// From keys and values.
    pub fn new(map: BTreeMap<String, BTreeSet<String>>) -> Self {
        Self(map)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of `key`.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether `key` is given.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// Whether `key` is not given, or `accept` takes one of its values.
    pub fn any(&self, key: &str, accept: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(accept)
    }

    /// The values of `key` as patterns.
    pub fn patterns(&self, key: &str) -> Patterns {
        Patterns(self.values(key).map(|value| (value.to_owned(), Regex::new(value).ok())).collect())
    }

    /// Whether every `label` filter, and no `label!` filter, matches.
    pub fn labels_match(&self, labels: &BTreeMap<String, String>) -> bool {
        self.values("label").all(|filter| LabelFilter::parse(filter).matches(labels))
            && !self.values("label!").any(|filter| LabelFilter::parse(filter).matches(labels))
    }

    /// A yes-or-no filter; `None` where it is not given.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        let mut values = self.values(key);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some("1" | "true" | "True" | "TRUE" | "t" | "T"), None) => Ok(Some(true)),
            (Some("0" | "false" | "False" | "FALSE" | "f" | "F"), None) => Ok(Some(false)),
            _ => {
                let values: Vec<&str> = self.values(key).collect();
                Err(Error::invalid(format!("invalid filter '{key}=[{}]'", values.join(" "))))
            }
        }
    }

    /// Refuses a key that is not in `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Error::invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The error for a value of `key` that nobody understands.
    pub fn invalid(&self, key: &str) -> Error {
        let values: Vec<&str> = self.values(key).collect();
        Error::invalid(format!("invalid filter '{key}={}'", values.join(" ")))
    }
}

impl Patterns {
    /// Whether there is none, or one matches.
    pub fn matches(&self, text: &str) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|(value, regex)| value == text || regex.as_ref().is_some_and(|regex| regex.is_match(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_part_anchored_and_as_they_are() {
        let matches = |pattern: &str, text: &str| {
            let values = BTreeMap::from([("name".to_owned(), BTreeSet::from([pattern.to_owned()]))]);
            Filters::new(values).patterns("name").matches(text)
        };
        assert!(matches("eb", "web-1") && matches("^w.b-[0-9]+$", "web-1") && !matches("^web$", "web-1"));
        assert!(matches("a+b", "a+b") && matches("(web", "(web") && !matches("(web", "web"));
        assert!(Filters::default().patterns("name").matches("anything"));
    }
}
