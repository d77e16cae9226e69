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
mod holder;
mod pipes;
mod protocol;
mod server;
mod tcp;
mod udp;
mod upgrade;

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
pub use protocol::{Held, Hold, MAX_KEY, Mode, Proto, Refusal, Status};

/// The forwarder's socket in its run directory: `SOCK_SEQPACKET`, mode 0600.
pub const SOCKET_FILE: &str = "forward.sock";
/// Locked (flock(2)) while a forwarder runs there.
const LOCK_FILE: &str = "forward.lock";
/// Its standard error.
const LOG_FILE: &str = "forward.log";
/// What it writes to its standard input, a socket, when it is ready. Anything else it writes there is why it isn't.
const READY: &str = "ready\n";
/// The last argument of a forwarder that goes on where another was; see [`upgrade`].
const RESUME: &str = "--resume";
/// The last argument of one that only says whether it could.
const PROBE: &str = "--probe";

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

/// How this process was started, so that another program can be started in the same way.
struct Program {
    name: OsString,
    arguments: Vec<OsString>,
}

/// What a forwarder begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beginning {
    Nothing,
    /// The state of the program that it was before.
    Resume,
    /// That of another forwarder, and it is only to say whether it understands it.
    Probe,
}

impl Beginning {
    /// Takes the argument that says so, which is the last.
    fn of(args: &mut Vec<OsString>) -> Self {
        let beginning = match args.last() {
            Some(last) if last == RESUME => Beginning::Resume,
            Some(last) if last == PROBE => Beginning::Probe,
            _ => return Beginning::Nothing,
        };
        args.pop();
        beginning
    }
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
/// nothing else from outside. An upgrade starts it with one argument more, and with what was held before as its standard input.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut all = std::env::args_os();
    let name = all.next().unwrap_or_default();
    let mut arguments: Vec<OsString> = all.collect();
    // Else it would have the name of the descriptor that it was executed by.
    let _ = rustix::thread::set_name(c"stratus");
    let beginning = Beginning::of(&mut args);
    if beginning != Beginning::Nothing {
        arguments.pop();
    }
    match serve(args, Program { name, arguments }, beginning) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why);
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "stratus forward: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: Vec<OsString>, program: Program, beginning: Beginning) -> Result<(), String> {
    let config = Config::parse(args)?;
    let run_dir = config.run_dir.clone();
    let cannot = |error: io::Error| format!("cannot run a port forwarder in {run_dir:?}: {error}");
    let forwarder = match beginning {
        Beginning::Probe => return upgrade::probe(),
        Beginning::Resume => server::Forwarder::resume(config, program).map_err(cannot)?,
        Beginning::Nothing => {
            // Fails where this process leads a group already, as under a shell: then it has a session of its own to leave later.
            let _ = rustix::process::setsid();
            let forwarder = server::Forwarder::open(config, program).map_err(cannot)?;
            say(READY);
            forwarder
        }
    };
    forwarder.run().map_err(|error| format!("the port forwarder in {run_dir:?} failed: {error}"))
}

/// Tells the process that started this one, where it listens, and lets go of the line.
fn say(text: &str) {
    let stdin = rustix::stdio::stdin();
    if rustix::net::send(stdin, text.as_bytes(), rustix::net::SendFlags::NOSIGNAL).is_err() {
        return;
    }
    close_line();
}

/// Lets go of the standard input.
fn close_line() {
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
    fn a_beginning_is_the_last_argument() {
        let of = |args: &[&str]| {
            let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
            (Beginning::of(&mut args), args.len())
        };
        assert_eq!(of(&[]), (Beginning::Nothing, 0));
        assert_eq!(of(&["--run-dir", "/run/x"]), (Beginning::Nothing, 2));
        assert_eq!(of(&["--run-dir", "/run/x", "--resume"]), (Beginning::Resume, 2));
        assert_eq!(of(&["--run-dir", "/run/x", "--probe"]), (Beginning::Probe, 2));
    }

    #[test]
    fn arguments() {
        let config = parse(&["--run-dir", "/run/x", "--max-connections", "10", "--udp-idle", "5"]).unwrap();
        assert_eq!(config.run_dir, PathBuf::from("/run/x"));
        assert_eq!((config.max_connections, config.udp_idle), (10, Duration::from_secs(5)));
        assert_eq!(parse(&[]).unwrap_err(), "--run-dir DIR is missing");
        assert_eq!(parse(&["--run-dir"]).unwrap_err(), "--run-dir needs a value");
        assert_eq!(parse(&["--max-sessions", "0"]).unwrap_err(), "--max-sessions takes a number above 0, not \"0\"");
        assert_eq!(parse(&["--resume"]).unwrap_err(), "--resume needs a value", "it is none of these");
        assert_eq!(parse(&["--bogus", "1"]).unwrap_err(), "unknown argument \"--bogus\"");
    }
}
