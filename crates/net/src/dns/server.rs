//! The server: which sandboxes it serves, and with what.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::pace::Pace;
use super::sockets::{self, Listening, Openers};
use super::transport;
use super::upstream::{DNS_PORT, HostServers};
use super::{DnsError, NameSource};

/// What the server is started with.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The host's `resolv.conf`. It is looked at for each query that is passed on, so that a host that changes networks
    /// takes its containers along.
    pub host_resolv_conf: PathBuf,
    /// The port that other servers listen at.
    pub upstream_port: u16,
    /// Queries under way to other servers, of all sandboxes. More are answered with a failure at once.
    pub max_forwarded: usize,
    /// Queries under way to other servers, of one sandbox, so that one cannot take the names from all.
    pub max_forwarded_per_sandbox: usize,
    /// Queries a second of one sandbox, whoever answers them; as many again may come at once. More have to wait.
    pub max_queries_per_second: u32,
    /// TCP connections of one sandbox. More are closed at once.
    pub max_connections_per_sandbox: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig {
            host_resolv_conf: "/etc/resolv.conf".into(),
            upstream_port: DNS_PORT,
            max_forwarded: 1024,
            max_forwarded_per_sandbox: 256,
            max_queries_per_second: 2000,
            max_connections_per_sandbox: 64,
        }
    }
}

/// Who is asked for names that aren't ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// The servers in the host's `resolv.conf`, as it is at that moment, asked from the host's network namespace: 127.0.0.53
    /// there is the host's own resolver.
    Host,
    /// The servers of `--dns`, asked from the sandbox's namespace: 127.0.0.53 is a server in the container.
    Sandbox(Vec<IpAddr>),
    /// The servers of `--dns` of a machine with a kernel of its own, asked from the host's namespace while the sandbox is external: from its own
    /// there is no way out, as everything but the loopback is the machine's. One at 127.0.0.53 would be in the machine, and is not asked.
    Machine(Vec<IpAddr>),
}

impl Upstreams {
    /// The same of a machine with a kernel of its own.
    #[must_use]
    pub fn of_machine(self) -> Upstreams {
        match self {
            Upstreams::Sandbox(servers) => Upstreams::Machine(servers),
            other => other,
        }
    }
}

/// What the server needs to know about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxDns {
    /// Its identifier, as the [`NameSource`] knows it.
    pub id: String,
    /// Who is asked for names that aren't ours.
    pub upstreams: Upstreams,
    /// Whether the host's servers may be asked for it. They may not while all its networks are internal ones: names would
    /// carry data out. Servers that are asked from its own namespace are asked in any case: they are where it can get anyway.
    pub is_external: bool,
    /// Its `resolv.conf` has an `ndots` option that the user or the host chose: see [`super::View::ndots_set`].
    pub ndots_set: bool,
    /// The port that an earlier daemon's [`DnsServer::attach`] returned for this namespace.
    pub port: Option<u16>,
}

/// The embedded DNS server of a daemon. Dropping it detaches all sandboxes.
pub struct DnsServer {
    shared: Arc<Shared>,
    runtime: Handle,
    sandboxes: Mutex<HashMap<String, Attached>>,
}

/// What all sandboxes share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn NameSource>,
    pub(super) config: DnsConfig,
    pub(super) host: HostServers,
    pub(super) permits: Arc<Semaphore>,
    pub(super) openers: Openers,
}

/// A sandbox that is served.
pub(super) struct Sandbox {
    pub(super) namespace: OwnedFd,
    pub(super) dns: RwLock<SandboxDns>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) pace: Pace,
}

/// The tasks of a sandbox; ends them when it goes.
struct Attached {
    sandbox: Arc<Sandbox>,
    tasks: [AbortHandle; 2],
}

impl Drop for Attached {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl DnsServer {
    /// Starts the server in the current `tokio` runtime, which needs I/O and time. It serves nobody yet.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(source: Arc<dyn NameSource>, config: DnsConfig) -> Self {
        let host = HostServers::new(config.host_resolv_conf.clone(), config.upstream_port);
        let permits = Arc::new(Semaphore::new(config.max_forwarded));
        let openers = Openers::new(config.max_forwarded);
        let shared = Arc::new(Shared { source, config, host, permits, openers });
        DnsServer { shared, runtime: Handle::current(), sandboxes: Mutex::default() }
    }

