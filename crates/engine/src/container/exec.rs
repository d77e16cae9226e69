//! Further processes in a running container.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::client::Exec as ExecCall;
use keeper::protocol::{Exit, ExitStatus, Request, Stdio, TerminalSize};
use parking_lot::Mutex;
use sandbox::{ExecOptions, ExecPlan};
use tokio::sync::{oneshot, watch};

use super::Container;
use super::attach::{Attachment, ends};
use super::detach_keys::DetachKeys;
use super::exit::KILLED;
use super::machine_exec::RequestFile;
use super::stop::{SIGKILL, not_running};
use crate::model::{ContainerId, Phase};
use crate::spec::ExecRequest;
use crate::{Engine, Error, Result};

/// Between two looks for execs that are to be forgotten, and the least time that one is known after its end: dockerd's figure.
const KEPT: Duration = Duration::from_secs(300);

/// A process to be run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, over the container's.
    pub env: Vec<String>,
    /// `user[:group]`; empty: the container's.
    pub user: String,
    /// Empty: the container's.
    pub working_dir: String,
    /// A terminal as standard streams.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// The caller writes to its standard input.
    pub stdin: bool,
    /// The caller reads its standard output.
    pub stdout: bool,
    /// The caller reads its standard error.
    pub stderr: bool,
    /// Keys that end the attachment.
    pub detach_keys: Option<String>,
    /// Rows and columns of the terminal.
    pub console_size: Option<(u16, u16)>,
}

/// An exec as it is now.
#[derive(Clone, Debug)]
pub struct ExecDetails {
    /// Its identifier.
    pub id: String,
    /// Its container.
    pub container: ContainerId,
    /// What was asked.
    pub config: ExecConfig,
    /// Whether its process runs.
    pub running: bool,
    /// How it ended; `None`: it has not.
    pub exit_code: Option<i32>,
    /// Process identifier on the host; 0: not running.
    pub pid: u32,
}

/// All execs. They live in memory and at the keeper, as their results mean nothing to a later daemon's clients.
#[derive(Default)]
pub(crate) struct Execs(Mutex<HashMap<String, Arc<Exec>>>);

pub(crate) struct Exec {
    container: ContainerId,
    /// It is the daemon's own, such as a health check: nobody waits for it after the daemon's end.
    own: bool,
    /// What was asked, but for the environment.
    config: ExecConfig,
    /// Wanted for the start, and by nobody afterwards.
    env: Mutex<Vec<String>>,
    /// When it was created, and then when it ended.
    since: Mutex<Instant>,
    state: watch::Sender<ExecState>,
}

impl Exec {
    fn new(container: ContainerId, own: bool, mut config: ExecConfig) -> Arc<Self> {
        let env = Mutex::new(std::mem::take(&mut config.env));
        let state = watch::Sender::new(ExecState::Created);
        Arc::new(Self { container, own, config, env, since: Mutex::new(Instant::now()), state })
    }

    /// It has ended so.
    fn end(&self, code: i32) {
        *self.since.lock() = Instant::now();
        self.state.send_modify(|state| {
            let pid = if let ExecState::Running { pid } = *state { pid } else { 0 };
            *state = ExecState::Ended { code, pid };
        });
    }

    /// The keeper is gone, and with it all that ran: as killed.
    pub(crate) fn lost(&self) {
        if matches!(*self.state.borrow(), ExecState::Running { .. }) {
            self.end(KILLED);
        }
    }

