//! What is heard while it builds.

use std::io::{self, Write};

use api_build::{Client, Heard};
use api_docker::{Message, Words};
use build::Built;

use super::super::error::{Error, Result};
use super::super::output;

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// As it is said.
    Text {
        /// What commands write to their standard error is told by its colour.
        colours: bool,
    },
    /// As documents for programs.
    Documents,
    /// Not at all.
    Nothing,
}

/// Shows a build to its end.
pub(super) async fn follow(client: &mut Client, show: Show) -> Result<Built> {
    let mut words = Words::new(show == Show::Nothing);
    loop {
        match client.next().await.map_err(broken)? {
            Heard::Told(told) => said(&words.event(told.event), show)?,
            Heard::End(Ok(built)) => {
                said(&words.built(&built), show)?;
                return Ok(built);
            }
            Heard::End(Err(error)) => {
                said(&words.failed(&error), show)?;
                return Err(failed(&error));
            }
        }
    }
}

fn broken(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Broken("it did not say what came of the build".to_owned()),
        io::ErrorKind::Other => Error::Failed(error.to_string()),
        _ => Error::Answer(error.to_string()),
    }
}

/// Why there is no image. Of what stands somewhere the first line says what is wrong, and where comes below it.
fn failed(error: &build::Error) -> Error {
    Error::Failed(match error {
        build::Error::Command { at, .. } | build::Error::Instruction(at) => format!("{}\n{}", at.summary(), at.place()),
        other => other.to_string(),
    })
}

fn said(messages: &[Message], show: Show) -> Result<()> {
    let mut stdout = io::stdout().lock();
    for message in messages {
        match (show, &message.stream) {
            (Show::Documents, _) => output::document_line(&serde_json::to_value(message)?)?,
            (Show::Text { colours }, Some(text)) => {
                let text = if colours { text } else { uncoloured(text) };
                stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(output::written)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a command wrote to its standard error, without the colour that tells it.
fn uncoloured(text: &str) -> &str {
    text.strip_prefix("\u{1b}[91m").and_then(|text| text.strip_suffix("\u{1b}[0m")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_of_the_daemon_are_taken_away_and_those_of_commands_are_left() {
        assert_eq!(uncoloured("\u{1b}[91mno\n\u{1b}[0m"), "no\n");
        assert_eq!(uncoloured("\u{1b}[32mok\u{1b}[0m\n"), "\u{1b}[32mok\u{1b}[0m\n");
    }
}
