//! The host's side of the conversation, without any input or output of its own.
//!
//! Whoever has the stream gives what comes to [`Host::receive`], takes what happened from [`Host::event`], and writes
//! [`Host::output`]. All that the guest says is checked: lengths, offsets, numbers that were never given, answers that fit no request. A
//! guest that breaks a rule gets [`Nonsense`], after which the stream has to be closed; what runs in it may be ended with its machine.

mod check;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use check::Expected;

use crate::flow::{BadFlow, Incoming, Outgoing};
use crate::frame::{BadFrame, Channel, Decoder, Frame, MAX_DATA};
pub use crate::message::{Blob, Stream};
use crate::message::{
    Exit, Failure, Greeting, Hello, ProcessId, Reply, Request, Resume, Streams, ToGuest, ToHost, Unsendable, decode,
    encode,
};
use crate::{PROTOCOL, plain};

/// How many bytes of standard input are kept until the guest has taken them.
const INPUT_KEPT: usize = 64 << 10;
/// What is written ahead of a guest that does not read.
const AHEAD: usize = 256 << 10;
/// Names that are asked for at once; what is more is not answered.
const NAMES: usize = 128;
/// The longest message of DNS.
const NAME_MAX: usize = u16::MAX as usize;
/// The most processes that a guest may hold.
const PROCESSES: usize = 4096;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A conversation has begun; what follows is part of it.
    Connected(Box<Hello>),
    /// A request was answered.
    Answer {
        /// Its number.
        number: u64,
        /// What came of it.
        result: Result<Reply, Failure>,
    },
    /// The conversation broke off before a request was answered: it may have been done or not, and can be repeated.
    Unanswered {
        /// Its number.
        number: u64,
    },
    /// A process has written something. Its window opens again with [`Host::taken`].
    Output {
        /// Which.
        process: ProcessId,
        /// Where to.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// Nothing more comes of a stream.
    OutputEnd {
        /// Whose.
        process: ProcessId,
        /// Which.
        stream: Stream,
    },
    /// A process has ended. Told once.
    Exited {
        /// Which.
        process: ProcessId,
        /// How.
        exit: Exit,
    },
    /// Somebody inside wants a name: [`Host::answer_name`].
    Name {
        /// To be repeated in the answer.
        number: u64,
        /// The answer may be long.
        tcp: bool,
        /// A message of DNS, from a stranger.
        query: Vec<u8>,
    },
}

/// What a guest said that can't be. It is cut off: nothing more is read of what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nonsense {
    /// Bytes that are no frame.
    Frame(BadFrame),
    /// A message that is none, or has something behind it.
    Message,
    /// It speaks another version.
    Version {
        /// Which.
        guest: u32,
    },
    /// Something that may not come at this point.
    Unexpected(&'static str),
    /// A process that it was never given, or was told to forget.
    Process(ProcessId),
    /// A stream that does not go as it has to.
    Flow(Channel, BadFlow),
    /// An answer to a request that there is not, or one that does not fit it.
    Answer(u64),
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the guest's agent sent ")?;
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Message => f.write_str("a message that is none"),
            Self::Version { guest } => {
                write!(f, "version {guest} of the protocol, where {PROTOCOL} is spoken: boot the machine anew")
            }
            Self::Unexpected(what) => write!(f, "{what}"),
            Self::Process(process) => write!(f, "word of process {process}, which it was not given"),
            Self::Flow(channel, error) => write!(f, "{:?} of process {}: {error}", channel.stream, channel.process),
            Self::Answer(number) => write!(f, "an answer to request {number} that does not fit it"),
        }
    }
}

impl std::error::Error for Nonsense {}

impl From<BadFrame> for Nonsense {
    fn from(error: BadFrame) -> Self {
        Self::Frame(error)
    }
}

/// What the answer to a request has to be, for whoever hears it from somebody whom he believes no more than the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fitting(Expected);

impl Fitting {
    /// Of the answer to that request.
    pub fn of(request: &Request) -> Self {
        Self(Expected::of(request))
    }