    /// Nobody will ask for it any more: it ended a while ago, or was never started.
    fn is_old(&self, now: Instant) -> bool {
        let idle = matches!(*self.state.borrow(), ExecState::Created | ExecState::Ended { .. });
        idle && now.saturating_duration_since(*self.since.lock()) > KEPT
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExecState {
    Created,
    Starting,
    Running { pid: u32 },
    Ended { code: i32, pid: u32 },
}

impl Execs {
    fn get(&self, id: &str) -> Result<Arc<Exec>> {
        self.0.lock().get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// Those that run.
    pub(crate) fn running(&self) -> Vec<Arc<Exec>> {
        let runs = |exec: &&Arc<Exec>| matches!(*exec.state.borrow(), ExecState::Running { .. });
        self.0.lock().values().filter(runs).cloned().collect()
    }

    fn forget_old(&self, now: Instant) {
        let mut all = self.0.lock();
        all.retain(|_, exec| !exec.is_old(now));
        all.shrink_to_fit();
    }

    /// Identifiers of a container's execs that have not ended.
    pub(super) fn of(&self, container: &ContainerId) -> Vec<String> {
        let lives = |exec: &Exec| !matches!(*exec.state.borrow(), ExecState::Ended { .. });
        let all = self.0.lock();
        all.iter().filter(|(_, exec)| exec.container == *container && lives(exec)).map(|(id, _)| id.clone()).collect()
    }
}

impl Engine {
    /// Notes a process to be run. It runs with [`exec_start`](Self::exec_start).
    pub async fn exec_create(&self, reference: &str, config: ExecConfig) -> Result<String> {
        let container = self.0.containers.find(reference)?;
        let record = container.settled().await;
        ready(reference, &record)?;
        if config.argv.is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        DetachKeys::parse(config.detach_keys.as_deref())?;
        let id = ContainerId::random().to_string();
        self.tell_container(&record, &format!("exec_create: {}", command(&config)), [("execID", id.clone())]);
        self.0.execs.0.lock().insert(id.clone(), Exec::new(container.id.clone(), false, config));
        Ok(id)
    }

    /// Runs it; `None` where `detach` is set. When it returns, its program runs.
    pub async fn exec_start(
        &self,
        id: &str,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<Attachment>> {
        let exec = self.0.execs.get(id)?;
        let container = self.0.containers.find(exec.container.as_str())?;
        let record = container.record();
        ready(record.id.as_str(), &record)?;
        let mut begun = false;
        exec.state.send_if_modified(|state| {
            begun = *state == ExecState::Created;
            if begun {
                *state = ExecState::Starting;
            }
            begun
        });
        if !begun {
            return Err(Error::conflict(format!("Error: Exec command {id} has already run")));
        }
        // Told before, as its end may be told at any time from here on.
        self.tell_container(&record, &format!("exec_start: {}", command(&exec.config)), [("execID", id.to_owned())]);
        match self.exec_run(id, &exec, &container, detach, console_size).await {
            Ok(attachment) => Ok(attachment),
            Err(error) => {
                exec.end(failure_code(&error));
                Err(error)
            }
        }
    }

    async fn exec_run(
        &self,
        id: &str,
        exec: &Arc<Exec>,
        container: &Arc<Container>,
        detach: bool,
        console_size: Option<(u16, u16)>,
    ) -> Result<Option<Attachment>> {
        let (engine, target, mut config) = (self.clone(), container.clone(), exec.config.clone());
        config.env = std::mem::take(&mut *exec.env.lock());
        let size = console_size.or(config.console_size);
        let name = id.to_owned();
        let (plan, _request) = crate::blocking(move || engine.exec_plan(&name, &target, &config, size)).await?;
        let config = &exec.config;
        let mut attach = Vec::new();
        let mut ours = None;
        if !detach {
            let ends = ends(config.tty, config.stdin, config.stdout, config.stderr)?;
            attach.push((ends.pending.wanted, ends.pending.sink));
            ours = Some((ends.output, ends.descriptor, ends.pending.input));
        }
        let (rows, columns) = size.unwrap_or_default();
        let stdio = match config.tty {
            true => Stdio::Terminal { size: TerminalSize { rows, columns } },
            false => Stdio::Pipes { stdin: config.stdin && !detach, stdin_once: true },
        };
        let call = ExecCall {
            sandbox: container.id.to_string(),
            id: id.to_owned(),
            plan,
            plan_descriptors: Vec::new(),
            stdio,
            attach,
            own: exec.own,
        };
        let created = self.keeper().await?.call(call).await.map_err(crate::link::exec_error)?;
        self.0.tally.executed();
        // Its end may have been told already: that must not be overwritten.
        exec.state.send_if_modified(|state| {
            let starting = *state == ExecState::Starting;
            if starting {
                *state = ExecState::Running { pid: created.pid };
            }
            starting
        });
        let Some((mut output, descriptor, input)) = ours else { return Ok(None) };
        output.exec = Some(exec.state.subscribe());
        if let Some(stdin) = created.stdin {
            input.send_replace(Some(self.watched_or_killed(id, stdin).await?));
        }
        let keys = config.tty.then(|| DetachKeys::parse(config.detach_keys.as_deref())).transpose()?;
        let input = config.stdin.then(|| self.exec_input(id, descriptor, keys, config.tty));
        Ok(Some(Attachment { tty: config.tty, output, input }))
    }

    fn exec_plan(
        &self,
        id: &str,
        container: &Container,
        config: &ExecConfig,
        console_size: Option<(u16, u16)>,
    ) -> Result<(Vec<u8>, Option<RequestFile>)> {
        if config.argv.first().is_some_and(String::is_empty) {
            return Err(crate::link::no_program(crate::link::EXEC_STEPS));
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid("OCI runtime exec failed: exec failed: Cwd must be an absolute path"));
        }
        let record = container.record();
        let user = if config.user.is_empty() { &record.config.user } else { &config.user };
        let identity = self.identify(&record, user, &record.host.group_add)?;
        let request = ExecRequest {
            argv: &config.argv,
            env: &config.env,
            working_dir: &config.working_dir,
            tty: config.tty,
            console_size,
            privileged: config.privileged,
            links: &self.present_link_environment(&record),
            apparmor: self.0.confinement.profile(&record, record.host.privileged || config.privileged)?,
        };
        let process = crate::spec::exec_process(&record, &request, &identity)?;
        let spec = self.spec_of_running(&record, &identity)?;
        if record.is_machine() {
            let (plan, request) = self.machine_exec(id, &record, &spec, &process)?;
            return Ok((plan, Some(request)));
        }
        let options = ExecOptions {
            bundle: self.0.config.run_dir.join("bundle"),
            cgroup: Some(self.0.placements.placement(&record)?),
            seccomp: crate::spec::default_filter(&record)?,
            ..ExecOptions::default()
        };
        let plan = ExecPlan::compile(&process, &spec, &options).map_err(|error| Error::invalid(error.to_string()))?;
        Ok((plan.to_bytes().map_err(|error| Error::system(error.to_string()))?, None))
    }

    /// An exec as it is now.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecDetails> {
        let exec = self.0.execs.get(id)?;
        let (running, exit_code, pid) = match *exec.state.borrow() {
            ExecState::Created | ExecState::Starting => (false, None, 0),
            ExecState::Running { pid } => (true, None, pid),
            ExecState::Ended { code, pid } => (false, Some(code), pid),
        };
        let (container, config) = (exec.container.clone(), exec.config.clone());
        Ok(ExecDetails { id: id.to_owned(), container, config, running, exit_code, pid })
    }

    /// Sets the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.0.execs.get(id)?;
        // A client sets the size right after the start, which may still be under way.
        let mut state = exec.state.subscribe();
        let started = state.wait_for(|state| *state != ExecState::Starting);
        let _ = tokio::time::timeout(Duration::from_secs(10), started).await;
        if !matches!(*exec.state.borrow(), ExecState::Running { .. }) {
            return Err(Error::conflict(format!("exec {id} is not running")));
        }
        self.resize_process(id, rows, columns).await
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, reference: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let record = container.record();
        if !record.state.phase.is_live() {
            return Err(not_running(&record));
        }
        // Clients ask whether there is a terminal or not.
        if !record.config.tty {
            return Ok(());
        }
        self.resize_process(container.id.as_str(), rows, columns).await
    }

    async fn resize_process(&self, process: &str, rows: u16, columns: u16) -> Result<()> {
        let request = Request::Resize { id: process.to_owned(), size: TerminalSize { rows, columns } };
        self.keeper().await?.call(request).await.map_err(crate::keeper_error)
    }

    /// The keeper says that an exec's process has ended.
    pub(crate) async fn exec_ended(&self, id: &str, exit: &Exit) {
        let code = match exit.status {
            // A later keeper found that it was there no more: whoever hears first of the loss of the one before says the same.
            ExitStatus::Unknown => KILLED,
            status => i32::from(status.shell_code()),
        };
        if let Ok(exec) = self.0.execs.get(id) {
            exec.end(code);
            if let Ok(container) = self.0.containers.find(exec.container.as_str()) {
                let attributes = [("execID", id.to_owned()), ("exitCode", code.to_string())];
                self.tell_container(&container.record(), "exec_die", attributes);
            }
        }
        self.forget(id).await;
    }

    /// Runs a program in a container to its end, and gives the beginning of its output and its exit code. Where the
    /// caller does not wait for that, it is killed.
    pub(super) async fn exec_capture(
        &self,
        container: &Arc<Container>,
        config: ExecConfig,
        most: usize,
    ) -> Result<(i32, Vec<u8>)> {
        let (_wanted, unwanted) = oneshot::channel();
        let (engine, container) = (self.clone(), container.clone());
        // On a task of its own: also a start that is under way goes on, so that its end is known and told.
        let run = tokio::spawn(async move { engine.capture(&container, config, most, unwanted).await });
        run.await.unwrap_or_else(|error| Err(Error::system(format!("an exec was lost: {error}"))))
    }

    async fn capture(
        &self,
        container: &Container,
        config: ExecConfig,
        most: usize,
        unwanted: oneshot::Receiver<()>,
    ) -> Result<(i32, Vec<u8>)> {
        let id = ContainerId::random().to_string();
        self.tell_container(
            &container.record(),
            &format!("exec_create: {}", command(&config)),
            [("execID", id.clone())],
        );
        let exec = Exec::new(container.id.clone(), true, config);
        self.0.execs.0.lock().insert(id.clone(), exec.clone());
        let _forgotten = Forgotten { execs: &self.0.execs, id: &id };
        let mut attachment =
            self.exec_start(&id, false, None).await?.ok_or_else(|| Error::system("an attached exec has no output"))?;
        let mut output = Vec::new();
        let mut state = exec.state.subscribe();
        let ended = async {
            while let Some(chunk) = attachment.output.next().await {
                let room = most.saturating_sub(output.len());
                output.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
            }
            state.wait_for(|state| matches!(state, ExecState::Ended { .. })).await.map(|state| *state)
        };
        tokio::select! {
            ended = ended => match ended {
                Ok(ExecState::Ended { code, .. }) => Ok((code, output)),
                _ => Err(Error::system("an exec ended without a status")),
            },
            _ = unwanted => {
                self.exec_kill(&id, &exec).await;
                Err(Error::system("nobody waits for an exec any more"))
            }
        }
    }

    /// Kills an exec, and waits for its end.
    async fn exec_kill(&self, id: &str, exec: &Exec) {
        let kill = Request::Signal { id: id.to_owned(), signal: SIGKILL };
        let killed = match self.keeper().await {
            Ok(keeper) => keeper.call(kill).await.map_err(crate::keeper_error),
            Err(error) => Err(error),
        };
        if let Err(error) = killed {
            // It has ended by itself in this moment, or with the keeper: that is told.
            tracing::debug!(exec = id, %error, "could not kill it");
        }
        let mut state = exec.state.subscribe();
        // An error is an end, too.
        let _ = state.wait_for(|state| matches!(state, ExecState::Ended { .. })).await;
    }

    /// Forgets execs a while after their end, and those that nobody starts, as long as the daemon runs.
    pub(crate) async fn forget_old_execs(self) {
        loop {
            tokio::time::sleep(KEPT).await;
            self.0.execs.forget_old(Instant::now());
        }
    }

    /// Forgets the execs of a container that is no more.
    pub(super) fn forget_execs(&self, container: &ContainerId) {
        self.0.execs.0.lock().retain(|_, exec| exec.container != *container);
    }
}

/// Takes an exec that nobody else knows out of the list.
struct Forgotten<'a> {
    execs: &'a Execs,
    id: &'a str,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.execs.0.lock().remove(self.id);
    }
}

