//! Addresses that are given back, and the thread that sees to it.
//!
//! When a sandbox has ended, its link mostly goes with its namespace, some time after. But somebody else may be in that
//! namespace still (`docker run --network container:…`), or hold it open; and the kernel remembers flows to the address.
//! So an address that was given back stays taken until its former link has no say on the bridge any more and what the kernel
//! remembers of it is forgotten. Nobody waits for that, but for whoever asks for just that address, or finds no
//! other. A container that starts again gets its own address back at once, and its flows with it.
//!
//! The thread lets some time pass, so as to do it for many at once: see [`crate::conntrack`] for what one costs.

use super::networks::State;
use crate::conntrack::{Conntrack, Flow};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::port::{Protocol, PublishedPort};
use crate::route::{Change, RouteSocket};
use ipnet::IpNet;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits for more of the same.
const LINGER: Duration = Duration::from_millis(200);
/// When a silenced link is still there after so long, its namespace is somebody else's now, and it is deleted. The kernel is
/// quicker at taking whole namespaces apart.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long an address is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// An endpoint whose addresses are not free yet.
pub(super) struct Leaving {
    /// Whose it was.
    pub(super) sandbox: String,
    pub(super) endpoint: Endpoint,
    /// Whether its link could not be taken from the bridge: then its addresses stay taken.
    pub(super) stuck: bool,
}

impl Leaving {
    pub(super) fn new(sandbox: &str, endpoint: Endpoint) -> Leaving {
        Leaving { sandbox: sandbox.to_owned(), endpoint, stuck: false }
    }
}

/// What the thread has to do beside the endpoints that leave.
#[derive(Default)]
pub(super) struct Chores {
    /// Published since: flows to them that began before shall find them.
    published: Vec<PublishedPort>,
    /// Silenced links that may have to be deleted, by their indices, and when.
    links: Vec<(Instant, u32)>,
    /// Whether SCTP was published by somebody who leaves.
    sctp: bool,
    /// Whether flows to addresses of nobody, from before the start, are forgotten.
    swept: bool,
    /// Somebody waits.
    urgent: bool,
    stop: bool,
}

/// The thread.
pub(super) struct Departures {
    state: Arc<Mutex<State>>,
    signals: Arc<Signals>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Signals {
    /// For the thread: there is something to do.
    work: Condvar,
    /// For those who wait: something was done.
    done: Condvar,
}

impl Departures {
    /// Starts the thread, in the caller's network namespace. It begins with what an earlier daemon left.
    pub(super) fn open(state: Arc<Mutex<State>>) -> Result<Departures> {
        let (host, conntrack) = (RouteSocket::open()?, Conntrack::open()?);
        let signals = Arc::new(Signals::default());
        let thread = std::thread::Builder::new()
            .name("net-departures".into())
            .spawn({
                let thread = Thread { state: state.clone(), signals: signals.clone(), host, conntrack };
                move || thread.run()
            })
            .map_err(|e| Error::io("start the thread that takes addresses back", e))?;
        Ok(Departures { state, signals, thread: Some(thread) })
    }

    /// There is somebody who leaves.
    pub(super) fn wake(&self) {
        self.signals.work.notify_one();
    }

    /// Ports were published, or lead elsewhere now: what began before follows.
    pub(super) fn follow(&self, ports: &[PublishedPort]) {
        let is_followed = |port: &&PublishedPort| port.protocol != Protocol::Tcp && !port.is_proxied();
        let ports: Vec<PublishedPort> = ports.iter().filter(is_followed).cloned().collect();
        if !ports.is_empty() {
            let mut state = self.state.lock();
            state.chores.published.extend(ports);
            state.chores.urgent = true;
            self.wake();
        }
    }

    /// A link was silenced, and its namespace may stay.
    pub(super) fn watch(&self, link: Option<u32>) {
        if let Some(index) = link {
            self.state.lock().chores.links.push((Instant::now() + PATIENCE, index));
            self.wake();
        }
    }

    /// Lets the thread do what it has to, until something was done; `false`: it took too long.
    pub(super) fn wait(&self, state: &mut MutexGuard<'_, State>) -> bool {
        state.chores.urgent = true;
        self.wake();
        !self.signals.done.wait_for(state, LONGEST_WAIT).timed_out()
    }

    /// Waits for the end of what an earlier daemon left.
    pub(super) fn wait_for_sweep(&self, state: &mut MutexGuard<'_, State>) {
        while !state.chores.swept && self.wait(state) {}
    }
}

impl Drop for Departures {
    fn drop(&mut self) {
        self.state.lock().chores.stop = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It only panics where this program is wrong, which its message told.
            let _ = thread.join();
        }
    }
}

