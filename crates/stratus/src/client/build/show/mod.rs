//! How a build goes, as people and programs see it.

mod course;
mod live;
mod plain;
mod written;

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use build::{Found, Told};

use super::super::error::{Error, Result};
use super::super::terminal::{self, Style};
use course::{Course, State, time};
use live::Live;
use plain::Plain;

/// Between two drawings.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// How what is done is shown. (The variants have no docstrings: clap would make long lists of every help.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum How {
    Auto,
    Plain,
    #[value(name = "tty")]
    Terminal,
    #[value(alias = "rawjson")]
    Json,
    Quiet,
}

impl How {
    /// What `auto` means here. `BUILDKIT_PROGRESS` says it for those who are used to that.
    ///
    /// # Errors
    /// [`Error::Usage`] where that says what is none.
    pub(super) fn resolved(self) -> Result<How> {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        match self {
            How::Auto => {}
            how => return Ok(how),
        }
        match variable("BUILDKIT_PROGRESS").as_str() {
            "plain" => return Ok(How::Plain),
            "tty" => return Ok(How::Terminal),
            "rawjson" => return Ok(How::Json),
            "quiet" => return Ok(How::Quiet),
            "" | "auto" => {}
            other => {
                let there_are = "there are auto, plain, tty, rawjson and quiet";
                return Err(Error::Usage(format!("BUILDKIT_PROGRESS={other} is no way to show a build: {there_are}")));
            }
        }
        // Services that run tests give a terminal to what nobody watches.
        let watched = io::stderr().is_terminal() && matches!(variable("CI").as_str(), "" | "false" | "0");
        Ok(if watched && variable("TERM") != "dumb" { How::Terminal } else { How::Plain })
    }
}

/// What shows it.
pub(super) struct Display(Kind);

enum Kind {
    Live(Box<Live>),
    Plain(Box<Plain>),
    /// Nothing is shown, but what a step wrote that failed.
    Quiet(Box<Course>),
    /// Somebody else shows it.
    Documents,
}

impl Display {
    /// `what` is built, as a title has it.
    pub(super) fn new(how: How, what: String) -> Display {
        Display(match how {
            How::Terminal => Kind::Live(Box::new(Live::new(what, terminal::colours(&io::stderr())))),
            How::Auto | How::Plain => Kind::Plain(Box::default()),
            How::Quiet => Kind::Quiet(Box::default()),
            How::Json => Kind::Documents,
        })
    }

    /// Takes what is told.
    pub(super) fn hear(&mut self, told: Told) -> Result<()> {
        match &mut self.0 {
            Kind::Live(live) => live.hear(told),
            Kind::Plain(plain) => {
                let text = plain.hear(told);
                // A file gets what was written as it was.
                write(&if io::stderr().is_terminal() { terminal::clean_lines(&text) } else { text })?;
            }
            Kind::Quiet(course) => drop(course.hear(told)),
            Kind::Documents => {}
        }
        Ok(())
    }

    /// Shows how it is now.
    pub(super) fn draw(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Live(live) => write(&live.frame(size())),
            Kind::Plain(_) | Kind::Quiet(_) | Kind::Documents => Ok(()),
        }
    }

    /// Shows the end, good or bad, or that there is none: what was found in the file and, where it failed, what the step that did wrote.
    pub(super) fn end(&mut self, good: Option<bool>) -> Result<()> {
        let (mut text, course, is_live) = match &mut self.0 {
            Kind::Live(live) => (live.last(size()), live.course(), true),
            Kind::Plain(plain) if good == Some(true) => (String::new(), plain.course(), false),
            Kind::Plain(plain) => (plain.given_up(), plain.course(), false),
            Kind::Quiet(_) if good != Some(false) => return Ok(()),
            Kind::Quiet(course) => {
                let mut text = String::new();
                output(&mut text, course);
                return write(&text);
            }
            Kind::Documents => return Ok(()),
        };
        let colours = terminal::colours(&io::stderr());
        if good != Some(true) && is_live {
            output(&mut text, course);
        }
        found(&mut text, &course.found, colours);
        if good == Some(true) && is_live {
            let (_, steps) = course.count();
            let plural = if steps == 1 { "" } else { "s" };
            let line = format!("Built in {}: {steps} step{plural}", time(course.at));
            let _ = writeln!(text, "{}", Style::Bold.paint(&line, colours));
        }
        write(&text)
    }
}

/// All that steps wrote that failed.
fn output(text: &mut String, course: &Course) {
    for step in course.steps().filter(|step| matches!(step.state, State::Failed { .. })) {
        let mut lines = step.written.all().peekable();
        if lines.peek().is_none() {
            continue;
        }
        // Writing to a string never fails.
        let _ = writeln!(text, "------\n > {}", terminal::clean(&step.title));
        if step.written.is_clipped() {
            let _ = writeln!(text, "[output clipped: --progress plain writes all of it]");
        }
        for line in lines {
            let since = line.at.saturating_sub(step.began);
            let _ = writeln!(text, "{}.{:03} {}", since.as_secs(), since.subsec_millis(), terminal::clean(&line.text));
        }
        let _ = writeln!(text, "------");
    }
}

/// What is likely not meant in the file.
fn found(text: &mut String, found: &[Found], colours: bool) {
    if found.is_empty() {
        return;
    }
    let title = match found.len() {
        1 => "1 warning".to_owned(),
        several => format!("{several} warnings"),
    };
    let title = format!("{title} (stratus build --check says more):");
    let _ = writeln!(text, "{}", Style::Careful.paint(&title, colours));
    for Found { warning, file, .. } in found {
        let line = format!("{}: {} ({file}:{})", warning.rule, warning.detail, warning.span.start.line);
        let _ = writeln!(text, " - {}", terminal::clean(&line));
    }
}

/// Rows and columns of the terminal on standard error.
fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    Some((usize::from(size.ws_row), usize::from(size.ws_col))).filter(|(rows, columns)| *rows > 0 && *columns > 0)
}

fn write(text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stderr = io::stderr().lock();
    stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).map_err(Error::io("showing the build"))
}
