//! Reading the logs that a keeper writes, also while it writes them.
//!
//! ```no_run
//! # use keeper::logs::reader::{LogReader, ReadOptions, Watcher};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = keeper::protocol::LogConfig::None;
//! let watcher = Watcher::new()?;
//! watcher.watch(&config)?;
//! let mut reader = LogReader::open(&config, &ReadOptions { tail: Some(10), ..ReadOptions::default() })?;
//! while !reader.is_past_until() {
//!     match reader.next_entry()? {
//!         Some(entry) => print!("{}", String::from_utf8_lossy(&entry.text())),
//!         None => _ = watcher.wait(None)?,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! Everything here may block on the disk: on tokio, use it in `spawn_blocking`.

mod decode;
mod files;
mod follow;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

pub use follow::{Changed, Watch, Watcher};

use self::decode::{Decoded, Format};
use self::files::Source;
use crate::protocol::{LogConfig, Stream, UnixNanos};

/// As much is read at once.
const CHUNK: usize = 64 << 10;

/// Which entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions {
    /// Only this many of the last ones (counted before the times are looked at, as Docker does).
    pub tail: Option<u64>,
    /// Only those at this time or later.
    pub since: Option<UnixNanos>,
    /// Only those at this time or earlier; the first later one ends the reading.
    pub until: Option<UnixNanos>,
}

/// A line of a log, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it was written.
    pub stream: Stream,
    /// When it was read from the process.
    pub time: UnixNanos,
    /// The line's bytes, without its newline.
    pub bytes: Vec<u8>,
    /// Whether a newline follows. Pieces of long lines, and a last line without one, have none.
    pub ends_line: bool,
    /// The log's attributes.
    pub attributes: Vec<(String, String)>,
}

impl LogEntry {
    /// The bytes as they were written: with the newline, if there was one.
    pub fn text(&self) -> Vec<u8> {
        let mut text = self.bytes.clone();
        text.extend(self.ends_line.then_some(b'\n'));
        text
    }
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no log.
    #[error("the log's configuration says that there is none")]
    NoLog,
    /// A file cannot be read.
    #[error("{tried} the log {}: {source}", path.display())]
    File {
        /// What was tried.
        tried: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    fn file(tried: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ReadError {
        let path = path.into();
        move |source| ReadError::File { tried, path, source }
    }
}

/// Reads a log from the oldest entry that is wanted to the newest one, across rotated files, and on from there as more is written.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    format: Format,
    max_files: u32,
    options: ReadOptions,
    /// What is read next, oldest first. The first is being read; the last is, or was when it was opened, the one being written.
    sources: VecDeque<Source>,
    /// Read and not yet decoded, from `decoded` on.
    buffer: Vec<u8>,
    decoded: usize,
    /// The file that is read has been replaced: it grows no more.
    replaced: bool,
    past_until: bool,
    damaged: u64,
    gaps: u64,
}

impl LogReader {
    /// Opens a log. One that was never written is empty, and can be followed.
    pub fn open(config: &LogConfig, options: &ReadOptions) -> Result<LogReader, ReadError> {
        let (path, format, rotation) = match config {
            LogConfig::None => return Err(ReadError::NoLog),
            LogConfig::JsonFile { path, rotation, .. } => (path.clone(), Format::JsonFile, rotation),
            LogConfig::Local { path, rotation } => (path.clone(), Format::Local, rotation),
        };
        let max_files = rotation.map_or(1, |rotation| rotation.max_files);
        let mut sources = files::open_all(&path, max_files)?;
        match options.tail {
            Some(count) => files::seek_tail(&mut sources, format, count)?,
            None => {
                let since = options.since.unwrap_or(UnixNanos(i64::MIN));
                let current = sources.pop_back();
                sources.retain(|source| source.modified >= since);
                sources.extend(current);
            }
        }
        Ok(LogReader {
            path,
            format,
            max_files,
            options: *options,
            sources,
            buffer: Vec::new(),
            decoded: 0,
            replaced: false,
            past_until: false,
            damaged: 0,
            gaps: 0,
        })
    }

