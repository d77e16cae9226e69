//! A process that the agent holds: its streams, and how far it is.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use guest_protocol::flow::Outgoing;
use guest_protocol::message::{ContainerId, Exit, Held, Position, ProcessId, Start, Streams, TerminalSize};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use sandbox::SyncChannel;

/// How many bytes of standard input wait until the process reads them.
const INPUT_WINDOW: u64 = 64 << 10;
/// The most that is kept of an output, whatever the host asks for.
const KEPT_MAX: u32 = 16 << 20;
/// How much is read at once.
const PIECE: usize = 32 << 10;

/// How far a process is.
#[derive(Debug)]
pub(crate) enum State {
    /// It sets itself up. The request that waits for that, if the host that made it is still there; what was left out.
    Starting {
        sync: SyncChannel,
        number: Option<u64>,
        warnings: Vec<String>,
    },
    Running,
    Exited(Exit),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: ProcessId,
    pub(crate) container: ContainerId,
    /// It is its container's first one.
    pub(crate) is_init: bool,
    /// How often somebody in its container had been killed for want of memory when this run of the machine began.
    pub(crate) oom_kills_before: u64,
    pub(crate) terminal: Option<TerminalSize>,
    /// How many bytes of an output may be sent before any is taken.
    pub(crate) window: u32,
    /// The host knows of it, in this conversation: its streams and its end are told.
    pub(crate) spoken_of: bool,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) state: State,
    pub(crate) stdin: Input,
    pub(crate) outputs: [Output; 2],
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Exited(_))
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    pub(crate) fn held(&self) -> Held {
        Held {
            process: self.id,
            container: self.container,
            terminal: self.terminal.is_some(),
            exit: match self.state {
                State::Exited(exit) => Some(exit),
                _ => None,
            },
            stdin: self.stdin.is_wanted.then_some(self.stdin.received),
            outputs: self.outputs.each_ref().map(|output| Position {
                taken: output.flow.taken(),
                written: output.flow.written(),
                ended: output.flow.is_ended(),
            }),
        }
    }
}

/// The ends of its streams that a new process gets, and ours.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) theirs: Option<[OwnedFd; 3]>,
    pub(crate) stdin: Input,
    pub(crate) outputs: [Output; 2],
}

impl Ends {
    /// A terminal comes later: the plan makes it.
    pub(crate) fn new(start: &Start) -> Result<Self, Errno> {
        let output = |ours| Output::new(ours, start);
        let Streams::Pipes { stdin } = start.streams else {
            let mut outputs = [output(None), output(None)];
            // A terminal has no standard error.
            outputs[1].flow.end();
            return Ok(Self { theirs: None, stdin: Input::new(true, None), outputs });
        };
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (their_stdin, our_stdin) = pipe()?;
        let (our_stdout, their_stdout) = pipe()?;
        let (our_stderr, their_stderr) = pipe()?;
        for ours in [&our_stdin, &our_stdout, &our_stderr] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        Ok(Self {
            theirs: Some([their_stdin, their_stdout, their_stderr]),
            stdin: Input::new(stdin, stdin.then_some(our_stdin)),
            outputs: [output(Some(our_stdout)), output(Some(our_stderr))],
        })
    }
}

/// Standard input: what has come, until the process reads it.
#[derive(Debug)]
pub(crate) struct Input {
    /// The host writes it.
    is_wanted: bool,
    fd: Option<OwnedFd>,
    buffer: VecDeque<u8>,
    /// How much has come. It is kept here from then on, so that the host may forget it.
    pub(crate) received: u64,
    limit: u64,
    ended: bool,
    /// It is watched for room.
    pub(crate) watched: bool,
}

impl Input {
    fn new(is_wanted: bool, fd: Option<OwnedFd>) -> Self {
        Self { is_wanted, fd, buffer: VecDeque::new(), received: 0, limit: 0, ended: false, watched: false }
    }

    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// What the host may send from now on, where it is to be told: `(taken, limit)`.
    pub(crate) fn credit(&mut self, always: bool) -> Option<(u64, u64)> {
        if !self.is_wanted {
            return None;
        }
        let limit = self.received - self.buffer.len() as u64 + INPUT_WINDOW;
        let due = always || limit - self.limit >= INPUT_WINDOW / 2;
        if !due {
            return None;
        }
        self.limit = limit;
        Some((self.received, limit))
    }

    /// A piece has come. One that came before, in an earlier conversation, is known.
    pub(crate) fn receive(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if offset != self.received || self.ended {
            return false;
        }
        self.received += bytes.len() as u64;
        if self.fd.is_some() {
            self.buffer.extend(bytes);
        }
        true
    }

    /// No more comes.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Takes up a terminal.
    pub(crate) fn attach(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    /// Gives the process what it takes. Whether there is more than that, so that room has to be waited for.
    pub(crate) fn flush(&mut self, is_terminal: bool) -> bool {
        while let Some(fd) = &self.fd {
            let (front, _) = self.buffer.as_slices();
            if front.is_empty() {
                // A terminal has no end: what is typed there says so.
                if self.ended && !is_terminal {
                    self.close();
                }
                return false;
            }
            match rustix::io::write(fd, front) {
                Ok(count) => {
                    self.buffer.drain(..count);
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                // Nobody reads it any more; what comes is dropped.
                Err(_) => self.close(),
            }
        }
        false
    }

    /// Nobody reads it any more.
    pub(crate) fn close(&mut self) {
        self.fd = None;
        self.buffer = VecDeque::new();
    }
}

/// An output: what was written, until the host has taken it.
#[derive(Debug)]
pub(crate) struct Output {
    fd: Option<OwnedFd>,
    pub(crate) flow: Outgoing,
    /// It is watched for more.
    pub(crate) watched: bool,
}

impl Output {
    fn new(fd: Option<OwnedFd>, start: &Start) -> Self {
        let kept = start.kept.clamp(4096, KEPT_MAX) as usize;
        Self { fd, flow: Outgoing::new(kept, u64::from(start.window)), watched: false }
    }

    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// Takes up a terminal.
    pub(crate) fn attach(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
    }

    /// Whether more can be read.
    pub(crate) fn wants_more(&self) -> bool {
        self.fd.is_some() && self.flow.room() > 0
    }

    /// How much was written so far, with what waits to be read.
    pub(crate) fn written(&self) -> u64 {
        let waiting = self.fd.as_ref().and_then(|fd| rustix::io::ioctl_fionread(fd).ok());
        self.flow.written() + waiting.unwrap_or(0)
    }

    /// Reads what the process has written, as far as there is room.
    pub(crate) fn fill(&mut self) {
        let mut piece = [0; PIECE];
        while let Some(fd) = &self.fd {
            let room = self.flow.room().min(PIECE);
            if room == 0 {
                return;
            }
            match rustix::io::read(fd, &mut piece[..room]) {
                Ok(0) => self.close(),
                Ok(count) => {
                    self.flow.write(&piece[..count]);
                    // The rest waits for its turn.
                    return;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                // EIO: nobody has the terminal open any more.
                Err(_) => self.close(),
            }
        }
    }

    pub(crate) fn close(&mut self) {
        self.fd = None;
        self.flow.end();
    }
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: impl AsFd, size: TerminalSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}
