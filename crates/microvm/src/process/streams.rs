//! A process of the guest, and the descriptors on the host that are its streams.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use guest_protocol::host::Host;
use guest_protocol::message::{Exit, ProcessId, Stream};
use rustix::io::Errno;

/// How much is read of a standard input at once.
const PIECE: usize = 16 << 10;

/// A process that runs in the guest, or is about to.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) process: ProcessId,
    /// The guest has said that its program runs.
    pub(super) started: bool,
    pub(super) exit: Option<Exit>,
    /// Its end was told whoever it runs for.
    pub(super) told: bool,
    stdin: Option<OwnedFd>,
    outputs: [Sink; 2],
}

/// An output, on its way to where it belongs.
#[derive(Debug, Default)]
struct Sink {
    fd: Option<OwnedFd>,
    queue: VecDeque<u8>,
    ended: bool,
    /// How much has come from the guest.
    received: u64,
}

impl Attached {
    /// `outputs` are standard output and error; a terminal has one.
    pub(super) fn new(process: ProcessId, stdin: Option<OwnedFd>, outputs: [Option<OwnedFd>; 2]) -> Self {
        for fd in [&stdin, &outputs[0], &outputs[1]].into_iter().flatten() {
            // A file always is ready, whatever this does to it.
            let _ = rustix::io::ioctl_fionbio(fd, true);
        }
        let outputs = outputs.map(|fd| Sink { fd, ..Sink::default() });
        Self { process, started: false, exit: None, told: false, stdin, outputs }
    }

    /// One that runs in a machine that goes on from a snapshot: of its outputs, so much was taken before.
    pub(super) fn adopted(
        process: ProcessId,
        taken: [u64; 2],
        stdin: Option<OwnedFd>,
        outputs: [Option<OwnedFd>; 2],
    ) -> Self {
        let mut attached = Self::new(process, stdin, outputs);
        attached.started = true;
        for (sink, taken) in attached.outputs.iter_mut().zip(taken) {
            sink.received = taken;
        }
        attached
    }

    /// Where more can be read, if there is room for it.
    pub(super) fn reads(&self, host: &Host) -> Option<BorrowedFd<'_>> {
        let room = self.started && self.exit.is_none() && host.stdin_room(self.process) > 0;
        self.stdin.as_ref().filter(|_| room).map(AsFd::as_fd)
    }

    /// Where something waits to be written.
    pub(super) fn writes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let waiting = |sink: &&Sink| !sink.queue.is_empty();
        let numbered = self.outputs.iter().enumerate();
        numbered
            .filter(move |(_, sink)| waiting(sink))
            .filter_map(|(number, sink)| Some((number, sink.fd.as_ref()?.as_fd())))
    }

    /// All that it wrote is where it belongs, and no more comes.
    pub(super) fn is_drained(&self) -> bool {
        self.exit.is_some() && self.outputs.iter().all(|sink| sink.ended && sink.queue.is_empty())
    }

    /// It has ended, and all that had been written by then is where it belongs. Others may still write, who have its outputs open.
    pub(super) fn is_over(&self) -> bool {
        let arrived = |(sink, written): (&Sink, u64)| sink.queue.is_empty() && (sink.ended || sink.received >= written);
        self.exit.is_some_and(|exit| self.outputs.iter().zip(exit.outputs).all(arrived))
    }

    /// Takes what can be read from its standard input to the guest.
    pub(super) fn read(&mut self, host: &mut Host) {
        let Some(stdin) = &self.stdin else { return };
        // On the stack it would be there in each turn, whatever comes.
        let mut bytes = vec![0; host.stdin_room(self.process).min(PIECE)];
        match rustix::io::read(stdin, &mut bytes[..]) {
            Ok(0) => {
                host.close_stdin(self.process);
                self.stdin = None;
            }
            Ok(count) => {
                // There is room for as much.
                host.write_stdin(self.process, &bytes[..count]);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that was hung up.
            Err(_) => {
                host.close_stdin(self.process);
                self.stdin = None;
            }
        }
    }

    /// The guest has written something.
    pub(super) fn receive(&mut self, host: &mut Host, stream: Stream, bytes: &[u8]) {
        let number = number(stream);
        self.outputs[number].queue.extend(bytes);
        self.outputs[number].received += bytes.len() as u64;
        self.write(host, number);
    }

    /// No more comes of a stream.
    pub(super) fn end(&mut self, stream: Stream) {
        let sink = &mut self.outputs[number(stream)];
        sink.ended = true;
        if sink.queue.is_empty() {
            sink.fd = None;
        }
    }

    /// Writes as much as goes.
    pub(super) fn write(&mut self, host: &mut Host, number: usize) {
        let sink = &mut self.outputs[number];
        let stream = [Stream::Stdout, Stream::Stderr][number];
        while !sink.queue.is_empty() {
            let (front, _) = sink.queue.as_slices();
            let written = match &sink.fd {
                Some(fd) => rustix::io::write(fd, front),
                // Nobody wants it: the process must not wait for that.
                None => Ok(front.len()),
            };
            match written {
                Ok(count) => {
                    sink.queue.drain(..count);
                    host.taken(self.process, stream, count);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // Whoever read it is gone, as a pipe's reader may be. What comes is dropped from now on.
                Err(_) => sink.fd = None,
            }
        }
        if sink.ended {
            sink.fd = None;
        }
    }
}

fn number(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}
