//! Others' forward chains that would drop our traffic.
//!
//! Every base chain at a hook has to let a packet through. dockerd and ufw set the policy of `ip filter FORWARD` to drop,
//! a server's own `/etc/nftables.conf` may do the same, and firewalld ends its chain with a reject (see [`super::zones`], too). So each of those gets
//! an accept rule for each bridge and direction at its head. What may really pass is decided in the instance's own table
//! afterwards. The rules carry the instance's name as comment, and have the form that the `iptables` programs write
//! and understand, as a rule they cannot read makes them refuse the whole table.
//!
//! A thread listens to nftables' notifications and puts the rules back where a firewall was started or reloaded
//! meanwhile, and the instance's own table where everything was flushed. What cannot be helped from here is told in the log: tables of the legacy `iptables`, which are not reachable
//! through nftables, and tables that only their owner may change.

use super::Firewall;
use super::zones::{self, Request, Zones};
use crate::config::Instance;
use crate::error::{Error, Result};
use crate::netlink::{Family, Socket};
use crate::nft::{Chain, Nft, Protocol, Rule, Transaction, Verdict};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// `NFNLGRP_NFTABLES`, as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;

/// Keeps others' chains open for the instance's bridges.
pub(crate) struct ForeignChains {
    shared: Arc<Shared>,
    /// Dropping it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    zones: Zones,
}

struct State {
    nft: Nft,
    comment: String,
    bridges: BTreeSet<String>,
    /// What was told in the log already.
    told: BTreeSet<String>,
}