impl State {
    /// An endpoint's addresses become free, once nothing remembers it. `sctp`: its sandbox had published such ports.
    pub(super) fn leave(&mut self, sandbox: &str, endpoint: &Endpoint, sctp: bool) {
        let Some(entry) = self.networks.get_mut(&endpoint.network) else { return };
        // Giving back twice must not give away what another has by now.
        if entry.endpoints.remove(&endpoint.id).is_some() {
            entry.leaving.push(Leaving::new(sandbox, endpoint.clone()));
            self.chores.sctp |= sctp;
        }
    }

    /// Whether waiting may give an address on that network: `fixed`, or any.
    pub(super) fn may_become_free(&self, network: &str, fixed: Option<IpAddr>) -> bool {
        let waited_for = |leaving: &Leaving| {
            !leaving.stuck && fixed.is_none_or(|ip| leaving.endpoint.addresses().any(|other| other == ip))
        };
        self.find(network).is_ok_and(|entry| entry.leaving.iter().any(waited_for))
    }

    fn leaving(&self) -> impl Iterator<Item = &Endpoint> {
        let all = self.networks.values().flat_map(|entry| &entry.leaving);
        all.filter(|leaving| !leaving.stuck).map(|leaving| &leaving.endpoint)
    }
}

/// Takes a former link's say on its bridge: nothing passes by it, and no address is looked for behind it. Gives its index,
/// where it is still there. Takes no grace period of the kernel, but where the bridge does not have it (as with STP).
pub(super) fn silence(host: &RouteSocket, name: &str) -> Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    let Some(link) = host.link(name)? else { return Ok(None) };
    match host.apply(&[Change::silence_port(link.index)]) {
        Ok(()) => Ok(Some(link.index)),
        Err(error) if error.is_errno(Errno::NODEV) => Ok(None),
        Err(_) => delete(host, link.index).map(|()| None),
    }
}

fn delete(host: &RouteSocket, index: u32) -> Result<()> {
    match host.apply(&[Change::delete_link(index)]) {
        // It went with its namespace meanwhile.
        Err(error) if error.is_errno(Errno::NODEV) => Ok(()),
        result => result,
    }
}

struct Thread {
    state: Arc<Mutex<State>>,
    signals: Arc<Signals>,
    host: RouteSocket,
    conntrack: Conntrack,
}

/// What is done in one go.
struct Batch {
    leaving: Vec<Endpoint>,
    stale: Stale,
    sctp: bool,
    links: Vec<u32>,
}

impl Thread {
    fn run(&self) {
        while let Some(batch) = self.next_batch() {
            let stuck = self.silence_all(&batch.leaving);
            self.forget_flows(&batch);
            let mut state = self.state.lock();
            for endpoint in &batch.leaving {
                let Some(entry) = state.networks.get_mut(&endpoint.network) else { continue };
                // Its own container may have it again.
                let Some(at) = entry.leaving.iter().position(|leaving| leaving.endpoint.id == endpoint.id) else {
                    continue;
                };
                if stuck.contains(&endpoint.id) {
                    entry.leaving[at].stuck = true;
                    continue;
                }
                entry.leaving.swap_remove(at);
                endpoint.addresses().for_each(|ip| entry.release(ip));
            }
            state.chores.swept = true;
            self.signals.done.notify_all();
            drop(state);
            for index in batch.links {
                if let Err(error) = delete(&self.host, index) {
                    tracing::warn!(%error, index, "the link of a container that has ended is left");
                }
            }
        }
    }

