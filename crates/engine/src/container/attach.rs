//! Attachments: a caller's end of a process's standard streams.
//!
//! Output comes from the keeper through a socket pair, one end of which it holds; this process reads the other. Input
//! goes straight to the process's pipe or terminal, whose descriptor the keeper gives out. An attachment to a container
//! that does not run yet waits in the container until its start, so that the first byte is not missed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::{Buf, Bytes, BytesMut};
use keeper::client::Attach;
use keeper::protocol::{AttachOptions as Wanted, Framing, Request};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::Container;
use super::detach_keys::DetachKeys;
use super::exec::ExecState;
use super::stop::SIGKILL;
use crate::model::Phase;
use crate::streams::{AttachOptions, LogOptions, OutputChunk, OutputStream};
use crate::{Engine, Error, Result};

/// Most of a frame that is handed on at once.
const CHUNK: usize = 32 << 10;
/// Attachments to one container that wait for its start. Each takes a descriptor of the daemon.
const MOST_PENDING: usize = 256;
/// Length of the header before each piece: stream, three zeros, length (big-endian).
const HEADER: usize = 8;

/// A caller's end of a process's standard streams.
pub struct Attachment {
    /// Whether the streams are a terminal.
    pub tty: bool,
    /// What the process writes.
    pub output: OutputReceiver,
    /// Where the process reads; `None`: not asked for, or closed.
    pub input: Option<InputSink>,
}

/// Receives a process's output, in the order in which it was written.
pub struct OutputReceiver {
    /// Logged output that comes first.
    past: Option<super::LogStream>,
    live: Option<UnixStream>,
    framing: Framing,
    buffer: BytesMut,
    /// An exec whose end is known before the end of its output is told, as clients then ask for its exit code.
    pub(super) exec: Option<watch::Receiver<ExecState>>,
    /// It waits for its container's start.
    waiting: Option<Waiting>,
}

/// Takes an attachment whose caller has gone out of those that wait for a container's start.
struct Waiting {
    container: Weak<Container>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(container) = self.container.upgrade() {
            container.pending.lock().retain(|pending| pending.number != self.number);
        }
    }
}

/// Writes to a process's standard input.
pub struct InputSink {
    engine: Engine,
    /// Whose input it is, in the keeper's names.
    process: String,
    /// `None` until the process runs.
    descriptor: watch::Receiver<Option<Arc<AsyncFd<OwnedFd>>>>,
    keys: Option<DetachKeys>,
    close_on_end: bool,
    closed: bool,
}

/// An attachment that waits for its container's start.
pub(crate) struct Pending {
    /// No other attachment has it.
    number: u64,
    pub(crate) wanted: Wanted,
    pub(crate) sink: OwnedFd,
    pub(crate) input: watch::Sender<Option<Arc<AsyncFd<OwnedFd>>>>,
}

impl Pending {
    /// The same attachment, for a start that may have to be tried again.
    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        let sink = self.sink.try_clone()?;
        Ok(Self { number: self.number, wanted: self.wanted, sink, input: self.input.clone() })
    }
}

/// Both ends of an attachment that is being made.
pub(super) struct Ends {
    pub(super) pending: Pending,
    pub(super) output: OutputReceiver,
    pub(super) descriptor: watch::Receiver<Option<Arc<AsyncFd<OwnedFd>>>>,
}

/// The number of the next attachment.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// Makes both ends of an attachment to a process, with or without a terminal.
pub(super) fn ends(tty: bool, stdin: bool, stdout: bool, stderr: bool) -> Result<Ends> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
        None,
    )
    .map_err(|error| Error::step("make a socket pair for an attachment", error))?;
    let framing = if tty { Framing::Raw } else { Framing::Framed };
    let live = UnixStream::from_std(ours.into()).map_err(|error| Error::step("watch an attachment's socket", error))?;
    let (input, descriptor) = watch::channel(None);
    let wanted = Wanted { stdin, stdout: stdout || tty, stderr, framing };
    let output = OutputReceiver { live: Some(live), ..OutputReceiver::silent(framing) };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    Ok(Ends { pending: Pending { number, wanted, sink: theirs, input }, output, descriptor })
}

