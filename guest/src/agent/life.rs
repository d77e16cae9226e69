//! A process's life: from its start to its end.

use std::os::fd::{AsFd, OwnedFd};

use guest_protocol::message::{Exit, Failure, Plan, ProcessId, Reply, Start, Stream, Streams, ToHost};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use sandbox::plan::PlanError;
use sandbox::{ExecPlan, Fds, InitPlan, SpawnError, Spawned, Stdio, SyncChannel, SyncEvent};

use super::{Agent, Token};
use crate::process::{Ends, Process, State, resize};
use crate::{failed, namespaces, observe, refused, sys};

impl Process {
    /// The conversation in which it was spoken of is over, and with it whoever asked for its start.
    pub(crate) fn forget_host(&mut self) {
        self.spoken_of = false;
        self.outputs.iter_mut().for_each(|output| output.flow.pause());
        if let State::Starting { number, .. } = &mut self.state {
            *number = None;
        }
    }
}

impl Agent {
    /// Runs a process. The answer comes when its program runs, or failed to.
    pub(super) fn start(&mut self, number: u64, start: &Start) -> Result<Option<Reply>, Failure> {
        if let Some(process) = self.processes.get_mut(&start.process) {
            // It is asked for again, as the conversation broke off meanwhile.
            return Ok(match &mut process.state {
                State::Starting { number: asker, .. } => {
                    *asker = Some(number);
                    None
                }
                _ => {
                    self.introduce(start.process, number, Vec::new());
                    None
                }
            });
        }
        let mut ends = Ends::new(start).map_err(failed("make", "the pipes of a process"))?;
        let spawned = self.spawn(start, &ends)?;
        // The process has its own.
        drop(ends.theirs.take());
        let terminal = match start.streams {
            Streams::Terminal { size } => Some(size),
            Streams::Pipes { .. } => None,
        };
        let Spawned { pid, pidfd, sync, lent: _ } = spawned;
        self.poller.add(&sync, Token::Sync(start.process), EventFlags::IN)?;
        let process = Process {
            id: start.process,
            container: start.container,
            is_init: matches!(start.plan, Plan::Init(_)),
            oom_kills_before: 0,
            terminal,
            window: start.window,
            spoken_of: false,
            pid,
            pidfd,
            state: State::Starting { sync, number: Some(number), warnings: Vec::new() },
            stdin: ends.stdin,
            outputs: ends.outputs,
        };
        self.by_pid.insert(pid, start.process);
        self.processes.insert(start.process, process);
        Ok(None)
    }

    fn spawn(&mut self, start: &Start, ends: &Ends) -> Result<Spawned, Failure> {
        let wants_terminal = matches!(start.streams, Streams::Terminal { .. });
        let terminal_of = |has: bool| match has == wants_terminal {
            true => Ok(()),
            false => Err(refused("the plan and the request differ in whether there is a terminal")),
        };
        let stdio = match &ends.theirs {
            Some(theirs) => Stdio::Fds(theirs.each_ref().map(AsFd::as_fd)),
            None => Stdio::Inherit,
        };
        let fds = Fds { stdio, ..Fds::default() };
        let undecodable = |error: PlanError| refused(error.to_string());
        let init = self.processes.values().find(|process| {
            process.container == start.container && process.is_init && matches!(process.state, State::Running)
        });
        match (&start.plan, init) {
            (Plan::Init(bytes), None) => {
                let plan = InitPlan::from_bytes(&bytes.0).map_err(undecodable)?;
                terminal_of(plan.has_terminal())?;
                sandbox::spawn(&plan, &fds, &mut self.home).map_err(spawn_failure)
            }
            (Plan::Exec(bytes), Some(init)) => {
                let plan = ExecPlan::from_bytes(&bytes.0).map_err(undecodable)?;
                terminal_of(plan.has_terminal())?;
                sandbox::spawn_exec(&plan, init.pidfd.as_fd(), &fds, &mut self.home).map_err(spawn_failure)
            }
            (Plan::Init(_), Some(_)) => Err(refused(format!("container {} runs already", start.container))),
            (Plan::Exec(_), None) => Err(refused(format!("container {} does not run", start.container))),
        }
    }