impl ForeignChains {
    /// Opens what is there, and begins to listen.
    pub(crate) fn open(
        instance: &Instance,
        own: Arc<Firewall>,
        bridges: impl IntoIterator<Item = String>,
    ) -> Result<ForeignChains> {
        let state = State {
            nft: Nft::open()?,
            comment: instance.table(),
            bridges: bridges.into_iter().collect(),
            told: BTreeSet::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), zones: Zones::new() });
        // Listen first, look then: nothing falls between.
        let notifications = Socket::open_for(Family::Netfilter, NFTABLES_GROUP)
            .map_err(|e| Error::kernel("listen to nftables' notifications", e))?;
        shared.ensure(&mut shared.state.lock())?;
        warn_of_legacy();
        let (stop, stopped) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map(|(read, write)| (write, read))
            .map_err(|e| Error::kernel("make a pipe", e))?;
        let thread = std::thread::Builder::new()
            .name("nft-watch".into())
            .spawn({
                let shared = shared.clone();
                move || watch(&shared, &own, &notifications, &stopped)
            })
            .map_err(|e| Error::io("start the thread that watches nftables", e))?;
        Ok(ForeignChains { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// One bridge more.
    pub(crate) fn add_bridge(&self, bridge: &str) -> Result<()> {
        self.change(|bridges| bridges.insert(bridge.to_owned()))
    }

    /// One bridge less.
    pub(crate) fn remove_bridge(&self, bridge: &str) -> Result<()> {
        self.change(|bridges| bridges.remove(bridge))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> Result<()> {
        let request = {
            let mut state = self.shared.state.lock();
            change(&mut state.bridges);
            self.shared.ensure(&mut state)?
        };
        if let Some(request) = request {
            self.shared.zones.wait_for(request);
        }
        Ok(())
    }
}

impl Shared {
    /// Makes everything of others be as it shall be. Where firewalld runs, it is asked, and what is returned can be waited for.
    fn ensure(&self, state: &mut State) -> Result<Option<Request>> {
        let chains = state.nft.forward_chains()?;
        state.ensure(&chains)?;
        let runs = chains.iter().any(is_firewallds);
        Ok(runs.then(|| self.zones.settle(&state.bridges)))
    }
}

impl Drop for ForeignChains {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only panics where this program is wrong, which its message told.
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared, own: &Firewall, notifications: &Socket, stopped: &OwnedFd) {
    loop {
        let mut changed = false;
        match notifications.wait(stopped.as_fd(), |kind, _| changed |= is_of_rules(kind)) {
            Ok(true) => {}
            Ok(false) => return,
            // Some were lost: look at everything.
            Err(Errno::NOBUFS) => changed = true,
            Err(errno) => {
                tracing::error!(%errno, "nftables is no longer watched: a firewall that is reloaded may cut networks off");
                return;
            }
        }
        if !changed {
            continue;
        }
        match own.restore() {
            Ok(true) => tracing::warn!("the instance's nftables table was taken out by somebody else: it is back"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the instance's nftables table is gone, and could not be put back"),
        }
        if let Err(error) = shared.ensure(&mut shared.state.lock()) {
            tracing::warn!(%error, "another firewall's chains could not be opened for containers");
        }
    }
}

/// Whether a notification tells of a deleted table, or of a chain or a rule, made or deleted: messages 2, 3, 5, 6 and 8 of
/// subsystem 10. Publishing
/// a port is an element and wakes nobody's mind.
fn is_of_rules(kind: u16) -> bool {
    kind >> 8 == 10 && matches!(kind & 0xff, 2 | 3 | 5 | 6 | 8)
}

impl State {
    /// Makes each chain have exactly the rules it shall have.
    fn ensure(&mut self, chains: &[Chain]) -> Result<()> {
        for chain in chains.iter().filter(|chain| in_the_way(chain)) {
            if chain.owned {
                self.tell_owned(chain);
                continue;
            }
            match ensure_chain(&self.nft, chain, &self.comment, &self.bridges) {
                // The chain went away between looking and changing.
                Err(error) if error.is_errno(Errno::NOENT) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// firewalld's is opened by its zones, and told of there where it is not.
    fn tell_owned(&mut self, chain: &Chain) {
        if !is_firewallds(chain) && self.told.insert(chain.table.name.clone()) {
            tracing::warn!(
                table = chain.table.name,
                "another program owns this nftables table and may drop containers' traffic: let the bridges pass there"
            );
        }
    }
}

/// Whether the chain may drop what ours accepts, as far as can be told without understanding its rules.
fn in_the_way(chain: &Chain) -> bool {
    !is_ours(&chain.table.name) && (chain.drops || is_firewallds(chain))
}

fn is_firewallds(chain: &Chain) -> bool {
    chain.table.name == zones::TABLE
}

fn is_ours(table: &str) -> bool {
    table.starts_with("stratus-")
}

/// The mark of one rule: whose it is, and which.
fn comment_of(owner: &str, bridge: &str, direction: &str) -> String {
    format!("{owner} {direction} {bridge}")
}

fn ensure_chain(nft: &Nft, chain: &Chain, owner: &str, bridges: &BTreeSet<String>) -> Result<()> {
    let mut wanted: BTreeSet<(String, &str, bool)> = BTreeSet::new();
    for bridge in bridges {
        wanted.insert((comment_of(owner, bridge, "from"), bridge, true));
        wanted.insert((comment_of(owner, bridge, "to"), bridge, false));
    }
    let mut transaction = Transaction::new(format!("open chain {} {}", chain.table.name, chain.name));
    let mut present = BTreeSet::new();
    for (handle, comment) in nft.comments(&chain.table, &chain.name)? {
        if !is_owned_by(&comment, owner) {
            continue;
        }
        if wanted.iter().any(|(text, ..)| *text == comment) && present.insert(comment) {
            continue;
        }
        transaction.delete_rule(&chain.table, &chain.name, handle);
    }
    for (comment, bridge, from) in wanted.iter().filter(|(comment, ..)| !present.contains(comment)) {
        let rule = if *from { Rule::new().arrives_by(bridge) } else { Rule::new().leaves_by(bridge) };
        let rule = rule.counter().verdict(Verdict::Accept).comment(comment);
        transaction.insert_rule(&chain.table, &chain.name, &rule);
    }
    if transaction.is_empty() { Ok(()) } else { nft.commit(transaction) }
}

fn is_owned_by(comment: &str, owner: &str) -> bool {
    comment.strip_prefix(owner).is_some_and(|rest| rest.starts_with(' '))
}

/// Takes an instance's rules out of others' chains, and its bridges, of which these are known, out of firewalld's zone.
pub(crate) fn remove_foreign(instance: &Instance, bridges: &[String]) -> Result<()> {
    let nft = Nft::open()?;
    let chains = nft.forward_chains()?;
    for chain in chains.iter().filter(|chain| !is_ours(&chain.table.name) && !chain.owned) {
        ensure_chain(&nft, chain, &instance.table(), &BTreeSet::new())?;
    }
    if !bridges.is_empty() && chains.iter().any(is_firewallds) {
        zones::let_go(bridges);
    }
    Ok(())
}

/// The legacy programs' tables are other code of the kernel, that nftables does not see.
fn warn_of_legacy() {
    for (protocol, path) in [
        (Protocol::Ipv4, "/proc/thread-self/net/ip_tables_names"),
        (Protocol::Ipv6, "/proc/thread-self/net/ip6_tables_names"),
    ] {
        let names = std::fs::read_to_string(path).unwrap_or_default();
        if names.lines().any(|name| name == "filter") {
            tracing::warn!(
                ?protocol,
                "tables of iptables-legacy are in use. Where their FORWARD chain drops by policy, let the bridges pass: \
                 iptables-legacy -I FORWARD -i BRIDGE -j ACCEPT; iptables-legacy -I FORWARD -o BRIDGE -j ACCEPT"
            );
        }
    }
}
