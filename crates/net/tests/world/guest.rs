//! The kernel of a machine: a second network namespace. Its links are taps as well, and threads carry frames between them and those of the
//! sandbox, as a virtual machine monitor does between a tap and a queue.

use super::{Container, sh, spec};
use net::{NetNs, SandboxSpec};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Who may attach to the taps.
const NOBODY: u32 = 65534;

/// As [`spec`], of a machine.
pub(crate) fn machine(name: &str, networks: &[&str], ports: &[&str]) -> SandboxSpec {
    SandboxSpec { tap_owner: Some(NOBODY), ..spec(name, networks, ports) }
}

/// A kernel behind the taps of a sandbox.
pub(crate) struct Guest {
    /// Where its processes are. Its sandbox is the one that the taps are in.
    pub(crate) inside: Container,
    /// Closed, they end the threads.
    cables: Vec<UnixStream>,
}

impl Guest {
    /// One that has configured what it is told.
    pub(crate) fn boot(place: &Container) -> Guest {
        let namespace = std::thread::scope(|scope| {
            let empty = || {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                sh("ip link set lo up");
                NetNs::of_this_thread().unwrap()
            };
            scope.spawn(empty).join().unwrap()
        });
        let inside = Container { namespace, sandbox: place.sandbox.clone() };
        let mut guest = Guest { inside, cables: Vec::new() };
        guest.configure(place);
        guest
    }

    /// Follows what has changed: makes what is new, and takes the routes over.
    pub(crate) fn configure(&mut self, place: &Container) {
        for interface in place.sandbox().guest_interfaces() {
            let name = &interface.name;
            if !self.inside.sh("ip -o link").contains(&format!(" {name}:")) {
                let host = place.namespace.enter(|| sandbox::tap::attach(&interface.tap)).unwrap().unwrap();
                let link = self.inside.namespace.enter(|| sandbox::tap::attach(name)).unwrap().unwrap();
                self.cables.push(cable(host, link));
                let (mac, mtu) = (interface.mac, interface.mtu);
                self.inside.sh(&format!("ip link set {name} address {mac} mtu {mtu} up"));
            }
            for address in &interface.addresses {
                self.inside.sh(&format!("ip addr replace {address} dev {name} nodad"));
            }
            for route in &interface.routes {
                let family = if route.to.addr().is_ipv6() { "-6" } else { "-4" };
                self.inside.sh(&format!("ip {family} route replace {} via {} dev {name}", route.to, route.by));
            }
            for (path, value) in &interface.sysctls {
                self.inside.sh(&format!("echo {value} > /proc/sys/{path}"));
            }
        }
        self.inside.sandbox = place.sandbox.clone();
    }
}

/// Carries frames between two taps until what it returns is closed, or one of them is gone.
fn cable(one: OwnedFd, other: OwnedFd) -> UnixStream {
    let (stop, stopped) = UnixStream::pair().unwrap();
    let carry = move || {
        let mut frame = vec![0; 1 << 17];
        let mut pass = |from: &OwnedFd, to: &OwnedFd| loop {
            match rustix::io::read(from, &mut frame[..]) {
                // What can't be passed on is lost, as on any cable.
                Ok(length) => drop(rustix::io::write(to, &frame[..length])),
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        };
        loop {
            let mut ends =
                [one.as_fd(), other.as_fd(), stopped.as_fd()].map(|end| PollFd::from_borrowed_fd(end, PollFlags::IN));
            rustix::event::poll(&mut ends, None).unwrap();
            if !ends[2].revents().is_empty() || !pass(&one, &other) || !pass(&other, &one) {
                return;
            }
        }
    };
    std::thread::spawn(carry);
    stop
}
