//! Output: from a process's pipe or terminal into its log and to its attachments.
//!
//! What is read goes to both at once. An attachment that cannot take its share keeps the rest of that one piece, and the streams that
//! it receives are not read until it could take it: so the process is held up as by a full pipe, and nothing piles up here.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::Keeper;
use super::entry::{Entry, Output, index};
use super::poller::Token;
use super::slots::{Key, Slots};
use crate::logs::writer::{Batch, LogWriter, Notice};
use crate::protocol::{AttachOptions, Event, Failure, Framing, State, Stream, UnixNanos};

/// As much is read at once; a pipe holds as much by default.
pub(super) const CHUNK: usize = 64 << 10;
/// At the end of a process its output is read at once up to this many pieces, which is more than a pipe holds.
const LAST_CHUNKS: usize = 64;

/// Where an attachment's output goes.
#[derive(Debug)]
pub(super) struct Sink {
    /// `None`: the entry is gone, and only the rest is still to be delivered.
    pub(super) entry: Option<Key>,
    pub(super) fd: OwnedFd,
    pub(super) options: AttachOptions,
    /// What it could not take yet.
    pub(super) rest: Vec<u8>,
}

impl Sink {
    fn receives(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.options.stdout,
            Stream::Stderr => self.options.stderr,
        }
    }
}

/// What came of reading an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    /// There may be more.
    More,
    /// There is nothing at present, or it is not to be read.
    Nothing,
    /// It has ended.
    Ended,
}

impl Keeper {
    pub(super) fn watch_output(&mut self, key: Key, stream: Stream) -> Result<(), Errno> {
        match self.entries.get(key).and_then(|entry| entry.outputs[index(stream)].as_ref()) {
            Some(output) => self.poller.add(&output.fd, Token::Output(key, stream), EventFlags::IN),
            None => Ok(()),
        }
    }

    pub(super) fn on_output(&mut self, key: Key, stream: Stream) {
        self.pump(key, stream);
        self.settle(key);
    }

    /// Reads once, and hands on what there was.
    fn pump(&mut self, key: Key, stream: Stream) -> Pumped {
        let Some(entry) = self.entries.get_mut(key) else { return Pumped::Nothing };
        let Some(output) = entry.outputs[index(stream)].as_mut() else { return Pumped::Nothing };
        if output.paused {
            return Pumped::Nothing;
        }
        let length = match rustix::io::read(&output.fd, &mut *self.chunk) {
            Ok(0) => return self.end_output(key, stream),
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Pumped::Nothing,
            // A terminal that nobody has open any more says EIO.
            Err(_) => return self.end_output(key, stream),
        };
        self.stats.output_bytes += length as u64;
        if let Some(log) = entry.log.as_mut() {
            let (batch, notices) = (&mut self.batch, &mut self.notices);
            output.lines.feed(&self.chunk[..length], UnixNanos::now(), |line| log.append(&line, batch, notices));
            log.flush(batch, notices);
        }
        let mut dead = Vec::new();
        let mut held_up = false;
        for &sink_key in &entry.sinks {
            let Some(sink) = self.sinks.get_mut(sink_key).filter(|sink| sink.receives(stream)) else { continue };
            match deliver(sink, stream, &self.chunk[..length]) {
                Ok(()) if sink.rest.is_empty() => {}
                Ok(()) => {
                    held_up = true;
                    let flags = EventFlags::OUT;
                    if self.poller.modify(&sink.fd, Token::Sink(sink_key), flags).is_err() {
                        dead.push(sink_key);
                    }
                }
                Err(_) => dead.push(sink_key),
            }
        }
        if held_up {
            pause(&self.poller, &self.sinks, entry);
        }
        for sink_key in dead {
            self.end_sink(sink_key);
        }
        self.tell_notices(key);
        Pumped::More
    }

