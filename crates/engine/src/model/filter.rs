//! Filters of lists, prunes and events: a key and any of several values.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;

/// Filters as clients send them: for each key, the values of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// `key`, or `key=value`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    key: String,
    value: Option<String>,
}

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

impl LabelFilter {
    /// From `key` or `key=value`.
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((key, value)) => Self { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Self { key: text.to_owned(), value: None },
        }
    }

    /// Whether `labels` has it.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match (labels.get(&self.key), &self.value) {
            (Some(have), Some(want)) => have == want,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}