/// A process's standard input, as tokio watches it.
fn watched(descriptor: OwnedFd) -> Result<Arc<AsyncFd<OwnedFd>>> {
    #[expect(
        deprecated,
        reason = "its descriptor is the same as long as it lives, which is what the newer, unsafe form asks for"
    )]
    AsyncFd::with_interest(descriptor, Interest::WRITABLE)
        .map(Arc::new)
        .map_err(|error| Error::step("watch a process's standard input", error))
}

impl Engine {
    /// As [`watched`], of what has just begun to run. Where it can't be watched, nobody could ever write to it, and who asked
    /// hears that nothing runs: so it is killed.
    pub(super) async fn watched_or_killed(&self, process: &str, descriptor: OwnedFd) -> Result<Arc<AsyncFd<OwnedFd>>> {
        let watched = watched(descriptor);
        if watched.is_err() {
            let kill = Request::Signal { id: process.to_owned(), signal: SIGKILL };
            // It may have ended by itself in this moment. Its end is told, and has the keeper forget it.
            let _ = self.keeper().await?.call(kill).await;
        }
        watched
    }

    /// Attaches to a container, running or about to be started.
    pub async fn attach(&self, reference: &str, options: AttachOptions) -> Result<Attachment> {
        let container = self.0.containers.find(reference)?;
        let record = container.record();
        match record.state.phase {
            Phase::Paused => {
                return Err(Error::conflict("container is paused, unpause the container before attach"));
            }
            Phase::Restarting => {
                return Err(Error::conflict("container is restarting, wait until the container is running"));
            }
            _ => {}
        }
        let keys = DetachKeys::parse(options.detach_keys.as_deref())?;
        let stdin = options.stdin && options.stream && record.config.open_stdin;
        let mut output = OutputReceiver::silent(Framing::Raw);
        let mut input = None;
        if options.stream {
            let ends = ends(record.config.tty, stdin, options.stdout, options.stderr)?;
            output = ends.output;
            if stdin {
                input = Some(InputSink {
                    engine: self.clone(),
                    process: container.id.to_string(),
                    descriptor: ends.descriptor,
                    keys: record.config.tty.then_some(keys),
                    close_on_end: record.config.stdin_once && !record.config.tty,
                    closed: false,
                });
            }
            output.waiting = self.join(&container, ends.pending).await?;
        }
        if options.logs {
            let wanted = LogOptions { stdout: options.stdout, stderr: options.stderr, ..LogOptions::default() };
            output.past = Some(self.logs(reference, wanted).await?);
        }
        self.tell_container(&record, "attach", []);
        Ok(Attachment { tty: record.config.tty, output, input })
    }

    /// Attaches now where the container runs, else with its start.
    async fn join(&self, container: &Arc<Container>, pending: Pending) -> Result<Option<Waiting>> {
        {
            let mut list = container.pending.lock();
            // Under the lock: a start takes the list after it has made the container known as running.
            if !container.record().state.phase.is_live() {
                if list.len() >= MOST_PENDING {
                    return Err(Error::unavailable(format!(
                        "{MOST_PENDING} clients are attached to container {} already and wait for its start: start it, or end some",
                        container.id.short()
                    )));
                }
                let waiting = Waiting { container: Arc::downgrade(container), number: pending.number };
                list.push(pending);
                return Ok(Some(waiting));
            }
        }
        self.join_running(container.id.as_str(), pending).await.map(|()| None)
    }

    pub(super) async fn join_running(&self, process: &str, pending: Pending) -> Result<()> {
        let call = Attach { id: process.to_owned(), options: pending.wanted, sink: pending.sink };
        let attached = self.keeper().await?.call(call).await.map_err(crate::keeper_error)?;
        if let Some(descriptor) = attached.stdin {
            pending.input.send_replace(Some(watched(descriptor)?));
        }
        Ok(())
    }

    /// The input end of an exec's attachment.
    pub(super) fn exec_input(
        &self,
        process: &str,
        descriptor: watch::Receiver<Option<Arc<AsyncFd<OwnedFd>>>>,
        keys: Option<DetachKeys>,
        tty: bool,
    ) -> InputSink {
        InputSink {
            engine: self.clone(),
            process: process.to_owned(),
            descriptor,
            keys,
            close_on_end: !tty,
            closed: false,
        }
    }
}

