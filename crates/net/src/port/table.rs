//! Which ports of the host are published, and the sockets that keep them.
//!
//! Every published port has a bound socket, so that no other program takes it and a port that is in use is noticed. The
//! sockets are handed to the forwarder process, which keeps them while the daemon is away, and which carries the
//! traffic itself where the host's address is of another family than the container's.

use super::spec::{PortError, PortSpec, Protocol, PublishedPort};
use crate::error::{Error, Result};
use crate::forward::{self, ForwardClient, ForwardError, Hold, Mode, Proto};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// When a port that somebody else has is tried again, first and at last: each pause is twice the one before.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_LAST: Duration = Duration::from_secs(30);

/// Where a sandbox' ports lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Targets {
    /// The container's address for traffic to a host's address: of the same family where it has one.
    fn of(self, host: IpAddr) -> Option<IpAddr> {
        let (v4, v6) = (self.v4.map(IpAddr::from), self.v6.map(IpAddr::from));
        if host.is_ipv4() { v4.or(v6) } else { v6.or(v4) }
    }
}

type PortResult<T> = std::result::Result<T, PortError>;

/// The instance's published ports.
pub(crate) struct PortTable {
    this: Weak<PortTable>,
    forwarder: Option<Arc<ForwardClient>>,
    state: Mutex<State>,
    /// Whether a thread waits for the forwarder's end.
    watched: AtomicBool,
    /// Ends that thread when the other end, the next field, is closed.
    stopped: Arc<OwnedFd>,
    _stop: OwnedFd,
}

#[derive(Default)]
struct State {
    /// With the socket, where there is one and no forwarder to keep it.
    published: BTreeMap<(Protocol, SocketAddr), (PublishedPort, Option<OwnedFd>)>,
    /// The ephemeral port that was given out last.
    last_ephemeral: u16,
    /// Whether a thread tries to get back ports that somebody else has.
    retries: bool,
    /// How often forwarders ended of late.
    ends: Ends,
}

/// The ends of forwarders. One that ends is replaced at once, but for one that ended soon after the one before: for
/// that the pauses are those of a port that somebody has. nftables carries what it carries meanwhile.
#[derive(Default)]
struct Ends {
    last: Option<Instant>,
    pause: Duration,
}

impl Ends {
    /// Another one has ended: how long to wait before it is replaced.
    fn count(&mut self, now: Instant) -> Duration {
        let began = self.last.map(|last| last + self.pause);
        let lived_long = began.is_none_or(|began| now.saturating_duration_since(began) >= RETRY_LAST);
        self.pause = if lived_long { Duration::ZERO } else { (self.pause * 2).clamp(RETRY_FIRST, RETRY_LAST) };
        self.last = Some(now);
        self.pause
    }
}

