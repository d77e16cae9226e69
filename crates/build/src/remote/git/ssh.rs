//! Repositories by SSH: git speaks through the program `ssh`, which knows one host, the keys that it is to have, and an agent that whoever asks for
//! the build lends. No configuration, no key and no agent of the daemon's own user counts.
//!
//! The host has a name of its own there, that nobody can guess: it leads through a [`Forward`], and whatever else a submodule
//! names leads nowhere. Its key is to be one that whoever asks for the build knows (`known_hosts`): who trusts whichever key comes first
//! builds what whoever is in the middle likes.

use crate::agent;
use crate::request::Lender;
use crate::scratch::Directory;
use crate::{Error, Result};
use image::registry::{Forward, Relay};
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// The port that SSH has where nothing is said.
const PORT: u16 = 22;
/// The agent that git uses.
pub(super) const AGENT: &str = "default";

/// Where a repository is that SSH leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    user: Option<String>,
    host: String,
    port: u16,
}

impl Address {
    /// Reads `ssh://[USER@]HOST[:PORT]/PATH` or `USER@HOST:PATH`; `None`: it is no address of SSH.
    pub(super) fn parse(remote: &str) -> Option<Result<Address>> {
        let (authority, is_url) = match remote.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ssh") => (rest.split('/').next()?, true),
            Some(_) => return None,
            None => (remote.split_once(':').map(|(place, _)| place).filter(|place| place.contains('@'))?, false),
        };
        let refused = |why: &str| Error::Invalid(format!("{}: {why}", image::registry::without_password(remote)));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let is_name = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Some(Err(refused("SSH takes no password from an address: stratus build --ssh default lends keys")));
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, digits)) if is_url && !digits.contains(']') => (host, digits.parse().ok()),
            _ => (place, Some(PORT)),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let Some(port) = port.filter(|_| is_name(host, "-._:") && user.is_none_or(|user| is_name(user, "-._+"))) else {
            return Some(Err(refused("this is no address: give ssh://USER@HOST/PATH or USER@HOST:PATH")));
        };
        Some(Ok(Address { user: user.map(str::to_owned), host: host.to_ascii_lowercase(), port }))
    }

    /// What the host is called in `known_hosts`.
    fn known_as(&self) -> String {
        match self.port {
            PORT => self.host.clone(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// What has git take another name for the host, in all forms of its address.
    fn rewritten(&self, remote: &str, name: &str) -> String {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut urls = BTreeSet::from([format!("ssh://{user}{host}:{}/", self.port)]);
        let mut short = BTreeSet::new();
        if self.port == PORT {
            urls.insert(format!("ssh://{user}{host}/"));
            short.extend(self.user.iter().map(|user| format!("{user}@{host}:")));
        }
        // As it is written, too: with capitals, say.
        match remote.split_once("://") {
            Some((scheme, rest)) => urls.extend(rest.split('/').next().map(|place| format!("{scheme}://{place}/"))),
            None => short.extend(remote.split_once(':').map(|(place, _)| format!("{place}:"))),
        }
        let instead = |of: &str, written: &BTreeSet<String>| match written.is_empty() {
            true => String::new(),
            false => {
                written.iter().fold(format!("[url \"{of}\"]\n"), |all, url| all + &format!("\tinsteadOf = {url}\n"))
            }
        };
        instead(&format!("ssh://{user}{name}/"), &urls) + &instead(&format!("{user}{name}:"), &short)
    }
}

/// What git reaches a host by.
pub(super) struct Ssh {
    address: Address,
    /// The host's name here.
    name: String,
    /// Where the configuration and the agent's socket are. A path of a descriptor has no odd characters, and is short enough for a socket.
    place: OwnedFd,
    forward: Forward,
    /// The connections to the agent.
    carrying: JoinSet<()>,
}

impl Ssh {
    /// Makes everything ready in a directory. Gives what git's own configuration has to say beside.
    pub(super) async fn new(
        address: Address,
        remote: &str,
        relay: &Relay,
        home: &Directory,
        lender: Option<&Arc<dyn Lender>>,
    ) -> Result<(Ssh, String)> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("making ssh ready", e);
        let Some(lender) = lender.filter(|lender| lender.has_agent(AGENT)) else {
            return Err(Error::Invalid(format!(
                "{remote}: nobody has lent a key for SSH: stratus build --ssh {AGENT} lends those of the agent"
            )));
        };
        let known = lender.known_hosts(&address.known_as()).await;
        let known = known.map_err(|e| Error::Invalid(format!("which key {} has: {e}", address.host)))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::open(home.path(), flags, Mode::empty()).map_err(|e| failed(&e))?;
        let forward = relay.forward(&address.host, address.port).await.map_err(|e| failed(&e))?;
        let name = format!("host-{:032x}", rand::random::<u128>());
        let rewritten = address.rewritten(remote, &name);
        let mut ssh = Ssh { address, name, place, forward, carrying: JoinSet::new() };
        fs::write(home.path().join("known_hosts"), known).map_err(|e| failed(&e))?;
        fs::write(home.path().join("ssh_config"), ssh.configuration()).map_err(|e| failed(&e))?;
        let listener = UnixListener::bind(ssh.path("agent")).map_err(|e| failed(&e))?;
        ssh.carrying.spawn(agent::carry(listener, AGENT.to_owned(), Arc::clone(lender)));
        Ok((ssh, rewritten))
    }

    /// A path of a file in its directory, for every program of this user.
    fn path(&self, file: &str) -> String {
        format!("/proc/{}/fd/{}/{file}", std::process::id(), self.place.as_raw_fd())
    }

    fn configuration(&self) -> String {
        let there = self.forward.address();
        let (known, agent) = (self.path("known_hosts"), self.path("agent"));
        format!(
            "Host {}\n\tHostName {}\n\tPort {}\n\tHostKeyAlias {}\n\tProxyCommand none\n\
             Host *\n\tProxyCommand false\n\tUser git\n\tBatchMode yes\n\tLogLevel ERROR\n\
             \tStrictHostKeyChecking yes\n\tUserKnownHostsFile {known}\n\tGlobalKnownHostsFile /dev/null\n\
             \tKnownHostsCommand none\n\tCheckHostIP no\n\tVerifyHostKeyDNS no\n\tUpdateHostKeys no\n\tCanonicalizeHostname no\n\
             \tIdentityAgent {agent}\n\tIdentityFile none\n\tPreferredAuthentications publickey\n\
             \tForwardAgent no\n\tForwardX11 no\n\tClearAllForwardings yes\n\tPermitLocalCommand no\n\
             \tControlMaster no\n\tControlPath none\n\tConnectTimeout 60\n\tServerAliveInterval 15\n\tServerAliveCountMax 4\n",
            self.name,
            there.ip(),
            there.port(),
            self.address.known_as(),
        )
    }

    /// Variables that have git speak through it.
    pub(super) fn environment(&self) -> [(&'static str, String); 2] {
        [("GIT_SSH_COMMAND", format!("ssh -F {}", self.path("ssh_config"))), ("GIT_SSH_VARIANT", "ssh".to_owned())]
    }

    /// What is to be done where the host did not let git in, by what was said.
    pub(super) fn complaint(&self, said: &str) -> Option<String> {
        let (host, port) = (&self.address.host, self.address.port);
        if said.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            let known = self.address.known_as();
            return Some(format!(
                "{host} has another key than known_hosts has, where stratus build was started: somebody may be in between. \
                 If it was changed on purpose: ssh-keygen -R '{known}', and take the new one in"
            ));
        }
        if said.contains("Host key verification failed") {
            let port = if port == PORT { String::new() } else { format!("-p {port} ") };
            return Some(format!(
                "the key of {host} is not known where stratus build was started: ssh-keyscan {port}{host} >> ~/.ssh/known_hosts, \
                 once it was compared with what its owner says"
            ));
        }
        if said.contains("Permission denied") {
            return Some(format!("{host} takes none of the keys that --ssh {AGENT} lends"));
        }
        said.contains("cannot run ssh").then(|| {
            "the daemon's machine has no ssh, which git reaches it by: install the package openssh-client there"
                .to_owned()
        })
    }

    /// A text with the host's own name in it.
    pub(super) fn named(&self, text: &str) -> String {
        text.replace(&self.name, &self.address.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(user: &str, host: &str, port: u16) -> Address {
        Address { user: Some(user.to_owned()).filter(|user| !user.is_empty()), host: host.to_owned(), port }
    }

    #[test]
    fn hosts_are_known_by_both_forms() {
        for (remote, expected, known) in [
            ("git@Host.example:a/b.git", address("git", "host.example", 22), "host.example"),
            ("ssh://host.example/a", address("", "host.example", 22), "host.example"),
            ("SSH://me@host.example:2222/a", address("me", "host.example", 2222), "[host.example]:2222"),
            ("ssh://git@[::1]:2222/a", address("git", "::1", 2222), "[::1]:2222"),
            ("ssh://git@[::1]/a", address("git", "::1", 22), "::1"),
        ] {
            let parsed = Address::parse(remote).unwrap().unwrap();
            assert_eq!((&parsed, &*parsed.known_as()), (&expected, known), "{remote}");
        }
        for remote in ["https://x/a.git", "git://x/a", "/a/b", "ext::sh -c true"] {
            assert!(Address::parse(remote).is_none(), "{remote}");
        }
        for remote in
            ["ssh://a:b@x/y", "ssh://-oProxyCommand=x/y", "ssh://a\"b/c", "ssh://x:y/z", "ssh:///x", "ssh://a b@x/y"]
        {
            assert!(Address::parse(remote).unwrap().is_err(), "{remote}");
        }
    }

    #[test]
    fn git_itself_goes_by_the_other_name() {
        let home = tempfile::tempdir().unwrap();
        for (remote, expected) in [
            ("git@Host:a/b.git", "git@N:a/b.git"),
            ("git@host:~/x", "git@N:~/x"),
            ("ssh://git@[::1]:2222/~/x", "ssh://git@N/~/x"),
            ("ssh://host:22/x", "ssh://N/x"),
        ] {
            let configuration = Address::parse(remote).unwrap().unwrap().rewritten(remote, "N");
            fs::write(home.path().join(".gitconfig"), configuration).unwrap();
            let mut git = std::process::Command::new("git");
            git.env("HOME", home.path()).env("GIT_CONFIG_NOSYSTEM", "1").current_dir(home.path());
            let said = git.args(["ls-remote", "--get-url", remote]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout).trim_end(), expected);
        }
    }

    #[test]
    fn what_a_submodule_calls_the_host_leads_there_too() {
        let of = |remote: &str| Address::parse(remote).unwrap().unwrap().rewritten(remote, "N");
        assert_eq!(
            of("git@h:a.git"),
            "[url \"ssh://git@N/\"]\n\tinsteadOf = ssh://git@h/\n\tinsteadOf = ssh://git@h:22/\n\
             [url \"git@N:\"]\n\tinsteadOf = git@h:\n"
        );
        assert_eq!(
            of("ssh://g@H:5/a"),
            "[url \"ssh://g@N/\"]\n\tinsteadOf = ssh://g@H:5/\n\tinsteadOf = ssh://g@h:5/\n"
        );
    }
}
