//! What differs between two answers, place by place.

use super::normalise::Normaliser;
use super::side::Answer;
use serde_json::Value;
use std::fmt;

/// One place where the two sides differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// `exit code`, `stdout`, `stderr`, or these with the path in a document: `stdout[0].HostConfig.Init`.
    pub(super) place: String,
    /// What dockerd has there; nothing where the place itself is missing.
    pub(super) dockerd: Option<String>,
    pub(super) stratus: Option<String>,
}

/// A line of output: text, or a document on a line of its own.
#[derive(Debug, PartialEq)]
enum Piece {
    Line(String),
    Document(Value),
}

impl fmt::Display for Piece {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => out.write_str(line),
            Self::Document(value) => write!(out, "{value}"),
        }
    }
}

/// Everything that differs between what the two sides made of one command.
pub(super) fn differences(dockerd: (&Answer, &Normaliser), stratus: (&Answer, &Normaliser)) -> Vec<Difference> {
    let mut found = Vec::new();
    if dockerd.0.code != stratus.0.code {
        found.push(Difference::new("exit code", Some(&dockerd.0.code), Some(&stratus.0.code)));
    }
    for (place, stream) in [("stdout", stdout as fn(&Answer) -> &str), ("stderr", stderr)] {
        let (theirs, ours) = (pieces(stream(dockerd.0), dockerd.1), pieces(stream(stratus.0), stratus.1));
        compare_pieces(place, &theirs, &ours, &mut found);
    }
    found
}

fn stdout(answer: &Answer) -> &str {
    &answer.stdout
}

fn stderr(answer: &Answer) -> &str {
    &answer.stderr
}

impl Difference {
    fn new(place: &str, dockerd: Option<&dyn ToString>, stratus: Option<&dyn ToString>) -> Self {
        let text = |side: Option<&dyn ToString>| side.map(ToString::to_string);
        Self { place: place.to_owned(), dockerd: text(dockerd), stratus: text(stratus) }
    }
}

/// One document, if the whole is one; else lines, of which some are documents.
fn pieces(text: &str, normaliser: &Normaliser) -> Vec<Piece> {
    if let Some(document) = document(text) {
        return vec![Piece::Document(normaliser.document(document))];
    }
    let text = normaliser.text(text);
    text.lines()
        .map(|line| {
            document(line)
                .map_or_else(|| Piece::Line(line.to_owned()), |value| Piece::Document(normaliser.document(value)))
        })
        .collect()
}

fn document(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(|value: &Value| value.is_object() || value.is_array())
}

fn compare_pieces(place: &str, theirs: &[Piece], ours: &[Piece], found: &mut Vec<Difference>) {
    for (theirs, ours) in hunks(theirs, ours) {
        if theirs.len() != ours.len() {
            let whole = |pieces: &[Piece]| {
                let lines: Vec<String> = pieces.iter().map(ToString::to_string).collect();
                (!lines.is_empty()).then(|| lines.join("\n"))
            };
            found.push(Difference { place: place.to_owned(), dockerd: whole(theirs), stratus: whole(ours) });
            continue;
        }
        for pair in theirs.iter().zip(ours) {
            match pair {
                (Piece::Document(theirs), Piece::Document(ours)) => compare_values(place, theirs, ours, found),
                (theirs, ours) if theirs != ours => found.push(Difference::new(place, Some(theirs), Some(ours))),
                _ => {}
            }
        }
    }
}

/// The most pairs of pieces that are held against each other: two gigabytes of notes. Where there are more, all that is between the first difference
/// and the last is one.
const MOST_PAIRS: usize = 1 << 28;

