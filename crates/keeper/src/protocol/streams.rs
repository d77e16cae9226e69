//! Standard streams, attachments, and logs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process's standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// A pipe each for standard output and standard error.
    Pipes {
        /// Standard input is a pipe; otherwise `/dev/null`.
        stdin: bool,
        /// Close standard input when the first attachment that has it ends.
        stdin_once: bool,
    },
    /// A terminal of the sandbox's own.
    Terminal {
        /// Its first size.
        size: TerminalSize,
    },
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What an attachment receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Give the end of standard input to write to.
    pub stdin: bool,
    /// Standard output, or the terminal.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// How output is put into the sink.
    pub framing: Framing,
}

/// How output is put into a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Framing {
    /// As it is. For terminals, or for one stream alone.
    Raw,
    /// Each piece after a header of 8 bytes: the stream's number (1 or 2), three zeros, the piece's length as a big-endian `u32`.
    /// The order of pieces is the order in which they were read.
    Framed,
}

/// Which of the output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name in log files.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Where a sandbox's output is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogConfig {
    /// Nowhere.
    None,
    /// Docker's `json-file`: one JSON object a line.
    JsonFile {
        /// The current file; rotated ones have `.1`, `.2`, … after its name.
        path: PathBuf,
        /// When to rotate.
        rotation: Option<Rotation>,
        /// Put as `"attrs"` into each line, sorted by name; empty: left out.
        attributes: Vec<(String, String)>,
    },
    /// Docker's `local`: framed protobuf messages.
    Local {
        /// As in [`LogConfig::JsonFile`].
        path: PathBuf,
        /// When to rotate; Docker's own default is [`Rotation::LOCAL_DEFAULT`].
        rotation: Option<Rotation>,
    },
}

/// When a log is rotated, and what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// A file that has reached this many bytes is rotated before the next line.
    pub max_size: u64,
    /// How many files there are at most, the current one included. With 1, the current one starts anew instead.
    pub max_files: u32,
    /// Tell the daemon of each rotated file, so that it compresses it ([`Event::LogRotated`]).
    pub compress: bool,
}

impl Rotation {
    /// 20 MiB, five files, compressed: what Docker's `local` driver does when told nothing.
    pub const LOCAL_DEFAULT: Rotation = Rotation { max_size: 20 << 20, max_files: 5, compress: true };
}

/// Written to disk with a sandbox, for a daemon that finds the keeper killed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recovery {
    /// Absolute paths of the sandbox's own cgroup directories; one is enough on v2, and one hierarchy is enough on v1. Whatever is
    /// left in them is killed.
    pub cgroups: Vec<PathBuf>,
}