    /// Hears what a process in its set-up has to tell.
    pub(super) fn on_sync(&mut self, id: ProcessId) {
        while let Some(process) = self.processes.get_mut(&id)
            && let State::Starting { sync, .. } = &mut process.state
        {
            match sync.receive() {
                Ok(None) => return,
                Ok(Some(event)) => self.on_sync_event(id, event),
                Err(_) => {
                    let _ = sys::signal(process.pidfd.as_fd(), libc::SIGKILL);
                    self.on_sync_event(id, SyncEvent::Vanished);
                }
            }
        }
    }

    fn on_sync_event(&mut self, id: ProcessId, event: SyncEvent) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let State::Starting { sync, warnings, .. } = &mut process.state else { return };
        match event {
            SyncEvent::Ready => {
                // Nobody waits for it, so it goes on. Where it has ended, that is heard of next.
                let _ = sync.start();
            }
            SyncEvent::Warning(warning) => warnings.push(warning.to_string()),
            SyncEvent::Console(terminal) => self.on_terminal(id, terminal),
            SyncEvent::Executed => self.on_running(id),
            SyncEvent::Failed(failure) => {
                let text = failure.to_string();
                self.fail(
                    id,
                    match failure.exit_code() {
                        Some(_) => Failure::Program { errno: failure.errno, text },
                        None => Failure::Sandbox { errno: failure.errno, text },
                    },
                );
            }
            SyncEvent::BeforePivot => self.fail(id, refused("hooks of the host can't run in a machine of its own")),
            SyncEvent::SeccompListener(_) => {
                self.fail(id, refused("no agent of the host can answer for a filter in here"))
            }
            // How it ended is known when it is reaped.
            SyncEvent::Vanished => self.poller.remove(sync.as_fd()),
        }
    }

    fn on_terminal(&mut self, id: ProcessId, terminal: OwnedFd) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let size = process.terminal.unwrap_or_default();
        let usable = rustix::io::ioctl_fionbio(&terminal, true)
            .and_then(|()| if size.rows == 0 && size.columns == 0 { Ok(()) } else { resize(&terminal, size) })
            .and_then(|()| rustix::io::fcntl_dupfd_cloexec(&terminal, 3));
        match usable {
            Ok(input) => {
                process.stdin.attach(input);
                process.outputs[0].attach(terminal);
                self.watch(id);
            }
            Err(errno) => self.fail(id, failed("use", "the terminal")(errno)),
        }
    }

    fn on_running(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.is_init
            && let Err(failure) = namespaces::show(process.container, process.pid)
        {
            // Whoever is to share it hears that it is not there.
            eprintln!("guest: {failure}");
        }
        if let State::Starting { sync, number, warnings } = std::mem::replace(&mut process.state, State::Running) {
            self.poller.remove(sync.as_fd());
            if let Some(number) = number {
                self.introduce(id, number, warnings);
            }
        }
        self.watch(id);
    }

    /// Tells the host that a process runs. From then on it hears of its streams, and of its end.
    fn introduce(&mut self, id: ProcessId, number: u64, warnings: Vec<String>) {
        self.say(&ToHost::Answer { number, result: Ok(Reply::Started { warnings }) });
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.spoken_of) else { return };
        process.spoken_of = true;
        for output in &mut process.outputs {
            let taken = output.flow.taken();
            // It is what is taken, so that it can be resumed at.
            let _ = output.flow.resume(taken, taken + u64::from(process.window));
        }
        if let State::Exited(exit) = process.state {
            self.say(&ToHost::Exited { process: id, exit });
        }
        self.credit_input(id, true);
    }

    /// A start has failed: nothing of it remains.
    fn fail(&mut self, id: ProcessId, failure: Failure) {
        let Some(process) = self.remove(id) else { return };
        if let State::Starting { number: Some(number), .. } = process.state {
            self.say(&ToHost::Answer { number, result: Err(failure) });
        }
    }

    /// Lets go of a process. One that lives is killed.
    pub(super) fn remove(&mut self, id: ProcessId) -> Option<Process> {
        let process = self.processes.remove(&id)?;
        self.by_pid.remove(&process.pid);
        if process.is_alive() {
            let _ = sys::signal(process.pidfd.as_fd(), libc::SIGKILL);
        }
        if let State::Starting { sync, .. } = &process.state {
            self.poller.remove(sync.as_fd());
        }
        let watched = process.outputs.iter().filter(|output| output.watched).filter_map(|output| output.fd());
        watched.for_each(|fd| self.poller.remove(fd));
        process.stdin.fd().into_iter().for_each(|fd| self.poller.remove(fd));
        Some(process)
    }

    /// A stream can be read or written.
    pub(super) fn on_stream(&mut self, id: ProcessId, stream: Stream) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match stream {
            Stream::Stdin => {
                let had = process.stdin.fd().is_some();
                let full = process.stdin.flush(process.terminal.is_some());
                match (process.stdin.fd(), full, process.stdin.watched) {
                    (Some(fd), true, false) => {
                        process.stdin.watched =
                            self.poller.add(fd, Token::Streams(id, stream), EventFlags::OUT).is_ok();
                    }
                    (Some(fd), false, true) => {
                        self.poller.remove(fd);
                        process.stdin.watched = false;
                    }
                    // With it went its place in the poller.
                    (None, _, _) if had => process.stdin.watched = false,
                    _ => {}
                }
                self.credit_input(id, false);
            }
            Stream::Stdout | Stream::Stderr => {
                process.outputs[usize::from(stream == Stream::Stderr)].fill();
                self.watch(id);
            }
        }
    }

    /// Watches the outputs that there is room for, and no other.
    pub(super) fn watch(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        for (output, stream) in process.outputs.iter_mut().zip([Stream::Stdout, Stream::Stderr]) {
            let wanted = output.wants_more();
            match (output.fd(), wanted, output.watched) {
                (Some(fd), true, false) => {
                    output.watched = self.poller.add(fd, Token::Streams(id, stream), EventFlags::IN).is_ok();
                }
                (Some(fd), false, true) => {
                    self.poller.remove(fd);
                    output.watched = false;
                }
                (None, _, _) => output.watched = false,
                _ => {}
            }
        }
    }

    /// Reaps every child that has ended, also those that lost their parents.
    pub(super) fn reap(&mut self) {
        while let Some((pid, exit)) = sys::reap() {
            match self.by_pid.remove(&pid) {
                Some(id) => self.on_exit(id, exit),
                None => self.on_aside(pid),
            }
        }
    }

    fn on_exit(&mut self, id: ProcessId, mut exit: Exit) {
        // What it told before its end comes first.
        self.on_sync(id);
        let Some(process) = self.processes.get_mut(&id) else { return };
        if let State::Starting { sync, .. } = &process.state {
            match SyncChannel::last(sync) {
                SyncEvent::Executed => self.on_running(id),
                _ => return self.fail(id, Failure::Died { status: exit.status }),
            }
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.is_init {
            namespaces::hide(process.container);
        }
        exit.outputs = process.outputs.each_ref().map(crate::process::Output::written);
        exit.oom_killed = process.is_init && observe::oom_kills(process.container) > process.oom_kills_before;
        process.state = State::Exited(exit);
        if process.stdin.watched
            && let Some(fd) = process.stdin.fd()
        {
            self.poller.remove(fd);
        }
        process.stdin.close();
        if process.spoken_of {
            self.say(&ToHost::Exited { process: id, exit });
        }
    }
}

fn spawn_failure(error: SpawnError) -> Failure {
    let errno = match &error {
        SpawnError::Prepare { errno, .. } | SpawnError::Clone(errno) | SpawnError::Astray { errno, .. } => *errno,
        _ => Errno::from_raw_os_error(0),
    };
    Failure::Sandbox { errno: errno.raw_os_error(), text: error.to_string() }
}
