//! What a peer has not read yet.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes (with the kernel's own for each packet) that were written to a socket and not read by its peer yet; for TCP, that its
/// peer's kernel has not acknowledged yet (`SIOCOUTQ`, unix(7), tcp(7)).
///
/// # Errors
/// ioctl(2)'s, where the descriptor is no such socket.
pub fn unread(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes one int, which is there.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_read_is_not_counted() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
        ours.write_all(b"hello").unwrap();
        assert!(unread(ours.as_fd()).unwrap() > 0);
        theirs.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(unread(ours.as_fd()).unwrap(), 0);
        assert!(unread(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }
}
