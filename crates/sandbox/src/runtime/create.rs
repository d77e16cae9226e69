//! `create`, `start` and `run`.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::cli::{Create, Run};
use super::hooks::{self, Kind};
use super::log::Log;
use super::rdt::{Rdt, Resctrl};
use super::state::{Container, Saved, Status, Store, load, write_atomically};
use super::systemd::{Held, Scope};
use super::{Result, RuntimeError, clock, foreground, lifecycle, net_devices};
use crate::cgroup::Cgroup;
use crate::plan::{CompileOptions, InitPlan};
use crate::process::start_time_of_living;
use crate::seal;
use crate::seccomp_agent::{Asking, SeccompAgent};
use crate::spawn::{Fds, Home, Spawned, Stdio, spawn};
use crate::sync::{SyncChannel, SyncEvent};

/// A container that is being made; unmade when dropped before it is finished.
struct Making {
    container: Container,
    cgroup: Cgroup,
    spec: Spec,
    /// Until the container's first process is in its scope.
    held: Option<Held>,
    spawned: Option<Spawned>,
    finished: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Some(spawned) = &self.spawned {
            let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
            let _ = crate::sys::wait4(spawned.pid, 0);
        }
        // What went wrong is told already; what is left goes as far as it can.
        let _ = self.cgroup.kill(libc::SIGKILL);
        let _ = self.cgroup.delete();
        if let Some(group) = &self.container.saved.intel_rdt {
            let _ = group.remove();
        }
        let _ = fs::remove_dir_all(&self.container.directory);
    }
}

/// Claims the id and clones the process.
fn make(store: &Store, options: &Create, systemd: bool, gated: bool, log: &Log) -> Result<(Making, InitPlan<'static>)> {
    let bundle = options.bundle.canonicalize().map_err(RuntimeError::file("open bundle", &options.bundle))?;
    let (bytes, spec) = load(&bundle.join("config.json"))?;
    let directory = store.claim(&options.id)?;
    let path = match spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_ref()) {
        Some(path) if !path.as_os_str().is_empty() => path.to_string_lossy().into_owned(),
        _ if systemd => format!(":stratus:{}", options.id),
        _ => format!("/{}", options.id),
    };
    let remove = |error: RuntimeError| {
        let _ = fs::remove_dir_all(&directory);
        error
    };
    let cgroup = Cgroup::new(&path).map_err(|error| remove(error.into()))?;
    let scope = systemd.then(|| Scope::parse(&path)).transpose().map_err(remove)?;
    // Somebody else's processes must neither share the limits nor go when this container goes.
    if cgroup.exists() && !cgroup.processes().map_err(|error| remove(error.into()))?.is_empty() {
        return Err(remove(RuntimeError::State(format!("container's cgroup {} is not empty", cgroup.path()))));
    }
    let rootfs = spec.root().as_ref().map_or(PathBuf::new(), |root| bundle.join(root.path()));
    let saved = Saved {
        oci_version: spec.version().clone(),
        id: options.id.clone(),
        pid: 0,
        start_time: 0,
        bundle: bundle.clone(),
        rootfs: rootfs.clone(),
        created: clock::now(),
        cgroup: path,
        systemd,
        intel_rdt: None,
        annotations: spec.annotations().clone().unwrap_or_default(),
    };
    let container = Container { directory, saved };
    let mut making = Making { container, cgroup, spec, held: None, spawned: None, finished: false };
    let config = making.container.directory.join("config.json");
    fs::write(&config, &bytes).map_err(RuntimeError::file("write", &config))?;

    with_home(&mut making.spec, &rootfs);
    let resources = making.spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    if let Some(scope) = scope {
        making.held = Some(scope.start(&options.id, &resources)?);
    }
    making.cgroup.create(&resources)?;
    if let Some(rdt) = Rdt::of(&making.spec, &bytes).map_err(RuntimeError::json(&config))? {
        making.container.saved.intel_rdt = Some(Resctrl::find()?.prepare(&options.id, &rdt)?);
    }
    let listened = listen_fds();
    pass_on(&mut making.spec, listened);
    let preserve_fds = options.preserve_fds + listened;
    let hooks = making.spec.hooks().as_ref();
    let runtime_hooks = hooks.is_some_and(|hooks| {
        [hooks.create_runtime(), &hooks_prestart(hooks)].iter().any(|list| list.as_ref().is_some_and(|l| !l.is_empty()))
    });
    let compile = CompileOptions {
        cgroup: Some(making.cgroup.placement()?),
        wait_for_start: gated,
        pause_before_pivot: runtime_hooks || net_devices::wanted(&making.spec),
        intel_rdt: making.container.saved.intel_rdt.is_some(),
        no_pivot: options.no_pivot,
        no_new_keyring: options.no_new_keyring,
        preserve_fds,
        ..CompileOptions::default()
    };
    let plan = InitPlan::compile(&making.spec, &bundle, &compile)?;
    check_console(&plan, options.console_socket.as_deref(), gated)?;
    let console = options.console_socket.as_deref().filter(|_| plan.has_terminal()).map(connect_console).transpose()?;
    let gate = gated.then(|| listen(&making.container)).transpose()?;
    let fds = Fds {
        stdio: Stdio::Inherit,
        namespaces: &[],
        opened: false,
        console_socket: console.as_ref().map(AsFd::as_fd),
        start_gate: gate.as_ref().map(AsFd::as_fd),
        lend: false,
    };
    let spawned = spawn(&plan, &fds, &mut Home::default())?;
    log.debug(&format!("container {} has process {}", options.id, spawned.pid));
    making.container.saved.pid = spawned.pid;
    making.container.saved.start_time = start_time_of_living(spawned.pid).unwrap_or(0);
    making.spawned = Some(spawned);
    Ok((making, plan))
}

