//! The port forwarder: a small process that keeps published ports while no daemon runs.
//!
//! nftables carries a published IPv4 port into its container whoever lives or dies. Two things it cannot do: keep other
//! programs off the port, which takes a bound socket, and carry `[::1]:8080` into a container that has no IPv6 address,
//! which takes a proxy. Both have to outlive the daemon, so both live in a process of their own: `stratus forward`,
//! one for each run directory, started when the first port is published.
//!
//! - [`main`] is that process: one thread around epoll(7), without a runtime. Bytes of TCP go through splice(2) and are
//!   never copied into it.
//! - [`ForwardClient`] is the daemon's side.
//! - [`bind`] makes the sockets that are worth keeping.
//!
//! The daemon owns the truth about which port belongs where; the forwarder knows only what it was handed.
//! It writes its complaints, at most one a second, to `forward.log` in the run directory.

mod arena;
mod bind;
mod client;
mod control;
mod pipes;
mod protocol;
mod server;
mod tcp;
mod udp;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::net::SocketAddrUnix;

pub use bind::bind;
pub use client::{ForwardClient, ForwardError, Watch, clean};
pub use protocol::{End, Held, Hold, MAX_KEY, Mode, Proto, Refusal, Status};

/// The forwarder's socket in its run directory: `SOCK_SEQPACKET`, mode 0600.
pub const SOCKET_FILE: &str = "forward.sock";
/// Locked (flock(2)) while a forwarder runs there.
const LOCK_FILE: &str = "forward.lock";
/// Its standard error.
const LOG_FILE: &str = "forward.log";
/// What it writes to its standard input, a socket, when it is ready. Anything else it writes there is why it isn't.
const READY: &str = "ready\n";

/// What a forwarder is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Config {
    run_dir: PathBuf,
    /// TCP connections carried at the same time; one above it is accepted and closed.
    max_connections: usize,
    /// UDP clients remembered at the same time; one above it takes the place of the one that was silent longest.
    max_sessions: usize,
    /// A UDP client that is silent for so long is forgotten.
    udp_idle: Duration,
}

impl Config {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut run_dir = None;
        let mut config = Config {
            run_dir: PathBuf::new(),
            max_connections: 8192,
            max_sessions: 8192,
            // As long as conntrack keeps a UDP stream by default, give or take (nf_conntrack_udp_timeout_stream: 120 s).
            udp_idle: Duration::from_secs(90),
        };
        let mut args = args.into_iter();
        while let Some(flag) = args.next() {
            let flag = flag.to_string_lossy().into_owned();
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = || value.to_str().and_then(|text| text.parse::<u32>().ok()).filter(|&number| number > 0);
            let number = || number().ok_or_else(|| format!("{flag} takes a number above 0, not {value:?}"));
            match flag.as_str() {
                "--run-dir" => run_dir = Some(PathBuf::from(&value)),
                "--max-connections" => config.max_connections = number()? as usize,
                "--max-sessions" => config.max_sessions = number()? as usize,
                "--udp-idle" => config.udp_idle = Duration::from_secs(number()?.into()),
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        config.run_dir = run_dir.ok_or("--run-dir DIR is missing")?;
        Ok(config)
    }
}

/// `stratus forward --run-dir DIR [--max-connections N] [--max-sessions N] [--udp-idle SECONDS]`: the process itself, with
/// the arguments after `forward`. Returns when it is told to end.
///
/// It leaves the session of whoever started it, says `ready` on its standard input where that is a socket, and needs
/// nothing else from outside.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = Config::parse(args).and_then(|config| {
        let run_dir = config.run_dir.clone();
        // Fails where this process leads a group already, as under a shell: then it has a session of its own to leave later.
        let _ = rustix::process::setsid();
        let forwarder = server::Forwarder::open(config)
            .map_err(|error| format!("cannot run a port forwarder in {run_dir:?}: {error}"))?;
        say(READY);
        forwarder.run().map_err(|error| format!("the port forwarder in {run_dir:?} failed: {error}"))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "stratus forward: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the process that started this one, where it listens, and lets go of the line.
fn say(text: &str) {
    let stdin = rustix::stdio::stdin();
    if rustix::net::send(stdin, text.as_bytes(), rustix::net::SendFlags::NOSIGNAL).is_err() {
        return;
    }
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty()) {
        let _ = rustix::stdio::dup2_stdin(null);
    }
}

/// The address of the socket in a run directory, with what has to stay open as long as the address is used: a path that is
/// too long for a socket address (107 bytes) goes through the directory's descriptor.
fn socket_address(run_dir: &Path) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    if let Ok(address) = SocketAddrUnix::new(run_dir.join(SOCKET_FILE)) {
        return Ok((address, None));
    }
    let dir = rustix::fs::open(run_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd()))?;
    Ok((address, Some(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, String> {
        Config::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn arguments() {
        let config = parse(&["--run-dir", "/run/x", "--max-connections", "10", "--udp-idle", "5"]).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/x"));
        assert_eq!((config.max_connections, config.udp_idle), (10, Duration::from_secs(5)));
        assert_eq!(parse(&[]).unwrap_err(), "--run-dir DIR is missing");
        assert_eq!(parse(&["--run-dir"]).unwrap_err(), "--run-dir needs a value");
        assert_eq!(parse(&["--max-sessions", "0"]).unwrap_err(), "--max-sessions takes a number above 0, not \"0\"");
        assert_eq!(parse(&["--bogus", "1"]).unwrap_err(), "unknown argument \"--bogus\"");
    }
}
