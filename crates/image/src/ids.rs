//! Identifiers of a user namespace (user_namespaces(7)), as who is outside sees and uses them.

use crate::{Error, Result};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::io::Errno;

/// Users and groups of a user namespace: those from nought on are so many on the host, from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// What its root is on the host.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// What an identifier is called that has no name in a namespace (`/proc/sys/kernel/overflowuid`, as it is everywhere).
const OVERFLOW: u32 = 65534;

impl IdRange {
    /// What one of the namespace is on the host.
    ///
    /// # Errors
    /// Where there are not so many.
    pub(crate) fn on_the_host(self, id: u32) -> Result<u32> {
        let known = (id < self.count).then(|| self.first.checked_add(id)).flatten();
        known.ok_or_else(|| Error::Invalid(format!("Container ID {id} cannot be mapped to a host ID")))
    }

    /// What one of the host is in the namespace.
    pub(crate) fn inside(self, id: u32) -> u32 {
        id.checked_sub(self.first).filter(|id| *id < self.count).unwrap_or(OVERFLOW)
    }

    /// Has what the present thread makes belong to the namespace's root, as far as the thread's file systems go: in a mount that the namespace
    /// owns, nobody else can make anything. The thread stays as privileged as it was.
    pub(crate) fn make_as_its_root(self) -> Result<()> {
        setfsgid(Gid::from_raw(self.first));
        // Leaving the user 0 takes capabilities over files away (capabilities(7)), which the thread still may have.
        setfsuid(Uid::from_raw(self.first));
        let regain = || -> Result<(), Errno> {
            let mut sets = rustix::thread::capabilities(None)?;
            sets.effective = sets.permitted;
            rustix::thread::set_capabilities(None, sets)
        };
        regain().map_err(|errno| Error::io("keeping a thread's capabilities", errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_place_is_told_or_nobody() {
        let range = IdRange { first: 100_000, count: 65_536 };
        assert_eq!((range.on_the_host(0).unwrap(), range.on_the_host(1000).unwrap()), (100_000, 101_000));
        let refused = range.on_the_host(65_536).unwrap_err().to_string();
        assert_eq!(refused, "Container ID 65536 cannot be mapped to a host ID");
        assert_eq!((range.inside(100_007), range.inside(0), range.inside(165_536)), (7, OVERFLOW, OVERFLOW));
        assert!(IdRange { first: u32::MAX, count: 10 }.on_the_host(1).is_err());
    }
}
