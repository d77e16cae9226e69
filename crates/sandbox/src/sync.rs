//! The socket between the parent and the process that sets itself up.
//!
//! A pair of `SOCK_SEQPACKET` sockets, one datagram a message. The child's end is closed by its exec, so that the end
//! of the stream is the news of success; a failure comes as the step, the errno and what it was tried on.

use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// The longest text that travels with a message, in bytes; what is longer is cut.
const TEXT_MAX: usize = 1024;
const HEADER: usize = 6;
/// The kernel's own limit of descriptors in one message (`SCM_MAX_FD`).
pub(crate) const FDS_MAX: usize = 253;

macro_rules! steps {
    ($($(#[doc = $doc:literal])* $name:ident => $text:literal,)*) => {
        /// What the new process was doing when something failed, in the order in which it does it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step { $($(#[doc = $doc])* $name,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name,)*];

            fn text(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Talking to the parent.
    Sync => "talk to the parent process",
    /// Moving itself into a cgroup (v1).
    JoinCgroup => "join cgroup",
    /// Joining an existing namespace.
    JoinNamespace => "join namespace",
    /// Creating a namespace that clone could not create.
    NewNamespace => "create namespace",
    /// Becoming root of a user namespace.
    BecomeRoot => "become root of the user namespace",
    /// Starting a session.
    NewSession => "start a session",
    /// Joining a session keyring.
    Keyring => "join session keyring",
    /// Setting the host name.
    Hostname => "set hostname",
    /// Setting the NIS domain name.
    Domainname => "set domainname",
    /// Changing the propagation of mounts.
    Propagation => "set mount propagation of",
    /// Making the root file system a mount.
    RootMount => "mount root file system",
    /// Making a mount point inside the root file system.
    MountPoint => "create mount point",
    /// Mounting.
    Mount => "mount",
    /// Copying a directory's content into the tmpfs over it.
    CopyUp => "copy up",
    /// Making a device node.
    Device => "create device",
    /// Making a symbolic link.
    Symlink => "create symlink",
    /// Opening or handing over a terminal.
    Console => "set up console",
    /// Running a hook.
    Hook => "run hook",
    /// Changing the root.
    PivotRoot => "pivot_root to",
    /// Writing a sysctl.
    Sysctl => "write sysctl",
    /// Making a path read-only.
    Readonly => "make read-only",
    /// Hiding a path.
    Mask => "mask path",
    /// Opening or arranging standard streams and other descriptors.
    Streams => "set up descriptors",
    /// Setting a resource limit.
    Rlimit => "set rlimit",
    /// Setting the OOM score adjustment.
    OomScore => "set oom_score_adj",
    /// Setting the I/O priority.
    IoPriority => "set I/O priority",
    /// Setting the scheduler.
    Scheduler => "set scheduler",
    /// Setting the CPU affinity.
    Affinity => "set CPU affinity",
    /// Setting the NUMA memory policy.
    MemoryPolicy => "set memory policy",
    /// Setting the personality.
    Personality => "set personality",
    /// Setting the AppArmor profile or the SELinux label.
    Label => "set label",
    /// Setting user and groups.
    User => "set user",
    /// Setting capabilities.
    Capabilities => "set capabilities",
    /// Changing into the working directory.
    WorkingDirectory => "chdir to cwd",
    /// Setting `no_new_privs`.
    NoNewPrivileges => "set no_new_privs",
    /// Finding the program.
    FindProgram => "exec",
    /// Loading the seccomp filter.
    Seccomp => "load seccomp filter",
    /// Forking the process that PID 1 will look after.
    Fork => "fork",
    /// Executing the program.
    Exec => "exec",
    /// Making the machine in which the process is to run.
    Machine => "run the microVM",
    /// Having that machine go on from what another one was saved as, which nothing can go on from then.
    Saved => "run the microVM",
    /// Executing the program, somewhere else.
    Guest => "exec",
    /// Setting up the process, somewhere else.
    InGuest => "set up the process",
    /// Making the machine, which was lost without a word, from what another one was saved as. Nobody has asked for the program by then.
    Lost => "run the microVM",
}

/// A step that failed, or a warning about one that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// The kernel's reason.
    pub errno: i32,
    /// On what: a path, a mount, a program.
    pub detail: String,
}

impl Failure {
    /// The shell's exit status for a program that could not be started: 127 where it was not found, 126 where it may
    /// not be executed or is no program, `None` where the failure has nothing to do with the program.
    pub fn exit_code(&self) -> Option<u8> {
        if !matches!(self.step, Step::FindProgram | Step::Exec | Step::Guest) {
            return None;
        }
        match self.errno {
            libc::ENOENT | libc::ENOTDIR => Some(127),
            _ => Some(126),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            // It has been said where it was seen.
            Step::Guest | Step::InGuest => return f.write_str(&self.detail),
            Step::Machine | Step::Saved | Step::Lost => return write!(f, "{}: {}", self.step.text(), self.detail),
            _ => {}
        }
        let reason = errno_text(self.errno);
        if !matches!(self.step, Step::FindProgram | Step::Exec) {
            return match self.detail.as_str() {
                "" => write!(f, "{}: {reason}", self.step.text()),
                detail => write!(f, "{} {detail}: {reason}", self.step.text()),
            };
        }
        // The words that engines look for to tell a missing program from other failures.
        let program = &self.detail;
        match self.errno {
            libc::ENOENT if !program.contains('/') => {
                write!(f, "exec: {program:?}: executable file not found in $PATH")
            }
            libc::ENOENT => write!(f, "exec: {program:?}: stat {program}: no such file or directory"),
            _ => write!(f, "exec: {program:?}: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The kernel's text for an errno, in lower case as it stands within a sentence.
pub(crate) fn errno_text(errno: i32) -> String {
    let full = std::io::Error::from_raw_os_error(errno).to_string();
    let text = full.split(" (os error").next().unwrap_or(&full);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => format!("errno {errno}"),
    }
}

/// One piece of news from the child.
#[derive(Debug)]
pub enum SyncEvent {
    /// The terminal's master side, for a process with a terminal and no console socket.
    Console(OwnedFd),
    /// Mounts are made and the root is not yet changed: the parent runs its hooks, then calls
    /// [`SyncChannel::hooks_done`].
    BeforePivot,
    /// Everything is set up. Where the plan says so, the child now waits for [`SyncChannel::start`].
    Ready,
    /// The listener of the seccomp filter's notifications, to be passed on to the agent.
    SeccompListener(OwnedFd),
    /// Something was left out that no start should die of.
    Warning(Failure),
    /// The set-up failed; the process ends by itself.
    Failed(Failure),
    /// The program is running.
    Executed,
    /// The process ended during its set-up without a word (it was killed).
    Vanished,
}

/// The kinds of messages from the child.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Console = 1,
    BeforePivot,
    Ready,
    SeccompListener,
    Warning,
    Failed,
    Executing,
    /// From the process that stands between parent and child where a user namespace is joined and a PID namespace
    /// is new: the child's pid in the errno field, its pidfd beside it.
    Cloned,
}

/// Where a program that reports has the sync socket.
pub(crate) const REPORT: i32 = 3;

/// What a program says by itself of how far it is, where its plan says so ([`crate::CompileOptions::program_reports`]): it stands for a process
/// that runs somewhere else, and is started when that is.
///
/// Dropped without a word, it is as if the process had been killed while it set itself up.
#[derive(Debug)]
pub struct Report(OwnedFd);

impl Report {
    /// What was inherited; once in a process, before it opens anything.
    ///
    /// # Errors
    /// Nothing was: whoever started this process does not wait for its report.
    pub fn inherited() -> Result<Self, Errno> {
        // SAFETY: the number is only used for this call, which fails where it is not open.
        let there = unsafe { BorrowedFd::borrow_raw(REPORT) };
        // Not for what this process executes.
        rustix::io::fcntl_setfd(there, rustix::io::FdFlags::CLOEXEC)?;
        if rustix::net::sockopt::socket_type(there)? != rustix::net::SocketType::SEQPACKET {
            return Err(Errno::NOTSOCK);
        }
        // SAFETY: whoever executed this program has put it there for it; nothing else in here knows its number.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(REPORT) }))
    }

    /// One, and the channel on which it is heard.
    ///
    /// # Errors
    /// The kernel makes no sockets.
    pub fn pair() -> Result<(Self, SyncChannel), Errno> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(theirs), SyncChannel::new(ours)))
    }

    /// The process runs.
    pub fn executing(self) {
        // Nobody who listens is nobody to tell.
        let _ = report(self.0.as_fd(), Kind::Executing, Step::Exec, 0, &[], &[]);
    }

    /// Something was left out that no start should die of.
    pub fn warn(&self, text: &str) {
        let _ = report(self.0.as_fd(), Kind::Warning, Step::Machine, 0, &[text.as_bytes()], &[]);
    }

    /// The process does not run, and `detail` says all of why: [`Step::Guest`] where the program can't be executed, [`Step::InGuest`] where something that comes
    /// before it failed in the guest, [`Step::Saved`] where what was saved is at fault, [`Step::Lost`] where it may be, else
    /// [`Step::Machine`].
    pub fn failed(self, step: Step, errno: i32, detail: &str) {
        let _ = report(self.0.as_fd(), Kind::Failed, step, errno, &[detail.as_bytes()], &[]);
    }
}

/// The messages from the parent.
pub(crate) const GO_MAPPED: u8 = b'M';
pub(crate) const GO_HOOKS: u8 = b'H';
pub(crate) const GO_START: u8 = b'S';

/// The parent's end. Non-blocking; it can stand in an epoll set.
#[derive(Debug)]
pub struct SyncChannel {
    fd: OwnedFd,
    executing: bool,
}

impl AsFd for SyncChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SyncChannel {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, executing: false }
    }

    /// Takes up a channel whose descriptor was kept over an exec of the parent, or one connected to a waiting
    /// container's start socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self::new(fd)
    }

    /// Reads one datagram.
    ///
    /// `Ok(None)` where nothing is there yet. After [`SyncEvent::Executed`], [`SyncEvent::Failed`] or
    /// [`SyncEvent::Vanished`] nothing more comes.
    pub fn receive(&mut self) -> Result<Option<SyncEvent>, Errno> {
        loop {
            let Some(message) = receive_raw(self.fd.as_fd(), RecvFlags::DONTWAIT)? else {
                return Ok(None);
            };
            let Some(message) = message else {
                return Ok(Some(if self.executing { SyncEvent::Executed } else { SyncEvent::Vanished }));
            };
            match self.decode(message) {
                Some(event) => return Ok(Some(event)),
                None => continue,
            }
        }
    }

    /// The last event of a process that is known to have ended, once nothing more is [received](Self::receive). Its end of
    /// the channel can still be open for a moment: a process that is being cloned may have a copy of it.
    pub fn last(&self) -> SyncEvent {
        if self.executing { SyncEvent::Executed } else { SyncEvent::Vanished }
    }

    /// Waits for the next event. For callers that have nothing else to do, such as the command line.
    pub fn wait(&mut self) -> Result<SyncEvent, Errno> {
        loop {
            if let Some(event) = self.receive()? {
                return Ok(event);
            }
            let mut poll = [rustix::event::PollFd::new(&self.fd, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut poll, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Lets a child that reported [`SyncEvent::Ready`] execute its program.
    pub fn start(&self) -> Result<(), Errno> {
        send_raw(self.fd.as_fd(), &[GO_START], &[])
    }

    /// Lets a child that reported [`SyncEvent::BeforePivot`] go on. `creating` and `created` are files with the state
    /// that its `createContainer` and `startContainer` hooks read on their standard input.
    pub fn hooks_done(&self, creating: BorrowedFd<'_>, created: BorrowedFd<'_>) -> Result<(), Errno> {
        send_raw(self.fd.as_fd(), &[GO_HOOKS], &[creating, created])
    }

    fn decode(&mut self, message: Message) -> Option<SyncEvent> {
        let failure = || Failure { step: message.step, errno: message.errno, detail: message.text.clone() };
        let mut fds = message.fds.into_iter();
        // Without it the process would go on all the same, with a terminal that nobody has, or a filter that nobody answers.
        let lost = |detail: &str| {
            SyncEvent::Failed(Failure { step: message.step, errno: libc::EMFILE, detail: detail.to_owned() })
        };
        match message.kind {
            k if k == Kind::Console as u8 => Some(fds.next().map_or_else(|| lost("terminal"), SyncEvent::Console)),
            k if k == Kind::SeccompListener as u8 => {
                Some(fds.next().map_or_else(|| lost("listener"), SyncEvent::SeccompListener))
            }
            k if k == Kind::BeforePivot as u8 => Some(SyncEvent::BeforePivot),
            k if k == Kind::Ready as u8 => Some(SyncEvent::Ready),
            k if k == Kind::Warning as u8 => Some(SyncEvent::Warning(failure())),
            k if k == Kind::Failed as u8 => Some(SyncEvent::Failed(failure())),
            k if k == Kind::Executing as u8 => {
                self.executing = true;
                None
            }
            _ => None,
        }
    }
}

/// A decoded datagram.
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) step: Step,
    pub(crate) errno: i32,
    pub(crate) text: String,
    pub(crate) fds: Vec<OwnedFd>,
}

/// `None`: nothing there; `Some(None)`: the end of the stream.
pub(crate) fn receive_raw(fd: BorrowedFd<'_>, flags: RecvFlags) -> Result<Option<Option<Message>>, Errno> {
    let mut bytes = [0u8; HEADER + TEXT_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = match rustix::net::recvmsg(fd, &mut slices, &mut control, flags | RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => received.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        // The child was killed with our message unread.
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received == 0 {
        return Ok(Some(None));
    }
    let at = |i: usize| if i < received { bytes[i] } else { 0 };
    Ok(Some(Some(Message {
        kind: at(0),
        step: Step::ALL.get(usize::from(at(1))).copied().unwrap_or(Step::Sync),
        errno: i32::from_le_bytes([at(2), at(3), at(4), at(5)]),
        text: String::from_utf8_lossy(bytes.get(HEADER..received).unwrap_or(&[])).into_owned(),
        fds,
    })))
}

/// Sends one datagram with up to [`FDS_MAX`] descriptors; allocates nothing.
pub(crate) fn send_raw(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    loop {
        match rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The child's side: encodes and sends one message without allocating.
pub(crate) fn report(
    fd: BorrowedFd<'_>,
    kind: Kind,
    step: Step,
    errno: i32,
    text: &[&[u8]],
    fds: &[BorrowedFd<'_>],
) -> Result<(), Errno> {
    let mut bytes = [0u8; HEADER + TEXT_MAX];
    bytes[0] = kind as u8;
    bytes[1] = step as u8;
    bytes[2..HEADER].copy_from_slice(&errno.to_le_bytes());
    let mut end = HEADER;
    for part in text {
        let fits = part.len().min(bytes.len() - end);
        bytes[end..end + fits].copy_from_slice(&part[..fits]);
        end += fits;
    }
    send_raw(fd, &bytes[..end], fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_in_the_words_engines_look_for() {
        let failure = |errno, detail: &str| Failure { step: Step::FindProgram, errno, detail: detail.into() };
        assert_eq!(failure(libc::ENOENT, "nosuch").to_string(), "exec: \"nosuch\": executable file not found in $PATH");
        assert_eq!(
            failure(libc::ENOENT, "/nosuch").to_string(),
            "exec: \"/nosuch\": stat /nosuch: no such file or directory"
        );
        assert_eq!(failure(libc::EACCES, "/etc").to_string(), "exec: \"/etc\": permission denied");
        assert_eq!(failure(libc::ENOENT, "x").exit_code(), Some(127));
        assert_eq!(failure(libc::EACCES, "x").exit_code(), Some(126));
    }

    #[test]
    fn a_failed_mount_names_what_was_mounted_where() {
        let failure = Failure { step: Step::Mount, errno: libc::EACCES, detail: "proc on /proc".into() };
        assert_eq!(failure.to_string(), "mount proc on /proc: permission denied");
        assert_eq!(failure.exit_code(), None);
    }

    #[test]
    fn the_end_of_the_stream_is_success_only_after_the_last_step() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (ours, theirs) = pair();
        report(theirs.as_fd(), Kind::Executing, Step::Exec, 0, &[], &[]).unwrap();
        drop(theirs);
        assert!(matches!(SyncChannel::new(ours).wait().unwrap(), SyncEvent::Executed));
        let (ours, theirs) = pair();
        drop(theirs);
        assert!(matches!(SyncChannel::new(ours).wait().unwrap(), SyncEvent::Vanished));
    }
}
