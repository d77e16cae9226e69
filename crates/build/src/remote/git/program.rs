//! The program `git`, which fetches and checks out, and does nothing else: no configuration of the machine or of a user counts, no hook
//! runs, nothing is asked on a terminal, and nothing is fetched but by HTTP through a [`Relay`], or by git's own protocol
//! or SSH from the one host that was named.

use super::process::{self, Ended, Process};
use super::shown::{Shown, advised};
use super::ssh::{self, Ssh};
use crate::request::Lender;
use crate::scratch::{Directory, LARGEST as LARGEST_TREE};
use crate::{Error, Result};
use image::registry::{Forward, Reach, Registries, Relay, TransportCause, without_password};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The most bytes that come of one repository with all that it takes from others.
const LARGEST: u64 = 16 << 30;
/// The longest that one command may take.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
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
            of_git = without_password(remote);
            Way::Http { shown: Shown::find(remote, lender.map(|lender| &**lender)).await? }
        };
        fs::write(home.path().join(".gitconfig"), configuration(&relay) + &more).map_err(|e| failed(&e))?;
        Ok(Program { home, relay, way, named: remote.to_owned(), remote: of_git })
    }

    /// Runs git with arguments. Gives what it says.
    pub(super) async fn run(&self, directory: &Path, arguments: &[&str]) -> Result<String> {
        let mut environment: Vec<(&'static str, OsString)> = vec![
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            ("LC_ALL", "C".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_ATTR_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("HOME", self.home.path().into()),
            ("GIT_CEILING_DIRECTORIES", directory.into()),
        ];
        environment.extend(self.way.environment().into_iter().map(|(name, value)| (name, value.into())));
        let process =
            Process { program: "git", arguments, directory, environment, most: LARGEST_TREE, deadline: DEADLINE };
        let ended = process.end().await.map_err(|error| match error {
            Error::Invalid(why) => Error::Invalid(format!("{}: git: {why}", without_password(&self.named))),
            other => other,
        })?;
        self.said(ended)
    }

    /// Looks whether what has come is no more than may be, now that it is all there.
    pub(super) async fn check(&self, directory: &Path) -> Result<()> {
        let checked = process::check(directory.to_owned(), LARGEST_TREE).await;
        checked.map_err(|error| Error::Invalid(format!("{}: {error}", without_password(&self.named))))
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
                format!("git: {}{}", self.way.named(&last), self.way.advice(&self.named, said))
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
    fn advice(&self, named: &str, said: &str) -> String {
        // It asks for both where it was shown nothing, or nothing that counts.
        let asks = said.contains("could not read Username") || said.contains("Authentication failed");
        let Way::Http { shown } = self else { return String::new() };
        match shown {
            None if asks => advised(named)
                .map(|secret| format!(": stratus build --secret id={secret} gives what its server asks for"))
                .unwrap_or_default(),
            Some(Shown::Secret { secret, .. }) if asks => {
                format!(": its server does not take what the secret {secret} has")
            }
            Some(Shown::Address { .. }) if asks || said.contains("could not read Password") => {
                ": its server does not take the name and the password of the address".to_owned()
            }
            Some(Shown::Secret { secret, .. }) if said.contains("returned error: 30") => {
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
