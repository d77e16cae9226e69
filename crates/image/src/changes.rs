//! Dockerfile-like instructions, as `docker commit --change` and `docker import --change` take them.
//!
//! `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`, `LABEL`, `ONBUILD`, `SHELL`, `STOPSIGNAL`, `USER`, `VOLUME` and
//! `WORKDIR` change a configuration; the rest of a Dockerfile needs a build. Forms, quoting and variables are those of
//! the Dockerfile reference; variables are the configuration's own environment.

mod instruction;
mod words;

pub use instruction::{directory, ports, signal};

#[cfg(test)]
mod tests;

use crate::RunConfig;
use thiserror::Error;

/// An instruction that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ChangeError(pub String);

/// The most bytes of all instructions together.
const MAX_BYTES: usize = 1 << 20;

/// The configuration with the instructions applied, in their order. Each may be several lines of a Dockerfile, with
/// comments and continuations. Pure: suits a fuzzer.
pub fn apply(mut config: RunConfig, changes: &[String]) -> Result<RunConfig, ChangeError> {
    if changes.iter().map(String::len).sum::<usize>() > MAX_BYTES {
        return Err(ChangeError(format!("more than {MAX_BYTES} bytes of changes")));
    }
    let mut state = instruction::State::default();
    for change in changes {
        for line in logical_lines(change) {
            instruction::apply(&mut config, &mut state, &line)?;
        }
    }
    Ok(config)
}

/// Lines with their continuations (a backslash at the end) joined, without comments and empty ones.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for piece in text.lines() {
        let comment = piece.trim_start().starts_with('#');
        if comment || (!line.is_empty() && piece.trim().is_empty()) {
            continue;
        }
        match piece.trim_end().strip_suffix('\\') {
            Some(begun) => line.push_str(begun),
            None => {
                line.push_str(piece);
                lines.push(std::mem::take(&mut line));
            }
        }
    }
    lines.push(line);
    lines.retain(|line| !line.trim().is_empty());
    lines
}