    /// Whether that can be the answer: of its kind, no longer than was asked for, and with no name in it that leads elsewhere.
    pub fn is(self, reply: &Reply) -> bool {
        self.0.fits(reply)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest has to say hello.
    Silent,
    Talking,
    /// It talked nonsense.
    Cut,
}

/// A process as the host knows it.
#[derive(Debug)]
struct Process {
    /// The guest has said that it runs.
    started: bool,
    stdin: Option<Outgoing>,
    outputs: [Incoming; 2],
    exited: bool,
    /// The guest was told to forget it, and may have.
    forgotten: bool,
}

/// The host's side. See the [module](self).
#[derive(Debug)]
pub struct Host {
    decoder: Decoder,
    phase: Phase,
    /// Of the last call; 0: there was none, as the stream is a connection of its own.
    token: u64,
    /// What comes is of the conversation with that token.
    is_ours: bool,
    boot: Option<[u8; 16]>,
    window: u32,
    out: Vec<u8>,
    written: usize,
    next_number: u64,
    pending: BTreeMap<u64, Expected>,
    processes: BTreeMap<ProcessId, Process>,
    /// How much was taken of the outputs of a process that a guest will say it holds.
    taken_before: BTreeMap<ProcessId, [u64; 2]>,
    /// Names that were asked for and not answered.
    names: usize,
    /// The process that was the last to send, so that each has its turn.
    turn: u32,
    events: VecDeque<Event>,
}

impl Host {
    /// A host that knows nothing of its guest. Of what a process that it has not started writes it lets `window` bytes come ahead.
    pub fn new(window: u32) -> Self {
        Self {
            decoder: Decoder::new(),
            phase: Phase::Silent,
            token: 0,
            is_ours: false,
            boot: None,
            window,
            out: Vec::new(),
            written: 0,
            next_number: 1,
            pending: BTreeMap::new(),
            processes: BTreeMap::new(),
            taken_before: BTreeMap::new(),
            names: 0,
            turn: 0,
            events: VecDeque::new(),
        }
    }

    /// Of a process of a guest that goes on from a snapshot, so much of standard output and error was taken before it was saved: what the guest heard of that may
    /// be less. To be said before the guest is heard.
    pub fn took(&mut self, process: ProcessId, outputs: [u64; 2]) {
        self.taken_before.insert(process, outputs);
    }

    /// How much was taken of a process's standard output and error.
    pub fn taken_of(&self, process: ProcessId) -> Option<[u64; 2]> {
        Some(self.processes.get(&process)?.outputs.each_ref().map(Incoming::taken))
    }

    /// A new stream is there, or the old one broke: what was under way is [`Event::Unanswered`], and the guest's hello is waited for.
    pub fn reconnect(&mut self) {
        self.decoder.reset();
        (self.token, self.is_ours) = (0, false);
        self.forget_conversation();
    }

    fn forget_conversation(&mut self) {
        self.phase = Phase::Silent;
        self.out.clear();
        (self.written, self.names) = (0, 0);
        let unanswered = std::mem::take(&mut self.pending);
        self.events.extend(unanswered.into_keys().map(|number| Event::Unanswered { number }));
        // The end of an output is told again; what has come of it is not.
        self.events.retain(|event| !matches!(event, Event::OutputEnd { .. } | Event::Name { .. }));
        for process in self.processes.values_mut() {
            process.stdin.iter_mut().for_each(Outgoing::pause);
        }
    }

    /// Asks the guest to begin a conversation, on a stream that may hold the rest of another one (virtio-serial). To be repeated until
    /// it [has](Event::Connected): nobody may be listening yet.
    pub fn call(&mut self) {
        if self.phase == Phase::Silent {
            // One that no earlier host has had.
            self.token = RandomState::new().build_hasher().finish() | 1;
            Frame::Preamble { token: self.token }.write(&mut self.out);
        }
    }

    /// Whether a conversation is under way, so that requests can be made.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Talking
    }

    /// What has to be written to the guest.
    pub fn output(&mut self) -> &[u8] {
        self.pump();
        &self.out[self.written..]
    }