    /// Serves a sandbox in its network namespace, whose loopback interface is up. When this returns, its processes can ask.
    /// A sandbox that is attached already is attached anew.
    ///
    /// Returns the port, on 127.0.0.11 in the namespace, that port 53 is led to. Remember it: a later daemon that gives it
    /// back takes over without touching the namespace's rules, and clients notice nothing.
    ///
    /// Synchronous, and takes 0.2 ms in a fresh namespace, most of it nftables; 0.05 ms with a port from before.
    ///
    /// # Errors
    /// Where the namespace cannot be entered, or refuses a socket or a rule.
    pub fn attach(&self, namespace: OwnedFd, dns: SandboxDns) -> Result<u16, DnsError> {
        match self.attach_all(vec![(namespace, dns)]).pop() {
            Some(outcome) => outcome,
            None => unreachable!("one outcome for one sandbox"),
        }
    }

    /// [`attach`](Self::attach) for many sandboxes, as after a restart: one thread visits all namespaces. The outcomes are
    /// in the order of the sandboxes.
    pub fn attach_all(&self, sandboxes: Vec<(OwnedFd, SandboxDns)>) -> Vec<Result<u16, DnsError>> {
        {
            // Their sockets have to be closed before the same ports can be bound again; what was there goes.
            let mut attached = self.sandboxes.lock();
            for (_, dns) in &sandboxes {
                attached.remove(&dns.id);
            }
        }
        let open_all = || -> Vec<Result<Listening, DnsError>> {
            sandboxes.iter().map(|(namespace, dns)| sockets::open(&dns.id, namespace.as_fd(), dns.port)).collect()
        };
        match sockets::on_a_thread(open_all) {
            Ok(opened) => {
                let both = sandboxes.into_iter().zip(opened);
                both.map(|((namespace, dns), listening)| self.serve(namespace, dns, listening?)).collect()
            }
            Err(error) => sandboxes
                .into_iter()
                .map(|(_, dns)| {
                    let source = error.kind().into();
                    Err(DnsError::Socket { what: "start a thread", sandbox: dns.id, source })
                })
                .collect(),
        }
    }

    fn serve(&self, namespace: OwnedFd, dns: SandboxDns, listening: Listening) -> Result<u16, DnsError> {
        let id = dns.id.clone();
        let failed = |source| DnsError::Socket { what: "watch a socket", sandbox: id.clone(), source };
        let _inside = self.runtime.enter();
        let udp = tokio::net::UdpSocket::from_std(listening.udp).map_err(failed)?;
        let tcp = tokio::net::TcpListener::from_std(listening.tcp).map_err(failed)?;
        let permits = Arc::new(Semaphore::new(self.shared.config.max_forwarded_per_sandbox));
        let pace = Pace::new(self.shared.config.max_queries_per_second, Instant::now());
        let sandbox = Arc::new(Sandbox { namespace, dns: RwLock::new(dns), permits, pace });
        let tasks = [
            self.runtime.spawn(transport::serve_udp(udp, sandbox.clone(), self.shared.clone())).abort_handle(),
            self.runtime.spawn(transport::serve_tcp(tcp, sandbox.clone(), self.shared.clone())).abort_handle(),
        ];
        self.sandboxes.lock().insert(id, Attached { sandbox, tasks });
        Ok(listening.port)
    }

    /// Changes what is known about a sandbox while it is served: it joined another network, or left one. Its identifier and
    /// its port stay. Returns whether it is served.
    pub fn update(&self, id: &str, change: impl FnOnce(&mut SandboxDns)) -> bool {
        let sandboxes = self.sandboxes.lock();
        let Some(attached) = sandboxes.get(id) else { return false };
        let mut dns = attached.sandbox.dns.write();
        change(&mut dns);
        id.clone_into(&mut dns.id);
        true
    }

    /// Stops to serve a sandbox, and lets go of its namespace. Sockets close when the runtime next gets to it, at once as a
    /// rule. Returns whether it was served.
    pub fn detach(&self, id: &str) -> bool {
        self.sandboxes.lock().remove(id).is_some()
    }

    /// How many sandboxes are served.
    pub fn len(&self) -> usize {
        self.sandboxes.lock().len()
    }

    /// Whether none is served.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
