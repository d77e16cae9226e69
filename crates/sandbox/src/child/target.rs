//! Finding and making places inside a root file system that is not trusted.
//!
//! Every component is opened relative to a descriptor that is held, and links are followed by hand, so that nothing an
//! image or a volume contains leads out of the root.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
const LINKS_MAX: u32 = 40;

/// What stands at the end of a path that does not exist yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Directory,
    File,
}

/// Opens what is there, as a place (`O_PATH`).
pub(super) fn open(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let path = if path.is_empty() { c"." } else { path };
    resolve(root, path, OFlags::PATH, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// The same, where no component may be a link.
pub(super) fn open_without_links(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd> {
    // EAGAIN: something was renamed meanwhile, and ".." could not be proven safe.
    const ATTEMPTS: u32 = 64;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a place, and makes it (and what leads to it) where it does not exist.
pub(super) fn make(root: BorrowedFd<'_>, path: &CStr, kind: Make) -> Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::NOENT) => walk(root, path.to_bytes(), kind),
        other => other,
    }
}

/// The directory that holds `path` (made where it does not exist) and the last name of `path`.
pub(super) fn parent<'p>(root: BorrowedFd<'_>, path: &'p CStr) -> Result<(OwnedFd, &'p CStr)> {
    let split = path.to_bytes().iter().rposition(|byte| *byte == b'/');
    let name_at = split.map_or(0, |at| at + 1);
    let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[name_at..]).map_err(|_| Errno::INVAL)?;
    let directory = &path.to_bytes()[..split.unwrap_or(0)];
    Ok((walk(root, directory, Make::Directory)?, name))
}

/// A text of bounded length.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }

    fn push(&mut self, more: &[u8]) -> Result<()> {
        // One byte stays for the terminator.
        if self.len + more.len() >= N {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.len..self.len + more.len()].copy_from_slice(more);
        self.len += more.len();
        self.bytes[self.len] = 0;
        Ok(())
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn as_c_str(&self) -> Result<&CStr> {
        CStr::from_bytes_with_nul(&self.bytes[..=self.len]).map_err(|_| Errno::INVAL)
    }
}

fn walk(root: BorrowedFd<'_>, path: &[u8], kind: Make) -> Result<OwnedFd> {
    let mut rest = Text::<PATH_MAX>::new();
    rest.push(path)?;
    let mut done = Text::<PATH_MAX>::new();
    let mut here = open(root, c".")?;
    let (mut at, mut links) = (0, 0);
    loop {
        let bytes = rest.as_bytes();
        while bytes.get(at) == Some(&b'/') {
            at += 1;
        }
        if at >= bytes.len() {
            return Ok(here);
        }
        let end = bytes[at..].iter().position(|byte| *byte == b'/').map_or(bytes.len(), |length| at + length);
        let last = bytes[end..].iter().all(|byte| *byte == b'/');
        let mut name = Text::<{ NAME_MAX + 1 }>::new();
        name.push(&bytes[at..end])?;
        at = end;
        match name.as_bytes() {
            b"." => continue,
            b".." => {
                // Never "..": from the root anew, by a path without links.
                done.len = done.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                done.bytes[done.len] = 0;
                let above = if done.len == 0 { c"." } else { done.as_c_str()? };
                here = open_without_links(root, above, OFlags::PATH | OFlags::DIRECTORY)?;
                continue;
            }
            _ => {}
        }
        let made = if last { kind } else { Make::Directory };
        let next = enter(here.as_fd(), name.as_c_str()?, made)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) == FileType::Symlink {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            let mut content = [0u8; PATH_MAX];
            let length = {
                let (content, _) = rustix::fs::readlinkat_raw(&next, c"", as_uninit(&mut content))?;
                content.len()
            };
            let mut changed = Text::<PATH_MAX>::new();
            changed.push(&content[..length])?;
            changed.push(b"/")?;
            changed.push(&rest.as_bytes()[at..])?;
            (rest, at) = (changed, 0);
            if content[0] == b'/' {
                done.len = 0;
                here = open(root, c".")?;
            }
            continue;
        }
        if done.len > 0 {
            done.push(b"/")?;
        }
        done.push(name.as_bytes())?;
        here = next;
    }
}

fn as_uninit(bytes: &mut [u8]) -> &mut [std::mem::MaybeUninit<u8>] {
    // SAFETY: initialised bytes are a valid slice of possibly uninitialised ones, and only initialised bytes are
    // written through it (by the kernel).
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [std::mem::MaybeUninit<u8>]) }
}

/// Opens one name without following it; makes it first where it does not exist.
fn enter(here: BorrowedFd<'_>, name: &CStr, kind: Make) -> Result<OwnedFd> {
    let open = || {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat2(here, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
    };
    match open() {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let made = match kind {
        Make::Directory => rustix::fs::mkdirat(here, name, Mode::from_raw_mode(0o755)),
        Make::File => rustix::fs::mknodat(here, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => open(),
        Err(errno) => Err(errno),
    }
}

/// The status of a name, itself and not what it points to.
pub(super) fn status(parent: BorrowedFd<'_>, name: &CStr) -> Result<rustix::fs::Stat> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn root(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn absolute_links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        symlink("/away", inside.join("link")).unwrap();
        make(root(&inside).as_fd(), c"link/a/b", Make::File).unwrap();
        assert!(inside.join("away/a/b").is_file());
    }

    #[test]
    fn dots_stop_at_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("a/b")).unwrap();
        symlink("../../../../outside", inside.join("a/b/link")).unwrap();
        make(root(&inside).as_fd(), c"a/b/link/x", Make::Directory).unwrap();
        assert!(inside.join("outside/x").is_dir());
        assert!(!dir.path().join("outside").exists());
    }

    #[test]
    fn links_that_go_round_end_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert_eq!(make(root(dir.path()).as_fd(), c"a/x", Make::File).unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn magic_links_are_not_followed() {
        // /proc/self/root leads to the root of the machine for whoever follows it.
        let found = open(root(Path::new("/proc/self")).as_fd(), c"root/etc").unwrap_err();
        assert_eq!(found, Errno::LOOP);
    }
}
