//! Files and sockets in memory that are mounted in one sandbox, and are nowhere else: no path of the host leads to them, and no disk has
//! them.
//!
//! Each is a detached tree ([`crate::CompileOptions::mount_fds`]). It is made on a thread with a mount namespace of its own, which ends with the
//! thread: what is killed meanwhile leaves nothing.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, Uid};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};

use crate::plan::NamespaceKind;
use crate::sys;

/// Who may do what with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Where the memory is mounted, in the thread's own namespace: a directory that every system has.
const PLACE: &str = "/dev";

/// A file with these bytes. Blocks.
///
/// # Errors
/// What the kernel says.
pub fn file(contents: &[u8], access: Access) -> io::Result<OwnedFd> {
    let write = |path: &Path| File::create_new(path)?.write_all(contents);
    made(access, write).map(|(tree, ())| tree)
}

/// A socket that is listened to. Blocks.
///
/// # Errors
/// What the kernel says.
pub fn socket(access: Access) -> io::Result<(OwnedFd, UnixListener)> {
    made(access, |path: &Path| UnixListener::bind(path))
}

fn made<T: Send>(access: Access, make: impl FnOnce(&Path) -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    let work = || {
        sys::unshare(NamespaceKind::Mount.clone_flag())?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let memory = memory()?;
        move_mount(&memory, "", CWD, PLACE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let path = Path::new(PLACE).join("one");
        let one = make(&path)?;
        rustix::fs::chown(&path, Some(Uid::from_raw(access.uid)), Some(Gid::from_raw(access.gid)))?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(access.mode))?;
        let tree = open_tree(CWD, &path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        Ok((tree, one))
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("apart".into()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("the thread that was to make it ended"))?
    })
}

/// Memory that is no part of what is swapped out, where the kernel knows of that (Linux 6.4).
fn memory() -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&fs, "source", "stratus")?;
    fsconfig_set_string(&fs, "mode", "0700")?;
    let _ = fsconfig_set_flag(&fs, "noswap");
    fsconfig_create(&fs)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn what_is_made_is_on_no_table_of_mounts() {
        let access = Access { mode: 0o440, uid: 7, gid: 8 };
        let tree = file(b"open sesame", access).expect("a file in memory");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&tree));
        let metadata = std::fs::metadata(&path).expect("a file");
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid()), (0o440, 7, 8));
        assert_eq!(std::fs::read(&path).expect("its bytes"), b"open sesame");
        assert!(!Path::new("/dev/one").exists());
        let (socket, listener) = socket(access).expect("a socket in memory");
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        let mut client = std::os::unix::net::UnixStream::connect(path).expect("somebody listens");
        client.write_all(b"!").expect("said");
        listener.accept().expect("heard");
    }
}