impl PortTable {
    /// Takes over what running sandboxes have published: what the forwarder holds already is left alone, what it lost
    /// is bound again, and what it holds for nobody is let go.
    pub(crate) fn open(forwarder: Option<Arc<ForwardClient>>, running: &[PublishedPort]) -> Result<Arc<PortTable>> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::kernel("make a pipe", e))?;
        let table = Arc::new_cyclic(|this| PortTable {
            this: this.clone(),
            forwarder,
            state: Mutex::default(),
            watched: AtomicBool::new(false),
            stopped: Arc::new(stopped),
            _stop: stop,
        });
        for port in running {
            table.state.lock().published.insert((port.protocol, port.host), (port.clone(), None));
        }
        table.bring_forwarder_up_to_date();
        table.hold_again();
        Ok(table)
    }

    /// A daemon that was installed over the one before gets a forwarder of its own release, which loses nothing that it
    /// holds.
    fn bring_forwarder_up_to_date(&self) {
        match self.forwarder.as_ref().map(|forwarder| forwarder.bring_up_to_date()) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => tracing::info!("the port forwarder has gone on as this program"),
            Some(Err(error)) => tracing::warn!(%error, "the port forwarder goes on as the program that it is"),
        }
    }

    /// Waits, on a thread of its own, for the forwarder to end, and then has another hold everything again.
    fn watch_forwarder(&self, forwarder: &ForwardClient) {
        if self.watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let watch = match forwarder.watch() {
            // None: it has ended since it was last heard of, and the wait with it.
            Ok(watch) => watch,
            Err(error) => {
                tracing::warn!(%error, "the port forwarder cannot be watched");
                return self.watched.store(false, Ordering::Release);
            }
        };
        let (this, stopped) = (self.this.clone(), self.stopped.clone());
        let wait = move || {
            let ended = watch.is_none_or(|watch| wait_for_either(watch.as_fd(), stopped.as_fd()));
            let Some(pause) =
                this.upgrade().filter(|_| ended).map(|table| table.state.lock().ends.count(Instant::now()))
            else {
                return;
            };
            tracing::warn!(?pause, "the port forwarder ended: another one takes over");
            if !pause.is_zero() && is_stopped_within(pause, stopped.as_fd()) {
                return;
            }
            if let Some(table) = this.upgrade() {
                table.watched.store(false, Ordering::Release);
                table.hold_again();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("forward-watch".into()).spawn(wait) {
            tracing::warn!(%error, "the port forwarder cannot be watched");
            self.watched.store(false, Ordering::Release);
        }
    }

    /// Makes the forwarder hold exactly what is published. For the start, and when the forwarder was killed.
    pub(crate) fn hold_again(&self) {
        let mut state = self.state.lock();
        let is_whole = self.hold_missing(&mut state, |error| {
            tracing::warn!(%error, "a published port is not reserved any more");
        });
        if !is_whole && !std::mem::replace(&mut state.retries, true) {
            self.retry(&mut state);
        }
    }

    /// Tries, on a thread of its own, to get back the ports that somebody has: for a moment as a rule, as a process
    /// that was forked has all that its parent has until it executes its program. nftables carries what it carries
    /// meanwhile.
    fn retry(&self, state: &mut State) {
        let (this, stopped) = (self.this.clone(), self.stopped.clone());
        let retry = move || {
            let mut pause = RETRY_FIRST;
            while !is_stopped_within(pause, stopped.as_fd()) {
                let Some(table) = this.upgrade() else { return };
                let mut state = table.state.lock();
                if table.hold_missing(&mut state, |error| tracing::debug!(%error, "a port is not free yet")) {
                    state.retries = false;
                    return tracing::info!("all published ports are reserved again");
                }
                pause = (pause * 2).min(RETRY_LAST);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("forward-retry".into()).spawn(retry) {
            tracing::warn!(%error, "published ports that are not reserved cannot be tried again");
            state.retries = false;
        }
    }

    /// Has the forwarder hold what it does not hold yet of all that is published, and nothing else. Whether it holds
    /// all of it.
    fn hold_missing(&self, state: &mut State, complain: impl Fn(PortError)) -> bool {
        let mut held: BTreeMap<String, Mode> = BTreeMap::new();
        if let Some(forwarder) = &self.forwarder {
            match forwarder.list() {
                Ok(list) => held.extend(list.into_iter().map(|held| (held.hold.key, held.hold.mode))),
                Err(ForwardError::Lost { .. }) => {}
                Err(error) => tracing::warn!(%error, "the port forwarder does not tell what it holds"),
            }
            if !held.is_empty() {
                self.watch_forwarder(forwarder);
            }
        }
        let mut is_whole = true;
        for (port, socket) in state.published.values_mut() {
            if socket.is_some() || held.remove(&key_of(port)) == Some(mode_of(port)) {
                continue;
            }
            match self.reserve(port) {
                Ok(kept) => *socket = kept,
                Err(error) => {
                    is_whole = false;
                    complain(error);
                }
            }
        }
        if let Some(forwarder) = &self.forwarder {
            for key in held.keys() {
                let _ = forwarder.release(key);
            }
        }
        is_whole
    }

    /// Publishes ports of a sandbox: all, or none.
    pub(crate) fn publish(
        &self,
        specs: &[PortSpec],
        binding: Option<Ipv4Addr>,
        targets: Targets,
    ) -> PortResult<Vec<PublishedPort>> {
        let mut state = self.state.lock();
        let mut published = Vec::new();
        for spec in specs {
            match self.publish_one(&mut state, spec, binding, targets) {
                Ok(ports) => published.extend(ports),
                Err(error) => {
                    self.release_from(&mut state, &published);
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    /// Lets ports go.
    pub(crate) fn release(&self, ports: &[PublishedPort]) {
        self.release_from(&mut self.state.lock(), ports);
    }

    /// Leads published ports to another address, without letting them go.
    pub(crate) fn retarget(&self, ports: &[PublishedPort], targets: Targets) -> Vec<PublishedPort> {
        let mut state = self.state.lock();
        let mut moved = Vec::new();
        for port in ports {
            let Some(target) = targets.of(port.host.ip()) else { continue };
            let port = PublishedPort { target, ..port.clone() };
            if let Some((entry, _)) = state.published.get_mut(&(port.protocol, port.host)) {
                *entry = port.clone();
            }
            if let Some(forwarder) = &self.forwarder
                && let Err(error) = forwarder.retarget(&key_of(&port), mode_of(&port))
            {
                tracing::warn!(%error, port = %port.host, "the port forwarder did not follow a container's new address");
            }
            moved.push(port);
        }
        moved
    }

    fn publish_one(
        &self,
        state: &mut State,
        spec: &PortSpec,
        binding: Option<Ipv4Addr>,
        targets: Targets,
    ) -> PortResult<Vec<PublishedPort>> {
        if spec.container_port == 0 || spec.host_port.as_ref().is_some_and(|r| r.is_empty() || *r.start() == 0) {
            return Err(PortError::Invalid(format!("{spec:?}")));
        }
        let hosts: Vec<IpAddr> = match (spec.host_ip, binding) {
            (Some(ip), _) => vec![ip],
            (None, Some(ip)) => vec![ip.into()],
            (None, None) => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let optional_v6 = hosts.len() > 1;
        let single = spec.host_port.as_ref().is_some_and(|range| range.start() == range.end());
        for number in Candidates::of(spec, state.last_ephemeral) {
            match self.bind_all(state, spec, &hosts, optional_v6, number, targets) {
                Ok(ports) => {
                    if spec.host_port.is_none() {
                        state.last_ephemeral = number;
                    }
                    return Ok(ports);
                }
                Err(error) if single || !is_taken(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Err(PortError::Exhausted)
    }

    /// Binds one number at every host address.
    fn bind_all(
        &self,
        state: &mut State,
        spec: &PortSpec,
        hosts: &[IpAddr],
        optional_v6: bool,
        number: u16,
        targets: Targets,
    ) -> PortResult<Vec<PublishedPort>> {
        let mut published: Vec<PublishedPort> = Vec::new();
        for ip in hosts {
            let Some(target) = targets.of(*ip) else { continue };
            let host = SocketAddr::new(*ip, number);
            let port = PublishedPort { host, container_port: spec.container_port, protocol: spec.protocol, target };
            // Across families only the forwarder can carry, and it carries no SCTP.
            let carried = !port.is_proxied() || (self.forwarder.is_some() && spec.protocol != Protocol::Sctp);
            if optional_v6 && !carried {
                continue;
            }
            match self.bind_one(state, &port) {
                Ok(()) => published.push(port),
                Err(error) if optional_v6 && ip.is_ipv6() && is_without_ipv6(&error) => {}
                Err(error) => {
                    self.release_from(state, &published);
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    fn bind_one(&self, state: &mut State, port: &PublishedPort) -> PortResult<()> {
        let number = port.host.port();
        let collides = |(protocol, host): &(Protocol, SocketAddr)| {
            *protocol == port.protocol && host.port() == number && collide(host.ip(), port.host.ip())
        };
        if state.published.keys().any(collides) {
            return Err(PortError::Allocated(port.host));
        }
        let kept = self.reserve(port)?;
        state.published.insert((port.protocol, port.host), (port.clone(), kept));
        Ok(())
    }

    /// Takes the port of the host, so that nobody else gets it. The socket is the caller's where there is no forwarder.
    fn reserve(&self, port: &PublishedPort) -> PortResult<Option<OwnedFd>> {
        match bind(port)? {
            Some(socket) => self.keep(port, socket),
            None => Ok(None),
        }
    }

    /// Hands a socket to the forwarder, or gives it back where there is none.
    fn keep(&self, port: &PublishedPort, socket: OwnedFd) -> PortResult<Option<OwnedFd>> {
        let Some(forwarder) = &self.forwarder else { return Ok(Some(socket)) };
        let hold = Hold { key: key_of(port), proto: proto_of(port.protocol), mode: mode_of(port) };
        let mut result = forwarder.hold(&hold, &socket);
        // It was killed: this call starts another, and whoever watches it hands it the rest.
        if let Err(ForwardError::Lost { .. }) = result {
            result = forwarder.hold(&hold, &socket);
        }
        if result.is_ok() {
            self.watch_forwarder(forwarder);
        }
        result.map(|()| None).map_err(|error| PortError::Forwarder {
            host: port.host,
            protocol: port.protocol,
            reason: error.to_string(),
        })
    }

    fn release_from(&self, state: &mut State, ports: &[PublishedPort]) {
        for port in ports {
            if state.published.remove(&(port.protocol, port.host)).is_none() {
                continue;
            }
            if let Some(forwarder) = &self.forwarder
                && let Err(error) = forwarder.release(&key_of(port))
                && !matches!(error, ForwardError::Lost { .. })
            {
                tracing::warn!(%error, port = %port.host, "the port forwarder did not let a port go");
            }
        }
    }
}

/// Whether the first became readable (or was closed at its other end), and not the second.
fn wait_for_either(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> bool {
    let mut poll = [PollFd::from_borrowed_fd(first, PollFlags::IN), PollFd::from_borrowed_fd(second, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut poll, None) {
            Ok(_) => return poll[1].revents().is_empty(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Whether the descriptor was closed at its other end before so much time has passed.
fn is_stopped_within(time: Duration, stopped: BorrowedFd<'_>) -> bool {
    let time = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    let mut poll = [PollFd::from_borrowed_fd(stopped, PollFlags::IN)];
    // A signal ends a pause early, and nothing else.
    match rustix::event::poll(&mut poll, Some(&time)) {
        Ok(ready) => ready > 0,
        Err(errno) => errno != Errno::INTR,
    }
}

/// The numbers that are tried for a port, in their order.
struct Candidates {
    range: std::ops::RangeInclusive<u16>,
    next: Option<u16>,
    left: u32,
}

impl Candidates {
    fn of(spec: &PortSpec, last_ephemeral: u16) -> Candidates {
        let range = spec.host_port.clone().unwrap_or_else(ephemeral_range);
        let start = match spec.host_port {
            None if range.contains(&last_ephemeral) && last_ephemeral < *range.end() => last_ephemeral + 1,
            _ => *range.start(),
        };
        let left = u32::from(*range.end() - *range.start()) + 1;
        Candidates { range, next: Some(start), left }
    }
}

impl Iterator for Candidates {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        let number = self.next?;
        self.next = Some(if number == *self.range.end() { *self.range.start() } else { number + 1 });
        Some(number)
    }
}

/// The kernel's range for ports that nobody chose (ip(7)), as Docker takes it; its default where it cannot be read.
fn ephemeral_range() -> std::ops::RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|word| word.parse::<u16>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if 0 < first && first <= last => first..=last,
        _ => 32768..=60999,
    }
}

/// Whether two addresses of the host cannot both have a port.
fn collide(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// A socket that has the port. A kernel without SCTP gives nobody such a socket, so there is nobody to keep the port from;
/// nftables carries it all the same, to a container whose program brings an SCTP of its own.
fn bind(port: &PublishedPort) -> PortResult<Option<OwnedFd>> {
    match forward::bind(proto_of(port.protocol), port.host) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::PROTONOSUPPORT) if port.protocol == Protocol::Sctp => Ok(None),
        Err(errno) => Err(PortError::Bind {
            host: port.host,
            target: SocketAddr::new(port.target, port.container_port),
            protocol: port.protocol,
            source: errno.into(),
        }),
    }
}

fn is_taken(error: &PortError) -> bool {
    match error {
        PortError::Allocated(_) => true,
        PortError::Bind { source, .. } => source.raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error()),
        _ => false,
    }
}

/// Whether the host has no IPv6, or has it switched off.
fn is_without_ipv6(error: &PortError) -> bool {
    let PortError::Bind { source, .. } = error else { return false };
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].iter().any(|e| source.raw_os_error() == Some(e.raw_os_error()))
}

fn key_of(port: &PublishedPort) -> String {
    format!("{}/{}", port.protocol, port.host)
}

/// nftables carries what is of one family, but for `[::1]`, which the kernel does not route to another link.
fn mode_of(port: &PublishedPort) -> Mode {
    let loopback = matches!(port.host.ip(), IpAddr::V6(ip) if ip.is_unspecified() || ip.is_loopback());
    match (port.is_proxied() || loopback) && port.protocol != Protocol::Sctp {
        true => Mode::Proxy { target: SocketAddr::new(port.target, port.container_port) },
        false => Mode::Reserve,
    }
}

fn proto_of(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
        Protocol::Sctp => Proto::Sctp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarders_that_end_at_once_are_replaced_ever_more_slowly() {
        let (mut ends, mut now) = (Ends::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..16 {
            let pause = ends.count(now);
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses[..4], [0, 10, 20, 40].map(Duration::from_millis));
        assert_eq!(pauses[15], RETRY_LAST);
        // One that lived for a while is no such case any more.
        assert_eq!(ends.count(now + RETRY_LAST), Duration::ZERO);
    }
}
