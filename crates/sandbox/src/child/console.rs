//! The terminal: from the container's own devpts, its master handed to whoever asked for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::mounts::{attach, clone_tree};
use super::target::{self, Make};
use super::{At, Outcome, Progress};
use crate::plan::TerminalPlan;
use crate::sync::{self, Kind, Step};

/// Opens a terminal and makes it the standard streams.
///
/// `root` is the root file system while it is not yet the root; then /dev/console is covered by the terminal, too.
pub(super) fn open<'p>(
    progress: &Progress<'p>,
    root: Option<BorrowedFd<'_>>,
    plan: TerminalPlan,
    controlling: bool,
) -> Outcome<'p, ()> {
    let own_root;
    let place = match root {
        Some(root) => root,
        None => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            own_root = rustix::fs::open(c"/", flags, Mode::empty()).at(Step::Console, b"/")?;
            own_root.as_fd()
        }
    };
    let master = multiplexer(place).at(Step::Console, b"/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&master).at(Step::Console, b"unlock")?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .at(Step::Console, b"open")?;
    if let Some((rows, columns)) = plan.size {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).at(Step::Console, b"size")?;
    }
    if root.is_some() {
        console_file(place, slave.as_fd()).at(Step::Console, b"/dev/console")?;
    }
    match progress.prepared.console_socket {
        // The form that engines expect of an OCI runtime: a name, and the descriptor.
        Some(socket) => sync::send_raw(socket, b"/dev/ptmx", &[master.as_fd()]).at(Step::Console, b"send")?,
        None => sync::report(progress.sync(), Kind::Console, Step::Console, 0, &[], &[master.as_fd()])
            .at(Step::Console, b"send")?,
    }
    drop(master);
    if controlling {
        rustix::process::ioctl_tiocsctty(&slave).at(Step::Console, b"control")?;
    }
    let streams =
        [rustix::stdio::dup2_stdin(&slave), rustix::stdio::dup2_stdout(&slave), rustix::stdio::dup2_stderr(&slave)];
    streams.into_iter().collect::<Result<()>>().at(Step::Console, b"streams")
}

/// The multiplexer of the container's own devpts, and nothing that an image has put in its place.
fn multiplexer(root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let place = target::open_without_links(root, c"dev/pts/ptmx", OFlags::PATH)?;
    let status = rustix::fs::fstat(&place)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice || status.st_rdev != libc::makedev(5, 2) {
        return Err(Errno::NODEV);
    }
    target::open_without_links(root, c"dev/pts/ptmx", flags)
}

fn console_file(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let place = target::make(root, c"dev/console", Make::File)?;
    let tree = clone_tree(slave, c"", false)?;
    attach(tree.as_fd(), place.as_fd())
}
