//! What the daemon says while it builds.

use std::io::{self, Write};

use super::super::connect::Documents;
use super::super::error::{Error, Result};
use super::super::{output, progress};

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

/// Shows a build to its end; the image's id.
pub(super) async fn follow(mut documents: Documents, show: Show) -> Result<String> {
    let mut id = None;
    while let Some(message) = progress::next(&mut documents, show == Show::Documents).await? {
        if let Some(text) = &message.stream {
            // A build that is to be quiet says nothing but its image's id.
            id = Some(text.trim()).filter(|text| is_id(text)).map(str::to_owned).or(id);
            said(text, show)?;
        }
        if let Some(text) = message.status {
            said(&format!("{text}\n"), show)?;
        }
        id = message.aux.and_then(|aux| aux["ID"].as_str().map(str::to_owned)).or(id);
    }
    id.ok_or_else(|| Error::Broken("it did not say what came of the build".to_owned()))
}

fn is_id(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn said(text: &str, show: Show) -> Result<()> {
    let Show::Text { colours } = show else { return Ok(()) };
    let text = if colours { text } else { uncoloured(text) };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(output::written)
}

/// What a command wrote to its standard error, without the colour that the daemon gives it.
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
        assert!(is_id(&format!("sha256:{}", "a".repeat(64))) && !is_id("sha256:abc"));
    }
}
