//! The machine's process: it boots the machine, has its agent run the container's process, and behaves as that.
//!
//! One thread and one `poll` for the agent's stream, signals, standard streams, the control socket, names, and the machine's end; the
//! hypervisor has threads of its own.

mod cards;
mod clients;
mod confine;
mod layers;
mod members;
mod names;
mod shared_files;
mod signals;
mod streams;
mod terminal;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::configuration::Lower;
use guest_protocol::host::{Event, Host};
use guest_protocol::message::{
    ContainerId, End, Exit, Failure, Hello, Plan, ProcessId, Reply, Request, Start, Streams,
};
use sandbox::{Report, Step};

use self::cards::Cards;
use self::clients::Clients;
use self::layers::Layers;
use self::members::Members;
use self::names::Names;
use self::shared_files::SharedFiles;
pub(crate) use self::signals::Signals;
use self::streams::Attached;
pub(crate) use self::terminal::Terminal;
use crate::container::CONTAINER;
use crate::driver::{self, Driver, Laid, Link, Running};
use crate::error::{Error, Result};
use crate::files;
use crate::plan::{Contained, LAYERS, MachinePlan, Origin, Workload};

/// How many bytes of an output may be under way.
const WINDOW: u32 = 64 << 10;
/// How many bytes of an output the guest keeps while they are not taken; then its process waits, as at a full pipe.
const KEPT: u32 = 64 << 10;
/// How often an agent behind a port is called until it answers.
const CALL: Duration = Duration::from_millis(20);
/// How long a machine may take to write what it has to its disk.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// The name of an empty file beside the control socket, which is there once the machine has gone on after it was saved.
pub const WENT_ON: &str = "went-on";
/// The name of an empty file beside the control socket, which is there once something in the container was killed for want of memory.
pub const OOM_KILLED: &str = "oom-killed";
/// The name of an empty file beside the control socket, which is there once the machine is gone while its container's process ran: why, is on standard error.
pub const LOST: &str = "lost";
/// The exit status of a process that was killed, as that of a container whose machine is gone.
pub(crate) const KILLED: u8 = 128 | KILL as u8;
/// The signal that nobody holds back.
const KILL: i32 = nix::libc::SIGKILL;

/// How far the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The agent has not said hello.
    Booting,
    /// It makes a machine that goes on from a snapshot another one.
    Renewing,
    /// It makes the machine what it is to be.
    Configuring,
    /// It makes the root file system.
    MakingRoot,
    /// It starts the container's process.
    Starting,
    /// It has nothing to do: the machine is a template, and waits to be saved; or it is there for its container's files.
    Waiting,
    /// The process runs.
    Running,
    /// The process has ended, and so shall the machine, once it has written what it has: until then.
    ShuttingDown(Instant),
}

/// Why a request was made: what its answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The next stage.
    Stage,
    /// Somebody's process to be started.
    Start(ProcessId),
    /// Somebody's question.
    Client(u64),
    /// A container's processes to go on, which has to come about.
    Thaw(ContainerId),
    /// A client's container to be held still, or to go on.
    Pause(u64, ContainerId),
    /// The root of the container that this is the first process of, to be there or to be gone.
    Member(ProcessId),
    /// Another network, by the number of the change.
    Network(u64),
    /// Nobody waits for it.
    Nobody,
}

/// Runs a machine until its container's process has ended, and returns the exit status of that (128 and the number of the signal that killed it,
/// as shells have it). The plan is in a file; `report` is told when the process runs, or why it does not.
///
/// What goes wrong later is told on standard error.
// Of the other things that its program does, nothing is to be on the stack for as long as the machine runs.
#[inline(never)]
pub fn run(plan: &Path, report: Report) -> u8 {
    let mut report = Some(report);
    let ran = Process::start(plan).and_then(|mut process| {
        process.run(&mut report).map_err(|error| {
            if process.stage == Stage::Running {
                process.leave_word(LOST);
            }
            process.blamed(error)
        })
    });
    match ran {
        Ok(status) => status,
        Err(error) => {
            match report.take() {
                Some(report) => tell(report, &error),
                // Where a terminal is raw, the line has to begin by itself.
                None => eprintln!("\rstratus: {error}\r"),
            }
            KILLED
        }
    }
}

