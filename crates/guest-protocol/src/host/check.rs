//! What fits what: answers to requests, and what a guest holds to what its host knows.

use super::{Event, Host, Nonsense, Process};
use crate::configuration::Machine;
use crate::files::{FileReply, FileRequest, MAX_ENTRIES, MAX_IO};
use crate::flow::{BadFlow, Incoming, Outgoing};
use crate::frame::{Channel, Frame};
use crate::message::{
    Blob, ContainerId, Greeting, Held, Hello, Plan, Position, ProcessId, Reply, Request, Start, Stream, Streams,
    ToHost, encode,
};
use crate::{PROTOCOL, message};

/// The reply that a request has to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Done,
    Started(ProcessId),
    Forgotten(ProcessId),
    Stats,
    Memory,
    Processes,
    File(ExpectedFile),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedFile {
    Done,
    Stat,
    Link,
    Entries,
    Opened,
    Bytes { most: u32 },
}

impl Expected {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Start(start) => Self::Started(start.process),
            Request::Forget { process } => Self::Forgotten(*process),
            Request::Stats { .. } => Self::Stats,
            Request::Memory { .. } => Self::Memory,
            Request::Processes { .. } => Self::Processes,
            Request::File { request, .. } => Self::File(match request {
                FileRequest::Stat(_) => ExpectedFile::Stat,
                FileRequest::ReadLink(_) => ExpectedFile::Link,
                FileRequest::List { .. } => ExpectedFile::Entries,
                FileRequest::Open(_) | FileRequest::Create { .. } => ExpectedFile::Opened,
                FileRequest::Read { length, .. } => ExpectedFile::Bytes { most: (*length).min(MAX_IO) },
                FileRequest::Write { .. }
                | FileRequest::Close(_)
                | FileRequest::Make { .. }
                | FileRequest::Remove(_)
                | FileRequest::Set { .. }
                | FileRequest::Sync(_) => ExpectedFile::Done,
            }),
            Request::Configure(_)
            | Request::MakeRoot(_)
            | Request::Signal { .. }
            | Request::Resize { .. }
            | Request::Freeze { .. }
            | Request::Limit { .. }
            | Request::Renew(_)
            | Request::Network(_)
            | Request::RemoveRoot { .. }
            | Request::Shutdown { .. } => Self::Done,
        }
    }

    pub(super) fn fits(self, reply: &Reply) -> bool {
        match (self, reply) {
            (Self::Done | Self::Forgotten(_), Reply::Done)
            | (Self::Started(_), Reply::Started { .. })
            | (Self::Stats, Reply::Stats(_))
            | (Self::Memory, Reply::Memory(_))
            | (Self::Processes, Reply::Processes(_)) => true,
            (Self::File(expected), Reply::File(reply)) => match (expected, reply) {
                (ExpectedFile::Done, FileReply::Done)
                | (ExpectedFile::Stat, FileReply::Stat(_))
                | (ExpectedFile::Link, FileReply::Link(_))
                | (ExpectedFile::Opened, FileReply::Opened(..)) => true,
                (ExpectedFile::Entries, FileReply::Entries { entries, more }) => {
                    // A name that leads elsewhere would be followed by whoever writes it into a directory of the host.
                    let is_name = |name: &[u8]| {
                        !matches!(name, b"" | b"." | b"..")
                            && name.len() < 256
                            && !name.iter().any(|c| matches!(c, 0 | b'/'))
                    };
                    // Who says that there is more, and gives nothing, would be asked for ever.
                    entries.len() <= MAX_ENTRIES
                        && (!more || !entries.is_empty())
                        && entries.iter().all(|(name, _)| is_name(&name.0))
                }
                (ExpectedFile::Bytes { most }, FileReply::Bytes(bytes)) => bytes.0.len() <= most as usize,
                _ => false,
            },
            _ => false,
        }
    }
}

/// No stream is as long, so that no offset near the end of numbers has to be thought of.
const LONGEST: u64 = 1 << 62;

/// Whether what the guest says of a process can be.
pub(super) fn plausible(held: &Held) -> Result<(), Nonsense> {
    let streams = held.outputs.iter().all(|position| position.taken <= position.written && position.written <= LONGEST);
    if streams && held.stdin.is_none_or(|taken| taken <= LONGEST) {
        return Ok(());
    }
    Err(Nonsense::Unexpected("a process with streams that can't be"))
}

