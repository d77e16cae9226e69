//! The Dockerfile language: a file's text becomes stages of instructions. Nothing is carried out here.
//!
//! [`parse`] reads a file. Its words are as they were written: [`expand`] says what they mean once an
//! instruction is carried out, with the variables of [`Globals`] and [`Scope`]. [`Plan`] says what stages build upon and copy
//! from.

mod access;
mod builtin;
mod directives;
mod expand;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod parse;
mod parse_command;
mod parse_files;
mod pattern;
mod plan;
mod port;
mod remote;
mod scope;
mod source;
mod words;

#[cfg(test)]
mod tests;

pub use access::{AccessError, Identity, Mode, Owner};
pub use builtin::Builtin;
pub use directives::{CheckOptions, Checks, Directives};
pub use expand::{ExpandError, Expansion, Kind, Variables, expand};
pub use heredoc::Heredoc;
pub use instruction::{
    Add, Arg, Argument, Cmd, CommandLine, Copy, Device, Entrypoint, Env, Expose, FileSource, Files, HealthCommand,
    Healthcheck, Instruction, Label, Maintainer, Network, OnBuild, Pair, Run, Security, Shell, StopSignal, User,
    Volume, Word, Workdir,
};
pub use lines::Escape;
pub use mount::{Mount, MountSpec, Sharing};
pub(crate) use plan::needs;
pub use plan::{Need, Needs, Origin, Plan, UNNAMED};
pub use port::{PortError, Ports, Protocol};
pub use remote::{AddSource, GitSource};
pub use scope::{Given, Globals, PREDEFINED, Scope};
pub use source::{Mistake, Mistakes, Position, Source, Span, Spanned};

use flags::Place;
use lines::{Lines, Logical};
use parse::Parsed;
use std::collections::BTreeSet;

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// Its text.
    pub source: Source,
    /// What its first lines say.
    pub directives: Directives,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Statement<Arg>>,
    /// What each `FROM` begins; at least one.
    pub stages: Vec<Stage>,
    /// Empty lines within instructions that go on behind them.
    pub empty_lines: Vec<Span>,
    /// Names of contexts that whoever builds has. What is of that name is that, and no stage; the text says nothing of it.
    pub contexts: BTreeSet<String>,
}

/// A `FROM` and what follows up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// `FROM` itself.
    pub from: Statement<Base>,
    /// What is done.
    pub steps: Vec<Statement<Instruction>>,
}

impl Stage {
    /// Its name, as it was written.
    pub fn name(&self) -> Option<&str> {
        self.from.node.name.as_ref().map(|name| name.value.as_str())
    }
}

/// What `FROM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// An image, a stage, or `scratch`.
    pub image: Word,
    /// `--platform`
    pub platform: Option<Word>,
    /// The stage's name.
    pub name: Option<Spanned<String>>,
    /// `AS`, as it was written.
    pub keyword: Option<Spanned<String>>,
}

/// An instruction where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<T> {
    /// What it is.
    pub node: T,
    /// Its first word, as it was written.
    pub keyword: Spanned<String>,
    /// All of it, its heredocs included.
    pub span: Span,
    /// Its text in one line, without heredocs.
    pub text: String,
    /// The comments directly above it.
    pub comments: Vec<String>,
}

/// An instruction, by what it belongs to.
enum Line {
    From(Statement<Base>),
    Step(Statement<Instruction>),
}

/// Nobody writes more, and what looks for stages among each other may look at all of them.
const MOST_STAGES: usize = 1000;

/// Reads a Dockerfile. All mistakes are told at once, as far as one does not hide the next.
pub fn parse(source: Source) -> Result<Dockerfile, Mistakes> {
    let mut mistakes = Mistakes::default();
    let mut lines = Lines::new(&source);
    let directives = directives::read(&mut lines, &source, &mut mistakes);
    let (mut arguments, mut stages, mut empty_lines) = (Vec::new(), Vec::<Stage>::new(), Vec::new());
    let mut any = false;
    while let Some(logical) = lines.logical(directives.escape) {
        any = true;
        empty_lines.extend(logical.empty_line.map(Span::line));
        let read = line(Place { source: &source, logical: &logical, escape: directives.escape }, &mut lines);
        match read.and_then(|line| source.decoded(&logical, line)) {
            Err(mistake) => mistakes.add(mistake),
            Ok(Line::From(from)) if stages.len() == MOST_STAGES => {
                mistakes.add(source.mistake(from.span, format!("more than {MOST_STAGES} stages")));
                break;
            }
            Ok(Line::From(from)) => stages.push(Stage { from, steps: Vec::new() }),
            Ok(Line::Step(step)) => match (stages.last_mut(), step) {
                (Some(stage), step) => stage.steps.push(step),
                (None, Statement { node: Instruction::Arg(node), keyword, span, text, comments }) => {
                    arguments.push(Statement { node, keyword, span, text, comments });
                }
                // A FROM that could not be read is told already.
                (None, _) if !mistakes.is_empty() => {}
                (None, step) => {
                    let message = format!("no build stage in current context: {} before FROM", step.node.name());
                    mistakes.add(source.mistake(step.keyword.span, message));
                }
            },
        }
    }
    if mistakes.is_empty() && stages.is_empty() {
        let message = if any { "dockerfile contains no stages to build" } else { "file with no instructions" };
        mistakes.add(source.mistake(Span::line(1), message));
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Dockerfile { source, directives, arguments, stages, empty_lines, contexts: BTreeSet::new() })
}

/// Reads an instruction that an image's configuration has from `ONBUILD`; the source is named for the image.
pub fn trigger(source: &Source) -> Result<Statement<Instruction>, Mistake> {
    let mut lines = Lines::new(source);
    let Some(logical) = lines.logical(Escape::default()) else {
        return Err(source.mistake(Span::line(1), "an ONBUILD trigger with no instruction"));
    };
    match line(Place { source, logical: &logical, escape: Escape::default() }, &mut lines)? {
        Line::Step(step) => Ok(step),
        Line::From(from) => Err(source.mistake(from.span, "FROM isn't allowed as an ONBUILD trigger")),
    }
}

impl Source {
    /// Refuses an instruction of which some bytes could not be read; what a comment has of them does no harm.
    fn decoded(&self, logical: &Logical, line: Line) -> Result<Line, Mistake> {
        let span = match &line {
            Line::From(from) => from.span,
            Line::Step(step) => step.span,
        };
        let lost = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
        let mut heredocs = logical.last.saturating_add(1)..=span.end.line;
        if self.is_lossy() && (lost(&logical.text) || heredocs.any(|number| lost(self.line(number)))) {
            return Err(self.mistake(span, "this is not UTF-8"));
        }
        Ok(line)
    }
}

fn line(place: Place<'_>, lines: &mut Lines<'_>) -> Result<Line, Mistake> {
    let parse::Statement { keyword, parsed, last } = parse::statement(place, 0, lines)?;
    let column = u32::try_from(place.source.line(last).chars().count() + 1).unwrap_or(u32::MAX);
    let span = Span { start: place.logical.position(0), end: Position { line: last, column } };
    let text = place.logical.text.trim().to_owned();
    let comments = place.logical.comments.clone();
    Ok(match parsed {
        Parsed::From(node) => Line::From(Statement { node, keyword, span, text, comments }),
        Parsed::Instruction(node) => Line::Step(Statement { node, keyword, span, text, comments }),
    })
}