/// Tells why the process does not run. What failed in the guest is told in the words that it would have on the host.
fn tell(report: Report, error: &Error) {
    match error {
        Error::Guest { failure: Failure::Program { errno, text }, .. } => report.failed(Step::Guest, *errno, text),
        Error::Guest { failure: Failure::Sandbox { errno, text }, .. } => report.failed(Step::InGuest, *errno, text),
        Error::Saved(error) => report.failed(Step::Saved, 0, &error.to_string()),
        Error::Lost(error) => report.failed(Step::Lost, 0, &error.to_string()),
        error => report.failed(Step::Machine, 0, &error.to_string()),
    }
}

/// See the [module](self).
struct Process {
    plan: MachinePlan,
    /// What serves its volumes, if it has any.
    files: Option<files::Server>,
    stage: Stage,
    // Before the machine, which it speaks to.
    host: Host,
    link: Link,
    /// The stream, while there is one.
    stream: Option<OwnedFd>,
    /// It takes no more at the moment.
    is_full: bool,
    called: Instant,
    /// When the stage began.
    staged: Instant,
    /// Since when nothing has come; `None`: what is not needed meanwhile was given back.
    quiet_since: Option<Instant>,
    machine: Running,
    /// The machine is gone.
    has_ended: bool,
    signals: Signals,
    terminal: Option<Terminal>,
    attached: BTreeMap<ProcessId, Attached>,
    main: ProcessId,
    last: u32,
    asked: BTreeMap<u64, Asked>,
    clients: Clients,
    cards: Cards,
    members: Members,
    /// What has the volumes of containers that came.
    shared_files: SharedFiles,
    /// What the agent can do beyond the protocol's first version ([`feature`](guest_protocol::message::feature)).
    features: u64,
    /// Whoever it rests for wants it to end.
    ends_as_saved: bool,
    /// Once the agent is there again, these containers' processes are to go on.
    to_thaw: BTreeSet<ContainerId>,
    /// Likewise, these processes are to be forgotten, as their starts were not answered.
    to_forget: BTreeSet<ProcessId>,
    names: Names,
    warnings: Vec<String>,
}

impl Process {
    /// In memory of its own, and apart from who calls: what is on the first thread's stack once stays there for as long as the machine runs.
    #[inline(never)]
    fn start(path: &Path) -> Result<Box<Self>> {
        let signals = Signals::block()?;
        let bytes = fs::read(path).map_err(|source| Error::File {
            what: "the machine's plan",
            path: path.to_owned(),
            source,
        })?;
        let mut plan = MachinePlan::from_bytes(&bytes)?;
        // Before anything that is the guest's is looked at: until then this process is root.
        if plan.origin.is_some() && !plan.is_saved_whole() {
            return Err(Error::NotSaved);
        }
        // Whoever comes later may have none then, and this one starts.
        plan.hardware.files_place &= Driver::has_files_place(&plan);
        let volumes = plan.hardware.volumes.as_deref();
        let files = volumes.map(|directory| files::Server::start(directory, &plan.scratch)).transpose()?;
        let (members, layers) = lay_out(&mut plan)?;
        let clients = Clients::listen(&plan.control)?;
        let workload = plan.container.as_ref().and_then(|container| container.workload.as_ref());
        let has_terminal = workload.is_some_and(|workload| workload.terminal);
        let terminal = has_terminal.then(Terminal::raw).transpose()?;
        let (machine, link) = driver::start(&plan, layers)?;
        // Nothing that a guest said was read yet.
        confine::confine(&plan.driver)?;
        let main = ProcessId::new(1).ok_or(Error::Gone)?;
        let mut host = Host::new(WINDOW);
        if let Some(Origin::Snapshot { outputs, .. }) = plan.origin {
            host.took(main, outputs);
        }
        Ok(Box::new(Self {
            plan,
            files,
            stage: Stage::Booting,
            host,
            link,
            stream: None,
            is_full: false,
            called: Instant::now(),
            staged: Instant::now(),
            quiet_since: Some(Instant::now()),
            machine,
            has_ended: false,
            signals,
            terminal,
            attached: BTreeMap::new(),
            main,
            last: main.get(),
            asked: BTreeMap::new(),
            clients,
            cards: Cards::default(),
            members,
            shared_files: SharedFiles::default(),
            features: 0,
            ends_as_saved: false,
            to_thaw: BTreeSet::new(),
            to_forget: BTreeSet::new(),
            names: Names::default(),
            warnings: Vec::new(),
        }))
    }

