//! Namespaces made on a thread of their own, and a stock of prepared ones.
//!
//! Making a network namespace takes the kernel 0.7 ms, and a veth pair on a bridge as long again. So after the first
//! start a stock is kept of namespaces whose loopback is up and whose `eth0` is on the default bridge, up, and without an
//! address: a start takes one and has to give it its address and routes only. Of namespaces with nothing but their loopback, for those
//! without a network and those of other networks, there is a stock from the first of them on. All are refilled in the background;
//! when nobody took anything for a while, most is given back.
//!
//! A thread that called unshare(2) is in the new namespace afterwards, and what it opens and writes there is the new
//! one's. Before it goes idle it returns, so as to keep nobody's namespace alive.

use super::link::{HostLinks, VethPlan};
use crate::error::{Error, Result};
use crate::namespace::NetNs;
use crate::route::{Change, RouteSocket};
use crate::sysctl::Sysctls;
use nix::sched::{CloneFlags, setns, unshare};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// When nobody took from the stock for so long, it is reduced to a quarter.
const IDLE: Duration = Duration::from_secs(30);

/// A namespace with its loopback up, and a socket to configure it with.
pub(crate) struct Bare {
    pub(crate) namespace: NetNs,
    pub(crate) socket: RouteSocket,
}

/// A bare namespace with a link on a bridge.
pub(crate) struct Prepared {
    pub(crate) bare: Bare,
    pub(crate) link_index: u32,
    pub(crate) host_link: String,
}

/// What prepared endpoints are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The bridge's index.
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) link_name: String,
    pub(crate) ipv6: bool,
    pub(crate) isolated: bool,
}

/// The thread, its orders and its stock.
pub(crate) struct Workshop {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// For the thread: there is something to do.
    wake: Condvar,
    /// For those who wait for a prepared endpoint: the stock changed, or an attempt failed.
    made: Condvar,
    host_links: HostLinks,
}

#[derive(Default)]
struct State {
    /// Whoever needs a bare namespace now, and whether with IPv6.
    orders: VecDeque<(bool, Sender<Result<Bare>>)>,
    plan: Option<Plan>,
    endpoints: Stock<Prepared>,
    /// Bare namespaces, those whose links have no IPv6 first.
    bare: [Stock<Bare>; 2],
    most: usize,
    /// How often an endpoint could not be prepared.
    failures: u64,
    stop: bool,
}

/// What was made ahead, of one kind.
struct Stock<T> {
    made: Vec<T>,
    /// How many there shall be: 0 before the first use.
    target: usize,
}

impl<T> Default for Stock<T> {
    fn default() -> Stock<T> {
        Stock { made: Vec::new(), target: 0 }
    }
}

impl<T> Stock<T> {
    fn lacks(&self) -> bool {
        self.made.len() < self.target
    }

    /// Takes out what is more than so many, and lets it stay so.
    fn reduce(&mut self, to: usize) -> Vec<T> {
        self.target = self.target.min(to);
        self.made.split_off(self.target.min(self.made.len()))
    }
}

/// What the thread is to do next.
enum Job {
    Order(bool, Sender<Result<Bare>>),
    Bare(bool),
    Prepare(Plan),
    Stop,
}

