//! Whether a file is open for writing anywhere: a read lease (fcntl(2), `F_SETLEASE`) can be had of one that is not.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether somebody has a file open for writing, or mapped so; this one is open to be read.
///
/// # Errors
/// The kernel refuses to say.
pub(super) fn is_written(file: &File) -> io::Result<bool> {
    match lease(file, libc::F_RDLCK) {
        Ok(()) => lease(file, libc::F_UNLCK).map(|()| false),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(true),
            // There are no leases there.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOLCK) => Ok(false),
            _ => Err(error),
        },
    }
}

fn lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the file is borrowed, and the argument is a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_write_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_written(&file).unwrap());
        drop(writer);
        assert!(!is_written(&file).unwrap());
        // The lease is gone: whoever opens it now does not wait for that.
        drop(File::options().write(true).open(&path).unwrap());
    }
}
