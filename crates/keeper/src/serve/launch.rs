//! Making processes: from a request to a program that runs. The only file that knows how `sandbox` does it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use sandbox::plan::NamespaceKind;
use sandbox::seccomp_agent::{Asking, SeccompAgent};
use sandbox::{ExecPlan, Fds, Home, InitPlan, SpawnError, Spawned, SyncChannel, SyncEvent};

use super::Keeper;
use super::entry::{Entry, Output, StartMode, Waiting};
use super::poller::Token;
use super::requests::set_size;
use super::slots::Key;
use crate::descriptors::lasting;
use crate::logs::writer::LogWriter;
use crate::protocol::{
    AttachOptions, Event, Failure, LogConfig, Recovery, Reply, State, Stdio, Stream, TerminalSize, UnixNanos,
};
use crate::records::Identity;

/// What is to be launched.
pub(super) struct Launch {
    pub(super) id: String,
    /// For an exec: the sandbox.
    pub(super) sandbox: Option<String>,
    /// For an exec: it is the daemon's own.
    pub(super) own: bool,
    pub(super) plan: Vec<u8>,
    pub(super) stdio: Stdio,
    pub(super) log: LogConfig,
    pub(super) attach: Vec<AttachOptions>,
    pub(super) recovery: Recovery,
    pub(super) start: bool,
    /// It ends with the connection that asks for it.
    pub(super) bound: bool,
}

/// A decoded plan.
enum Plan<'p> {
    Init(Box<InitPlan<'p>>),
    /// With the sandbox's first process.
    Exec(Box<ExecPlan<'p>>, OwnedFd),
}

impl Plan<'_> {
    fn has_terminal(&self) -> bool {
        match self {
            Plan::Init(plan) => plan.has_terminal(),
            Plan::Exec(plan, _) => plan.has_terminal(),
        }
    }

    fn seccomp_agent(&self) -> Option<&SeccompAgent> {
        match self {
            Plan::Init(plan) => plan.seccomp_agent(),
            Plan::Exec(plan, _) => plan.seccomp_agent(),
        }
    }

    fn waits_for_start(&self) -> bool {
        match self {
            Plan::Init(plan) => plan.waits_for_start(),
            Plan::Exec(..) => false,
        }
    }
}

/// The ends of a process's streams.
#[derive(Default)]
struct Streams {
    /// The process's ends: standard input, output, error. None for a terminal, which the process makes by itself.
    theirs: Option<[OwnedFd; 3]>,
    stdin: Option<OwnedFd>,
    outputs: [Option<Output>; 2],
}