/// Program and arguments as events have them: with a space also where no arguments follow.
fn command(config: &ExecConfig) -> String {
    let (program, arguments) = config.argv.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    format!("{program} {}", arguments.join(" "))
}

/// The exit code of a process that could not be started, by Docker's rule: 127 where something was not there.
fn failure_code(error: &Error) -> i32 {
    match error.exit_code() {
        Some(code @ (126 | 127)) => code,
        _ if error.to_string().contains("no such file or directory") => 127,
        _ => 126,
    }
}

fn ready(reference: &str, record: &crate::model::ContainerRecord) -> Result<()> {
    match record.state.phase {
        Phase::Running => Ok(()),
        Phase::Paused => {
            Err(Error::conflict(format!("container {reference} is paused, unpause the container before exec")))
        }
        Phase::Restarting => {
            Err(Error::conflict(format!("Container {} is restarting, wait until the container is running", record.id)))
        }
        _ => Err(not_running(record)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_are_forgotten_a_while_after_their_end() {
        let execs = Execs::default();
        let container = ContainerId::random();
        let add = |id: &str| {
            let config = ExecConfig { env: vec!["A=b".to_owned()], ..ExecConfig::default() };
            let exec = Exec::new(container.clone(), false, config);
            execs.0.lock().insert(id.to_owned(), exec.clone());
            exec
        };
        let [_created, starting, running, ended] = ["created", "starting", "running", "ended"].map(add);
        starting.state.send_replace(ExecState::Starting);
        running.state.send_replace(ExecState::Running { pid: 7 });
        ended.state.send_replace(ExecState::Running { pid: 8 });
        ended.end(3);
        assert!(ended.config.env.is_empty());
        let known = || {
            let mut known: Vec<String> = execs.0.lock().keys().cloned().collect();
            known.sort();
            known
        };
        execs.forget_old(Instant::now());
        assert_eq!(known(), ["created", "ended", "running", "starting"]);
        execs.forget_old(Instant::now() + 2 * KEPT);
        assert_eq!(known(), ["running", "starting"]);
        // One that ran for long is known for a while from its end on.
        running.end(0);
        execs.forget_old(Instant::now());
        assert_eq!(known(), ["running", "starting"]);
        assert!(execs.running().iter().all(|exec| !Arc::ptr_eq(exec, &running)));
        assert_eq!(*running.state.borrow(), ExecState::Ended { code: 0, pid: 7 });
    }
}