/// A process that the host has not begun: it knows a guest that goes on from a snapshot, or was begun anew itself.
/// `taken` is how much is known to have been taken of its outputs.
pub(super) fn adopt(held: &Held, taken: Option<[u64; 2]>, window: u32) -> Process {
    let taken = taken.unwrap_or(held.outputs.map(|position| position.taken));
    let [stdout, stderr] = taken.map(|taken| Incoming::new(taken, window));
    let stdin = held.stdin.map(|taken| {
        let mut stdin = Outgoing::new(super::INPUT_KEPT, 0);
        stdin.begin_at(taken);
        stdin
    });
    Process { started: true, stdin, outputs: [stdout, stderr], exited: false, forgotten: false }
}

/// Holds what the guest says of a process against what is known of it.
pub(super) fn resume(ours: &mut Process, held: &Held) -> Result<(), Nonsense> {
    ours.started = true;
    let process = held.process;
    match (&mut ours.stdin, held.stdin) {
        (Some(stdin), Some(taken)) => {
            let channel = Channel { process, stream: Stream::Stdin };
            stdin.resume(taken, taken).map_err(|error| Nonsense::Flow(channel, error))?;
        }
        (None, None) => {}
        _ => return Err(Nonsense::Unexpected("a process with another standard input than it was given")),
    }
    for ((output, position), stream) in ours.outputs.iter().zip(held.outputs).zip([Stream::Stdout, Stream::Stderr]) {
        let (first, end, wanted) = (position.taken, position.written, output.taken());
        let wanted = if end < output.received() { output.received() } else { wanted };
        if !(first..=end).contains(&wanted) {
            let error = BadFlow::Resume { wanted, first, end };
            return Err(Nonsense::Flow(Channel { process, stream }, error));
        }
    }
    Ok(())
}

/// A host in the middle of a conversation hears anything.
pub(super) fn fuzz(data: &[u8]) {
    const WINDOW: u32 = 1 << 12;
    let mut host = Host::new(WINDOW);
    let process = |number| ProcessId::new(number).expect("a small number");
    let mut wire = Vec::new();
    let hello = Hello {
        protocol: PROTOCOL,
        release: String::new(),
        boot: [0; 16],
        conversation: 1,
        features: 0,
        configured: false,
        processes: vec![Held {
            process: process(1),
            container: ContainerId(0),
            terminal: false,
            exit: None,
            stdin: Some(5),
            outputs: [Position { taken: 7, written: 9, ended: false }; 2],
        }],
    };
    Frame::Preamble { token: 0 }.write(&mut wire);
    let body = encode(&ToHost::Hello(hello)).expect("a short message");
    Frame::Message(&body).write(&mut wire);
    host.receive(&wire).expect("a guest that says hello");
    let start = Start {
        process: process(2),
        container: ContainerId(0),
        plan: Plan::Exec(Blob::default()),
        streams: Streams::Pipes { stdin: true },
        window: WINDOW,
        kept: 0,
    };
    let read = FileRequest::Read { handle: crate::files::Handle(0), offset: 0, length: 100 };
    let requests = [
        Request::Configure(Box::<Machine>::default()),
        Request::Start(Box::new(start)),
        Request::File { container: ContainerId(0), request: read },
        Request::Stats { container: ContainerId(0) },
        Request::Memory { container: ContainerId(0) },
        Request::Forget { process: process(1) },
    ];
    for request in requests {
        host.request(request).expect("a short message");
    }
    host.write_stdin(process(2), &[0; 4000]);
    let mut kept = 0;
    for piece in data.chunk_by(|_, next| next & 7 != 0) {
        let read = host.receive(piece);
        while let Some(event) = host.event() {
            if let Event::Output { bytes, .. } = event {
                kept += bytes.len();
                // Nobody takes any: each of four windows is all that may come in a conversation, of which each takes a hello.
                assert!(kept <= 4 * WINDOW as usize * (1 + data.len() / 16), "more came than was allowed");
            }
        }
        let waiting = host.output().len();
        assert!(waiting < 2 * super::AHEAD, "{waiting} bytes wait for a guest");
        host.sent(waiting);
        if read.is_err() {
            assert!(host.receive(data).is_err(), "it is heard again after it was cut off");
            return;
        }
    }
    // The guest's own reader.
    let _ = message::decode::<message::ToGuest>(data);
    let _ = message::decode::<Greeting>(data);
}
