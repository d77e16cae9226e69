//! Whether a file is open for writing anywhere: a read lease (fcntl(2), `F_SETLEASE`) can be had of one that is not.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// From one look to the next.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Who could still change a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writers {
    /// Nobody has it open for writing, or mapped so.
    Nobody,
    /// The file system knows no leases, and does not tell.
    Untold,
    /// Somebody has it open for writing, or mapped so.
    Somebody,
}

/// Who could still change a file, which is open to be read; whoever could is given so long to let it go. Blocks.
///
/// A process that this one starts has copies of all its descriptors until it executes its program, those that are open for writing among them: who is there at the first look need not be who has been given the file.
///
/// # Errors
/// The kernel refuses to say.
pub(super) fn writers(file: &File, patience: Duration) -> io::Result<Writers> {
    let begun = Instant::now();
    loop {
        let seen = look(file)?;
        if seen != Writers::Somebody || begun.elapsed() >= patience {
            return Ok(seen);
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

fn look(file: &File) -> io::Result<Writers> {
    match lease(file, libc::F_RDLCK) {
        Ok(()) => lease(file, libc::F_UNLCK).map(|()| Writers::Nobody),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Writers::Somebody),
            // There are no leases there.
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOLCK) => Ok(Writers::Untold),
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

    /// Longer than any machine takes to execute a program.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn whoever_may_write_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(writers(&file, Duration::ZERO).unwrap(), Writers::Somebody);
        drop(writer);
        // Another test may start a process, which has it until it executes its program.
        assert_eq!(writers(&file, PATIENCE).unwrap(), Writers::Nobody);
        // The lease is gone: whoever opens it now does not wait for that.
        drop(File::options().write(true).open(&path).unwrap());
    }

    #[test]
    fn whoever_lets_it_go_meanwhile_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| writers(&file, PATIENCE).unwrap());
            drop(writer);
            assert_eq!(looks.join().unwrap(), Writers::Nobody);
        });
    }

    #[test]
    fn what_knows_no_leases_does_not_tell() {
        assert_eq!(writers(&File::open("/dev/null").unwrap(), Duration::ZERO).unwrap(), Writers::Untold);
    }
}
