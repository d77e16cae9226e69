//! One turn of the process: waits until something can be done, and does it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use guest_protocol::message::ProcessId;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{CALL, Process, Stage};
use crate::container::CONTAINER;
use crate::control::timespec;
use crate::driver::Link;
use crate::error::{Error, Result};

/// How much is read of the agent's stream at once.
const PIECE: usize = 64 << 10;

/// Where nothing came for so long, the memory that is not needed meanwhile is given back.
const QUIET: Duration = Duration::from_secs(1);

/// What is waited for.
#[derive(Debug, Clone, Copy)]
enum Source {
    Machine,
    Files,
    SharedFiles,
    Agent,
    Call,
    Signals,
    Stdin(ProcessId),
    Output(ProcessId, usize),
    ControlListener,
    Client(u64),
    Name(u64),
}

impl Process {
    pub(super) fn turn(&mut self) -> Result<()> {
        self.take_port()?;
        self.flush()?;
        let ready = self.wait()?;
        self.keep_only_what_is_needed(ready.is_empty());
        for source in ready {
            if self.on_source(source)? {
                return Ok(());
            }
        }
        self.names.give_up(&mut self.host, Instant::now());
        Ok(())
    }

    /// Does what can be done now with one of them. Returns whether nothing else is to be done in this turn. As [`Process::heed`] is, it is apart.
    #[inline(never)]
    fn on_source(&mut self, source: Source) -> Result<bool> {
        match source {
            Source::Machine => {
                self.has_ended = true;
                return Ok(true);
            }
            // The machine's own end follows, or has come.
            Source::Files => self.files.take().map_or(Ok(()), |mut files| files.end())?,
            // What came before this may have had it go.
            Source::SharedFiles if self.shared_files.are_gone() => {}
            Source::SharedFiles => {
                let why = "the process that serves those of containers that came has ended";
                return Err(Error::Files(why.to_owned()));
            }
            Source::Agent => self.receive()?,
            Source::Call => {
                if let Link::Calls(calls) = &self.link {
                    self.stream = calls.take();
                }
            }
            Source::Signals => self.on_signals()?,
            Source::Stdin(process) => {
                if let Some(attached) = self.attached.get_mut(&process) {
                    attached.read(&mut self.host);
                }
            }
            Source::Output(process, number) => {
                if let Some(attached) = self.attached.get_mut(&process) {
                    attached.write(&mut self.host, number);
                }
                self.on_progress(process)?;
            }
            Source::ControlListener => self.clients.accept(),
            Source::Client(client) => {
                self.on_client(client)?;
                if self.ends_as_saved {
                    // Nothing that was heard beside may have it go on.
                    return Ok(true);
                }
            }
            Source::Name(number) => self.names.read(&mut self.host, number),
        }
        Ok(false)
    }

    /// The pages of its program that a start needed count for as long as they are mapped, and so does what was allocated for it.
    fn keep_only_what_is_needed(&mut self, nothing_came: bool) {
        if !nothing_came {
            self.quiet_since = Some(Instant::now());
        } else if self.quiet_since.is_some_and(|since| since.elapsed() >= QUIET) {
            sandbox::residence::give_back();
            self.quiet_since = None;
        }
    }

