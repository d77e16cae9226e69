//! Who the machine is: its name, its time, its random numbers, its network, the files that say so.

use std::fs;
use std::os::fd::AsFd;

use guest_protocol::configuration::{Identity, Network};
use guest_protocol::message::Failure;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sandbox::Step;

use crate::process::Process;
use crate::{cards, failed, network, refused, roots, sys};

/// Becomes that machine, in what it says. Random numbers first: others may be chosen by what follows.
pub(crate) fn take_on<'p>(identity: &Identity, containers: impl Iterator<Item = &'p Process>) -> Result<(), Failure> {
    if !identity.entropy.0.is_empty() {
        let random = rustix::fs::open("/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        random
            .and_then(|random| sys::add_entropy(random.as_fd(), &identity.entropy.0))
            .map_err(failed("add entropy to", "/dev/urandom"))?;
    }
    if let Some(clock) = identity.clock {
        sys::set_clock(clock).map_err(failed("set", "the clock"))?;
    }
    roots::write_files(&identity.files)?;
    if let Some(name) = &identity.hostname {
        set_hostname(name, containers)?;
    }
    network::configure(&identity.interfaces)
}

/// Is on that network from now on, whose cards have come, or are to go.
pub(crate) fn move_to(network: &Network) -> Result<(), Failure> {
    cards::leave_others(&network.interfaces)?;
    cards::look();
    network::configure(&network.interfaces)?;
    write_sysctls(&network.sysctls)?;
    roots::write_files(&network.files)
}

/// The machine's name, and that of each container, which has a namespace of its own for it.
fn set_hostname<'p>(name: &str, containers: impl Iterator<Item = &'p Process>) -> Result<(), Failure> {
    let set = || rustix::system::sethostname(name.as_bytes());
    set().map_err(asked_for(Step::Hostname, name))?;
    let own = rustix::fs::open("/proc/self/ns/uts", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open", "/proc/self/ns/uts"))?;
    for container in containers {
        let entered = sys::enter(container.pidfd.as_fd(), libc::CLONE_NEWUTS).and_then(|()| set());
        sys::enter(own.as_fd(), libc::CLONE_NEWUTS).map_err(failed("return to", "the machine's own hostname"))?;
        entered.map_err(failed("set the hostname", format!("{name} of container {}", container.container)))?;
    }
    Ok(())
}

/// Writes parameters of the kernel below `/proc/sys`.
pub(crate) fn write_sysctls(sysctls: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in sysctls {
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused(format!("{name:?} is no path below /proc/sys")));
        }
        let path = format!("/proc/sys/{name}");
        let written = fs::write(&path, value).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        written.map_err(asked_for(Step::Sysctl, name))?;
    }
    Ok(())
}

/// A failure of what a container asks for itself, in the words that it would have without a machine.
fn asked_for(step: Step, detail: &str) -> impl FnOnce(Errno) -> Failure {
    move |errno| {
        let errno = errno.raw_os_error();
        Failure::Sandbox { errno, text: sandbox::Failure { step, errno, detail: detail.to_owned() }.to_string() }
    }
}
