//! One sandbox's log: lines in, files out.

use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::Line;
use super::rotate::{Rotated, RotatingFile};
use super::{json_file, local};
use crate::protocol::{Failure, LogConfig, Rotation};

/// Entries are written at the latest when this many bytes of them wait.
const BATCH: usize = 64 << 10;

/// Entries that are encoded and not yet written. One serves all logs in turn, as each is flushed before the next is written to.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Something about a log that a daemon wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It cannot be written; lines are being lost.
    Failing {
        /// The system's error number.
        errno: i32,
    },
    /// It is written again, after this many lines were lost.
    Recovered {
        /// How many.
        dropped: u64,
    },
    /// A file was rotated and should be compressed.
    Rotated(Rotated),
}

/// A log that is being written. Never blocks on anything but the file system, and never fails: what cannot be written is counted.
#[derive(Debug)]
pub struct LogWriter {
    config: LogConfig,
    format: Format,
    file: RotatingFile,
    failing: bool,
    dropped_lately: u64,
    dropped: u64,
}

#[derive(Debug)]
enum Format {
    JsonFile { attributes: Vec<u8> },
    Local,
}

impl LogWriter {
    /// Opens a log. `None`: its configuration says that there is none.
    pub fn open(config: &LogConfig) -> Result<Option<LogWriter>, Failure> {
        let Some((path, rotation)) = file_of(config) else { return Ok(None) };
        let file = RotatingFile::open(path, rotation)?;
        Ok(Some(LogWriter::with_file(config.clone(), file)))
    }

    fn with_file(config: LogConfig, file: RotatingFile) -> LogWriter {
        let format = match &config {
            LogConfig::JsonFile { attributes, .. } => {
                Format::JsonFile { attributes: json_file::encode_attributes(attributes) }
            }
            LogConfig::None | LogConfig::Local { .. } => Format::Local,
        };
        LogWriter { config, format, file, failing: false, dropped_lately: 0, dropped: 0 }
    }

    /// Adds a line. It may not be in the file before [`LogWriter::flush`].
    pub fn append(&mut self, line: &Line<'_>, batch: &mut Batch, notices: &mut Vec<Notice>) {
        if self.file.is_full(batch.bytes.len()) {
            self.flush(batch, notices);
            self.rotate(notices);
        } else if batch.bytes.len() >= BATCH {
            self.flush(batch, notices);
        }
        match &self.format {
            Format::JsonFile { attributes } => json_file::encode(line, attributes, &mut batch.bytes),
            Format::Local => local::encode(line, &mut batch.bytes),
        }
        batch.ends.push(batch.bytes.len());
    }

    /// Writes what waits.
    pub fn flush(&mut self, batch: &mut Batch, notices: &mut Vec<Notice>) {
        if batch.ends.is_empty() {
            return;
        }
        match self.file.append(&batch.bytes, &batch.ends) {
            Ok(()) if self.failing => {
                self.failing = false;
                notices.push(Notice::Recovered { dropped: std::mem::take(&mut self.dropped_lately) });
            }
            Ok(()) => {}
            Err(shortfall) => {
                let lost = (batch.ends.len() - shortfall.entries) as u64;
                self.dropped_lately += lost;
                self.dropped += lost;
                self.fail(shortfall.errno.raw_os_error(), notices);
            }
        }
        batch.bytes.clear();
        batch.ends.clear();
        batch.bytes.shrink_to(2 * BATCH);
    }

    /// A log that cannot be rotated grows on, as that is better than losing lines.
    fn rotate(&mut self, notices: &mut Vec<Notice>) {
        match self.file.rotate() {
            Ok(rotated) => notices.extend(rotated.map(Notice::Rotated)),
            // Told each time, which is rare; nothing is lost, so nothing recovers.
            Err(errno) => notices.push(Notice::Failing { errno: errno.raw_os_error() }),
        }
    }

    fn fail(&mut self, errno: i32, notices: &mut Vec<Notice>) {
        if !self.failing {
            self.failing = true;
            notices.push(Notice::Failing { errno });
        }
    }

    /// Opens the file again by its name.
    pub fn reopen(&mut self) -> Result<(), Failure> {
        self.file.reopen()
    }

    /// See [`RotatingFile::adopt_compressed`].
    pub fn adopt_compressed(&self, inode: u64, copy: &Path) -> Result<(), Failure> {
        self.file.adopt_compressed(inode, copy)
    }

    /// Lines lost since the beginning.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn save(&self) -> SavedLog {
        let (size, torn) = self.file.progress();
        SavedLog {
            config: self.config.clone(),
            file: self.file.raw_fd(),
            size,
            torn,
            failing: self.failing,
            dropped_lately: self.dropped_lately,
            dropped: self.dropped,
        }
    }

    /// `file` is the descriptor that [`SavedLog::file`] names.
    pub(crate) fn restore(saved: SavedLog, file: OwnedFd) -> Option<LogWriter> {
        let (path, rotation) = file_of(&saved.config)?;
        let file = RotatingFile::resume(path.to_owned(), file, rotation, saved.size, saved.torn);
        let mut writer = LogWriter::with_file(saved.config, file);
        (writer.failing, writer.dropped_lately, writer.dropped) = (saved.failing, saved.dropped_lately, saved.dropped);
        Some(writer)
    }
}

/// A log over an exec of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedLog {
    config: LogConfig,
    pub(crate) file: RawFd,
    size: u64,
    torn: bool,
    failing: bool,
    dropped_lately: u64,
    dropped: u64,
}

fn file_of(config: &LogConfig) -> Option<(&Path, Option<Rotation>)> {
    match config {
        LogConfig::None => None,
        LogConfig::JsonFile { path, rotation, .. } | LogConfig::Local { path, rotation } => Some((path, *rotation)),
    }
}