    /// What can be done now.
    fn wait(&self) -> Result<Vec<Source>> {
        let (input, output) = (PollFlags::IN, PollFlags::OUT);
        let mut waited = vec![
            (Source::Machine, self.machine.ended(), input),
            (Source::Signals, self.signals.as_fd(), input),
            (Source::ControlListener, self.clients.listener(), input),
        ];
        waited.extend(self.files.iter().map(|files| (Source::Files, files.ended(), input)));
        // It is hung up, or nothing.
        waited.extend(self.shared_files.server().map(|server| (Source::SharedFiles, server, PollFlags::empty())));
        match (&self.stream, &self.link) {
            (Some(stream), _) => {
                let full = if self.is_full { output } else { PollFlags::empty() };
                waited.push((Source::Agent, stream.as_fd(), input | full));
            }
            (None, Link::Calls(calls)) => waited.push((Source::Call, calls.as_fd(), input)),
            (None, Link::Port(_)) => {}
        }
        for (process, attached) in &self.attached {
            waited.extend(attached.reads(&self.host).map(|fd| (Source::Stdin(*process), fd, input)));
            waited.extend(attached.writes().map(|(number, fd)| (Source::Output(*process, number), fd, output)));
        }
        waited.extend(self.clients.sockets().map(|(client, fd, flags)| (Source::Client(client), fd, flags)));
        waited.extend(self.names.sockets().map(|(number, fd)| (Source::Name(number), fd, input)));

        let mut fds: Vec<_> = waited.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = self.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::system("wait for", "the machine and its process")(errno)),
        }
        let ready = fds.iter().zip(&waited).filter(|(fd, _)| !fd.revents().is_empty());
        // The agent before the machine's end: what it has said last counts. The end is looked at alone, when nothing else is there.
        let mut ready: Vec<_> = ready.map(|(_, (source, ..))| *source).collect();
        if ready.len() > 1 {
            ready.retain(|source| !matches!(source, Source::Machine));
        }
        Ok(ready)
    }

    /// When there is something to do that nobody tells of.
    fn deadline(&self) -> Option<Instant> {
        let call = matches!((&self.link, self.stage), (Link::Port(_), Stage::Booting)).then(|| self.called + CALL);
        let shutdown = match self.stage {
            Stage::ShuttingDown(until) => Some(until),
            _ => None,
        };
        let quiet = self.quiet_since.map(|since| since + QUIET);
        [call, shutdown, quiet, self.names.deadline(), self.step_deadline()].into_iter().flatten().min()
    }

    /// A port is there from the beginning, and whoever is behind it has to be called until it answers.
    fn take_port(&mut self) -> Result<()> {
        let Link::Port(port) = &self.link else { return Ok(()) };
        if self.stream.is_none() {
            let port = rustix::io::fcntl_dupfd_cloexec(port, 3);
            self.stream = Some(port.map_err(Error::system("take", "the agent's port"))?);
        }
        if !self.host.is_connected() && self.called.elapsed() >= CALL {
            self.called = Instant::now();
            self.host.call();
        }
        Ok(())
    }

    /// Writes what the agent is to be told.
    fn flush(&mut self) -> Result<()> {
        self.is_full = false;
        let Some(stream) = &self.stream else { return Ok(()) };
        loop {
            let out = self.host.output();
            if out.is_empty() {
                return Ok(());
            }
            match rustix::net::send(stream, out, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => self.host.sent(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_full = true;
                    return Ok(());
                }
                Err(_) => {
                    self.hang_up();
                    return Ok(());
                }
            }
        }
    }

    // As `on_client`.
    #[inline(never)]
    fn receive(&mut self) -> Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        // On the stack it would be there in each turn, whatever comes.
        let mut bytes = Vec::with_capacity(PIECE);
        match rustix::io::read(stream, spare_capacity(&mut bytes)) {
            Ok(0) => self.hang_up(),
            Ok(_) => self.host.receive(&bytes)?,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.hang_up(),
        }
        Ok(())
    }

    /// The stream is gone. The agent connects again, unless its machine is gone, too.
    fn hang_up(&mut self) {
        self.stream = None;
        self.host.reconnect();
    }

    // As `on_client`.
    #[inline(never)]
    fn on_signals(&mut self) -> Result<()> {
        while let Some(signal) = self.signals.next() {
            match (&self.terminal, signal) {
                (Some(_), nix::libc::SIGWINCH) if self.stage == Stage::Running => self.resize()?,
                (Some(_), nix::libc::SIGWINCH) => {}
                // Before the process runs there is nobody else whom a signal could mean.
                _ if self.stage != Stage::Running => self.early(signal)?,
                _ => {
                    // Whoever is held still hears of nothing.
                    self.let_go(CONTAINER)?;
                    self.signal(self.main, signal)?;
                }
            }
        }
        Ok(())
    }

    /// A signal that ends most processes ends a machine that is still booting.
    fn early(&self, signal: i32) -> Result<()> {
        match signal {
            nix::libc::SIGTERM | nix::libc::SIGINT | nix::libc::SIGQUIT | nix::libc::SIGHUP => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }
}
