//! How far something is that lasts: bars on a terminal, a line for each step elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;

use super::connect::Documents;
use super::error::{Error, Result};
use super::output;

/// A message of a progress stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) stream: Option<String>,
    pub(super) status: Option<String>,
    id: Option<String>,
    #[serde(rename = "progressDetail")]
    detail: Option<Counter>,
    #[serde(rename = "errorDetail")]
    error: Option<Failure>,
    pub(super) aux: Option<Value>,
}

/// The next message of a stream, after its document where those are shown. What failed is an error.
pub(super) async fn next(documents: &mut Documents, shows_documents: bool) -> Result<Option<Message>> {
    let Some(document) = documents.next().await? else { return Ok(None) };
    if shows_documents {
        output::document_line(&document)?;
    }
    let mut message = Message::deserialize(document)?;
    match message.error.take() {
        Some(failure) => Err(Error::Failed(failure.message)),
        None => Ok(Some(message)),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counter {
    current: u64,
    total: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Failure {
    message: String,
}

/// How a stream is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// Bars or lines on standard error.
    Steps,
    /// The documents on standard output.
    Documents,
    /// Nothing.
    Nothing,
}

/// What a stream said besides its steps: lines of text, in their order.
pub(super) type Said = Vec<String>;

/// Shows a stream to its end.
pub(super) async fn follow(mut documents: Documents, show: Show) -> Result<Said> {
    let mut said = Vec::new();
    let mut steps = Steps::new(show == Show::Steps);
    while let Some(message) = next(&mut documents, show == Show::Documents).await? {
        let names_image = message.status.as_deref().is_some_and(|status| status.starts_with("Pulling from "));
        if names_image {
            // Its id is a tag, and no layer's.
            steps.title(&message.id.unwrap_or_default(), &message.status.unwrap_or_default());
        } else if let Some(text) = message.stream.or_else(|| message.status.clone().filter(|_| message.id.is_none())) {
            let text = text.trim_end();
            if !text.is_empty() {
                said.push(text.to_owned());
            }
        } else if let (Some(id), Some(status)) = (message.id, message.status) {
            steps.step(&id, &status, message.detail.unwrap_or_default());
        } else if message.aux.is_some() {
            // For programs, which get the documents.
        }
    }
    Ok(said)
}

/// Steps by the layers that they are of.
struct Steps {
    shown: bool,
    bars: Option<MultiProgress>,
    by_id: HashMap<String, (String, ProgressBar)>,
}

impl Steps {
    fn new(shown: bool) -> Steps {
        let bars = (shown && io::stderr().is_terminal())
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(15)));
        Steps { shown, bars, by_id: HashMap::new() }
    }

    /// What the steps are of.
    fn title(&self, tag: &str, status: &str) {
        if !self.shown {
            return;
        }
        let name = status.trim_start_matches("Pulling from ");
        let text = if tag.is_empty() { format!("Pulling {name}") } else { format!("Pulling {name}:{tag}") };
        match &self.bars {
            // Where it can't be shown, neither can the bars.
            Some(bars) => _ = bars.println(text),
            None => _ = writeln!(io::stderr(), "{text}"),
        }
    }

    fn step(&mut self, id: &str, status: &str, counter: Counter) {
        if !self.shown {
            return;
        }
        let known = self.by_id.get(id).is_some_and(|(last, _)| last == status);
        if !self.by_id.contains_key(id) {
            // Its style is there before it is: otherwise it is drawn once as a bar without an end.
            let mut bar = ProgressBar::hidden().with_style(plain()).with_prefix(id.to_owned());
            if let Some(bars) = &self.bars {
                bar = bars.add(bar);
            }
            self.by_id.insert(id.to_owned(), (String::new(), bar));
        }
        let Some((last, bar)) = self.by_id.get_mut(id) else { return };
        if !known {
            *last = status.to_owned();
            bar.set_style(if counter.total > 0 { counted() } else { plain() });
            bar.set_message(status.to_owned());
            if self.bars.is_none() {
                // A terminal that is not there can't fail to show it.
                let _ = writeln!(io::stderr(), "{id}: {status}");
            }
        }
        if counter.total > 0 {
            bar.set_length(counter.total);
            bar.set_position(counter.current);
        }
        bar.tick();
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        for (_, bar) in self.by_id.values() {
            bar.abandon();
        }
        // The last bar has no end of its own.
        if self.bars.is_some() && !self.by_id.is_empty() {
            let _ = writeln!(io::stderr());
        }
    }
}

/// A bar with bytes, for something whose size is known.
fn counted() -> ProgressStyle {
    style("{prefix:<12} {msg:<18} [{bar:30}] {bytes}/{total_bytes}")
}

/// A line with a word.
fn plain() -> ProgressStyle {
    style("{prefix:<12} {msg}")
}

fn style(template: &str) -> ProgressStyle {
    // The templates are this file's own; a bar without its template is still a bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// A single thing that lasts: bytes that go somewhere, or steps told in words.
#[derive(Clone)]
pub(super) struct Single {
    bar: ProgressBar,
    /// Whether steps are told in lines, as there is no terminal.
    lines: bool,
}

impl Single {
    /// Bytes of something, whose size may be known.
    pub(super) fn bytes(what: &str, total: Option<u64>, shown: bool) -> Single {
        let single = Single::new(shown);
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{spinner} {msg} {bytes} {bytes_per_sec}",
        };
        // Before the length, which draws it.
        single.bar.set_style(style(template));
        if let Some(total) = total {
            single.bar.set_length(total);
        }
        single.bar.set_message(what.to_owned());
        single
    }

    /// Steps of something.
    pub(super) fn steps(first: &str, shown: bool) -> Single {
        let single = Single::new(shown);
        single.bar.set_style(style("{spinner} {msg}"));
        single.bar.set_message(first.to_owned());
        single
    }

    fn new(shown: bool) -> Single {
        let terminal = io::stderr().is_terminal();
        let bar = match shown && terminal {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(15)),
            false => ProgressBar::hidden(),
        };
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Single { bar, lines: shown && !terminal }
    }

    /// A next step.
    pub(super) fn step(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        if self.lines {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Something to know, shown above.
    pub(super) fn warn(&self, text: &str) {
        self.bar.suspend(|| output::warning(text));
    }

    /// So many bytes more.
    pub(super) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// So many bytes by now.
    pub(super) fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
