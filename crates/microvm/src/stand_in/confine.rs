//! What a process that stands for one in a machine may ask the host's kernel for, from before it hears the first word of the machine's process: whoever has that is no more believed than a guest.
//!
//! It is connected by then, and has its signals, its terminal and all files that it hands over. So it makes no socket, connects to nothing, and opens no file; but that who came as a container may
//! make the file that says of what it died.

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use vmm::{Filter, Limited};

use crate::error::{Error, Result};

/// The machine's stream, and what is told to whoever started the process.
const CALLS: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_recvmsg, libc::SYS_sendmsg];

/// A terminal has a size.
const LIMITED: &[Limited] = &[(libc::SYS_ioctl, 1, None, &[libc::TIOCGWINSZ])];

/// How a file is opened that is made to be there: nothing can be read by it.
const MADE: u64 = (libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC) as u64;

/// Leaves the calling thread that. Anything else ends the process by `SIGSYS`, but that a file to be opened is refused.
pub(super) fn confine(has_words: bool) -> Result<()> {
    let filter = Filter::default().calls(CALLS).limited(LIMITED);
    if !has_words {
        return Ok(filter.apply()?);
    }
    open_to_make()?;
    Ok(filter.calls(&[libc::SYS_openat]).apply()?)
}

/// Whoever opens a file in another way than to make it is refused, and not ended: the C library does so on its own where nobody expects it.
fn open_to_make() -> Result<()> {
    let compile = || -> Result<BpfProgram, BackendError> {
        let otherwise = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, MADE)?;
        let calls = [(libc::SYS_openat, vec![SeccompRule::new(vec![otherwise])?])].into();
        let refused = SeccompAction::Errno(libc::EACCES as u32);
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(calls, SeccompAction::Allow, refused, architecture)?.try_into()
    };
    let failed = |why: &dyn std::fmt::Display| Error::Confine(why.to_string());
    let filter = compile().map_err(|error| failed(&error))?;
    seccompiler::apply_filter(&filter).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::UdpSocket;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::{env, thread};

    /// Something that a process does, and whether it may, or is refused and goes on.
    type Try = (&'static str, fn(), bool);

    const TRIES: [Try; 9] = [
        ("gives back what it allocated", allocate, true),
        ("looks how large its terminal is", || _ = rustix::termios::tcgetwinsize(rustix::stdio::stdin()), true),
        ("asks its terminal for more", || drop(rustix::termios::tcgetattr(rustix::stdio::stdin())), false),
        ("starts a program", || drop(Command::new("/bin/true").status()), false),
        ("makes a thread", || drop(thread::spawn(|| {})), false),
        ("binds a socket of a network", || drop(UdpSocket::bind("127.0.0.1:0")), false),
        ("connects to somebody else", || drop(UnixStream::connect("/nowhere")), false),
        ("reads a file, which is refused", read, true),
        ("takes a file away", || drop(fs::remove_file("/nowhere/at/all")), false),
    ];

    fn allocate() {
        let held: Vec<_> = (0..100).map(|number| vec![1u8; number * 4096]).collect();
        assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 99 * 50 * 4096);
    }

    fn read() {
        let refused = |opened: std::io::Result<File>| opened.unwrap_err().kind() == ErrorKind::PermissionDenied;
        assert!(refused(File::open("/etc/passwd")));
        assert!(refused(File::options().append(true).open("/etc/passwd")));
    }

    /// The variable that says which of [`TRIES`] a process is to do, as what.
    const WHICH: &str = "MICROVM_TEST_STANDS_IN";

    #[test]
    fn what_it_does_not_do_ends_it() {
        if let Ok(which) = env::var(WHICH) {
            let (stands_for, number) = which.split_once(' ').unwrap();
            confine(stands_for == "container").unwrap();
            TRIES[number.parse::<usize>().unwrap()].1();
            // The harness of tests does what no such process does.
            std::process::exit(7);
        }
        for (number, (what, _, may)) in TRIES.iter().enumerate() {
            for stands_for in ["container", "process"] {
                let mut again = Command::new(env::current_exe().unwrap());
                again.args(["--exact", "stand_in::confine::tests::what_it_does_not_do_ends_it"]);
                let output = again.env(WHICH, format!("{stands_for} {number}")).output().unwrap();
                let (code, signal) = if *may { (Some(7), None) } else { (None, Some(libc::SIGSYS)) };
                let ended = (output.status.code(), output.status.signal());
                assert_eq!(ended, (code, signal), "for a {stands_for}: it {what}: {output:?}");
            }
        }
    }

    #[test]
    fn of_what_a_container_died_is_left_for_who_looks() {
        let directory = tempfile::tempdir().unwrap();
        let word = directory.path().join(crate::OOM_KILLED);
        let made = word.clone();
        let write = thread::spawn(move || {
            confine(true).unwrap();
            fs::write(made, [])
        });
        write.join().unwrap().unwrap();
        assert!(word.exists());
    }
}
