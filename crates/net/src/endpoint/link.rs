//! The links between sandboxes and bridges.

use crate::config::Instance;
use crate::error::{Error, Result};
use crate::namespace::NetNs;
use crate::route::{Change, RouteSocket, VethSpec};
use crate::sysctl;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The ends on the host: ports of bridges.
///
/// Where frames on bridges go through the IP rules too (`bridge-nf-call-iptables`, which dockerd and Kubernetes switch on),
/// a published port's destination is changed before the bridge decides where a frame goes. A sandbox that asks for its own
/// published port then needs a port that sends frames back where they came from.
#[derive(Clone)]
pub(crate) struct HostLinks {
    prefix: String,
    hairpin: Arc<AtomicBool>,
    ipv6: bool,
}

impl HostLinks {
    pub(crate) fn new(instance: &Instance) -> HostLinks {
        let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let links = HostLinks { prefix: instance.link_prefix(), hairpin: Arc::default(), ipv6 };
        links.look();
        links
    }

    /// Looks, in the calling thread's namespace, whether frames go through the IP rules.
    pub(crate) fn look(&self) {
        let names = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
        let on = names.iter().any(|name| matches!(sysctl::read(name), Ok(Some(value)) if value != "0"));
        self.hairpin.store(on, Ordering::Relaxed);
    }

    /// A name that is hardly taken; makers try another where it is.
    fn pick(&self) -> String {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghijkmnpqrstuvwx";
        let mut number: u32 = rand::random();
        let mut name = self.prefix.clone();
        for _ in 0..6 {
            name.push(char::from(DIGITS[(number % 32) as usize]));
            number /= 32;
        }
        name
    }

    /// Makes a veth pair with a free name on the host, and gives that name.
    pub(crate) fn make(&self, host: &RouteSocket, namespace: &NetNs, plan: &VethPlan<'_>) -> Result<String> {
        const ATTEMPTS: usize = 8;
        let mut attempt = 0;
        loop {
            let name = self.pick();
            let make = Change::make_veth(&VethSpec {
                name: &name,
                bridge: plan.bridge,
                peer: plan.link_name,
                namespace: namespace.as_fd(),
                mac: plan.mac,
                mtu: plan.mtu,
            });
            let options = Change::port_options(&name, plan.isolated, self.hairpin.load(Ordering::Relaxed), self.ipv6);
            attempt += 1;
            match host.apply(&[make, options, Change::named_link_up(&name)]) {
                Ok(()) => return Ok(name),
                Err(error) if attempt < ATTEMPTS && error.is_errno(Errno::EXIST) => {}
                // `BR_MAX_PORTS`; port 0 is nobody's.
                Err(error) if error.is_errno(Errno::XFULL) => return Err(Error::BridgeFull),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A veth pair but for its name on the host.
pub(crate) struct VethPlan<'a> {
    pub(crate) bridge: u32,
    pub(crate) link_name: &'a str,
    pub(crate) mac: Option<crate::MacAddress>,
    pub(crate) mtu: u32,
    /// Whether it does not hear other ports that are so as well.
    pub(crate) isolated: bool,
}