impl Keeper {
    /// Begins a launch, which is answered when it has come as far as was asked for.
    pub(super) fn launch(
        &mut self,
        launch: Launch,
        mut descriptors: Vec<OwnedFd>,
        waiting: Waiting,
    ) -> Result<(), Failure> {
        self.check_new_id(&launch.id)?;
        let expected = launch.attach.len();
        if descriptors.len() < expected {
            return Err(Failure::Descriptors { expected, got: descriptors.len() });
        }
        let for_plan = descriptors.split_off(expected);
        let plan = self.decode(&launch)?;
        let start = match (launch.start, plan.waits_for_start()) {
            (true, false) => StartMode::AtOnce,
            (true, true) => StartMode::WhenReady,
            (false, true) => StartMode::OnRequest,
            (false, false) => {
                let why = "it does not wait for the start, and the request wants it to".to_owned();
                return Err(Failure::Invalid { what: "the plan".into(), why });
            }
        };
        let log = LogWriter::open(&launch.log)?;
        let mut streams = self.streams(launch.stdio).map_err(|errno| Failure::System {
            tried: "make pipes for".into(),
            on: launch.id.clone(),
            errno: errno.raw_os_error(),
        })?;
        let was_away = self.home.away_from();
        let spawned = Identity::around(|| spawn(&plan, &streams, &for_plan, &mut self.home));
        self.tell_whereabouts(was_away);
        let (identity, mut spawned) = spawned.map_err(|error| spawn_failure(&error))?;
        let agent = plan.seccomp_agent().cloned();
        keep_lent(&mut spawned, &mut streams, plan, for_plan);
        let mut entry = launch_entry(&launch, identity, spawned, streams, log, start, agent);
        entry.bound_to = launch.bound.then_some(waiting.connection);
        let key = self.hold(entry);
        let attached = self.watch_launch(key, &launch, descriptors);
        match attached {
            Ok(attachments) => {
                let stdin = launch.attach.iter().any(|options| options.stdin);
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.waiting = Some(Waiting { stdin, attachments, ..waiting });
                }
                Ok(())
            }
            Err(failure) => {
                self.remove_entry(key);
                Err(failure)
            }
        }
    }

    fn decode<'p>(&self, launch: &'p Launch) -> Result<Plan<'p>, Failure> {
        let invalid = |why: String| Failure::Invalid { what: "the plan".into(), why };
        let plan = match &launch.sandbox {
            None => {
                let plan = InitPlan::from_bytes(&launch.plan).map_err(|error| invalid(error.to_string()))?;
                if plan.pauses_before_pivot() {
                    return Err(invalid("it pauses for hooks of its runtime, which a keeper does not run".to_owned()));
                }
                Plan::Init(Box::new(plan))
            }
            Some(sandbox) => {
                let plan = ExecPlan::from_bytes(&launch.plan).map_err(|error| invalid(error.to_string()))?;
                Plan::Exec(Box::new(plan), self.pidfd_of(sandbox)?)
            }
        };
        if plan.has_terminal() != matches!(launch.stdio, Stdio::Terminal { .. }) {
            return Err(invalid("it and the request do not agree on a terminal".to_owned()));
        }
        Ok(plan)
    }

    /// The first process of a running sandbox.
    fn pidfd_of(&self, sandbox: &str) -> Result<OwnedFd, Failure> {
        let key = self.key(sandbox)?;
        let wrong_state =
            |state| Failure::WrongState { id: sandbox.to_owned(), state, wanted: "run another process".into() };
        let entry = self.entries.get(key).ok_or_else(|| wrong_state(State::Exited))?;
        match &entry.pidfd {
            Some(pidfd) if entry.state == State::Running && entry.sandbox.is_none() => {
                rustix::io::fcntl_dupfd_cloexec(pidfd, 3).map_err(|errno| Failure::System {
                    tried: "duplicate the process descriptor of".into(),
                    on: sandbox.to_owned(),
                    errno: errno.raw_os_error(),
                })
            }
            _ => Err(wrong_state(entry.state)),
        }
    }

    fn streams(&self, stdio: Stdio) -> Result<Streams, Errno> {
        let Stdio::Pipes { stdin, .. } = stdio else { return Ok(Streams::default()) };
        let (their_stdin, stdin) = if stdin {
            let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            (theirs, Some(lasting(ours)))
        } else {
            (rustix::io::fcntl_dupfd_cloexec(&self.null, 3)?, None)
        };
        let output = |stream| {
            let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok::<_, Errno>((theirs, Some(Output::new(lasting(ours), stream))))
        };
        let (their_stdout, stdout) = output(Stream::Stdout)?;
        let (their_stderr, stderr) = output(Stream::Stderr)?;
        Ok(Streams { theirs: Some([their_stdin, their_stdout, their_stderr]), stdin, outputs: [stdout, stderr] })
    }

    /// Tells everybody where the keeper has left a namespace of its own, and can't return, or has returned.
    pub(super) fn tell_whereabouts(&mut self, before: Option<NamespaceKind>) {
        let now = self.home.away_from();
        if now == before {
            return;
        }
        match now {
            Some(kind) => self.complain(&format!("it can't return to its own {} namespace", kind.name())),
            None => self.complain("it has returned to its own namespaces"),
        }
        self.announce(Event::Whereabouts { away_from: now.map(|kind| kind.name().to_owned()) });
    }

    fn hold(&mut self, entry: Entry) -> Key {
        let (id, pid) = (entry.id.clone(), entry.identity.pid);
        let key = self.entries.insert(entry);
        self.by_id.insert(id, key);
        self.by_pid.insert(pid, key);
        key
    }

    /// Puts everything about a new process where it will be heard of: attachments, epoll, the records.
    fn watch_launch(&mut self, key: Key, launch: &Launch, sinks: Vec<OwnedFd>) -> Result<Vec<u64>, Failure> {
        let mut attachments = Vec::with_capacity(sinks.len());
        for (options, sink) in launch.attach.iter().zip(sinks) {
            attachments.push(self.attach(key, *options, sink)?.to_bits());
        }
        let system = |tried: &'static str| {
            let on = launch.id.clone();
            move |errno: i32| Failure::System { tried: tried.into(), on, errno }
        };
        let watched = match self.entries.get(key).and_then(|entry| entry.sync.as_ref()) {
            Some(sync) => self.poller.add(sync, Token::Sync(key), EventFlags::IN),
            None => Ok(()),
        };
        watched
            .and_then(|()| self.watch_outputs(key))
            .map_err(|errno| system("wait for news of")(errno.raw_os_error()))?;
        let Some(record) = self.entries.get(key).map(Entry::record) else { return Ok(attachments) };
        // What is not on record could not be cleaned up after the keeper, so it does not run.
        if let Err(error) = self.journal.born(record) {
            self.stats.record_errors += 1;
            return Err(system("record the start of")(error.raw_os_error().unwrap_or(libc::EIO)));
        }
        Ok(attachments)
    }

    /// Lets a created sandbox run its program.
    pub(super) fn start(&mut self, id: &str, waiting: Waiting) -> Result<(), Failure> {
        let key = self.key(id)?;
        let wrong_state = |state| Failure::WrongState { id: id.to_owned(), state, wanted: "start".into() };
        let Some(entry) = self.entries.get_mut(key) else { return Err(wrong_state(State::Exited)) };
        let (State::Created, Some(sync)) = (entry.state, entry.sync.as_ref()) else {
            return Err(wrong_state(entry.state));
        };
        sync.start().map_err(|errno| Failure::System {
            tried: "start".into(),
            on: id.to_owned(),
            errno: errno.raw_os_error(),
        })?;
        entry.state = State::Starting;
        entry.waiting = Some(waiting);
        entry.warnings.clear();
        Ok(())
    }

    /// Hears what a process in its set-up has to tell.
    pub(super) fn on_sync(&mut self, key: Key) {
        loop {
            let Some(entry) = self.entries.get_mut(key) else { return };
            let Some(sync) = entry.sync.as_mut() else { return };
            match sync.receive() {
                Ok(None) => return,
                Ok(Some(event)) => self.on_sync_event(key, event),
                // It goes on, and nobody would hear how far it has come: its end is what is heard of next.
                Err(_) => {
                    super::reap::kill(entry);
                    self.on_sync_event(key, SyncEvent::Vanished);
                }
            }
        }
    }

    /// Nothing more can come from a process that has ended.
    pub(super) fn on_sync_end(&mut self, key: Key) {
        let sync = self.entries.get(key).and_then(|entry| entry.sync.as_ref());
        if let Some(event) = sync.map(SyncChannel::last) {
            self.on_sync_event(key, event);
        }
    }

    fn on_sync_event(&mut self, key: Key, event: SyncEvent) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        match event {
            SyncEvent::Console(terminal) => self.on_terminal(key, terminal),
            SyncEvent::Ready => self.on_ready(key),
            SyncEvent::Warning(warning) => entry.warnings.push(warning.to_string()),
            SyncEvent::SeccompListener(listener) => self.on_seccomp_listener(key, &listener),
            SyncEvent::BeforePivot => {
                let text = "the process pauses for hooks that a keeper does not run".to_owned();
                self.fail_launch(key, Failure::Sandbox { step: "hooks".to_owned(), errno: None, text });
            }
            SyncEvent::Failed(failure) => self.fail_launch(key, launch_failure(&failure)),
            SyncEvent::Executed => {
                self.end_sync(key);
                self.on_running(key);
            }
            // Why, is known when it is reaped.
            SyncEvent::Vanished => self.end_sync(key),
        }
    }

    fn end_sync(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.lent.clear();
        if let Some(sync) = entry.sync.take() {
            self.poller.remove(&sync);
        }
    }

    fn on_terminal(&mut self, key: Key, terminal: OwnedFd) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let terminal = lasting(terminal);
        let size = entry.terminal.unwrap_or_default();
        let usable = rustix::io::ioctl_fionbio(&terminal, true).and_then(|()| match size {
            // The process made it with no size, which programs take for an unknown one.
            TerminalSize { rows: 0, columns: 0 } => Ok(()),
            size => set_size(&terminal, size),
        });
        entry.outputs[0] = Some(Output::new(terminal, Stream::Stdout));
        if let Err(errno) = usable.and_then(|()| self.watch_output(key, Stream::Stdout)) {
            let text = format!("use the terminal: {}", crate::errno_text(errno.raw_os_error()));
            let failure = Failure::Sandbox { step: "terminal".to_owned(), errno: Some(errno.raw_os_error()), text };
            self.fail_launch(key, failure);
        }
    }

    /// Its filter asks somebody else. Where that one is not there, nobody would ever answer.
    fn on_seccomp_listener(&mut self, key: Key, listener: &OwnedFd) {
        let Some(entry) = self.entries.get(key) else { return };
        let container = entry.sandbox.as_ref().unwrap_or(&entry.id);
        let init = self.by_id.get(container).and_then(|key| self.entries.get(*key)).unwrap_or(entry).identity.pid;
        let asking = Asking { container, init: init.cast_signed(), pid: entry.identity.pid.cast_signed() };
        let (errno, text) = match entry.seccomp_agent.as_ref().map(|agent| agent.hand_over(listener, asking)) {
            Some(Ok(())) => return,
            Some(Err(error)) => (Some(error.errno.raw_os_error()), error.to_string()),
            None => (None, "nobody listens to the seccomp filter's notifications".to_owned()),
        };
        self.fail_launch(key, Failure::Sandbox { step: "seccomp".to_owned(), errno, text });
    }

    fn on_ready(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.lent.clear();
        match (entry.start, &entry.sync) {
            (StartMode::AtOnce, _) | (_, None) => {}
            // If it cannot be told, it has ended, or is to end: that is heard of next.
            (StartMode::WhenReady, Some(sync)) => {
                if sync.start().is_err() {
                    super::reap::kill(entry);
                }
            }
            (StartMode::OnRequest, Some(_)) => {
                entry.state = State::Created;
                self.answer_launch(key);
            }
        }
    }

    fn on_running(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let was = std::mem::replace(&mut entry.state, State::Running);
        entry.started = Some(UnixNanos::now());
        match (was, entry.waiting.take()) {
            (State::Starting, Some(waiting)) => {
                let warnings = std::mem::take(&mut entry.warnings);
                let reply = Reply::Started { warnings };
                self.respond(waiting.connection, waiting.number, Ok(reply), Vec::new());
            }
            (_, waiting) => {
                entry.waiting = waiting;
                self.answer_launch(key);
            }
        }
    }

    fn answer_launch(&mut self, key: Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(waiting) = entry.waiting.take() else { return };
        let warnings = std::mem::take(&mut entry.warnings);
        let pid = entry.identity.pid;
        let input = if waiting.stdin { self.input_of(key) } else { Ok(None) };
        let (result, descriptors) = match input {
            Ok(input) => {
                let attachments = waiting.attachments;
                (Ok(Reply::Created { pid, attachments, warnings }), input.into_iter().collect())
            }
            Err(failure) => (Err(failure), Vec::new()),
        };
        let failed = result.is_err();
        self.respond(waiting.connection, waiting.number, result, descriptors);
        if failed {
            self.give_up(key);
        }
    }

    /// A launch has failed: the daemon hears why, and nothing of it remains.
    pub(super) fn fail_launch(&mut self, key: Key, failure: Failure) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.state == State::Created {
            // It waits, and nobody asks: its end is an end like any other.
            return super::reap::kill(entry);
        }
        if let Some(waiting) = entry.waiting.take() {
            self.respond(waiting.connection, waiting.number, Err(failure), Vec::new());
        }
        self.give_up(key);
    }

    fn give_up(&mut self, key: Key) {
        if let Some(id) = self.entries.get(key).map(|entry| entry.id.clone()) {
            self.record_farewell(&id);
        }
        self.remove_entry(key);
    }
}

