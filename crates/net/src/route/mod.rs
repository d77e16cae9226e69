//! Links, addresses and routes of one network namespace, over rtnetlink(7).

mod address;
mod link;
mod redirect;
mod table;

pub(crate) use link::{Link, VethSpec};
pub(crate) use table::Route;

use crate::error::{Error, Result};
use crate::netlink::{Family, Message, NetlinkError, Socket};
use rustix::io::Errno;
use std::net::IpAddr;

/// A socket that changes and reads links, addresses and routes of the namespace that it was opened in, wherever the
/// thread that uses it is.
pub(crate) struct RouteSocket {
    socket: Socket,
}

impl RouteSocket {
    /// Opens one in the calling thread's namespace.
    pub(crate) fn open() -> Result<RouteSocket> {
        let socket = Socket::open(Family::Route).map_err(|e| Error::kernel("open a netlink socket for routes", e))?;
        Ok(RouteSocket { socket })
    }

    /// Does a list of changes in one system call. Later ones are tried where an earlier one fails.
    pub(crate) fn apply(&self, changes: &[Change]) -> Result<()> {
        let messages: Vec<Message> = changes.iter().map(|change| change.message.clone()).collect();
        self.socket.request(&messages).map_err(|e| changes[e.index.min(changes.len() - 1)].refused(e))
    }
}

/// One change, and what it is in words.
pub(crate) struct Change {
    message: Message,
    what: String,
    /// What the kernel may have been built without.
    needs: Option<Needs>,
}

/// Parts of the kernel, as its configuration and as its modules are called.
#[derive(Clone, Copy)]
struct Needs {
    /// What they are needed for.
    of: &'static str,
    parts: &'static str,
    modules: &'static str,
}

impl Change {
    fn new(message: Message, what: impl Into<String>) -> Change {
        Change { message, what: what.into(), needs: None }
    }

    /// As [`Change::new`], of something that not every kernel has.
    fn needing(needs: Needs, message: Message, what: impl Into<String>) -> Change {
        Change { needs: Some(needs), ..Change::new(message, what) }
    }

    fn refused(&self, error: NetlinkError) -> Error {
        match self.needs {
            // What tc(8)'s kinds are looked up by their names for, and a kernel without actions.
            Some(Needs { of, parts, modules }) if matches!(error.errno, Errno::NOENT | Errno::OPNOTSUPP) => {
                Error::KernelLacks { action: self.what.clone(), of, parts, modules, source: error.errno.into() }
            }
            _ => refused(&self.what, error),
        }
    }
}

fn refused(what: &str, error: NetlinkError) -> Error {
    Error::kernel(what, error.errno)
}

/// `AF_INET` or `AF_INET6`, as one byte.
fn family_of(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

/// The address in those bytes.
fn ip_from(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