#[allow(deprecated)]
fn hooks_prestart(hooks: &oci_spec::runtime::Hooks) -> Option<Vec<oci_spec::runtime::Hook>> {
    hooks.prestart().clone()
}

fn check_console(plan: &InitPlan<'_>, socket: Option<&Path>, detached: bool) -> Result<()> {
    match (plan.has_terminal(), socket) {
        (true, None) if detached => {
            Err(RuntimeError::Usage("cannot allocate tty if runc will detach without setting console socket".into()))
        }
        (false, Some(_)) if detached => {
            Err(RuntimeError::Usage("cannot use console socket if runc will not detach or allocate tty".into()))
        }
        _ => Ok(()),
    }
}

/// A socket address, by way of a descriptor where the path is too long for one.
pub(super) fn address(path: &Path, directory: &mut Option<OwnedFd>) -> Result<SocketAddrUnix> {
    let (address, held) = crate::seccomp_agent::address(path)
        .map_err(|errno| RuntimeError::file("name a socket by", path)(errno.into()))?;
    *directory = held;
    Ok(address)
}

pub(super) fn connect(path: &Path, kind: SocketType) -> Result<OwnedFd> {
    let mut held = None;
    let address = address(path, &mut held)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
        .map_err(RuntimeError::system("create a socket"))?;
    rustix::net::connect(&socket, &address).map_err(|errno| RuntimeError::file("connect to", path)(errno.into()))?;
    Ok(socket)
}

pub(super) fn connect_console(path: &Path) -> Result<OwnedFd> {
    connect(path, SocketType::STREAM)
}

fn listen(container: &Container) -> Result<OwnedFd> {
    let path = container.gate();
    let failed = || RuntimeError::file("listen on", &path);
    let mut held = None;
    let address = address(&path, &mut held)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed()(errno.into()))?;
    rustix::net::bind(&socket, &address).map_err(|errno| failed()(errno.into()))?;
    rustix::net::listen(&socket, 1).map_err(|errno| failed()(errno.into()))?;
    Ok(socket)
}