impl Workshop {
    /// Starts the thread, in the caller's network namespace. `most` is the size of the full stock.
    pub(crate) fn open(host_links: HostLinks, most: usize) -> Result<Workshop> {
        let state = State { most, ..State::default() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new(), made: Condvar::new(), host_links });
        let (home, host) = (NetNs::of_this_thread()?, RouteSocket::open()?);
        let thread = std::thread::Builder::new()
            .name("net-workshop".into())
            .spawn({
                let shared = shared.clone();
                move || shared.run(&home, &host)
            })
            .map_err(|e| Error::io("start the thread that makes network namespaces", e))?;
        Ok(Workshop { shared, thread: Some(thread) })
    }

    /// Says what to prepare; the stock of an earlier plan is thrown away.
    pub(crate) fn set_plan(&self, plan: Option<Plan>) {
        let mut state = self.shared.state.lock();
        if state.plan != plan {
            state.plan = plan;
            let stale = std::mem::take(&mut state.endpoints.made);
            self.shared.made.notify_all();
            drop(state);
            drop(stale);
        }
        self.shared.wake.notify_one();
    }

    /// Takes a prepared endpoint of that plan, and has the stock refilled. Where the stock is used up it waits for the next:
    /// the kernel makes links one after another, so that another thread would be no faster. `None` where none can be
    /// prepared; whoever makes one himself is told why.
    pub(crate) fn take(&self, plan: &Plan) -> Option<Prepared> {
        let mut state = self.shared.state.lock();
        let failures = state.failures;
        state.endpoints.target = state.most;
        while state.plan.as_ref() == Some(plan) && state.most > 0 && state.failures == failures && !state.stop {
            let prepared = state.endpoints.made.pop();
            self.shared.wake.notify_one();
            if prepared.is_some() {
                return prepared;
            }
            state.endpoints.target = state.most;
            self.shared.made.wait(&mut state);
        }
        None
    }

    /// A bare namespace; `ipv6` is whether its future links have IPv6.
    pub(crate) fn bare(&self, ipv6: bool) -> Result<Bare> {
        let (reply, answer) = channel();
        {
            let mut state = self.shared.state.lock();
            let most = state.most;
            let stock = &mut state.bare[usize::from(ipv6)];
            stock.target = most;
            let made = stock.made.pop();
            if made.is_none() {
                state.orders.push_back((ipv6, reply));
            }
            self.shared.wake.notify_one();
            if let Some(made) = made {
                return Ok(made);
            }
        }
        let ended = || Error::io("make a network namespace", std::io::Error::other("the thread that makes them ended"));
        answer.recv().map_err(|_| ended())?
    }

    /// How many prepared endpoints are in stock.
    pub(crate) fn endpoints(&self) -> usize {
        self.shared.state.lock().endpoints.made.len()
    }

    /// How many bare namespaces are in stock.
    pub(crate) fn namespaces(&self) -> usize {
        self.shared.state.lock().bare.iter().map(|stock| stock.made.len()).sum()
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.stop = true;
        state.orders.clear();
        drop(state);
        self.shared.made.notify_all();
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It only panics where this program is wrong, which its message told.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, home: &NetNs, host: &RouteSocket) {
        let mut sysctls = Sysctls::default();
        loop {
            match self.next_job(home) {
                Job::Stop => return,
                Job::Order(ipv6, reply) => {
                    // Whoever ordered may have gone.
                    let _ = reply.send(make_bare(ipv6, &mut sysctls));
                }
                Job::Bare(ipv6) => {
                    let made = make_bare(ipv6, &mut sysctls);
                    let mut state = self.state.lock();
                    let stock = &mut state.bare[usize::from(ipv6)];
                    match made {
                        Ok(bare) => stock.made.push(bare),
                        // Whoever needs one orders it, and is told.
                        Err(error) => {
                            tracing::warn!(%error, "no network namespaces can be prepared");
                            stock.target = 0;
                        }
                    }
                }
                Job::Prepare(plan) => {
                    let prepared = self.prepare(host, &mut sysctls, &plan);
                    self.put_by(&plan, prepared);
                }
            }
        }
    }

    fn put_by(&self, plan: &Plan, prepared: Result<Prepared>) {
        let mut state = self.state.lock();
        match prepared {
            Ok(prepared) => {
                if state.plan.as_ref() == Some(plan) {
                    state.endpoints.made.push(prepared);
                    self.made.notify_one();
                }
            }
            Err(error) => {
                // Starts make their own, and tell their caller what is wrong; the next one tries again.
                tracing::warn!(%error, "no network endpoints can be prepared");
                state.endpoints.target = 0;
                state.failures += 1;
                self.made.notify_all();
            }
        }
    }

    /// Waits for work, at home.
    fn next_job(&self, home: &NetNs) -> Job {
        let mut state = self.state.lock();
        let mut at_home = false;
        loop {
            if state.stop {
                return Job::Stop;
            }
            if let Some((ipv6, reply)) = state.orders.pop_front() {
                return Job::Order(ipv6, reply);
            }
            if let Some(plan) = state.plan.clone().filter(|_| state.endpoints.lacks()) {
                return Job::Prepare(plan);
            }
            if let Some(kind) = state.bare.iter().position(Stock::lacks) {
                return Job::Bare(kind == 1);
            }
            if !at_home {
                at_home = true;
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    let back = setns(home, CloneFlags::CLONE_NEWNET);
                    self.host_links.look();
                    if let Err(error) = back {
                        tracing::warn!(%error, "a thread could not return to the host's network namespace");
                    }
                });
                continue;
            }
            let few = state.most.div_ceil(4);
            if state.endpoints.target <= few && state.bare.iter().all(|stock| stock.target <= few) {
                self.wake.wait(&mut state);
            } else if self.wake.wait_for(&mut state, IDLE).timed_out() {
                let surplus = (state.endpoints.reduce(few), state.bare.each_mut().map(|stock| stock.reduce(few)));
                parking_lot::MutexGuard::unlocked(&mut state, || drop(surplus));
            }
        }
    }

    fn prepare(&self, host: &RouteSocket, sysctls: &mut Sysctls, plan: &Plan) -> Result<Prepared> {
        let bare = make_bare(plan.ipv6, sysctls)?;
        let veth = VethPlan {
            bridge: plan.bridge,
            link_name: &plan.link_name,
            mac: None,
            mtu: plan.mtu,
            isolated: plan.isolated,
        };
        let host_link = self.host_links.make(host, &bare.namespace, &veth)?;
        let link = bare.socket.link(&plan.link_name)?;
        let link_index = link.map(|link| link.index).ok_or_else(|| {
            Error::io(format!("find the new link {}", plan.link_name), std::io::ErrorKind::NotFound.into())
        })?;
        bare.socket.apply(&[Change::link_up(link_index)])?;
        Ok(Prepared { bare, link_index, host_link })
    }
}

/// Moves the calling thread into a new namespace and sets it up.
fn make_bare(ipv6: bool, sysctls: &mut Sysctls) -> Result<Bare> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| Error::io("make a network namespace", e.into()))?;
    let (namespace, socket) = (NetNs::of_this_thread()?, RouteSocket::open()?);
    if !ipv6 {
        // As Docker has it: a link without an IPv6 address of its network has none at all, not even a link-local one.
        sysctls.write_if_there("net/ipv6/conf/default/disable_ipv6", "1")?;
    } else {
        sysctls.write_if_there("net/ipv6/conf/default/accept_dad", "0")?;
    }
    socket.apply(&[Change::link_up(LOOPBACK)])?;
    Ok(Bare { namespace, socket })
}

/// The loopback's index, the same in every namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
