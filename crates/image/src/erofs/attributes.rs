//! Extended attributes, as an inode has them: behind it, but for those that several have, which are kept once.

use crate::tree::proc_path;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;

/// Bytes of attributes that are remembered, in case they come again.
const REMEMBERED: usize = 1 << 20;
/// Attributes that an inode can share: its count has a byte.
const SHARED: usize = u8::MAX as usize;
/// What the inode can say of the words of its attributes.
const MOST: usize = 12 + 4 * (u16::MAX as usize - 1);

/// What tells overlayfs that a directory hides those below it.
pub(super) const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// An attribute: EROFS' number of the beginning of its name, the rest of it, and its value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attribute {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Attribute {
    /// The mark of a directory that hides those below it.
    pub(super) fn opaque() -> Attribute {
        Attribute { index: TRUSTED, name: b"overlay.opaque".to_vec(), value: b"y".to_vec() }
    }

    fn entry(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.name.len() + self.value.len() + 3);
        bytes.extend([self.name.len() as u8, self.index]);
        bytes.extend((self.value.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&self.value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

const TRUSTED: u8 = 4;

/// How EROFS knows an attribute that belongs to a layer. What overlayfs notes elsewhere than in a directory's opacity, and what
/// security modules do, is of the place where the layer lies, and no part of it.
fn known(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => Some((2, b"")),
        b"system.posix_acl_default" => Some((3, b"")),
        b"security.capability" => Some((6, b"capability")),
        OPAQUE => Some((TRUSTED, b"overlay.opaque")),
        _ if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") => None,
        _ => {
            let of = |prefix: &[u8], index| name.strip_prefix(prefix).map(|rest| (index, rest));
            of(b"user.", 1).or_else(|| of(b"trusted.", TRUSTED))
        }
    }
}

/// Something whose attributes are read.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Open(&'a OwnedFd),
    /// What can't be opened, by its name in a directory.
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// The attributes of something that belong to its layer, in order.
pub(super) fn read(of: Of<'_>) -> Result<Vec<Attribute>, Errno> {
    let path = match of {
        Of::Open(_) => Vec::new(),
        Of::Named(parent, name) => proc_path(parent, name),
    };
    let names = grown(256, |into| match of {
        Of::Open(fd) => rustix::fs::flistxattr(fd, into),
        Of::Named(..) => rustix::fs::llistxattr(&path[..], into),
    });
    let names = match names {
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut list = Vec::new();
    for name in names.split(|byte| *byte == 0) {
        let Some((index, rest)) = known(name) else { continue };
        let value = grown(1024, |into| match of {
            Of::Open(fd) => rustix::fs::fgetxattr(fd, name, into),
            Of::Named(..) => rustix::fs::lgetxattr(&path[..], name, into),
        })?;
        list.push(Attribute { index, name: rest.to_vec(), value });
    }
    list.sort_unstable();
    Ok(list)
}

/// What a call writes into a buffer that is as large as it needs to be.
fn grown(first: usize, call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    // The kernel's own limits, of a value and of a list (xattr(7)).
    const LARGEST: usize = 64 << 10;
    let mut bytes = vec![0; first];
    match call(&mut bytes) {
        Err(Errno::RANGE) => {
            bytes.resize(LARGEST, 0);
            let length = call(&mut bytes)?;
            bytes.truncate(length);
        }
        other => bytes.truncate(other?),
    }
    Ok(bytes)
}

/// Whether a directory hides those below it.
pub(super) fn is_opaque(directory: &OwnedFd) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Attributes that several inodes have. The first has its own, as nobody knows yet that there will be others.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Entries that came, and where each lies among those that are shared, in words of four bytes.
    seen: HashMap<Vec<u8>, Option<u32>>,
    /// Bytes of those.
    held: usize,
    area: Vec<u8>,
}

impl Shared {
    /// What follows an inode that has these attributes; nothing where there are none. `None`: they are more than EROFS can say.
    pub(super) fn encode(&mut self, list: &[Attribute]) -> Option<Vec<u8>> {
        if list.is_empty() {
            return Some(Vec::new());
        }
        let (mut places, mut own) = (Vec::new(), Vec::new());
        for attribute in list {
            // A name and a value are told to be as long as a byte and two can say.
            if attribute.name.len() > usize::from(u8::MAX) || attribute.value.len() > usize::from(u16::MAX) {
                return None;
            }
            let entry = attribute.entry();
            match self.place(&entry).filter(|_| places.len() < SHARED) {
                Some(place) => places.push(place),
                None => own.extend(entry),
            }
        }
        let mut bytes = vec![0, 0, 0, 0, places.len() as u8, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(places.iter().flat_map(|place| place.to_le_bytes()));
        bytes.extend(own);
        (bytes.len() <= MOST).then_some(bytes)
    }

    /// Where an entry that came before is kept.
    fn place(&mut self, entry: &[u8]) -> Option<u32> {
        match self.seen.get_mut(entry) {
            Some(place) => Some(*place.get_or_insert_with(|| {
                let next = (self.area.len() / 4) as u32;
                self.area.extend_from_slice(entry);
                next
            })),
            None => {
                if self.held + entry.len() <= REMEMBERED {
                    self.held += entry.len();
                    self.seen.insert(entry.to_vec(), None);
                }
                None
            }
        }
    }

    /// All that is shared.
    pub(super) fn area(&self) -> &[u8] {
        &self.area
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_kept_once() {
        let mut shared = Shared::default();
        let one = Attribute { index: 1, name: b"name".to_vec(), value: b"value".to_vec() };
        let first = shared.encode(std::slice::from_ref(&one)).unwrap();
        assert_eq!(first, b"\0\0\0\0\0\0\0\0\0\0\0\0\x04\x01\x05\0namevalue\0\0\0");
        assert!(shared.area().is_empty());
        let again = shared.encode(&[one.clone(), Attribute::opaque()]).unwrap();
        assert_eq!(&again[..16], b"\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(shared.area(), &first[12..]);
        let both = shared.encode(&[one, Attribute::opaque()]).unwrap();
        assert_eq!((both.len(), both[4]), (12 + 8, 2));
    }

    #[test]
    fn what_is_of_the_place_where_a_layer_lies_is_no_part_of_it() {
        let kept: [&[u8]; 5] = [b"user.a", b"trusted.b", b"security.capability", OPAQUE, b"system.posix_acl_default"];
        assert!(kept.iter().all(|name| known(name).is_some()));
        let left: [&[u8]; 5] =
            [b"trusted.overlay.origin", b"user.overlay.opaque", b"security.selinux", b"system.nfs4_acl", b""];
        assert!(left.iter().all(|name| known(name).is_none()));
    }

    #[test]
    fn more_than_can_be_said_is_refused() {
        let mut shared = Shared::default();
        let of = |n: u8, length| Attribute { index: 1, name: vec![n], value: vec![0; length] };
        assert!(shared.encode(&[of(0, 65_536)]).is_none());
        let many: Vec<Attribute> = (0..5).map(|n| of(n, 60_000)).collect();
        assert!(shared.encode(&many).is_none());
        assert!(shared.encode(&many[..4]).is_some());
    }
}