    /// Reads everything that a process has left behind.
    pub(super) fn drain(&mut self, key: Key) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..LAST_CHUNKS {
                if self.pump(key, stream) != Pumped::More {
                    break;
                }
            }
        }
    }

    fn end_output(&mut self, key: Key, stream: Stream) -> Pumped {
        let Some(entry) = self.entries.get_mut(key) else { return Pumped::Ended };
        if let Some(output) = entry.outputs[index(stream)].take() {
            finish_output(output, entry.log.as_mut(), &mut self.batch, &mut self.notices, &self.poller);
        }
        let open = entry.outputs.each_ref().map(Option::is_some);
        for sink_key in entry.sinks.clone() {
            let has_more = self
                .sinks
                .get(sink_key)
                .is_some_and(|sink| sink.options.stdout && open[0] || sink.options.stderr && open[1]);
            if !has_more {
                self.finish_sink(sink_key);
            }
        }
        self.tell_notices(key);
        let Some(entry) = self.entries.get_mut(key) else { return Pumped::Ended };
        if !entry.output_open() && entry.end_pending {
            entry.end_pending = false;
            let id = entry.id.clone();
            self.announce(Event::OutputEnded { id });
        }
        Pumped::Ended
    }

    /// Closes both outputs, whoever may still hold their other ends.
    pub(super) fn close_outputs(&mut self, key: Key) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_output(key, stream);
        }
    }

    fn tell_notices(&mut self, key: Key) {
        if self.notices.is_empty() {
            return;
        }
        let Some(id) = self.entries.get(key).map(|entry| entry.id.clone()) else { return };
        for notice in std::mem::take(&mut self.notices) {
            let id = id.clone();
            self.announce(match notice {
                Notice::Failing { errno } => Event::LogFailing { id, errno },
                Notice::Recovered { dropped } => Event::LogDropped { id, count: dropped },
                Notice::Rotated(rotated) => Event::LogRotated { id, path: rotated.path, inode: rotated.inode },
            });
        }
    }

    /// Adds an attachment. Nothing is changed if that fails.
    pub(super) fn attach(&mut self, key: Key, options: AttachOptions, fd: OwnedFd) -> Result<Key, Failure> {
        let unusable = |errno: Errno| Failure::Invalid {
            what: "the sink".into(),
            why: format!("it is no socket or pipe ({})", crate::errno_text(errno.raw_os_error())),
        };
        rustix::io::ioctl_fionbio(&fd, true).map_err(unusable)?;
        let sink_key = self.sinks.insert(Sink { entry: Some(key), fd, options, rest: Vec::new() });
        let sink = self.sinks.get(sink_key).map(|sink| &sink.fd);
        // Nothing is asked for: that it has gone is told anyway.
        let watched = sink.map_or(Ok(()), |fd| self.poller.add(fd, Token::Sink(sink_key), EventFlags::empty()));
        if let Err(errno) = watched {
            self.sinks.remove(sink_key);
            return Err(unusable(errno));
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.sinks.push(sink_key);
        }
        Ok(sink_key)
    }

    /// Ends an attachment whose streams have ended, once it has taken everything.
    pub(super) fn finish_sink(&mut self, sink_key: Key) {
        match self.sinks.get_mut(sink_key) {
            Some(sink) if !sink.rest.is_empty() => {
                let entry = sink.entry.take();
                self.forget_sink(entry, sink_key);
            }
            _ => self.end_sink(sink_key),
        }
    }

    pub(super) fn on_sink(&mut self, sink_key: Key, flags: EventFlags) {
        let Some(sink) = self.sinks.get_mut(sink_key) else { return };
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if gone || write_rest(sink).is_err() {
            return self.end_sink(sink_key);
        }
        if !sink.rest.is_empty() {
            return;
        }
        sink.rest = Vec::new();
        let Some(key) = sink.entry else { return self.end_sink(sink_key) };
        if self.poller.modify(&sink.fd, Token::Sink(sink_key), EventFlags::empty()).is_err() {
            return self.end_sink(sink_key);
        }
        self.resume(key);
    }

    /// Ends an attachment at once.
    pub(super) fn end_sink(&mut self, sink_key: Key) {
        let Some(sink) = self.sinks.remove(sink_key) else { return };
        self.poller.remove(&sink.fd);
        self.forget_sink(sink.entry, sink_key);
        let Some(key) = sink.entry else { return };
        self.resume(key);
        let once = self.entries.get(key).is_some_and(|entry| entry.stdin_once);
        if once && sink.options.stdin {
            self.close_stdin(key);
        }
    }

    fn forget_sink(&mut self, key: Option<Key>, sink_key: Key) {
        if let Some(entry) = key.and_then(|key| self.entries.get_mut(key)) {
            entry.sinks.retain(|other| *other != sink_key);
        }
    }

    /// Reads again what no attachment holds up any more.
    fn resume(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held_up = is_held_up(&self.sinks, entry, stream);
            if let Some(output) = entry.outputs[index(stream)].as_mut().filter(|output| output.paused && !held_up) {
                output.paused = false;
                // It was there before, so there is room for it.
                _ = self.poller.add(&output.fd, Token::Output(key, stream), EventFlags::IN);
            }
        }
        self.settle(key);
    }

    pub(super) fn close_stdin(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.stdin.take().is_some() {
            let id = entry.id.clone();
            self.announce(Event::StdinClosed { id });
        }
    }

    /// Lets go of something forgotten, when what it wrote has been taken.
    pub(super) fn settle(&mut self, key: Key) {
        if !self.entries.get(key).is_some_and(|entry| entry.forgotten && entry.state == State::Exited) {
            return;
        }
        self.drain(key);
        let held_up =
            self.entries.get(key).is_some_and(|entry| entry.outputs.iter().flatten().any(|output| output.paused));
        if !held_up {
            self.remove_entry(key);
        }
    }
}

