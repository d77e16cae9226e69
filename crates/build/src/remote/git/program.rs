//! The program `git`, which fetches and checks out, and does nothing else: no configuration of the machine or of a user counts, no hook
//! runs, nothing is asked on a terminal, and nothing is fetched but by HTTP through a [`Relay`], or by git's own protocol
//! or SSH from the one host that was named.

use super::shown::Shown;
use super::ssh::{self, Ssh};
use crate::request::Lender;
use crate::scratch::Directory;
use crate::{Error, Result};
use image::registry::{Forward, Reach, Registries, Relay, TransportCause, without_password};
use rustix::process::{Pid, Signal};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// The most bytes that come of one repository with all that it takes from others.
const LARGEST: u64 = 16 << 30;
/// The longest that one command may take.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
/// The most bytes of what it says.
const MOST_SAID: u64 = 8 << 20;
/// The port of git's own protocol.
const GIT_PORT: u16 = 9418;
/// What a shell says of a program that is not there.
const NOT_FOUND: i32 = 127;

/// All that concerns one repository for a while.
pub(super) struct Program {
    /// Where its configuration is.
    home: Directory,
    relay: Relay,
    way: Way,
    /// The address as it was named.
    named: String,
    /// The address that git is given.
    pub(super) remote: String,
}

/// What a repository is reached by, beside the relay.
enum Way {
    /// HTTP.
    Http {
        /// What its server is shown.
        shown: Option<Shown>,
    },
    /// Git's own protocol.
    Git {
        /// The host that it is to name.
        host: String,
        _forward: Forward,
    },
    /// SSH.
    Ssh(Ssh),
}

impl Program {
    /// Makes everything ready for an address.
    pub(super) async fn new(
        registries: &Registries,
        reach: &Reach,
        remote: &str,
        home: Directory,
        lender: Option<&Arc<dyn Lender>>,
    ) -> Result<Program> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("making git ready", e);
        let relay = registries.relay(reach, format!("{:032x}", rand::random::<u128>()), LARGEST);
        let relay = relay.await.map_err(|e| failed(&e))?;
        let mut of_git = remote.to_owned();
        let mut more = String::new();
        let way = if let Some(address) = ssh::Address::parse(remote) {
            let (ssh, rewritten) = Ssh::new(address?, remote, &relay, &home, lender).await?;
            more = rewritten;
            Way::Ssh(ssh)
        } else if let Some(rest) = remote.strip_prefix("git://") {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (host, port) = match authority.rsplit_once(':') {
                Some((host, digits)) if !digits.contains(']') => (host, digits.parse().map_err(|e| failed(&e))?),
                _ => (authority, GIT_PORT),
            };
            let forward = relay.forward(host.trim_matches(['[', ']']), port).await.map_err(|e| failed(&e))?;
            let there = forward.address();
            of_git = format!("git://{there}/{path}");
            // A submodule may name any host: those that git's own protocol would reach by itself get a program that ends at once.
            more = format!("[core]\n\tgitProxy = none for {there}\n\tgitProxy = false\n");
            Way::Git { host: authority.to_owned(), _forward: forward }
        } else {
            Way::Http { shown: Shown::find(remote, lender.map(|lender| &**lender)).await? }
        };
        fs::write(home.path().join(".gitconfig"), configuration(&relay) + &more).map_err(|e| failed(&e))?;
        Ok(Program { home, relay, way, named: remote.to_owned(), remote: of_git })
    }

    /// Runs git with arguments. Gives what it says.
    pub(super) async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("/bin/sh");
        // Modes are what git makes of them, whatever the daemon's own mask is.
        command.args(["-c", "umask 022; exec git \"$@\"", "git"]).args(arguments).current_dir(directory);
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
        ]);
        command.env("HOME", self.home.path()).env("GIT_CEILING_DIRECTORIES", directory);
        command.envs(self.way.environment());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(|e| Error::failed("running git", e))?;
        match tokio::time::timeout(DEADLINE, Group(child).end()).await {
            Ok(ended) => self.said(ended?),
            Err(_) => Err(Error::Invalid(format!("git: {} took longer than an hour", without_password(&self.named)))),
        }
    }

    fn said(&self, ended: Ended) -> Result<String> {
        match ended.code {
            Some(0) => Ok(ended.output),
            Some(NOT_FOUND) if ended.complaint.contains("not found") => Err(Error::Invalid(
                "the daemon's machine has no git, which fetches repositories: install the package git there".into(),
            )),
            _ => Err(Error::Invalid(self.complaint(&ended.complaint))),
        }
    }

    /// What went wrong, in words without a password and without an address that only git was given.
    fn complaint(&self, said: &str) -> String {
        let shown = without_password(&self.named);
        if self.relay.is_exhausted() {
            return format!("{shown} has more than {LARGEST} bytes");
        }
        match self.relay.refused() {
            Some(cause @ TransportCause::OutOfReach { .. }) => format!(
                "{shown}: {cause}: the daemon's build-allow-address says what builds may reach beside the open network"
            ),
            Some(cause) => format!("{shown}: {cause}"),
            None => {
                if let Some(complaint) = self.way.complaint(said) {
                    return format!("{shown}: {complaint}");
                }
                let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines.iter().rev().find(|line| line.starts_with("fatal: ")).or(lines.last());
                let last = last.map_or("it says nothing of why", |line| line.trim_start_matches("fatal: "));
                let last = last.replace(&self.remote, &shown).replace(&self.named, &shown);
                format!("git: {}{}", self.way.named(&last), self.way.advice(said))
            }
        }
    }
}

