//! The conversation: it begins, goes on, and breaks off.

use std::time::{Duration, Instant};

use guest_protocol::PROTOCOL;
use guest_protocol::frame::{Channel, Frame, MAX_DATA};
use guest_protocol::message::{Greeting, Hello, ProcessId, Stream, ToGuest, ToHost, decode, encode, feature};
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::{Agent, RETRY, Token};
use crate::link::Link;
use crate::process::{Process, State};

/// What is written ahead of a host that does not read.
pub(super) const AHEAD: usize = 128 << 10;
/// How long the last words of a machine may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Agent {
    /// Begins to connect, or says when it is tried again.
    pub(super) fn connect(&mut self) {
        let Ok(fd) = self.machine.address.connect() else { return self.retry() };
        let connections = self.machine.address.has_connections();
        let link = Link::new(fd, connections);
        if self.poller.add(&link.fd, Token::Link, EventFlags::IN | EventFlags::OUT).is_err() {
            return self.retry();
        }
        self.link = Some(link);
        // On a port, whoever is at the other end begins.
        if connections {
            self.begin(0);
        }
    }

    /// Says hello, with all that is held.
    fn begin(&mut self, token: u64) {
        self.conversation += 1;
        self.files.clear();
        self.aside.forget_host();
        for process in self.processes.values_mut() {
            process.forget_host();
        }
        let hello = ToHost::Hello(Hello {
            protocol: PROTOCOL,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot,
            conversation: self.conversation,
            features: feature::SEVERAL | feature::PLUGGED_FILES | feature::PID_NAMESPACES | feature::MEMORY,
            configured: self.configured,
            // Of one that sets itself up nobody was told: its start is asked for again.
            processes: self.processes.values().filter(|process| !process.is_starting()).map(Process::held).collect(),
        });
        let ended = self.processes.values().filter(|process| matches!(process.state, State::Exited(_)));
        self.told = ended.map(|process| process.id).collect();
        let (Some(link), Ok(hello)) = (&mut self.link, encode(&hello)) else { return };
        link.greeted = false;
        link.out.clear();
        link.written = 0;
        Frame::Preamble { token }.write(&mut link.out);
        Frame::Message(&hello).write(&mut link.out);
    }

    /// The stream broke: what runs runs on.
    fn hang_up(&mut self) {
        if let Some(link) = self.link.take() {
            self.poller.remove(&link.fd);
        }
        self.retry();
    }

    /// Says something, if anybody listens; what it is about is in the next hello else.
    pub(super) fn say(&mut self, message: &ToHost) {
        let Some(link) = self.link.as_mut().filter(|link| link.greeted) else { return };
        match encode(message) {
            Ok(body) => Frame::Message(&body).write(&mut link.out),
            Err(error) => eprintln!("guest: {error}"),
        }
    }

    pub(super) fn on_link(&mut self, flags: EventFlags) {
        if flags.contains(EventFlags::OUT)
            && let Some(link) = &mut self.link
        {
            link.full = false;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) && !self.hear() {
            self.hang_up();
        }
    }

    /// Reads what the host says. `false`: it does not say anything more.
    fn hear(&mut self) -> bool {
        let mut bytes = [0; 64 << 10];
        let Some(link) = &mut self.link else { return true };
        let count = match rustix::io::read(&link.fd, &mut bytes) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        let mut decoder = std::mem::take(&mut link.decoder);
        decoder.push(&bytes[..count]);
        loop {
            let understood = match decoder.next() {
                Ok(None) => break,
                Ok(Some(Frame::Preamble { token })) => {
                    self.begin(token);
                    true
                }
                Ok(Some(Frame::Message(body))) => match decode(body) {
                    Ok(message) => self.on_message(message),
                    Err(_) => false,
                },
                // What is left of a conversation before the last hello.
                Ok(Some(_)) if !self.is_greeted() => true,
                Ok(Some(frame)) => self.on_flow(frame),
                Err(_) => false,
            };
            if !understood {
                // Parts of two conversations, on a port: the next one begins with a preamble.
                if self.machine.address.has_connections() {
                    return false;
                }
                decoder.resynchronise();
            }
        }
        if let Some(link) = &mut self.link {
            link.decoder = decoder;
        }
        true
    }

    fn is_greeted(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.greeted)
    }

    fn on_message(&mut self, message: ToGuest) -> bool {
        let greeted = self.is_greeted();
        match message {
            ToGuest::Greeting(greeting) if !greeted && greeting.conversation == self.conversation => {
                self.on_greeting(&greeting)
            }
            // What is left of a conversation before the last hello.
            _ if !greeted => true,
            ToGuest::Request { number, body } if greeted => {
                self.on_request(number, body);
                true
            }
            ToGuest::NameAnswer { number, answer } if greeted => {
                self.names.answer(number, &answer.0, &self.poller);
                true
            }
            _ => false,
        }
    }

    fn on_greeting(&mut self, greeting: &Greeting) -> bool {
        if greeting.protocol != PROTOCOL {
            return false;
        }
        for resume in &greeting.resume {
            let Some(process) = self.processes.get_mut(&resume.process) else { return false };
            process.spoken_of = true;
            for (output, (taken, limit)) in process.outputs.iter_mut().zip([resume.stdout, resume.stderr]) {
                if output.flow.resume(taken, limit).is_err() {
                    return false;
                }
            }
        }
        if let Some(link) = &mut self.link {
            link.greeted = true;
        }
        self.delay = *RETRY.start();
        let ids: Vec<ProcessId> = greeting.resume.iter().map(|resume| resume.process).collect();
        for id in ids {
            self.credit_input(id, true);
            self.watch(id);
            // Whose end came since the hello; the others' the host has heard of.
            if let Some(State::Exited(exit)) = self.processes.get(&id).map(|process| &process.state)
                && !self.told.contains(&id)
            {
                let exit = *exit;
                self.say(&ToHost::Exited { process: id, exit });
            }
        }
        true
    }

    /// What belongs to a process that is not there any more is for nobody.
    fn on_flow(&mut self, frame: Frame<'_>) -> bool {
        match frame {
            Frame::Data { channel: Channel { process, stream: Stream::Stdin }, offset, bytes } => {
                let Some(held) = self.processes.get_mut(&process) else { return true };
                if !held.stdin.receive(offset, bytes) {
                    return false;
                }
                self.on_stream(process, Stream::Stdin);
            }
            Frame::End { channel: Channel { process, stream: Stream::Stdin }, .. } => {
                let Some(held) = self.processes.get_mut(&process) else { return true };
                held.stdin.end();
                self.on_stream(process, Stream::Stdin);
            }
            Frame::Credit { channel: Channel { process, stream }, taken, limit } if stream != Stream::Stdin => {
                let Some(held) = self.processes.get_mut(&process) else { return true };
                let output = &mut held.outputs[usize::from(stream == Stream::Stderr)];
                if output.flow.credit(taken, limit).is_err() {
                    return false;
                }
                self.watch(process);
            }
            _ => return false,
        }
        true
    }

    /// Lets the host send more standard input, where there is room for it.
    pub(super) fn credit_input(&mut self, process: ProcessId, always: bool) {
        let Some(held) = self.processes.get_mut(&process).filter(|held| held.spoken_of) else { return };
        let Some(link) = self.link.as_mut().filter(|link| link.greeted) else { return };
        if let Some((taken, limit)) = held.stdin.credit(always) {
            let channel = Channel { process, stream: Stream::Stdin };
            Frame::Credit { channel, taken, limit }.write(&mut link.out);
        }
    }

    /// Writes to the host as much as it takes: first what was said, then a piece of each output in turn.
    pub(super) fn pump(&mut self) {
        loop {
            let Some(link) = &mut self.link else { return };
            if link.full {
                break;
            }
            if link.flush().is_err() {
                return self.hang_up();
            }
            let Some(link) = &self.link else { return };
            if !link.greeted || link.full || !self.pump_streams() {
                break;
            }
        }
        let Some(link) = &self.link else { return };
        let room = if link.full { EventFlags::OUT } else { EventFlags::empty() };
        self.poller.modify(&link.fd, Token::Link, EventFlags::IN | room);
    }

    /// Makes frames of what was written; `false`: there was nothing.
    fn pump_streams(&mut self) -> bool {
        let mut any = false;
        while self.link.as_ref().is_some_and(|link| link.waiting() < AHEAD) {
            let processes = self.processes.values().filter(|process| process.spoken_of);
            let ready: Vec<(u32, u8)> = processes
                .flat_map(|process| (0..2).map(move |at| (process, at)))
                .filter(|(process, at)| process.outputs[usize::from(*at)].flow.has_next())
                .map(|(process, at)| (process.id.get(), at))
                .collect();
            let Some(turn) = ready.iter().find(|at| **at > self.turn).or(ready.first()) else { break };
            self.turn = *turn;
            any = true;
            self.send_piece();
        }
        any
    }

    fn send_piece(&mut self) {
        let (number, at) = self.turn;
        let Some(process) = ProcessId::new(number) else { return };
        let (Some(link), Some(held)) = (&mut self.link, self.processes.get_mut(&process)) else { return };
        let flow = &mut held.outputs[usize::from(at)].flow;
        let channel = Channel { process, stream: STREAMS[usize::from(at)] };
        if let Some((offset, bytes)) = flow.next(MAX_DATA) {
            Frame::Data { channel, offset, bytes }.write(&mut link.out);
        }
        if let Some(offset) = flow.next_end() {
            Frame::End { channel, offset }.write(&mut link.out);
        }
    }

    /// The machine ends: what was said is heard before, if the host listens.
    pub(super) fn last_words(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        while let Some(link) = self.link.as_mut().filter(|link| link.waiting() > 0) {
            let left = end.saturating_duration_since(Instant::now());
            let time = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut poll = [PollFd::new(&link.fd, PollFlags::OUT)];
            let ready = rustix::event::poll(&mut poll, Some(&time));
            if left.is_zero() || matches!(ready, Err(errno) if errno != Errno::INTR) || link.flush().is_err() {
                return;
            }
        }
    }
}