impl OutputReceiver {
    /// One that has nothing to receive.
    fn silent(framing: Framing) -> Self {
        Self { past: None, live: None, framing, buffer: BytesMut::new(), exec: None, waiting: None }
    }

    /// The next piece of output; `None` at its end.
    pub async fn next(&mut self) -> Option<OutputChunk> {
        while let Some(past) = &mut self.past {
            match past.next().await {
                Some(Ok(line)) => return Some(OutputChunk { stream: line.stream, bytes: line.bytes }),
                Some(Err(error)) => tracing::warn!(%error, "could not read a log for an attachment"),
                None => self.past = None,
            }
        }
        while let Some(live) = &mut self.live {
            if let Some(chunk) = take(&mut self.buffer, self.framing) {
                return Some(chunk);
            }
            self.buffer.reserve(CHUNK);
            match live.read_buf(&mut self.buffer).await {
                Ok(0) => self.live = None,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "an attachment's socket ended");
                    self.live = None;
                }
            }
        }
        if let Some(exec) = &mut self.exec {
            // One that nobody knows any more has ended, too.
            let _ = exec.wait_for(|state| matches!(state, ExecState::Ended { .. })).await;
        }
        None
    }
}

/// The next whole piece in `buffer`.
fn take(buffer: &mut BytesMut, framing: Framing) -> Option<OutputChunk> {
    if matches!(framing, Framing::Raw) {
        let all = buffer.split();
        return (!all.is_empty()).then(|| OutputChunk { stream: OutputStream::Stdout, bytes: all.freeze() });
    }
    let header: [u8; HEADER] = buffer.get(..HEADER)?.try_into().ok()?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if buffer.len() < HEADER + length {
        return None;
    }
    buffer.advance(HEADER);
    let bytes: Bytes = buffer.split_to(length).freeze();
    let stream = if header[0] == 2 { OutputStream::Stderr } else { OutputStream::Stdout };
    Some(OutputChunk { stream, bytes })
}

impl InputSink {
    /// Writes to the process, once it runs. `false`: the attachment is over, as the detach keys were typed or the
    /// process reads no more.
    pub async fn write(&mut self, typed: &[u8]) -> Result<bool> {
        let (bytes, detached) = match &mut self.keys {
            Some(keys) => keys.pass(typed),
            None => (typed.to_vec(), false),
        };
        let Some(descriptor) = self.descriptor().await else { return Ok(false) };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let written = descriptor
                .async_io(Interest::WRITABLE, |fd| rustix::io::write(fd.as_fd(), rest).map_err(std::io::Error::from))
                .await;
            match written {
                Ok(count) => rest = &rest[count..],
                Err(error) if is_gone(&error) => return Ok(false),
                Err(error) => return Err(Error::step("write to the process's standard input", error)),
            }
        }
        Ok(!detached)
    }

    /// The caller writes no more: the process sees the end where this input is its only one.
    pub async fn close(&mut self) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        if !self.close_on_end || self.descriptor().await.is_none() {
            return Ok(());
        }
        self.descriptor = watch::channel(None).1;
        let request = Request::CloseStdin { id: self.process.clone() };
        match self.engine.keeper().await?.call(request).await {
            Ok(()) => Ok(()),
            // It has ended meanwhile.
            Err(keeper::client::ClientError::Failed(_)) => Ok(()),
            Err(error) => Err(crate::keeper_error(error)),
        }
    }

    /// The descriptor, once the process runs; `None` if it never will.
    async fn descriptor(&mut self) -> Option<Arc<AsyncFd<OwnedFd>>> {
        let found = self.descriptor.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }
}

/// Nobody reads any more: the process ended, or closed its standard input.
fn is_gone(error: &std::io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::PIPE | rustix::io::Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\x02o"[..]);
        let first = take(&mut buffer, Framing::Framed).unwrap();
        assert_eq!((first.stream, &first.bytes[..]), (OutputStream::Stderr, &b"err"[..]));
        assert!(take(&mut buffer, Framing::Framed).is_none());
        buffer.extend_from_slice(b"k");
        assert_eq!(&take(&mut buffer, Framing::Framed).unwrap().bytes[..], b"ok");
    }
}