impl Way {
    fn environment(&self) -> Vec<(&'static str, String)> {
        let allowed = |protocols: &str| ("GIT_ALLOW_PROTOCOL", protocols.to_owned());
        match self {
            Way::Http { shown } => {
                [allowed("http:https")].into_iter().chain(shown.iter().flat_map(Shown::environment)).collect()
            }
            Way::Git { host, .. } => vec![allowed("git:http:https"), ("GIT_OVERRIDE_VIRTUAL_HOST", host.clone())],
            Way::Ssh(ssh) => [allowed("ssh:http:https")].into_iter().chain(ssh.environment()).collect(),
        }
    }

    /// What went wrong, where more can be said of it than git does.
    fn complaint(&self, said: &str) -> Option<String> {
        match self {
            Way::Ssh(ssh) => ssh.complaint(said),
            Way::Http { .. } | Way::Git { .. } => None,
        }
    }

    /// A text without names that only git was given.
    fn named(&self, text: &str) -> String {
        match self {
            Way::Ssh(ssh) => ssh.named(text),
            Way::Http { .. } | Way::Git { .. } => text.to_owned(),
        }
    }

    /// What to do where a server did not let git in.
    fn advice(&self, said: &str) -> String {
        // It asks for both where it was shown nothing, or nothing that counts.
        let asks = said.contains("could not read Username") || said.contains("Authentication failed");
        let Way::Http { shown } = self else { return String::new() };
        match shown {
            None if asks => ": stratus build --secret id=GIT_AUTH_TOKEN gives what its server asks for".to_owned(),
            Some(Shown { secret, .. }) if asks => format!(": its server does not take what the secret {secret} has"),
            Some(Shown { secret, .. }) if said.contains("returned error: 30") => {
                format!(": no redirection is followed where the secret {secret} is shown: name where it leads")
            }
            _ => String::new(),
        }
    }
}

/// What counts for git. Of hosts it knows the relay alone.
fn configuration(relay: &Relay) -> String {
    let proxy = relay.url();
    format!(
        "[http]\n\tproxy = {proxy}\n\tproxyAuthMethod = basic\n\tlowSpeedLimit = 1\n\tlowSpeedTime = 60\n\
         [core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n\tautocrlf = false\n\tsymlinks = true\n\
         [credential]\n\thelper =\n[init]\n\tdefaultBranch = main\n\ttemplateDir =\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[safe]\n\tdirectory = *\n\
         [protocol]\n\tversion = 2\n[protocol \"file\"]\n\tallow = never\n[protocol \"ext\"]\n\tallow = never\n\
         [submodule]\n\trecurse = false\n[fetch]\n\trecurseSubmodules = false\n[advice]\n\tdetachedHead = false\n"
    )
}

/// A program with all that it started, which ends with whoever waits for it.
struct Group(Child);

struct Ended {
    code: Option<i32>,
    output: String,
    complaint: String,
}

impl Group {
    async fn end(mut self) -> Result<Ended> {
        let failed = |e: std::io::Error| Error::failed("running git", e);
        let (Some(output), Some(complaint)) = (self.0.stdout.take(), self.0.stderr.take()) else {
            return Err(Error::failed("running git", "it has no output"));
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let (mut output, mut complaint) = (output.take(MOST_SAID), complaint.take(MOST_SAID));
        tokio::try_join!(output.read_to_end(&mut said), complaint.read_to_end(&mut complained)).map_err(failed)?;
        if output.limit() == 0 || complaint.limit() == 0 {
            // It would wait for somebody to read on; it ends with this.
            return Err(Error::failed("running git", format!("it says more than {MOST_SAID} bytes")));
        }
        let status = self.0.wait().await.map_err(failed)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { code: status.code(), output: text(said), complaint: text(complained) })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // One that was waited for has no number any more.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
