//! `kill`, `delete`, `pause` and `resume`.

use std::fs;
use std::os::fd::AsFd;

use oci_spec::runtime::{ContainerState, LinuxNamespaceType, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::cli::{Delete, Kill};
use super::hooks::{self, Kind};
use super::log::Log;
use super::state::{Container, Status, Store};
use super::{Result, RuntimeError};
use crate::cgroup::Cgroup;
use crate::sys;

/// `kill`.
pub(super) fn kill(store: &Store, options: &Kill) -> Result<()> {
    let signal = signal(&options.signal)?;
    let container = store.open(&options.id)?;
    if options.all {
        let cgroup = container.cgroup()?;
        cgroup.kill(signal)?;
        thaw_for(signal, &cgroup)?;
        return Ok(());
    }
    let status = container.status();
    let stopped = || RuntimeError::State("container not running".into());
    if status == Status::Stopped {
        return Err(stopped());
    }
    let pidfd = container.pidfd()?;
    sys::pidfd_send_signal(pidfd.as_fd(), signal).map_err(|errno| match errno {
        // In this moment.
        Errno::SRCH => stopped(),
        errno => RuntimeError::System("send the signal", errno),
    })?;
    if signal == libc::SIGKILL {
        if status == Status::Paused {
            thaw_for(signal, &container.cgroup()?)?;
        }
        // Without a PID namespace of its own, the kernel does not end the others with the first process.
        if !owns_pid_namespace(&container.spec()?) {
            container.cgroup()?.kill(signal)?;
        }
    }
    Ok(())
}

/// A frozen process takes even SIGKILL only when it thaws (v1).
fn thaw_for(signal: i32, cgroup: &Cgroup) -> Result<()> {
    if signal == libc::SIGKILL && cgroup.is_frozen() {
        cgroup.thaw()?;
    }
    Ok(())
}

fn owns_pid_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Pid && namespace.path().as_ref().is_none_or(|p| p.as_os_str().is_empty())
    })
}

/// A signal by name, with or without SIG, or by number.
fn signal(text: &str) -> Result<i32> {
    let unknown = || RuntimeError::Usage(format!("unknown signal {text:?}"));
    match text.parse::<i32>() {
        // 0 asks whether somebody is there.
        Ok(number) => Some(number).filter(|number| (0..=crate::signal::HIGHEST).contains(number)),
        Err(_) => crate::signal::by_name(text),
    }
    .ok_or_else(unknown)
}

/// `delete`.
pub(super) fn delete(store: &Store, options: &Delete, log: &Log) -> Result<()> {
    let container = match store.open(&options.id) {
        Ok(container) => container,
        Err(RuntimeError::NotFound) if options.force => {
            // A creation that was killed half-way leaves a directory without a state.
            if let Some(directory) = store.remains(&options.id) {
                fs::remove_dir_all(&directory).map_err(RuntimeError::file("remove", &directory))?;
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let cgroup = container.cgroup()?;
    match container.status() {
        Status::Stopped => {}
        Status::Created => end(&container, &cgroup)?,
        status if !options.force => {
            return Err(RuntimeError::State(format!(
                "cannot delete container {} that is not stopped: {}",
                container.saved.id,
                status.name()
            )));
        }
        _ => end(&container, &cgroup)?,
    }
    let spec = container.spec().ok();
    remove(&container, &cgroup, spec.as_ref(), log)
}

/// Kills the first process, and waits for its end.
fn end(container: &Container, cgroup: &Cgroup) -> Result<()> {
    let Ok(pidfd) = container.pidfd() else { return Ok(()) };
    match sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        // It has ended by itself.
        Err(Errno::SRCH) => return Ok(()),
        sent => sent.map_err(RuntimeError::system("send SIGKILL"))?,
    }
    thaw_for(libc::SIGKILL, cgroup)?;
    let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
    match rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&timeout))) {
        Ok(0) => Err(RuntimeError::State(format!("container {} is still running after SIGKILL", container.saved.id))),
        Ok(_) => Ok(()),
        Err(errno) => Err(RuntimeError::System("wait for the container", errno)),
    }
}

/// Takes out of kernel and disk what is left of a container whose first process has ended.
pub(super) fn remove(container: &Container, cgroup: &Cgroup, spec: Option<&Spec>, log: &Log) -> Result<()> {
    // Most often the first process was the last, and the cgroup goes at once.
    if cgroup.exists() && !cgroup.processes()?.is_empty() {
        cgroup.kill(libc::SIGKILL)?;
        thaw_for(libc::SIGKILL, cgroup)?;
    }
    cgroup.delete()?;
    if let Some(group) = &container.saved.intel_rdt {
        group.remove()?;
    }
    fs::remove_dir_all(&container.directory).map_err(RuntimeError::file("remove", &container.directory))?;
    if let Some(spec) = spec {
        hooks::run_all_the_same(Kind::Poststop, spec, container, ContainerState::Stopped, log);
    }
    Ok(())
}

/// `pause`.
pub(super) fn pause(store: &Store, id: &str) -> Result<()> {
    let container = store.open(id)?;
    match container.status() {
        Status::Running | Status::Created => Ok(container.cgroup()?.freeze()?),
        _ => Err(RuntimeError::State("container not running or created".into())),
    }
}

/// `resume`.
pub(super) fn resume(store: &Store, id: &str) -> Result<()> {
    let container = store.open(id)?;
    match container.status() {
        Status::Paused => Ok(container.cgroup()?.thaw()?),
        _ => Err(RuntimeError::State("container not paused".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for wrong in ["", "SIGNOPE", "65", "-1", "RTMIN+99", "RTMIN+"] {
            assert!(signal(wrong).is_err(), "{wrong}");
        }
    }
}