/// Clones what the plan says.
fn spawn(
    plan: &Plan<'_>,
    streams: &Streams,
    descriptors: &[OwnedFd],
    home: &mut Home,
) -> Result<(u32, Spawned), SpawnError> {
    let namespaces: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    let stdio = match &streams.theirs {
        Some(ends) => sandbox::Stdio::Fds(ends.each_ref().map(AsFd::as_fd)),
        // The plan has a terminal, which comes as `SyncEvent::Console`.
        None => sandbox::Stdio::Inherit,
    };
    // A file system of the host that hangs is for whoever wants it mounted.
    let fds = Fds { stdio, namespaces: &namespaces, opened: true, lend: true, ..Fds::default() };
    let spawned = match plan {
        Plan::Init(plan) => sandbox::spawn(plan, &fds, home)?,
        Plan::Exec(plan, target) => sandbox::spawn_exec(plan, target.as_fd(), &fds, home)?,
    };
    Ok((spawned.pid.cast_unsigned(), spawned))
}

fn launch_entry(
    launch: &Launch,
    identity: Identity,
    spawned: Spawned,
    streams: Streams,
    log: Option<LogWriter>,
    start: StartMode,
    seccomp_agent: Option<SeccompAgent>,
) -> Entry {
    Entry {
        id: launch.id.clone(),
        sandbox: launch.sandbox.clone(),
        own: launch.own,
        bound_to: None,
        identity,
        pidfd: Some(lasting(spawned.pidfd)),
        state: State::Creating,
        created: UnixNanos::now(),
        started: None,
        exit: None,
        sync: Some(spawned.sync),
        lent: spawned.lent,
        start,
        seccomp_agent,
        waiting: None,
        warnings: Vec::new(),
        stdin: streams.stdin,
        stdin_once: matches!(launch.stdio, Stdio::Pipes { stdin_once: true, .. }),
        terminal: match launch.stdio {
            Stdio::Terminal { size } => Some(size),
            Stdio::Pipes { .. } => None,
        },
        outputs: streams.outputs,
        log,
        sinks: Vec::new(),
        recovery: launch.recovery.clone(),
        forgotten: false,
        end_pending: false,
    }
}

