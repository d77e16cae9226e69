//! firewalld's zones.
//!
//! firewalld rejects most of what comes in by a link that it was not told of. An accept rule in its chain ([`super::foreign`])
//! lets through what is forwarded, but not what containers ask the host itself for; and a newer firewalld (Debian 13's) owns its
//! table, so that nobody else's rules get into it. So the bridges are bound to the zone `trusted`, which accepts all and which every
//! firewalld has, over D-Bus: see firewalld.dbus(5). dockerd binds its bridges to a zone of its own that accepts all, podman its
//! subnets to `trusted`. What may really pass is decided in the instance's own table.
//!
//! The binding is of firewalld's runtime configuration, as ours is a matter of the running machine: a reload forgets it. Both a reload and
//! our own change show as notifications of nftables, whose listener asks here each time that all is as it should be. What an
//! administrator bound to another zone stays there, and a bridge of an administrator's, which others may be on, is bound by nobody.

use crate::network::bridge::GROUP;
use crate::route::RouteSocket;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use zbus::Connection;

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const OBJECT: &str = "/org/fedoraproject/FirewallD1";
const INTERFACE: &str = "org.fedoraproject.FirewallD1.zone";
const ZONE: &str = "trusted";
/// firewalld's table of nftables. It is there for as long as firewalld runs.
pub(super) const TABLE: &str = "firewalld";
/// How long firewalld may take for an answer. While it starts or reloads it gives none.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long somebody who makes a network waits until its bridge is bound.
const SHORT: Duration = Duration::from_secs(5);

/// Keeps bridges bound to the zone. Its thread is there once firewalld was seen.
pub(super) struct Zones {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The bridges that shall be bound.
    wanted: BTreeSet<String>,
    /// How often it was asked for, and up to which of these it is done.
    asked: u64,
    done: u64,
    runs: bool,
    stops: bool,
}

/// One request to bind bridges.
#[derive(Clone, Copy)]
pub(super) struct Request(u64);

impl Zones {
    pub(super) fn new() -> Zones {
        Zones { shared: Arc::new(Shared::default()) }
    }

    /// Has these bridges bound, and others that were bound here no longer. Does not wait.
    pub(super) fn settle(&self, bridges: &BTreeSet<String>) -> Request {
        let mut state = self.shared.state.lock();
        state.wanted.clone_from(bridges);
        state.asked += 1;
        if !state.runs {
            let shared = self.shared.clone();
            let thread = std::thread::Builder::new().name("firewalld".into()).spawn(move || keep_settled(&shared));
            state.runs = thread.inspect_err(|error| tracing::warn!(%error, "no thread to speak to firewalld")).is_ok();
        }
        self.shared.changed.notify_all();
        Request(state.asked)
    }

    /// Waits for a request, for a while: a firewalld that hangs holds up no network.
    pub(super) fn wait_for(&self, request: Request) {
        let mut state = self.shared.state.lock();
        let is_open = |state: &mut State| state.runs && state.done < request.0;
        if self.shared.changed.wait_while_for(&mut state, is_open, SHORT).timed_out() {
            tracing::warn!(
                "firewalld is slow to answer: until it has, containers of a new network may not reach the host"
            );
        }
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        // Not waited for: it may wait for firewalld.
        self.shared.state.lock().stops = true;
        self.shared.changed.notify_all();
    }
}

fn keep_settled(shared: &Shared) {
    let mut bound = BTreeSet::new();
    let mut told = BTreeSet::new();
    loop {
        let (wanted, asked) = {
            let mut state = shared.state.lock();
            shared.changed.wait_while(&mut state, |state| !state.stops && state.done == state.asked);
            if state.stops {
                return;
            }
            (state.wanted.clone(), state.asked)
        };
        let wanted = made_here(wanted);
        for trouble in on_the_bus(bind(&wanted, &mut bound)).unwrap_or_else(|trouble| vec![trouble]) {
            if told.insert(trouble.clone()) {
                tracing::warn!(
                    "{trouble}. Where containers don't reach the host or others: \
                     firewall-cmd --permanent --zone={ZONE} --add-interface=BRIDGE, then firewall-cmd --reload"
                );
            }
        }
        shared.state.lock().done = asked;
        shared.changed.notify_all();
    }
}

/// Those that no administrator made.
fn made_here(bridges: BTreeSet<String>) -> BTreeSet<String> {
    let Ok(host) = RouteSocket::open() else { return BTreeSet::new() };
    let is_made = |name: &String| host.link(name).is_ok_and(|link| link.is_some_and(|link| link.group == GROUP));
    bridges.into_iter().filter(is_made).collect()
}

/// Binds what is wanted and not bound, and lets go what is `bound` and not wanted. What firewalld refuses is told.
async fn bind(wanted: &BTreeSet<String>, bound: &mut BTreeSet<String>) -> Result<Vec<String>, String> {
    let connection = connect().await.map_err(|error| format!("cannot reach firewalld over D-Bus: {error}"))?;
    let present: Vec<String> = match call(&connection, "getInterfaces", &(ZONE,)).await {
        Ok(reply) => {
            reply.body().deserialize().map_err(|error| format!("firewalld's answer is not understood: {error}"))?
        }
        // Its table is still there, or not yet gone, and nobody speaks for it.
        Err(zbus::Error::MethodError(name, ..)) if is_absence(&name) => return Ok(Vec::new()),
        Err(error) => return Err(format!("firewalld does not say what is in its zone {ZONE}: {error}")),
    };
    let mut troubles = Vec::new();
    for bridge in wanted.iter().filter(|bridge| !present.contains(bridge)) {
        match call(&connection, "addInterface", &(ZONE, bridge.as_str())).await {
            Ok(_) => tracing::info!(bridge, "bound to firewalld's zone {ZONE}"),
            Err(error) => troubles.push(format!("firewalld does not let {bridge} into its zone {ZONE}: {error}")),
        }
    }
    for bridge in bound.iter().filter(|bridge| !wanted.contains(*bridge) && present.contains(bridge)) {
        if let Err(error) = call(&connection, "removeInterface", &(ZONE, bridge.as_str())).await {
            troubles.push(format!("firewalld does not let {bridge} out of its zone {ZONE}: {error}"));
        }
    }
    bound.clone_from(wanted);
    Ok(troubles)
}

/// Takes bridges out of the zone where firewalld runs.
pub(super) fn let_go(bridges: &[String]) {
    let mut bound = bridges.iter().cloned().collect();
    // A thread of its own, as whoever calls may be within an asynchronous runtime.
    let work = || on_the_bus(bind(&BTreeSet::new(), &mut bound)).unwrap_or_else(|trouble| vec![trouble]);
    let troubles = std::thread::scope(|scope| scope.spawn(work).join());
    for trouble in troubles.unwrap_or_default() {
        tracing::warn!("{trouble}");
    }
}

/// Runs what speaks over D-Bus on the calling thread: nothing of it is left afterwards.
fn on_the_bus<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot speak over D-Bus: {error}"))?.block_on(work)
}

async fn connect() -> zbus::Result<Connection> {
    zbus::connection::Builder::system()?.method_timeout(PATIENCE).build().await
}

async fn call<B>(connection: &Connection, method: &str, arguments: &B) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    connection.call_method(Some(SERVICE), OBJECT, Some(INTERFACE), method, arguments).await
}

fn is_absence(name: &str) -> bool {
    matches!(name, "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner")
}