/// `HOME` from the container's own passwd file, where the spec does not set it.
fn with_home(spec: &mut Spec, rootfs: &Path) {
    let Some(process) = spec.process_mut() else { return };
    let uid = process.user().uid();
    let env = process.env_mut().get_or_insert_default();
    if env.iter().any(|entry| entry.starts_with("HOME=")) {
        return;
    }
    let home = home(rootfs, uid).unwrap_or_else(|| "/".to_owned());
    env.push(format!("HOME={home}"));
}

pub(super) fn home(rootfs: &Path, uid: u32) -> Option<String> {
    const PASSWD_MAX: u64 = 1 << 20;
    let root = rustix::fs::open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::openat2(&root, c"etc/passwd", flags, Mode::empty(), how).ok()?;
    let mut text = String::new();
    fs::File::from(file).take(PASSWD_MAX).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>().ok()? == uid).then(|| fields.get(5).copied().unwrap_or("/").to_owned())
    })
}

/// How many sockets systemd has handed over to this very process (sd_listen_fds(3)). What a parent was given, and left in
/// the environment, is not ours.
pub(super) fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// Sockets handed over by systemd go on to the container.
fn pass_on(spec: &mut Spec, listened: u32) {
    if let Some(process) = spec.process_mut().as_mut().filter(|_| listened > 0) {
        let env = process.env_mut().get_or_insert_default();
        env.push(format!("LISTEN_FDS={listened}"));
        env.push("LISTEN_PID=1".to_owned());
    }
}

/// Where the terminal's master goes.
pub(super) type Terminal = Option<OwnedFd>;

/// Follows the child until it is ready (`until_ready`) or its program runs.
fn follow(making: &mut Making, until_ready: bool, log: &Log) -> Result<Terminal> {
    let mut terminal = None;
    loop {
        let Some(spawned) = making.spawned.as_mut() else { return Err(RuntimeError::Vanished) };
        let event = spawned.sync.wait().map_err(RuntimeError::system("follow the container process"))?;
        match event {
            SyncEvent::Console(master) => terminal = Some(master),
            SyncEvent::BeforePivot => before_pivot(making, log)?,
            SyncEvent::Ready if until_ready => return Ok(terminal),
            SyncEvent::Ready => {}
            SyncEvent::SeccompListener(listener) => {
                hand_to_agent(&making.container, &making.spec, &listener, making.container.saved.pid)?;
            }
            SyncEvent::Warning(failure) => log.warning(&failure.to_string()),
            SyncEvent::Failed(failure) => return Err(failure.into()),
            SyncEvent::Executed => return Ok(terminal),
            SyncEvent::Vanished => return Err(RuntimeError::Vanished),
        }
    }
}

/// Gives the listener of a filter's notifications to the agent that the spec names.
pub(super) fn hand_to_agent(container: &Container, spec: &Spec, listener: &OwnedFd, pid: i32) -> Result<()> {
    let agent = SeccompAgent::of(spec, &container.saved.bundle);
    let agent =
        agent.ok_or_else(|| RuntimeError::Usage("the filter notifies, but the spec has no listenerPath".into()))?;
    let asking = Asking { container: &container.saved.id, init: container.saved.pid, pid };
    agent.hand_over(listener, asking).map_err(|error| RuntimeError::Usage(error.to_string()))
}

/// Namespaces are there, the root is still the host's: the runtime's own hooks run.
fn before_pivot(making: &mut Making, log: &Log) -> Result<()> {
    making.container.save()?;
    if let Some(group) = &making.container.saved.intel_rdt {
        Resctrl::find()?.enter(group, making.container.saved.pid)?;
    }
    net_devices::hand_over(&making.spec, making.container.saved.pid)?;
    let creating = hooks::state(&making.container, ContainerState::Creating)?;
    let created = hooks::state(&making.container, ContainerState::Created)?;
    for kind in [Kind::Prestart, Kind::CreateRuntime] {
        hooks::run(kind, &making.spec, &making.container, ContainerState::Creating, log)?;
    }
    match &making.spawned {
        Some(spawned) => spawned
            .sync
            .hooks_done(creating.as_fd(), created.as_fd())
            .map_err(RuntimeError::system("talk to the container process")),
        None => Ok(()),
    }
}