    /// The next entry; `None`: nothing more has been written, or nothing more is wanted ([`LogReader::is_past_until`]). Asked again later,
    /// it goes on with what has been written meanwhile.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>, ReadError> {
        while !self.past_until {
            let Some(entry) = self.decode_next()? else { return Ok(None) };
            if self.options.until.is_some_and(|until| entry.time > until) {
                self.past_until = true;
            } else if self.options.since.is_none_or(|since| entry.time >= since) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Whether an entry later than [`ReadOptions::until`] has been met.
    pub fn is_past_until(&self) -> bool {
        self.past_until
    }

    /// How many places could not be understood, and were left out: what a power cut left half-written, for instance.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// How many times rotation was faster than the reading, so that entries may be missing.
    pub fn gaps(&self) -> u64 {
        self.gaps
    }

    fn decode_next(&mut self) -> Result<Option<LogEntry>, ReadError> {
        loop {
            match self.format.decode(&self.buffer[self.decoded..]) {
                Decoded::Entry(entry, length) => {
                    self.decoded += length;
                    match self.sources.front_mut() {
                        Some(source) if source.skip > 0 => source.skip -= 1,
                        _ => return Ok(Some(entry)),
                    }
                }
                Decoded::Damaged(length) => {
                    self.decoded += length;
                    self.damaged += 1;
                    // It counted when the last ones were counted.
                    if let Some(source) = self.sources.front_mut() {
                        source.skip = source.skip.saturating_sub(1);
                    }
                }
                Decoded::Incomplete => {
                    if !self.read_more()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Reads more, from the next file if need be. `false`: there is no more for now.
    fn read_more(&mut self) -> Result<bool, ReadError> {
        self.buffer.drain(..self.decoded);
        self.decoded = 0;
        loop {
            let is_last = self.sources.len() == 1;
            let Some(source) = self.sources.front_mut() else {
                // It may have been made meanwhile.
                self.sources = files::open_all(&self.path, self.max_files)?;
                if self.sources.is_empty() {
                    return Ok(false);
                }
                continue;
            };
            if source.read(&mut self.buffer, CHUNK).map_err(ReadError::file("read", &self.path))? > 0 {
                return Ok(true);
            }
            if !is_last {
                self.leave_source();
            } else if self.replaced {
                // Read to its end after it was known to grow no more.
                if !self.open_successors()? {
                    return Ok(false);
                }
            } else if source.was_cut() {
                source.rewind().map_err(ReadError::file("read", &self.path))?;
                self.abandon_buffer();
            } else if source.is_current(&self.path)? {
                return Ok(false);
            } else {
                self.replaced = true;
            }
        }
    }

    fn leave_source(&mut self) {
        self.sources.pop_front();
        self.replaced = false;
        self.abandon_buffer();
    }

    /// What is left in a file that has no more is half an entry.
    fn abandon_buffer(&mut self) {
        self.damaged += u64::from(!self.buffer.is_empty());
        self.buffer.clear();
        self.decoded = 0;
    }

    /// Goes on with what was written after the file that was read last: those before it in the row of rotated files, or, when it is not
    /// in the row any more, those changed later. `false`: there is nothing after it yet, in the middle of a rotation.
    fn open_successors(&mut self) -> Result<bool, ReadError> {
        let mut all = files::open_all(&self.path, self.max_files)?;
        if let Some(left) = self.sources.front() {
            match all.iter().position(|source| source.is_same(left)) {
                Some(at) => _ = all.drain(..=at),
                None => {
                    let current = all.pop_back();
                    all.retain(|source| source.modified > left.modified_now());
                    all.extend(current);
                    // It has left the row, and so may have what followed it.
                    self.gaps += 1;
                }
            }
        }
        if all.is_empty() {
            return Ok(false);
        }
        self.leave_source();
        self.sources = all;
        Ok(true)
    }
}