/// Keeps what the new process still has to take from this one's descriptor table with the rest of that.
fn keep_lent(spawned: &mut Spawned, streams: &mut Streams, plan: Plan<'_>, for_plan: Vec<OwnedFd>) {
    spawned.lent.extend(streams.theirs.take().into_iter().flatten());
    spawned.lent.extend(for_plan);
    if let Plan::Exec(_, container) = plan {
        spawned.lent.push(container);
    }
}

fn launch_failure(failure: &sandbox::Failure) -> Failure {
    let text = failure.to_string();
    match failure.exit_code() {
        Some(_) => Failure::Program { errno: failure.errno, text },
        None => Failure::Sandbox { step: format!("{:?}", failure.step), errno: Some(failure.errno), text },
    }
}

fn spawn_failure(error: &SpawnError) -> Failure {
    let errno = match error {
        SpawnError::Prepare { errno, .. } | SpawnError::Clone(errno) => Some(errno.raw_os_error()),
        SpawnError::Astray { errno, .. } => {
            let text = format!(
                "the keeper can't {error}. What runs is not touched by that, and each start tries it again; memory may be what \
                 is missing"
            );
            return Failure::Sandbox { step: "Spawn".to_owned(), errno: Some(errno.raw_os_error()), text };
        }
        SpawnError::Failed(failure) => return launch_failure(failure),
        _ => None,
    };
    Failure::Sandbox { step: "Spawn".to_owned(), errno, text: error.to_string() }
}