fn is_held_up(sinks: &Slots<Sink>, entry: &Entry, stream: Stream) -> bool {
    let waits = |sink: &Sink| sink.receives(stream) && !sink.rest.is_empty();
    entry.sinks.iter().any(|key| sinks.get(*key).is_some_and(waits))
}

fn pause(poller: &super::poller::Poller, sinks: &Slots<Sink>, entry: &mut Entry) {
    for stream in [Stream::Stdout, Stream::Stderr] {
        let held_up = is_held_up(sinks, entry, stream);
        if let Some(output) = entry.outputs[index(stream)].as_mut().filter(|output| held_up && !output.paused) {
            output.paused = true;
            // Not merely disarmed: that its other end is closed would be told again and again.
            poller.remove(&output.fd);
        }
    }
}

fn finish_output(
    mut output: Output,
    log: Option<&mut LogWriter>,
    batch: &mut Batch,
    notices: &mut Vec<Notice>,
    poller: &super::poller::Poller,
) {
    if !output.paused {
        poller.remove(&output.fd);
    }
    if let Some(log) = log {
        output.lines.finish(UnixNanos::now(), |line| log.append(&line, batch, notices));
        log.flush(batch, notices);
    }
}

/// Writes a piece to a sink, which keeps what it cannot take.
fn deliver(sink: &mut Sink, stream: Stream, piece: &[u8]) -> Result<(), Errno> {
    let mut header = [0; 8];
    header[0] = index(stream) as u8 + 1;
    header[4..].copy_from_slice(&(piece.len() as u32).to_be_bytes());
    let header: &[u8] = match sink.options.framing {
        Framing::Raw => &[],
        Framing::Framed => &header,
    };
    let mut written = 0;
    if sink.rest.is_empty() {
        let parts = [std::io::IoSlice::new(header), std::io::IoSlice::new(piece)];
        written = match rustix::io::retry_on_intr(|| rustix::io::writev(&sink.fd, &parts)) {
            Ok(written) => written,
            Err(Errno::AGAIN) => 0,
            Err(errno) => return Err(errno),
        };
    }
    sink.rest.extend_from_slice(&header[written.min(header.len())..]);
    sink.rest.extend_from_slice(&piece[written.saturating_sub(header.len())..]);
    Ok(())
}

fn write_rest(sink: &mut Sink) -> Result<(), Errno> {
    while !sink.rest.is_empty() {
        match rustix::io::write(&sink.fd, &sink.rest) {
            Ok(written) => _ = sink.rest.drain(..written),
            Err(Errno::AGAIN) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