    /// Until it has ended.
    #[inline(never)]
    fn run(&mut self, report: &mut Option<Report>) -> Result<u8> {
        loop {
            self.turn()?;
            if self.ends_as_saved {
                return Ok(KILLED);
            }
            if let Some(exit) = self.heed(report)? {
                return Ok(exit.status.shell());
            }
        }
    }

    /// Does what the turn has brought. Returns how the container's process ended, once it has. Apart from who waits for what comes: the stack that is in use while nothing does is memory of each machine.
    #[inline(never)]
    fn heed(&mut self, report: &mut Option<Report>) -> Result<Option<Exit>> {
        while let Some(event) = self.host.event() {
            self.on_event(event)?;
        }
        self.heed_step_deadline()?;
        if matches!(self.stage, Stage::Running | Stage::Waiting)
            && let Some(report) = report.take()
        {
            self.warnings.drain(..).for_each(|warning| report.warn(&warning));
            report.executing();
        }
        if self.has_ended { self.on_end() } else { self.is_over() }
    }

    /// Leaves the daemon word beside the control socket. Where that is not possible, nobody is told more than that the container was killed.
    fn leave_word(&self, name: &str) {
        let _ = fs::write(self.plan.control.with_file_name(name), []);
    }

    /// Says of an error whether what the machine went on from is to blame: it is, for what goes wrong before anything of the container's own is looked at in there, and may be until the program is asked for.
    fn blamed(&self, error: Error) -> Error {
        let is_lost = matches!(error, Error::Ended(_) | Error::Nonsense(_) | Error::Origin(_));
        // A busy host may be as slow.
        let may_be_lost = is_lost || matches!(error, Error::Slow(..));
        match self.stage {
            _ if self.plan.origin.is_none() => error,
            Stage::Booting | Stage::Configuring if is_lost => Error::saved(error),
            Stage::Booting | Stage::Configuring | Stage::Renewing | Stage::MakingRoot if may_be_lost => {
                Error::Lost(Box::new(error))
            }
            _ => error,
        }
    }

    /// How the container's process ended, if all is done that has to be.
    fn is_over(&mut self) -> Result<Option<Exit>> {
        let Some(exit) = self.attached.get(&self.main).filter(|main| main.is_drained()).and_then(|main| main.exit)
        else {
            return Ok(None);
        };
        match self.stage {
            Stage::ShuttingDown(until) => Ok((Instant::now() >= until).then_some(exit)),
            // Nothing lasts beyond it. What was written to a volume by `mmap(2)` is in the guest's memory until it is told.
            _ if !self.has_something_to_write() => Ok(Some(exit)),
            _ => {
                self.stage = Stage::ShuttingDown(Instant::now() + SHUTDOWN);
                self.ask(Request::Shutdown { how: End::PowerOff }, Asked::Nobody)?;
                Ok(None)
            }
        }
    }

    /// Whether the guest may have something of what lasts in its memory.
    fn has_something_to_write(&self) -> bool {
        let hardware = &self.plan.hardware;
        hardware.upper.is_some() || hardware.volumes.is_some() || self.shared_files.served().is_some()
    }