    /// So many bytes of it were written.
    pub fn sent(&mut self, count: usize) {
        self.written += count.min(self.out.len() - self.written);
        if self.written == self.out.len() || self.written >= AHEAD {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// What happened next.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Makes a request, and says its number. Without a conversation it is [`Event::Unanswered`] at once.
    ///
    /// # Errors
    /// It is longer than a message may be.
    pub fn request(&mut self, body: Request) -> Result<u64, Unsendable> {
        let number = self.next_number;
        let expected = Expected::of(&body);
        let start = match &body {
            Request::Start(start) => Some((start.process, start.streams, start.window)),
            _ => None,
        };
        let message = encode(&ToGuest::Request { number, body })?;
        self.next_number += 1;
        if !self.is_connected() {
            self.events.push_back(Event::Unanswered { number });
            return Ok(number);
        }
        if let Some((process, streams, window)) = start {
            let has_stdin = !matches!(streams, Streams::Pipes { stdin: false });
            self.processes.entry(process).or_insert_with(|| Process {
                started: false,
                stdin: has_stdin.then(|| Outgoing::new(INPUT_KEPT, 0)),
                outputs: [Incoming::new(0, window), Incoming::new(0, window)],
                exited: false,
                forgotten: false,
            });
        }
        if let Expected::Forgotten(process) = expected
            && let Some(ours) = self.processes.get_mut(&process)
        {
            ours.forgotten = true;
        }
        self.pending.insert(number, expected);
        Frame::Message(&message).write(&mut self.out);
        Ok(number)
    }

    /// Answers a name; with an empty answer, the asker is told that there is none to be had. A guest that asks and does not read is not answered any more,
    /// as a resolver that is overrun does not answer: what waits for it has a bound.
    ///
    /// # Errors
    /// The answer is longer than a message may be.
    pub fn answer_name(&mut self, number: u64, answer: Vec<u8>) -> Result<(), Unsendable> {
        let message = encode(&ToGuest::NameAnswer { number, answer: Blob(answer) })?;
        if self.is_connected() {
            self.names = self.names.saturating_sub(1);
            if self.out.len() - self.written < AHEAD {
                Frame::Message(&message).write(&mut self.out);
            }
        }
        Ok(())
    }

    /// Writes to a process's standard input as much as there is room for, and says how much. What has none takes all, to no end.
    pub fn write_stdin(&mut self, process: ProcessId, bytes: &[u8]) -> usize {
        match self.stdin(process) {
            Some(stdin) if !stdin.is_ended() => stdin.write(bytes),
            _ => bytes.len(),
        }
    }

    /// How much [`Host::write_stdin`] would take.
    pub fn stdin_room(&self, process: ProcessId) -> usize {
        self.processes.get(&process).and_then(|process| process.stdin.as_ref()).map_or(0, Outgoing::room)
    }

    /// Ends a process's standard input, behind what was written.
    pub fn close_stdin(&mut self, process: ProcessId) {
        if let Some(stdin) = self.stdin(process) {
            stdin.end();
        }
    }

    fn stdin(&mut self, process: ProcessId) -> Option<&mut Outgoing> {
        self.processes.get_mut(&process)?.stdin.as_mut()
    }

    /// So many bytes of a process's output are where they belong: the guest may forget them, and send as many more.
    pub fn taken(&mut self, process: ProcessId, stream: Stream, count: usize) {
        let Some(output) = self.processes.get_mut(&process).and_then(|held| output_of(held, stream)) else { return };
        output.took(count as u64);
    }

    /// Reads what has come from the guest.
    ///
    /// # Errors
    /// Once for the first thing that can't be, and again for whatever comes then.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Nonsense> {
        if self.phase == Phase::Cut {
            return Err(Nonsense::Unexpected("more, after it was cut off"));
        }
        let mut decoder = std::mem::take(&mut self.decoder);
        decoder.push(bytes);
        let read = self.read(&mut decoder);
        self.decoder = decoder;
        if read.is_err() {
            self.forget_conversation();
            self.phase = Phase::Cut;
        }
        read
    }

    fn read(&mut self, decoder: &mut Decoder) -> Result<(), Nonsense> {
        while let Some(frame) = decoder.next()? {
            match (frame, self.phase) {
                // It begins anew, as the other end of a port that knows no connections.
                (Frame::Preamble { token }, phase) => {
                    // It begins anew.
                    if phase == Phase::Talking {
                        self.forget_conversation();
                    }
                    self.is_ours = token == self.token;
                }
                // What is left of a conversation with somebody else.
                _ if !self.is_ours => {}
                (Frame::Message(body), phase) => {
                    let message = decode(body).map_err(|_| Nonsense::Message)?;
                    match (message, phase) {
                        (ToHost::Hello(hello), Phase::Silent) => self.on_hello(hello)?,
                        (message, Phase::Talking) => self.on_message(message)?,
                        _ => return Err(Nonsense::Unexpected("something before its hello")),
                    }
                }
                (frame, Phase::Talking) => self.on_stream(frame)?,
                _ => return Err(Nonsense::Unexpected("something before its hello")),
            }
        }
        Ok(())
    }

    fn on_hello(&mut self, mut hello: Hello) -> Result<(), Nonsense> {
        hello.release = plain::text(&hello.release).into_owned();
        if hello.protocol != PROTOCOL {
            return Err(Nonsense::Version { guest: hello.protocol });
        }
        if hello.processes.len() > PROCESSES {
            return Err(Nonsense::Unexpected("more processes than a guest may hold"));
        }
        let known = self.boot == Some(hello.boot);
        if self.boot.is_some() && !known {
            // It was booted anew: nothing of what ran is left.
            self.processes.clear();
        }
        let mut resume = Vec::new();
        for held in &hello.processes {
            let process = held.process;
            check::plausible(held)?;
            if !known {
                self.processes.insert(process, check::adopt(held, self.taken_before.remove(&process), self.window));
            }
            let ours = self.processes.get_mut(&process).ok_or(Nonsense::Process(process))?;
            check::resume(ours, held)?;
            let [stdout, stderr] = ours.outputs.each_mut().map(Incoming::resume);
            resume.push(Resume { process, stdout, stderr });
        }
        if known {
            let held = |id: &ProcessId| hello.processes.iter().any(|held| held.process == *id);
            if let Some((id, _)) = self.processes.iter().find(|(id, ours)| ours.started && !ours.forgotten && !held(id))
            {
                return Err(Nonsense::Process(*id));
            }
            // The others' starts were not answered, and did not happen; or they were forgotten, and that was not answered.
            self.processes.retain(|id, _| held(id));
        }
        self.boot = Some(hello.boot);
        self.phase = Phase::Talking;
        let conversation = hello.conversation;
        let greeting = encode(&ToGuest::Greeting(Greeting { protocol: PROTOCOL, conversation, resume }));
        let greeting = greeting.map_err(|_| Nonsense::Unexpected("more processes than can be greeted"))?;
        Frame::Message(&greeting).write(&mut self.out);
        let ended: Vec<_> = hello.processes.iter().filter_map(|held| Some((held.process, held.exit?))).collect();
        self.events.push_back(Event::Connected(Box::new(hello)));
        ended.into_iter().try_for_each(|(process, exit)| self.on_exit(process, exit, true))
    }

    fn on_message(&mut self, message: ToHost) -> Result<(), Nonsense> {
        match message {
            ToHost::Hello(_) => Err(Nonsense::Unexpected("a second hello")),
            ToHost::Answer { number, mut result } => {
                plain::answer(&mut result);
                let expected = self.pending.remove(&number).ok_or(Nonsense::Answer(number))?;
                if let Ok(reply) = &result
                    && !expected.fits(reply)
                {
                    return Err(Nonsense::Answer(number));
                }
                match (expected, &result) {
                    (Expected::Started(process), Ok(_)) => {
                        self.processes.get_mut(&process).ok_or(Nonsense::Process(process))?.started = true;
                    }
                    (Expected::Started(process), Err(_)) => {
                        // One that asks twice for the same is refused, and the process runs on.
                        self.processes.retain(|id, held| *id != process || held.started);
                    }
                    (Expected::Forgotten(process), Ok(_)) => {
                        self.processes.remove(&process);
                    }
                    _ => {}
                }
                self.events.push_back(Event::Answer { number, result });
                Ok(())
            }
            ToHost::Exited { process, exit } => self.on_exit(process, exit, false),
            ToHost::Name { number, tcp, query } => {
                if query.0.len() > NAME_MAX {
                    return Err(Nonsense::Unexpected("a question longer than one of DNS can be"));
                }
                if self.names < NAMES {
                    self.names += 1;
                    self.events.push_back(Event::Name { number, tcp, query: query.0 });
                }
                Ok(())
            }
        }
    }

    /// `again`: it is in a hello, where what was told before is told again.
    fn on_exit(&mut self, process: ProcessId, exit: Exit, again: bool) -> Result<(), Nonsense> {
        let ours = self.processes.get_mut(&process).ok_or(Nonsense::Process(process))?;
        if !ours.started || (ours.exited && !again) {
            return Err(Nonsense::Unexpected("the end of a process that does not run"));
        }
        if !std::mem::replace(&mut ours.exited, true) {
            self.events.push_back(Event::Exited { process, exit });
        }
        Ok(())
    }

    fn on_stream(&mut self, frame: Frame<'_>) -> Result<(), Nonsense> {
        let (Frame::Data { channel, .. } | Frame::Credit { channel, .. } | Frame::End { channel, .. }) = frame else {
            return Ok(());
        };
        let Channel { process, stream } = channel;
        let ours = self.processes.get_mut(&process).ok_or(Nonsense::Process(process))?;
        let bad = |error| Nonsense::Flow(channel, error);
        match frame {
            Frame::Data { offset, bytes, .. } => {
                let output = output_of(ours, stream).ok_or(Nonsense::Unexpected("a piece of standard input"))?;
                let known = output.receive(offset, bytes.len()).map_err(bad)?;
                if known < bytes.len() {
                    self.events.push_back(Event::Output { process, stream, bytes: bytes[known..].to_vec() });
                }
            }
            Frame::End { offset, .. } => {
                let output = output_of(ours, stream).ok_or(Nonsense::Unexpected("the end of standard input"))?;
                output.end(offset).map_err(bad)?;
                self.events.push_back(Event::OutputEnd { process, stream });
            }
            Frame::Credit { taken, limit, .. } => match (&mut ours.stdin, stream) {
                (Some(stdin), Stream::Stdin) => stdin.credit(taken, limit).map_err(bad)?,
                _ => return Err(Nonsense::Unexpected("credit for what is not sent to it")),
            },
            _ => {}
        }
        Ok(())
    }

    /// Makes frames of credits, and of what was written to standard inputs, a piece of each in turn. A guest that does not read gets none, and may send no
    /// more for as long.
    fn pump(&mut self) {
        if self.phase != Phase::Talking {
            return;
        }
        for (process, held) in &mut self.processes {
            for (output, stream) in held.outputs.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
                if self.out.len() - self.written >= AHEAD {
                    return;
                }
                if let Some((taken, limit)) = output.credit() {
                    let channel = Channel { process: *process, stream };
                    Frame::Credit { channel, taken, limit }.write(&mut self.out);
                }
            }
        }
        while self.out.len() - self.written < AHEAD {
            let behind = self.processes.iter().map(|(id, held)| (*id, held)).filter(|(_, held)| has_input(held));
            let ready: Vec<ProcessId> = behind.map(|(id, _)| id).collect();
            let next = ready.iter().find(|id| id.get() > self.turn).or(ready.first()).copied();
            let Some(process) = next else { return };
            self.turn = process.get();
            let channel = Channel { process, stream: Stream::Stdin };
            let Some(stdin) = self.processes.get_mut(&process).and_then(|held| held.stdin.as_mut()) else { return };
            if let Some((offset, bytes)) = stdin.next(MAX_DATA) {
                Frame::Data { channel, offset, bytes }.write(&mut self.out);
            }
            if let Some(offset) = stdin.next_end() {
                Frame::End { channel, offset }.write(&mut self.out);
            }
        }
    }
}

fn has_input(process: &Process) -> bool {
    process.stdin.as_ref().is_some_and(Outgoing::has_next)
}

fn output_of(process: &mut Process, stream: Stream) -> Option<&mut Incoming> {
    match stream {
        Stream::Stdin => None,
        Stream::Stdout => Some(&mut process.outputs[0]),
        Stream::Stderr => Some(&mut process.outputs[1]),
    }
}

/// A host that started two processes hears whatever `data` is, in pieces.
pub(crate) fn fuzz(data: &[u8]) {
    check::fuzz(data);
}

#[cfg(test)]
mod tests;
