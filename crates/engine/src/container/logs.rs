//! `logs`: what was logged, and what is being logged.

use std::time::Duration;

use keeper::logs::reader::{LogEntry, LogReader, ReadOptions};
use keeper::protocol::{LogConfig, Request, Stream, UnixNanos};
use tokio::sync::watch;

use super::Turn;
use crate::log_changes::LogFollower;
use crate::model::{Phase, Timestamp};
use crate::streams::{LogLine, LogOptions, OutputStream};
use crate::{Engine, Error, Result};

/// After a container's end its last lines may still be on their way to the log.
const LAST_LINES: Duration = Duration::from_millis(50);
/// Entries read at once.
const BATCH: usize = 256;

/// Lines of a container's log.
pub struct LogStream {
    /// Whether the container has a terminal: its lines are not parted by stream.
    pub tty: bool,
    reader: Option<LogReader>,
    ready: std::collections::VecDeque<LogLine>,
    options: LogOptions,
    follow: Option<Follow>,
    end: End,
}

/// Where a log ends for its reader. One who does not follow it gets what was there when he asked: a container that writes
/// faster than he reads would never let him go.
enum End {
    /// It does not.
    Open,
    /// After so many entries.
    After(usize),
    /// Before the first one that was written later.
    At(UnixNanos),
}

impl End {
    /// Leaves out what lies behind the end; whether that is reached.
    fn cut(&mut self, entries: &mut Vec<LogEntry>) -> bool {
        match self {
            End::Open => false,
            End::After(left) => {
                entries.truncate(*left);
                *left -= entries.len();
                *left == 0
            }
            End::At(time) => {
                let end = entries.iter().position(|entry| entry.time > *time);
                entries.truncate(end.unwrap_or(entries.len()));
                end.is_some()
            }
        }
    }
}

struct Follow {
    changes: LogFollower,
    turns: watch::Receiver<Turn>,
    /// The container has ended: what is there now is all.
    last_round: bool,
}

impl Engine {
    /// Lines of a container's log.
    pub async fn logs(&self, reference: &str, options: LogOptions) -> Result<LogStream> {
        if !options.stdout && !options.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let container = self.0.containers.find(reference)?;
        let record = container.record();
        let config = self.log_config(&record)?;
        if matches!(config, LogConfig::None) {
            return Err(Error::not_implemented("configured logging driver does not support reading"));
        }
        let turns = container.turns();
        let follow = match options.follow {
            true => Some(Follow { changes: self.0.log_changes.follow(&config)?, turns, last_round: false }),
            false => None,
        };
        let end = match (&follow, options.tail) {
            (Some(_), _) => End::Open,
            (None, Some(count)) => End::After(count),
            (None, None) => End::At(UnixNanos::now()),
        };
        let wanted = ReadOptions {
            tail: options.tail.map(|count| count as u64),
            since: options.since.map(nanos),
            until: options.until.map(nanos),
        };
        let reader = crate::blocking(move || LogReader::open(&config, &wanted).map_err(failed)).await?;
        Ok(LogStream { tty: record.config.tty, reader: Some(reader), ready: Default::default(), options, follow, end })
    }

    /// Compresses a rotated log.
    pub(crate) fn compress_log(&self, id: String, path: std::path::PathBuf, inode: u64) {
        let engine = self.clone();
        tokio::spawn(async move {
            let compressed = crate::blocking(move || {
                keeper::logs::compress::compress(&path)
                    .map_err(|error| Error::step(format!("compress {}", path.display()), error))
            });
            let adopted = match compressed.await {
                Ok(copy) => engine.adopt_compressed(id.clone(), inode, copy).await,
                Err(error) => Err(error),
            };
            if let Err(error) = adopted {
                tracing::warn!(container = id, %error, "a rotated log stays as it is");
            }
        });
    }

    async fn adopt_compressed(&self, id: String, inode: u64, copy: std::path::PathBuf) -> Result<()> {
        let request = Request::AdoptCompressed { id, inode, copy };
        self.keeper().await?.call(request).await.map_err(crate::keeper_error)
    }
}

impl LogStream {
    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<LogLine>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            let mut reader = self.reader.take()?;
            let read = crate::blocking(move || {
                let batch = batch(&mut reader)?;
                Ok((reader, batch))
            });
            let (reader, mut entries) = match read.await {
                Ok(read) => read,
                Err(error) => return Some(Err(error)),
            };
            let ended = reader.is_past_until();
            let empty = entries.is_empty();
            if !self.end.cut(&mut entries) {
                self.reader = Some(reader);
            }
            self.ready.extend(entries.into_iter().map(line).filter(|line| wanted(&self.options, line)));
            if empty && self.reader.is_some() && (ended || !self.wait().await) {
                return None;
            }
        }
    }

    /// Waits for more. `false`: nothing more will come.
    async fn wait(&mut self) -> bool {
        let Some(follow) = &mut self.follow else { return false };
        if follow.last_round {
            return false;
        }
        let until = self.options.until.and_then(|until| Duration::try_from(until - Timestamp::now()).ok());
        let late = async {
            match (self.options.until, until) {
                (Some(_), Some(left)) => tokio::time::sleep(left).await,
                (Some(_), None) => {}
                (None, _) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = follow.changes.changed() => true,
            () = ended(&mut follow.turns) => {
                // The keeper has written everything before it told the end; what is left is one more look.
                tokio::time::sleep(LAST_LINES).await;
                follow.last_round = true;
                true
            },
            () = late => {
                follow.last_round = true;
                true
            },
        }
    }
}

async fn ended(turns: &mut watch::Receiver<Turn>) {
    super::turned(turns, None, over).await;
}

/// Nothing more is logged: it ended, or never ran, and no policy is about to start it.
fn over(turn: &Turn) -> bool {
    turn.removed || !(turn.phase.is_live() || turn.phase == Phase::Restarting)
}

fn batch(reader: &mut LogReader) -> Result<Vec<LogEntry>> {
    let mut entries = Vec::new();
    while entries.len() < BATCH {
        match reader.next_entry().map_err(failed)? {
            Some(entry) => entries.push(entry),
            None => break,
        }
    }
    Ok(entries)
}

fn failed(error: keeper::logs::reader::ReadError) -> Error {
    Error::system(error.to_string())
}

fn nanos(time: Timestamp) -> UnixNanos {
    UnixNanos(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX))
}

fn wanted(options: &LogOptions, line: &LogLine) -> bool {
    match line.stream {
        OutputStream::Stdout => options.stdout,
        OutputStream::Stderr => options.stderr,
    }
}

fn line(entry: LogEntry) -> LogLine {
    let bytes = entry.text().into();
    let stream = match entry.stream {
        Stream::Stdout => OutputStream::Stdout,
        Stream::Stderr => OutputStream::Stderr,
    };
    let time = Timestamp::from_nanosecond(entry.time.0.into()).unwrap_or_default();
    LogLine { stream, time, bytes, attributes: entry.attributes }
}
