//! The keeper: the small process that holds running sandboxes, so that they outlive the daemon.
//!
//! It is one process for all sandboxes of a run directory: synchronous, single-threaded, driven by epoll. It clones the sandboxes
//! (crate `sandbox`), holds their process descriptors, standard streams and terminals, writes their logs, and remembers how they
//! ended until somebody has been told. It knows neither images nor networks nor the store.
//!
//! - [`serve::main`] is the process itself: `stratus keeper --run-dir DIR`.
//! - [`client`] is what a daemon uses to start it, to talk to it, and to clean up when it was killed.
//! - [`protocol`] holds the messages between the two, [`wire`] their encoding.
//! - [`logs`] is the format of the log files, and (feature `log-reader`) how to read them.
//!
//! ## What outlives what
//! - A daemon that vanishes changes nothing: output goes on being read and logged, exits are recorded, and [`protocol::Request::List`]
//!   tells the next daemon everything.
//! - The keeper goes on as a newer program by `execve` in place ([`client::upgrade`]): children, descriptors, half-read lines and
//!   connections stay.
//! - A killed keeper takes the streams of its sandboxes with it, which nobody can bring back: a process whose standard output is gone
//!   dies of `SIGPIPE` sooner or later, or goes on unheard. So a daemon kills what is left ([`client::recover_orphans`]), found by
//!   process id and start time and by cgroup, and says so. Parent-death signals are not used for this: the kernel clears them on
//!   set-user-id programs, and they would reach only the first process.
//!
//! Under systemd the unit needs `KillMode=process` (or the keeper a cgroup of its own, [`client::StartOptions::cgroups`], outside of
//! the unit's) and `Delegate=yes`, so that stopping the daemon leaves keeper and sandboxes alone.
//!
//! Processes inherit the keeper's resource limits unless their plan sets others; the keeper raises its soft limit of open files to
//! the hard one, as it holds about five descriptors for each sandbox.

pub mod client;
pub mod logs;
pub mod protocol;
pub mod serve;
pub mod wire;

mod descriptors;
mod records;

/// The system's words for an error number.
pub(crate) fn errno_text(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The socket's name in a run directory.
pub const SOCKET_NAME: &str = "keeper.sock";