    /// The machine is gone: as it should be, or not.
    fn on_end(&mut self) -> Result<Option<Exit>> {
        match (self.stage, self.attached.get(&self.main).and_then(|main| main.exit)) {
            (Stage::ShuttingDown(_), Some(exit)) => Ok(Some(exit)),
            _ => Err(Error::Ended(self.machine.end())),
        }
    }

    fn ask(&mut self, request: Request, why: Asked) -> Result<()> {
        let number = self.host.request(request).map_err(|_| Error::TooLong("a request"))?;
        self.asked.insert(number, why);
        Ok(())
    }

    fn next_process(&mut self) -> Option<ProcessId> {
        self.last += 1;
        ProcessId::new(self.last)
    }

    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Connected(hello) => self.on_connected(&hello),
            Event::Answer { number, result } => match self.asked.remove(&number) {
                Some(Asked::Stage) => self.on_stage(result),
                Some(Asked::Start(process)) => self.on_started(process, result),
                Some(Asked::Client(client)) => {
                    self.clients.answer(client, result);
                    Ok(())
                }
                Some(Asked::Network(change)) => self.on_networked(change, result),
                Some(Asked::Pause(client, container)) => self.on_paused(client, container, result),
                Some(Asked::Member(process)) => self.on_member(process, Some(result)),
                Some(Asked::Thaw(_) | Asked::Nobody) | None => Ok(()),
            },
            Event::Unanswered { number } => {
                match self.asked.remove(&number) {
                    Some(Asked::Client(client)) => self.clients.answer(client, Err(members::away())),
                    Some(Asked::Thaw(container)) => drop(self.to_thaw.insert(container)),
                    Some(Asked::Pause(client, container)) => {
                        return self.on_paused(client, container, Err(members::away()));
                    }
                    Some(Asked::Member(process)) => return self.on_member(process, None),
                    Some(Asked::Network(change)) => return self.on_networked(change, Err(members::away())),
                    Some(Asked::Start(process)) => {
                        // Whether it runs nobody knows: it is not to.
                        self.to_forget.insert(process);
                        return self.on_started(process, Err(members::away()));
                    }
                    Some(Asked::Stage | Asked::Nobody) | None => {}
                }
                Ok(())
            }
            Event::Output { process, stream, bytes } => {
                match self.attached.get_mut(&process) {
                    Some(attached) => attached.receive(&mut self.host, stream, &bytes),
                    None => self.host.taken(process, stream, bytes.len()),
                }
                self.on_progress(process)
            }
            Event::OutputEnd { process, stream } => {
                if let Some(attached) = self.attached.get_mut(&process) {
                    attached.end(stream);
                }
                self.on_progress(process)
            }
            Event::Exited { process, exit } => {
                if process == self.main && exit.oom_killed {
                    self.leave_word(OOM_KILLED);
                }
                if let Some(attached) = self.attached.get_mut(&process) {
                    attached.exit = Some(exit);
                }
                self.remove_root(process)?;
                self.on_progress(process)
            }
            Event::Name { number, tcp, query } => {
                self.names.ask(&mut self.host, number, tcp, &query);
                Ok(())
            }
        }
    }

    /// A conversation has begun: the first one, or another after the stream broke off, in which what runs goes on.
    fn on_connected(&mut self, hello: &Hello) -> Result<()> {
        if self.stage == Stage::Booting {
            self.staged = Instant::now();
            self.stage = match (&self.plan.container, &self.plan.origin) {
                (None, _) => Stage::Waiting,
                (Some(_), Some(Origin::Snapshot { .. })) => {
                    self.adopt(hello)?;
                    Stage::Renewing
                }
                (Some(_), Some(Origin::Template(_))) if hello.configured => {
                    return Err(Error::Origin("something ran in the template"));
                }
                (Some(_), _) => Stage::Configuring,
            };
        }
        self.features = hello.features;
        for container in std::mem::take(&mut self.to_thaw) {
            self.thaw(container)?;
        }
        for process in std::mem::take(&mut self.to_forget) {
            self.ask(Request::Forget { process }, Asked::Nobody)?;
        }
        self.remove_roots()?;
        self.ask_stage()
    }

    /// Whether the agent can do that, of [`feature`](guest_protocol::message::feature)'s: nothing before it is there.
    fn can(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// What is to run in it.
    fn container(&self) -> Result<&Contained> {
        self.plan.container.as_ref().ok_or(Error::Gone)
    }

    /// The container's process.
    fn workload(&self) -> Result<&Workload> {
        self.container()?.workload.as_ref().ok_or(Error::Gone)
    }

    /// Takes over what runs in a machine that goes on from a snapshot: the container's process, and others, which nobody is attached to any more.
    fn adopt(&mut self, hello: &Hello) -> Result<()> {
        if !hello.processes.iter().any(|held| held.process == self.main) {
            return Err(Error::Origin("its container's process does not run in it"));
        }
        for held in &hello.processes {
            let is_main = held.process == self.main;
            let workload = self.workload()?;
            let (stdin, outputs) = match is_main {
                true => terminal::standard_streams(workload.stdin || workload.terminal, workload.terminal),
                false => (None, [None, None]),
            };
            if stdin.is_none() {
                self.host.close_stdin(held.process);
            }
            let taken = self.host.taken_of(held.process).unwrap_or_default();
            self.attached.insert(held.process, Attached::adopted(held.process, taken, stdin, outputs));
            self.last = self.last.max(held.process.get());
        }
        Ok(())
    }

    /// What the stage is for, in words.
    fn tried(&self) -> &'static str {
        match self.stage {
            Stage::Booting if self.plan.origin.is_none() => "boot the machine",
            Stage::Booting => "have the machine go on",
            Stage::Renewing => "make the machine another one",
            Stage::Configuring => "set up the machine",
            Stage::MakingRoot => "make the root file system",
            _ => "start the process",
        }
    }

    /// When the guest has to be done with the stage, if there is such a time: before its container's process is started, whose program may lie on a file system that hangs, as any container's.
    fn step_deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Booting | Stage::Renewing | Stage::Configuring | Stage::MakingRoot => {
                self.plan.step_timeout().map(|timeout| self.staged + timeout)
            }
            Stage::Starting | Stage::Waiting | Stage::Running | Stage::ShuttingDown(_) => None,
        }
    }

    /// Gives up a guest that takes too long.
    fn heed_step_deadline(&self) -> Result<()> {
        match (self.step_deadline(), self.plan.step_timeout()) {
            (Some(until), Some(timeout)) if Instant::now() >= until => {
                Err(Error::Slow(self.tried(), timeout.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Asks for what the stage is about, which may be repeated.
    fn ask_stage(&mut self) -> Result<()> {
        let request = match self.stage {
            Stage::Renewing => Request::Renew(Box::new(self.container()?.configuration.identity.clone())),
            Stage::Configuring => Request::Configure(Box::new(self.container()?.configuration.clone())),
            Stage::MakingRoot => Request::MakeRoot(Box::new(self.container()?.root.clone())),
            Stage::Starting => self.start_main()?,
            _ => return Ok(()),
        };
        match self.ask(request, Asked::Stage) {
            Err(Error::TooLong(_)) if self.stage == Stage::Starting => {
                Err(Error::Guest { tried: "start the process", failure: too_long() })
            }
            asked => asked,
        }
    }

    fn on_stage(&mut self, result: Result<Reply, Failure>) -> Result<()> {
        let tried = self.tried();
        self.staged = Instant::now();
        match (self.stage, result) {
            (_, Err(failure)) => return Err(Error::Guest { tried, failure }),
            (Stage::Renewing, _) => {
                self.stage = Stage::Running;
                // It may have been saved while somebody held it still, who is not here.
                self.thaw(CONTAINER)?;
                return self.resize();
            }
            (Stage::Configuring, _) => self.stage = Stage::MakingRoot,
            (Stage::MakingRoot, _) => {
                self.stage = if self.container()?.workload.is_some() { Stage::Starting } else { Stage::Waiting };
            }
            (_, Ok(reply)) => {
                if let Reply::Started { warnings } = reply {
                    self.warnings = warnings;
                }
                self.stage = Stage::Running;
                if let Some(main) = self.attached.get_mut(&self.main) {
                    main.started = true;
                }
                return Ok(());
            }
        }
        self.ask_stage()
    }

    /// Tells the guest how large the container's terminal is, if it has one.
    fn resize(&mut self) -> Result<()> {
        match &self.terminal {
            Some(terminal) => {
                let request = Request::Resize { process: self.main, size: terminal.size() };
                self.ask(request, Asked::Nobody)
            }
            None => Ok(()),
        }
    }

    fn start_main(&mut self) -> Result<Request> {
        let workload = self.workload()?;
        let streams = match &self.terminal {
            Some(terminal) => Streams::Terminal { size: terminal.size() },
            None => Streams::Pipes { stdin: workload.stdin },
        };
        let plan = Plan::Init(workload.plan.clone());
        let (stdin, outputs) = terminal::standard_streams(workload.stdin || workload.terminal, workload.terminal);
        self.attached.entry(self.main).or_insert_with(|| Attached::new(self.main, stdin, outputs));
        Ok(start(self.main, CONTAINER, plan, streams))
    }

    /// A further process is started, or not.
    fn on_started(&mut self, process: ProcessId, result: Result<Reply, Failure>) -> Result<()> {
        match result {
            Ok(reply) => {
                let warnings = if let Reply::Started { warnings } = reply { warnings } else { Vec::new() };
                if let Some(attached) = self.attached.get_mut(&process) {
                    attached.started = true;
                }
                if !self.clients.started(process, warnings) {
                    // Whoever wanted it is gone.
                    return self.signal(process, KILL);
                }
                Ok(())
            }
            Err(failure) => self.member_failed(process, failure),
        }
    }

    fn signal(&mut self, process: ProcessId, signal: i32) -> Result<()> {
        self.ask(Request::Signal { process, signal, everyone: false }, Asked::Nobody)
    }

    /// Something of a process is where it belongs: tells its end, behind all that it wrote; and the guest need not remember one of which no more comes.
    fn on_progress(&mut self, process: ProcessId) -> Result<()> {
        // What it has written to volumes is to be there for whoever hears of its end.
        if self.members.writes(process) {
            return Ok(());
        }
        let Some(attached) = self.attached.get_mut(&process).filter(|_| process != self.main) else { return Ok(()) };
        if let Some(exit) = attached.exit.filter(|_| !attached.told && attached.is_over()) {
            attached.told = true;
            self.clients.exited(process, exit);
        }
        if !attached.is_drained() {
            return Ok(());
        }
        self.attached.remove(&process);
        self.ask(Request::Forget { process }, Asked::Nobody)
    }
}

/// A process is started by one message.
fn too_long() -> Failure {
    let text = format!(
        "exec: argument list too long: what a microVM is told of a process, its arguments and variables, may have {} bytes",
        guest_protocol::frame::MAX_MESSAGE
    );
    Failure::Program { errno: nix::libc::E2BIG, text }
}

fn start(process: ProcessId, container: ContainerId, plan: Plan, streams: Streams) -> Request {
    Request::Start(Box::new(Start { process, container, plan, streams, window: WINDOW, kept: KEPT }))
}

/// Says where the layers lie on their disk, the upper one first: to the container, and to the machine's driver.
fn lay_out(plan: &mut MachinePlan) -> Result<(Members, Vec<Laid>)> {
    let memory = plan.container.as_ref().map_or(plan.hardware.memory, |container| container.memory);
    let (layers, laid, places) = Layers::of_first(&plan.hardware.layers)?;
    if let Some(container) = &mut plan.container {
        container.root.container = CONTAINER;
        if let Lower::Layers { disk, layers } = &mut container.root.lower {
            *disk = guest_protocol::configuration::Disk::Serial(LAYERS.to_owned());
            *layers = places;
        }
    }
    Ok((Members::new(memory, layers), laid))
}
