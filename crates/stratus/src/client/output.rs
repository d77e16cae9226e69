//! What a command prints: for people, or for programs.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, ValueEnum};
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::table::Table;
use super::terminal;

/// For whom a command prints. (The variants have no docstrings: clap would make long lists of every help.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    // Tables and lines for people
    #[default]
    Table,
    // The daemon's documents, as JSON for programs
    Json,
}

/// Reads a [`Format`], also as docker's `--format` has it; of its templates there are none.
#[derive(Clone)]
pub(super) struct FormatParser;

impl TypedValueParser for FormatParser {
    type Value = Format;

    fn parse_ref(&self, cli: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Format, clap::Error> {
        let text = value.to_string_lossy();
        let words: String = text.split_whitespace().collect();
        let why = match words.as_str() {
            "table" => return Ok(Format::Table),
            "json" | "{{json.}}" => return Ok(Format::Json),
            template if template.contains("{{") => format!(
                "stratus has no templates such as {text:?}: print JSON and take it apart (stratus ps --output json | jq -r '.[].Image'; \
                 stratus inspect NAME | jq -r '.[0].State.Status')\n"
            ),
            _ => format!("{text:?} is no format: write table or json. A file to write into is named with -o\n"),
        };
        Err(clap::Error::raw(ErrorKind::InvalidValue, why).with_cmd(cli))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}

/// Prints a line.
pub(super) fn line(text: impl AsRef<str>) -> Result<()> {
    writeln!(io::stdout().lock(), "{}", text.as_ref()).map_err(written)
}

/// Prints a document over several lines.
pub(super) fn document(document: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(document)?)
}

/// Prints a document of a stream of them, on a line of its own.
pub(super) fn document_line(document: &Value) -> Result<()> {
    line(document.to_string())
}

/// Prints a table.
pub(super) fn table(table: &Table) -> Result<()> {
    let stdout = io::stdout().lock();
    let colours = terminal::colours(&stdout);
    let width = terminal::columns(&stdout);
    let mut buffer = io::BufWriter::new(stdout);
    table.write(&mut buffer, colours, width).and_then(|()| buffer.flush()).map_err(written)
}

/// Prints an error.
pub(super) fn error(error: &Error) {
    match error {
        // Whoever reads nothing can't be told so, and who sent a signal knows.
        Error::Io(_, cause) if cause.kind() == io::ErrorKind::BrokenPipe => return,
        Error::Signal(_) => return,
        _ => {}
    }
    let mut stderr = io::stderr().lock();
    let title = terminal::Style::Bad.paint("error:", terminal::colours(&stderr));
    // A daemon's words may have others' in them: a Dockerfile's, a server's.
    let text = error.to_string();
    let text = if stderr.is_terminal() { terminal::clean_lines(&text) } else { text };
    let _ = writeln!(stderr, "{title} {text}");
}

/// Prints something to know that is no error.
pub(super) fn warning(text: &str) {
    let mut stderr = io::stderr().lock();
    let title = terminal::Style::Careful.paint("warning:", terminal::colours(&stderr));
    let _ = writeln!(stderr, "{title} {text}");
}

/// What a failed write to standard output is.
pub(super) fn written(error: io::Error) -> Error {
    Error::Io("writing the output".into(), error)
}
