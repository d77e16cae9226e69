//! `exec`: a further process in a running container.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;

use oci_spec::runtime::{Capability, Process, Spec, User};

use super::cli::Exec;
use super::create::{connect_console, hand_to_agent, home, write_pid};
use super::log::Log;
use super::rdt::Resctrl;
use super::state::{Container, Status, Store};
use super::{Result, RuntimeError, foreground};
use crate::cgroup::Cgroup;
use crate::plan::{ExecOptions, ExecPlan};
use crate::seal;
use crate::spawn::{Fds, Home, Spawned, spawn_exec};
use crate::sync::SyncEvent;

/// `exec`. In the foreground it returns the process's exit status.
pub(super) fn exec(store: &Store, options: &Exec, log: &Log) -> Result<u8> {
    seal::ensure().map_err(RuntimeError::Unsealed)?;
    let container = store.open(&options.id)?;
    match container.status() {
        Status::Stopped => return Err(RuntimeError::State("cannot exec in a stopped container".into())),
        Status::Paused if !options.ignore_paused => {
            return Err(RuntimeError::State(
                "cannot exec in a paused container (use --ignore-paused to override)".into(),
            ));
        }
        _ => {}
    }
    let signals = if options.detach { None } else { Some(foreground::Signals::block()?) };
    let spec = container.spec()?;
    let process = process(options, &spec, &container)?;
    let plan = ExecPlan::compile(
        &process,
        &spec,
        &ExecOptions {
            cgroup: Some(cgroup(options, &container)?.placement()?),
            preserve_fds: options.preserve_fds,
            ..ExecOptions::default()
        },
    )?;
    if plan.has_terminal() && options.detach && options.console_socket.is_none() {
        return Err(RuntimeError::Usage(
            "cannot allocate tty if runc will detach without setting console socket".into(),
        ));
    }
    let console = options.console_socket.as_deref().filter(|_| plan.has_terminal()).map(connect_console).transpose()?;
    let fds = Fds { console_socket: console.as_ref().map(AsFd::as_fd), ..Fds::default() };
    let pidfd = container.pidfd()?;
    if let Some(group) = &container.saved.intel_rdt {
        // The process is cloned by this thread, and so is where it is.
        Resctrl::find()?.enter(group, rustix::thread::gettid().as_raw_nonzero().get())?;
    }
    let mut spawned = spawn_exec(&plan, pidfd.as_fd(), &fds, &mut Home::default())?;
    let begun = follow(&mut spawned, &container, &spec, log);
    let begun = begun.and_then(|terminal| write_pid(options.pid_file.as_deref(), spawned.pid).map(|()| terminal));
    let terminal = begun.inspect_err(|_| {
        let _ = crate::sys::kill(spawned.pid, libc::SIGKILL);
        let _ = crate::sys::wait4(spawned.pid, 0);
    })?;
    match signals {
        Some(signals) => foreground::attend(&spawned, terminal, &signals),
        None => Ok(0),
    }
}

fn follow(spawned: &mut Spawned, container: &Container, spec: &Spec, log: &Log) -> Result<super::create::Terminal> {
    let mut terminal = None;
    loop {
        match spawned.sync.wait().map_err(RuntimeError::system("follow the process"))? {
            SyncEvent::Console(master) => terminal = Some(master),
            SyncEvent::SeccompListener(listener) => hand_to_agent(container, spec, &listener, spawned.pid)?,
            SyncEvent::Warning(failure) => log.warning(&failure.to_string()),
            SyncEvent::Failed(failure) => return Err(failure.into()),
            SyncEvent::Executed => return Ok(terminal),
            SyncEvent::Vanished => return Err(RuntimeError::Vanished),
            SyncEvent::Ready | SyncEvent::BeforePivot => {}
        }
    }
}

/// The container's cgroup, or one below it. On v1 the path of one controller counts for all.
fn cgroup(options: &Exec, container: &Container) -> Result<Cgroup> {
    let base = container.cgroup()?;
    let Some(last) = options.cgroup.last() else { return Ok(base) };
    let below = last.split_once(':').map_or(last.as_str(), |(_, path)| path);
    if below.split('/').any(|part| part == "..") {
        return Err(RuntimeError::Usage(format!("{below} is not a sub cgroup path")));
    }
    Ok(Cgroup::new(&format!("{}/{below}", base.path()))?)
}

/// From the file, or from the container's own process and the flags.
fn process(options: &Exec, spec: &Spec, container: &Container) -> Result<Process> {
    if let Some(path) = &options.process {
        let bytes = fs::read(path).map_err(RuntimeError::file("read", path))?;
        let mut process: Process = serde_json::from_slice(&bytes).map_err(RuntimeError::json(path))?;
        with_home(&mut process, container);
        return Ok(process);
    }
    if options.args.is_empty() {
        return Err(RuntimeError::Usage("process args cannot be empty".into()));
    }
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(options.args.clone())).set_terminal(Some(options.tty)).set_console_size(None);
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    process.env_mut().get_or_insert_default().extend(options.env.iter().cloned());
    if let Some(user) = &options.user {
        process.set_user(self::user(user, process.user())?);
    }
    if !options.additional_gids.is_empty() {
        let mut groups = process.user().additional_gids().clone().unwrap_or_default();
        groups.extend(&options.additional_gids);
        process.user_mut().set_additional_gids(Some(groups));
    }
    if options.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    add_capabilities(&mut process, &options.cap)?;
    with_home(&mut process, container);
    Ok(process)
}

fn with_home(process: &mut Process, container: &Container) {
    let uid = process.user().uid();
    let env = process.env_mut().get_or_insert_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(&container.saved.rootfs, uid).unwrap_or_else(|| "/".to_owned())));
    }
}

fn user(text: &str, base: &User) -> Result<User> {
    let wrong = || RuntimeError::Usage(format!("--user {text:?} is not UID[:GID]"));
    let (uid, gid) = text.split_once(':').map_or((text, None), |(uid, gid)| (uid, Some(gid)));
    let mut user = base.clone();
    user.set_uid(uid.parse().map_err(|_| wrong())?);
    if let Some(gid) = gid {
        user.set_gid(gid.parse().map_err(|_| wrong())?);
    }
    Ok(user)
}

fn add_capabilities(process: &mut Process, names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut added = HashSet::new();
    for name in names {
        let quoted = serde_json::Value::String(name.to_ascii_uppercase());
        let capability: Capability =
            serde_json::from_value(quoted).map_err(|_| RuntimeError::Usage(format!("unknown capability {name:?}")))?;
        added.insert(capability);
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    // Those of a user other than root would be lost at the exec unless they are ambient, and so inheritable.
    let (inheritable, ambient) = (with(sets.inheritable()), with(sets.ambient()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets.set_inheritable(inheritable).set_ambient(ambient);
    process.set_capabilities(Some(sets));
    Ok(())
}
