//! The agent that is PID 1 in a microVM: it makes the machine what its host says, runs processes, and holds them.
//!
//! One thread, one epoll, one stream to the host (`guest-protocol`). What it is told it believes; what it says the host checks. All
//! that runs outlives the stream: the agent connects again and goes on.
//!
//! Read `agent/mod.rs` for the loop, `agent/requests.rs` for what a host can ask, `boot.rs` for what comes before.

mod agent;
mod boot;
mod cards;
mod disks;
mod files;
mod identity;
mod layers;
mod link;
mod names;
mod namespaces;
mod network;
mod observe;
mod process;
mod roots;
mod sys;
mod volumes;

use std::process::ExitCode;

use guest_protocol::message::Failure;
use rustix::io::Errno;

use crate::link::Address;

/// What was tried, on what, and the kernel's reason.
fn failed(tried: &'static str, on: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let on = on.into();
    move |errno| Failure::System { tried: tried.into(), on, errno: errno.raw_os_error() }
}

/// As [`failed`], of the standard library's errors.
fn failed_io(tried: &'static str, on: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    let failed = failed(tried, on);
    move |error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::Refused { why: why.into() }
}

/// A name without directories.
fn plain(name: &str) -> Result<&str, Failure> {
    match name {
        "" | "." | ".." => Err(refused(format!("{name:?} is no name"))),
        _ if name.contains('/') => Err(refused(format!("{name:?} is no name: it has directories in it"))),
        _ => Ok(name),
    }
}

/// With an address it is an ordinary process, for tests of itself; as a machine's first one it finds the address on the kernel's
/// command line.
fn run() -> Result<(), Failure> {
    let machine = match std::env::args().nth(1).filter(|_| std::process::id() != 1 || !boot::is_machine()) {
        Some(address) => boot::Machine { address: Address::parse(&address)?, is_own: false },
        None => boot::boot()?,
    };
    let is_own = machine.is_own;
    let how = agent::Agent::new(machine)?.run()?;
    if is_own { boot::end(how) } else { Ok(()) }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("guest: {failure}");
            if boot::is_machine() {
                // A first process that ends makes the kernel panic, which says less.
                let _ = sys::reboot(guest_protocol::message::End::Reset);
            }
            ExitCode::FAILURE
        }
    }
}