/// The longest runs without a common piece, by the longest common subsequence.
fn hunks<'a>(theirs: &'a [Piece], ours: &'a [Piece]) -> Vec<(&'a [Piece], &'a [Piece])> {
    // What both begin and end with takes no search.
    let same = |(theirs, ours): &(&Piece, &Piece)| theirs == ours;
    let begin = theirs.iter().zip(ours).take_while(same).count();
    let (theirs, ours) = (&theirs[begin..], &ours[begin..]);
    let end = theirs.iter().rev().zip(ours.iter().rev()).take_while(same).count();
    let (theirs, ours) = (&theirs[..theirs.len() - end], &ours[..ours.len() - end]);
    if theirs.len().saturating_mul(ours.len()) > MOST_PAIRS {
        return vec![(theirs, ours)];
    }
    let width = ours.len() + 1;
    let mut lengths = vec![0_usize; (theirs.len() + 1) * width];
    for (t, their) in theirs.iter().enumerate().rev() {
        for (o, our) in ours.iter().enumerate().rev() {
            lengths[t * width + o] = if their == our {
                lengths[(t + 1) * width + o + 1] + 1
            } else {
                lengths[(t + 1) * width + o].max(lengths[t * width + o + 1])
            };
        }
    }
    let (mut hunks, mut t, mut o) = (Vec::new(), 0, 0);
    while t < theirs.len() || o < ours.len() {
        let (t_start, o_start) = (t, o);
        while t < theirs.len() || o < ours.len() {
            if t < theirs.len() && o < ours.len() && theirs[t] == ours[o] {
                break;
            }
            let down =
                t < theirs.len() && (o == ours.len() || lengths[(t + 1) * width + o] >= lengths[t * width + o + 1]);
            if down { t += 1 } else { o += 1 }
        }
        if (t_start, o_start) != (t, o) {
            hunks.push((&theirs[t_start..t], &ours[o_start..o]));
        }
        while t < theirs.len() && o < ours.len() && theirs[t] == ours[o] {
            (t, o) = (t + 1, o + 1);
        }
    }
    hunks
}

fn compare_values(place: &str, theirs: &Value, ours: &Value, found: &mut Vec<Difference>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in theirs {
                compare_members(&format!("{place}.{name}"), Some(value), ours.get(name), found);
            }
            for (name, value) in ours.iter().filter(|(name, _)| !theirs.contains_key(*name)) {
                compare_members(&format!("{place}.{name}"), None, Some(value), found);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => {
            if theirs.len() == ours.len() {
                for (index, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                    compare_values(&format!("{place}[{index}]"), theirs, ours, found);
                }
            } else {
                let items = |list: &[Value]| list.iter().cloned().map(Piece::Document).collect::<Vec<_>>();
                compare_pieces(&format!("{place}[]"), &items(theirs), &items(ours), found);
            }
        }
        _ if theirs != ours => found.push(Difference::new(place, Some(theirs), Some(ours))),
        _ => {}
    }
}

fn compare_members(place: &str, theirs: Option<&Value>, ours: Option<&Value>, found: &mut Vec<Difference>) {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) => compare_values(place, theirs, ours, found),
        (None, None) => {}
        (theirs, ours) => found.push(Difference::new(
            place,
            theirs.map(|value| value as &dyn ToString),
            ours.map(|value| value as &dyn ToString),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Piece> {
        text.chars().map(|one| Piece::Line(one.to_string())).collect()
    }

    #[test]
    fn what_differs_is_found_between_what_does_not() {
        for (theirs, ours, expected) in [
            ("", "", &[][..]),
            ("abc", "abc", &[]),
            ("abc", "axc", &[("b", "x")]),
            ("ab", "b", &[("a", "")]),
            ("aab", "ab", &[("a", "")]),
            ("abcde", "xbcdy", &[("a", "x"), ("e", "y")]),
        ] {
            let (theirs, ours) = (lines(theirs), lines(ours));
            let text = |pieces: &[Piece]| pieces.iter().map(ToString::to_string).collect::<String>();
            let found: Vec<_> = hunks(&theirs, &ours).iter().map(|(theirs, ours)| (text(theirs), text(ours))).collect();
            let found: Vec<_> = found.iter().map(|(theirs, ours)| (&theirs[..], &ours[..])).collect();
            assert_eq!(found, expected);
        }
        // More than can be searched.
        let (theirs, ours) = (lines(&"a".repeat(20_000)), lines(&"b".repeat(20_000)));
        assert_eq!(hunks(&theirs, &ours).len(), 1);
    }
}