    /// Waits for work; `None`: the instance is closed.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        let mut since = None;
        loop {
            if state.chores.stop {
                return None;
            }
            let now = Instant::now();
            let due = state.chores.links.iter().map(|(when, _)| *when).min();
            let settle = !state.chores.swept || !state.chores.published.is_empty() || state.leaving().next().is_some();
            let at_once =
                !state.chores.swept || state.chores.urgent || since.is_some_and(|since| now >= since + LINGER);
            if due.is_some_and(|due| due <= now) || settle && at_once {
                return Some(state.batch(now));
            }
            state.chores.urgent = false;
            if settle {
                let until = *since.get_or_insert(now) + LINGER;
                self.signals.work.wait_until(&mut state, until);
            } else if let Some(due) = due {
                self.signals.work.wait_until(&mut state, due);
            } else {
                self.signals.work.wait(&mut state);
            }
        }
    }

    /// Gives the identifiers of those that could not be.
    fn silence_all(&self, leaving: &[Endpoint]) -> BTreeSet<String> {
        let mut stuck = BTreeSet::new();
        for endpoint in leaving {
            match silence(&self.host, &endpoint.host_link) {
                Ok(None) => {}
                Ok(Some(index)) => self.state.lock().chores.links.push((Instant::now() + PATIENCE, index)),
                Err(error) => {
                    let addresses: Vec<IpAddr> = endpoint.addresses().collect();
                    tracing::error!(%error, ?addresses, "a container's link cannot be taken from its bridge: its addresses stay taken");
                    stuck.insert(endpoint.id.clone());
                }
            }
        }
        stuck
    }

    fn forget_flows(&self, batch: &Batch) {
        let protocols = if batch.sctp { &[Protocol::Udp, Protocol::Sctp][..] } else { &[Protocol::Udp] };
        let local = if batch.stale.published.is_empty() { Ok(Vec::new()) } else { self.host.local_addresses() };
        let local = local.unwrap_or_else(|error| {
            tracing::warn!(%error, "clients of published ports may have to pause before they are heard");
            Vec::new()
        });
        for protocol in protocols {
            for ipv6 in [false, true].into_iter().filter(|ipv6| batch.stale.concerns(*ipv6)) {
                let is_stale = |flow: &Flow| batch.stale.is(flow, *protocol, &local);
                match self.conntrack.forget(*protocol, ipv6, is_stale) {
                    Ok(0) => {}
                    Ok(flows) => {
                        tracing::debug!(flows, %protocol, "forgot flows to addresses and ports that changed hands")
                    }
                    Err(error) => tracing::warn!(%error, "datagrams may still go where they went before"),
                }
            }
        }
    }
}

impl State {
    fn batch(&mut self, now: Instant) -> Batch {
        let leaving: Vec<Endpoint> = self.leaving().cloned().collect();
        let chores = &mut self.chores;
        let published = std::mem::take(&mut chores.published);
        let sctp = std::mem::take(&mut chores.sctp) || published.iter().any(|port| port.protocol == Protocol::Sctp);
        chores.urgent = false;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut chores.links).into_iter().partition(|(when, _)| *when <= now);
        chores.links = later;
        let first = !chores.swept;
        let mut stale =
            Stale { gone: leaving.iter().flat_map(Endpoint::addresses).collect(), published, ..Stale::default() };
        if first {
            for entry in self.networks.values() {
                stale.subnets.extend(entry.network.ipam.iter().filter_map(|config| config.subnet));
                stale.known.extend(entry.network.ipam.iter().filter_map(|config| config.gateway));
                stale.known.extend(entry.endpoints.values().flat_map(|named| named.endpoint.addresses()));
            }
        }
        Batch { leaving, stale, sctp, links: due.into_iter().map(|(_, index)| index).collect() }
    }
}

/// Which flows are to be forgotten.
#[derive(Default)]
struct Stale {
    /// Those of these addresses,
    gone: BTreeSet<IpAddr>,
    /// those of these subnets,
    subnets: Vec<IpNet>,
    /// unless they are somebody's,
    known: BTreeSet<IpAddr>,
    /// and those to these ports of the host that go elsewhere.
    published: Vec<PublishedPort>,
}

impl Stale {
    /// Whether there can be one of that family.
    fn concerns(&self, ipv6: bool) -> bool {
        self.gone.iter().any(|ip| ip.is_ipv6() == ipv6)
            || self.subnets.iter().any(|net| net.addr().is_ipv6() == ipv6)
            || self.published.iter().any(|port| port.host.is_ipv6() == ipv6)
    }

    fn is(&self, flow: &Flow, protocol: Protocol, local: &[IpAddr]) -> bool {
        let nobodys = |ip: &IpAddr| {
            self.gone.contains(ip) || self.subnets.iter().any(|net| net.contains(ip)) && !self.known.contains(ip)
        };
        let all = [flow.from, flow.to, flow.answers_from, flow.answers_to];
        // What only passes through the host on its way to such a port elsewhere is none of it.
        let elsewhere = |port: &PublishedPort| {
            port.protocol == protocol
                && port.host.port() == flow.to_port
                && port.host.is_ipv4() == flow.to.is_ipv4()
                && (port.host.ip() == flow.to || port.host.ip().is_unspecified())
                && (flow.to.is_loopback() || local.contains(&flow.to))
                && flow.answers_from != port.target
        };
        all.iter().any(nobodys) || self.published.iter().any(elsewhere)
    }
}