pub(super) fn write_pid(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    write_atomically(path, pid.to_string().as_bytes()).map_err(RuntimeError::file("write", path))
}

/// `create`: everything but the program.
pub(super) fn create(store: &Store, options: &Create, systemd: bool, log: &Log) -> Result<()> {
    seal::ensure().map_err(RuntimeError::Unsealed)?;
    let (mut making, _) = make(store, options, systemd, true, log)?;
    follow(&mut making, true, log)?;
    making.container.save()?;
    write_pid(options.pid_file.as_deref(), making.container.saved.pid)?;
    making.finished = true;
    Ok(())
}

/// `start`: the program of a created container.
pub(super) fn start(store: &Store, id: &str, log: &Log) -> Result<()> {
    let container = store.open(id)?;
    match container.status() {
        Status::Created => {}
        Status::Stopped => return Err(RuntimeError::State("cannot start a container that has stopped".into())),
        Status::Running | Status::Paused => {
            return Err(RuntimeError::State("cannot start an already running container".into()));
        }
    }
    let spec = container.spec()?;
    let gate = container.gate();
    let mut sync = SyncChannel::from_fd(connect(&gate, SocketType::SEQPACKET)?);
    // From here on it is no longer merely created, whatever becomes of it.
    fs::remove_file(&gate).map_err(RuntimeError::file("remove", &gate))?;
    follow_start(&mut sync, &container, &spec, log).inspect_err(|_| {
        // Its program may run by now, without what the spec wants of it. Where it has ended, that is as good.
        if let Ok(pidfd) = container.pidfd() {
            let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        }
    })?;
    hooks::run_all_the_same(Kind::Poststart, &spec, &container, ContainerState::Running, log);
    Ok(())
}

/// Has a created container's program start, and follows it until that runs.
fn follow_start(sync: &mut SyncChannel, container: &Container, spec: &Spec, log: &Log) -> Result<()> {
    sync.start().map_err(RuntimeError::system("start the container process"))?;
    loop {
        match sync.wait().map_err(RuntimeError::system("follow the container process"))? {
            SyncEvent::SeccompListener(listener) => {
                hand_to_agent(container, spec, &listener, container.saved.pid)?;
            }
            SyncEvent::Warning(failure) => log.warning(&failure.to_string()),
            SyncEvent::Failed(failure) => return Err(failure.into()),
            SyncEvent::Executed => return Ok(()),
            SyncEvent::Vanished => return Err(RuntimeError::Vanished),
            SyncEvent::Console(_) | SyncEvent::BeforePivot | SyncEvent::Ready => {}
        }
    }
}

/// `run`: the whole of it; in the foreground until its end, whose status is returned.
pub(super) fn run(store: &Store, options: &Run, systemd: bool, log: &Log) -> Result<u8> {
    seal::ensure().map_err(RuntimeError::Unsealed)?;
    let signals = if options.detach { None } else { Some(foreground::Signals::block()?) };
    if !options.detach && !options.no_subreaper {
        // Without a PID namespace of their own, orphans of the container come to us.
        crate::sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).map_err(RuntimeError::system("become a subreaper"))?;
    }
    let (mut making, plan) = make(store, &options.create, systemd, false, log)?;
    if plan.has_terminal() && options.detach && options.create.console_socket.is_none() {
        return Err(RuntimeError::Usage(
            "cannot allocate tty if runc will detach without setting console socket".into(),
        ));
    }
    // Others may ask for it as soon as its program runs.
    making.container.save()?;
    let terminal = follow(&mut making, false, log)?;
    making.held = None;
    write_pid(options.create.pid_file.as_deref(), making.container.saved.pid)?;
    hooks::run_all_the_same(Kind::Poststart, &making.spec, &making.container, ContainerState::Running, log);
    making.finished = true;
    let (Some(signals), Some(spawned)) = (signals, making.spawned.take()) else { return Ok(0) };
    let code = foreground::attend(&spawned, terminal, &signals)?;
    if !options.keep {
        lifecycle::remove(&making.container, &making.cgroup, Some(&making.spec), log)?;
    }
    Ok(code)
}
