//! What has to differ between two daemons gets one name for both: ids, times, places, process ids.
//!
//! Each rule is as narrow as it can be: what is no id, time or place stays as it is, and is compared.

use super::image::Image;
use regex_lite::{Captures, Regex};
use serde_json::Value;
use std::path::Path;

/// Patterns, in the order in which they are applied, and what takes their place.
const RULES: &[(&str, &str)] = &[
    // RFC 3339, of containers, images, events and log lines. Times that mean "never" are no part of this century.
    (r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    // As `docker ps --no-trunc` and `docker images` have it.
    (r"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
    // The next free subnet, and addresses and MAC addresses in it: the default bridge has the first.
    (r"\b172\.31\.[1-9]\d*\.", "172.31.<next>."),
    (r"\b02:42:ac:1f:(0[1-9a-f]|[1-9a-f]\d):", "02:42:ac:1f:<next>:"),
    // What is free in it: dockerd gives an address to the next one as soon as its owner has ended, stratus once nothing of
    // that one answers to it any more. What a scenario asks for itself is from 9 on.
    (r"\b172\.31\.(0|<next>)\.[2-8]\b", "172.31.$1.<free>"),
    (r"\b02:42:ac:1f:(00|<next>):0[2-8]\b", "02:42:ac:1f:$1:<free>"),
    // As `ls -l` has it.
    (r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b", "<time>"),
    // How long ago, and for how long.
    (r"\b([Ll]ess than a second|\d+ seconds?|[Aa]bout a minute|\d+ minutes?)\b", "<while>"),
    // For how long it ran, as events have it.
    (r"\bexecDuration=\d+", "execDuration=<while>"),
    // The directory of a layer, as they come.
    (r"<here>/data/images/layers/[0-9a-z]+/", "<here>/data/images/layers/<layer>/"),
    (r"/proc/\d+/ns/", "/proc/<pid>/ns/"),
    // How a kernel was built: of tmpfs, numbers of files that have 64 bits.
    (r"\b(tmpfs \S+),inode64\b", "$1"),
    // Who answers. What is asked for is the same version.
    (r"(Api-Version: |API version is )1\.\d\d", "$1<version>"),
    (r"(Server: Docker/)\S+", "$1<version>"),
    // Ids, whole and shortened.
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    // Ports that the kernel or the daemon chose: from 32768 on.
    (r":(3276[89]|327[7-9]\d|32[89]\d\d|3[3-9]\d{3}|[4-6]\d{4})\b", ":<port>"),
    // The columns of a table are as wide as the widest of what has other lengths here and there.
    (r"[ \t]+\n", "\n"),
    (r"[ \t]+$", ""),
    (r"  +", "  "),
];

/// What the client says before what the daemon says.
const ANSWER: &str = "Error response from daemon: ";

/// Words in messages that moby wrote with a great letter, and most with a small one since 23.0.
const GREAT: &str = r"(^|: )[A-Z][a-z]";

/// The fields of documents that hold numbers or words which must differ, and what takes their place.
const FIELDS: &[(&str, &str)] =
    &[("time", "<time>"), ("timeNano", "<time>"), ("Pid", "<pid>"), ("Created", "<time>"), ("execDuration", "<while>")];

/// Makes what one side said comparable.
pub(super) struct Normaliser {
    /// Text that is found as it is, and its name.
    places: Vec<(String, String)>,
    rules: Vec<(Regex, &'static str)>,
    great: Regex,
}

impl Normaliser {
    /// For the side that keeps everything below a directory.
    pub(super) fn new(directory: &Path, image: &Image) -> Self {
        let mut places = vec![(directory.display().to_string(), "<here>".to_owned())];
        for (digest, name) in [(&image.id, "<busybox>"), (&image.layer, "<layer of busybox>")] {
            places.push((digest.clone(), name.to_owned()));
            places.push((digest[..12].to_owned(), name.to_owned()));
        }
        let compile = |pattern: &str| Regex::new(pattern).expect("the rules above are patterns");
        let rules = RULES.iter().map(|(pattern, name)| (compile(pattern), *name)).collect();
        Self { places, rules, great: compile(GREAT) }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.replace("\r\n", "\n");
        for (place, name) in &self.places {
            text = text.replace(place.as_str(), name);
        }
        for (pattern, name) in &self.rules {
            text = pattern.replace_all(&text, *name).into_owned();
        }
        text.split_inclusive('\n').map(|line| self.line(line)).collect()
    }

    fn line(&self, line: &str) -> String {
        match line.split_once(ANSWER) {
            Some((before, message)) => format!("{before}{ANSWER}{}", self.message(message)),
            None => line.to_owned(),
        }
    }

    /// What the daemon says is wrong.
    fn message(&self, text: &str) -> String {
        self.great.replace_all(text, |found: &Captures<'_>| found[0].to_lowercase()).into_owned()
    }

    /// Every text in a document, names of fields as well.
    pub(super) fn document(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.document(item)).collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| {
                    let value = self.field(&name, value);
                    (self.text(&name), value)
                })
                .collect(),
            other => other,
        }
    }

    fn field(&self, name: &str, value: Value) -> Value {
        let known = FIELDS.iter().find(|(field, _)| *field == name);
        match (known, &value) {
            // 0 means that there is none.
            (Some((_, word)), Value::Number(number)) if number.as_i64() != Some(0) => (*word).into(),
            // An attribute of events, which are texts.
            (Some((_, word)), Value::String(_)) if name == "execDuration" => (*word).into(),
            (None, Value::String(text)) if name == "HostPort" && is_chosen(text) => "<port>".into(),
            (None, Value::String(text)) if name == "message" => self.message(&self.text(text)).into(),
            _ => self.document(value),
        }
    }
}

/// Whether a port is one of those that the kernel or the daemon chooses from.
fn is_chosen(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|port| port >= 32768)
}
