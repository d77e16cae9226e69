//! What the new process does, from clone to exec, in the order in which the kernel sees it.
//!
//! The process is a copy of its parent's memory in which other threads may have held any lock: nothing here allocates,
//! takes a lock or panics. All it uses was prepared before the clone ([`Prepared`]) or lies on its stack.

mod console;
mod copy_up;
mod devices;
mod hidden;
mod hooks;
pub(crate) mod mounts;
pub(crate) mod pid1;
mod place;
mod process;
pub(crate) mod rootfs;
mod target;

use std::convert::Infallible;
use std::ffi::{CStr, c_char};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use self::place::Places;
use crate::plan::{ExecPlan, InitPlan, NamespaceKind, ProcessPlan};
use crate::sync::{self, GO_HOOKS, GO_MAPPED, GO_START, Kind, Step};
use crate::sys;

/// Everything that takes memory or the host's view, made by the parent before the clone.
pub(crate) struct Prepared<'f> {
    /// The child's end of the sync socket.
    pub(crate) sync: OwnedFd,
    /// The host's /proc, which no container can have tampered with.
    pub(crate) proc: OwnedFd,
    /// `cgroup.procs` of every v1 hierarchy.
    pub(crate) cgroup_tasks: Vec<OwnedFd>,
    /// Namespaces that the child joins, the user namespace first.
    pub(crate) join: Vec<(NamespaceKind, Namespace<'f>)>,
    /// For each mount, the tree that only the parent could open or map.
    pub(crate) trees: Vec<Option<OwnedFd>>,
    /// The same for each device.
    pub(crate) device_trees: Vec<Option<OwnedFd>>,
    /// /dev/null, for masking in a user namespace.
    pub(crate) null: Option<OwnedFd>,
    /// The root file system, for a user namespace.
    pub(crate) root: Option<OwnedFd>,
    /// The program of PID 1, where that is not the container's own.
    pub(crate) init: Option<OwnedFd>,
    pub(crate) argv: Vec<*const c_char>,
    pub(crate) envp: Vec<*const c_char>,
    /// argv and envp of the hooks, those of `createContainer` first.
    pub(crate) hooks: Vec<(Vec<*const c_char>, Vec<*const c_char>)>,
    /// Standard streams; `None` inherits, or is a terminal if the plan has one.
    pub(crate) stdio: Option<[BorrowedFd<'f>; 3]>,
    pub(crate) console_socket: Option<BorrowedFd<'f>>,
    /// A listening socket on which the start comes, instead of the sync socket.
    pub(crate) gate: Option<BorrowedFd<'f>>,
    /// Device and inode of the running program, which no container may execute.
    pub(crate) own_program: (u64, u64),
    /// A user namespace was made by the clone, and its maps are being written.
    pub(crate) wait_for_maps: bool,
    /// The first process of the container to join.
    pub(crate) container: Option<BorrowedFd<'f>>,
    /// The descriptor table is the parent's, until this process has made one of its own.
    pub(crate) shares_table: bool,
}

impl Prepared<'_> {
    /// The descriptors that the child uses, beyond the standard ones.
    fn used(&self) -> impl Iterator<Item = u32> {
        let single = [self.null.as_ref(), self.root.as_ref(), self.init.as_ref(), Some(&self.sync), Some(&self.proc)];
        let trees = self.trees.iter().chain(&self.device_trees).map(Option::as_ref);
        let owned =
            single.into_iter().chain(trees).chain(self.cgroup_tasks.iter().map(Some)).flatten().map(AsFd::as_fd);
        let given = [self.console_socket, self.gate, self.container].into_iter().flatten();
        let streams = self.stdio.into_iter().flatten();
        let joined = self.join.iter().map(|(_, namespace)| namespace.fd());
        owned.chain(given).chain(streams).chain(joined).map(|fd| fd.as_raw_fd().cast_unsigned())
    }

    /// Behind the last of them, and behind the standard ones.
    pub(crate) fn used_end(&self) -> u32 {
        self.used().map(|fd| fd + 1).fold(3, u32::max)
    }

    /// What the child takes from the parent's table.
    pub(crate) fn into_descriptors(self) -> Vec<OwnedFd> {
        let joined = self.join.into_iter().filter_map(|(_, namespace)| match namespace {
            Namespace::Owned(fd) => Some(fd),
            Namespace::Given(_) => None,
        });
        let trees = self.trees.into_iter().chain(self.device_trees).chain([self.null, self.root, self.init]).flatten();
        [self.sync, self.proc].into_iter().chain(self.cgroup_tasks).chain(joined).chain(trees).collect()
    }
}

pub(crate) enum Namespace<'f> {
    Owned(OwnedFd),
    Given(BorrowedFd<'f>),
}

impl Namespace<'_> {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Given(fd) => *fd,
        }
    }
}

/// The kernel's own words about a refused mount.
#[derive(Clone, Copy)]
pub(crate) struct Note {
    bytes: [u8; 88],
    len: u8,
}

impl Default for Note {
    fn default() -> Self {
        Self { bytes: [0; 88], len: 0 }
    }
}

impl Note {
    /// Reads the first message from a file system context (`e overlay: No changes allowed…`), without its level.
    fn of_filesystem(fs: BorrowedFd<'_>) -> Self {
        let mut note = Self::default();
        let room = note.bytes.len() - 3;
        if let Ok(mut length) = rustix::io::read(fs, &mut note.bytes[2..2 + room]) {
            if matches!(&note.bytes[2..2 + length], [b'e' | b'w' | b'i', b' ', ..]) {
                note.bytes.copy_within(4..2 + length, 2);
                length -= 2;
            }
            note.bytes[..2].copy_from_slice(b" (");
            let mut end = 2 + length;
            while note.bytes[end - 1] == b'\n' {
                end -= 1;
            }
            note.bytes[end] = b')';
            // Fits: the whole is shorter than 256.
            note.len = end as u8 + 1;
        }
        note
    }

    fn text(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The step that failed, and on what.
pub(crate) struct Halt<'p> {
    step: Step,
    errno: Errno,
    detail: &'p [u8],
    note: Note,
}

impl<'p> Halt<'p> {
    fn new(step: Step, errno: Errno, detail: &'p [u8]) -> Self {
        Self { step, errno, detail, note: Note::default() }
    }
}

pub(crate) type Outcome<'p, T> = Result<T, Halt<'p>>;

/// Names the step of a system call's error.
trait At<T> {
    fn at<'p>(self, step: Step, detail: &'p [u8]) -> Outcome<'p, T>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at<'p>(self, step: Step, detail: &'p [u8]) -> Outcome<'p, T> {
        self.map_err(|errno| Halt::new(step, errno, detail))
    }
}

/// A container's first process.
pub(crate) struct Context<'p> {
    pub(crate) init: &'p InitPlan<'p>,
    pub(crate) prepared: &'p Prepared<'p>,
}

/// What has to be remembered between the steps of becoming the container's process.
pub(crate) struct Progress<'p> {
    /// Where the parent listens: the sync socket, later the connection that started us.
    sync: Option<OwnedFd>,
    prepared: &'p Prepared<'p>,
    process: &'p ProcessPlan<'p>,
}

impl<'p> Progress<'p> {
    fn sync(&self) -> BorrowedFd<'_> {
        self.sync.as_ref().map_or(self.prepared.sync.as_fd(), AsFd::as_fd)
    }

    fn report(&self, kind: Kind, step: Step, fds: &[BorrowedFd<'_>]) -> Outcome<'p, ()> {
        sync::report(self.sync(), kind, step, 0, &[], fds).at(Step::Sync, b"")
    }

    /// Tells of something that was left out. That nobody listens is no reason to fail.
    fn warn(&self, halt: &Halt<'_>) {
        let text = [halt.detail, halt.note.text()];
        let _ = sync::report(self.sync(), Kind::Warning, halt.step, halt.errno.raw_os_error(), &text, &[]);
    }

    /// Waits for the parent's word. Ends quietly if the parent is gone: nobody is left to start for.
    fn wait_for(&self, word: u8) -> Outcome<'p, [Option<OwnedFd>; 2]> {
        loop {
            let message = receive(self.sync()).at(Step::Sync, b"")?;
            match message {
                None => sys::exit(1),
                Some((got, fds)) if got == word => return Ok(fds),
                Some(_) => {}
            }
        }
    }

    fn fail(&self, halt: &Halt<'_>) -> ! {
        let text = [halt.detail, halt.note.text()];
        let _ = sync::report(self.sync(), Kind::Failed, halt.step, halt.errno.raw_os_error(), &text, &[]);
        let program = matches!(halt.step, Step::FindProgram | Step::Exec);
        sys::exit(match halt.errno {
            Errno::NOENT | Errno::NOTDIR if program => 127,
            _ if program => 126,
            _ => 125,
        })
    }
}

/// A word of the parent, with what came along.
type Word = (u8, [Option<OwnedFd>; 2]);

/// Reads one datagram; `None` at the end of the stream.
fn receive(fd: BorrowedFd<'_>) -> Result<Option<Word>, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
    let mut byte = [0u8; 1];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [rustix::io::IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(fd, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?.bytes,
        }
    };
    let mut fds = [None, None];
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for (place, fd) in fds.iter_mut().zip(rights) {
                *place = Some(fd);
            }
        }
    }
    Ok((received > 0).then_some((byte[0], fds)))
}

/// `/proc/self/fd/N`, for the few calls that know no descriptors.
pub(crate) fn fd_path<'b>(fd: BorrowedFd<'_>, buffer: &'b mut [u8; 32]) -> &'b CStr {
    let mut rest = &mut buffer[..];
    // 14 + at most 10 digits + the terminator fit.
    let _ = write!(rest, "/proc/self/fd/{}\0", fd.as_raw_fd());
    CStr::from_bytes_until_nul(buffer).unwrap_or(c"/")
}

/// The life of a container's first process before its program. Does not return.
///
/// `in_user_namespace`: the user namespace to join has been joined before the clone.
pub(crate) fn first_process(plan: &InitPlan<'_>, prepared: &Prepared<'_>, in_user_namespace: bool) -> ! {
    let mut progress = Progress { sync: None, prepared, process: &plan.process };
    let context = Context { init: plan, prepared };
    match become_container(&context, &mut progress, in_user_namespace) {
        Err(halt) => progress.fail(&halt),
        Ok(never) => match never {},
    }
}

fn become_container<'p>(
    context: &Context<'p>,
    progress: &mut Progress<'p>,
    in_user_namespace: bool,
) -> Outcome<'p, Infallible> {
    let (plan, prepared) = (context.init, context.prepared);
    start(progress, plan.preserve_fds)?;
    join_cgroups(prepared)?;

    // Namespaces. The clone has made the new ones, apart from that of cgroups, which takes the cgroup just joined
    // for its root.
    if prepared.wait_for_maps {
        progress.wait_for(GO_MAPPED)?;
    }
    let join = prepared.join.iter().filter(|(kind, _)| !(in_user_namespace && *kind == NamespaceKind::User));
    for (kind, namespace) in join {
        sys::setns(namespace.fd(), kind.clone_flag()).at(Step::JoinNamespace, kind.name().as_bytes())?;
    }
    if plan.namespaces.isolated(NamespaceKind::User) {
        become_root()?;
    }
    if plan.namespaces.is_new(NamespaceKind::Cgroup) {
        sys::unshare(NamespaceKind::Cgroup.clone_flag()).at(Step::NewNamespace, b"cgroup")?;
    }
    new_session(plan.own_keyring, plan.init && plan.process.terminal.is_some())?;
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.to_bytes()).at(Step::Hostname, name.to_bytes())?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.to_bytes()).at(Step::Domainname, name.to_bytes())?;
    }

    // The root file system and everything in it.
    let root = rootfs::mount(context)?;
    let mut places = Places::new(root.as_fd());
    for (mount, tree) in plan.mounts.iter().zip(&prepared.trees) {
        mounts::mount(mount, &mut places, tree.as_ref(), &plan.root.mount_point)?;
    }
    devices::nodes(context, &places)?;
    devices::links(context, &places)?;
    if let Some(terminal) = &plan.process.terminal {
        console::open(progress, Some(root.as_fd()), *terminal, !plan.init)?;
    }
    sysctls(context, &places)?;
    rootfs::make_directory(root.as_fd(), &plan.process.cwd);
    hidden::readonly(context, &mut places)?;
    hidden::masked(context, &mut places)?;

    // The parent's hooks, and those that run in here but from the host's files; then the root changes.
    let mut states = [None, None];
    if plan.pause_before_pivot {
        progress.report(Kind::BeforePivot, Step::Hook, &[])?;
        states = progress.wait_for(GO_HOOKS)?;
    }
    let (create, start) = prepared.hooks.split_at(plan.create_container.len());
    hooks::run(&plan.create_container, create, states[0].as_ref(), || Ok(()))?;
    rootfs::enter(context, root)?;

    process::streams(progress)?;
    process::attributes(progress)?;
    let seccomp_late = process::drop_privileges(progress)?;
    let program = process::find_program(progress, plan.program_reports)?;

    // Everything is ready.
    progress.report(Kind::Ready, Step::Sync, &[])?;
    if plan.wait_for_start {
        wait_for_start(progress)?;
    }
    // The container's own programs, so confined as it is.
    hooks::run(&plan.start_container, start, states[1].as_ref(), || process::confine(progress, seccomp_late))?;
    process::close_others(plan.preserve_fds)?;
    let gate = prepared.init.as_ref().map(|_| pid1::Gate::new()).transpose()?;
    process::say_executing(progress, plan.program_reports)?;
    process::confine(progress, seccomp_late)?;
    if let (Some(init), Some(gate)) = (&prepared.init, gate) {
        pid1::split(init.as_fd(), gate, plan.process.terminal.is_some())?;
    }
    process::execute(progress, program)
}

/// The life of a further process of a container before its program. Does not return.
pub(crate) fn further_process(plan: &ExecPlan<'_>, container: BorrowedFd<'_>, prepared: &Prepared<'_>) -> ! {
    let mut progress = Progress { sync: None, prepared, process: &plan.process };
    match join_container(plan, container, &mut progress) {
        Err(halt) => progress.fail(&halt),
        Ok(never) => match never {},
    }
}

fn join_container<'p>(
    plan: &'p ExecPlan<'p>,
    container: BorrowedFd<'_>,
    progress: &mut Progress<'p>,
) -> Outcome<'p, Infallible> {
    start(progress, plan.preserve_fds)?;
    if let Some(mask) = &plan.process.affinity_initial {
        sys::sched_setaffinity(&mask.0).at(Step::Affinity, b"initial")?;
    }
    join_cgroups(progress.prepared)?;
    if let Some(mask) = &plan.process.affinity_final {
        sys::sched_setaffinity(&mask.0).at(Step::Affinity, b"final")?;
    }
    // All at once: the kernel takes them in the right order. The PID namespace came with the clone.
    let join = plan.join & !NamespaceKind::Pid.clone_flag();
    if join != 0 {
        sys::setns(container, join).at(Step::JoinNamespace, b"of the container")?;
    }
    if plan.user_namespace {
        become_root()?;
    }
    new_session(plan.own_keyring, false)?;
    if let Some(terminal) = &plan.process.terminal {
        console::open(progress, None, *terminal, true)?;
    }
    process::streams(progress)?;
    process::attributes(progress)?;
    let seccomp_late = process::drop_privileges(progress)?;
    let program = process::find_program(progress, plan.program_reports)?;
    progress.report(Kind::Ready, Step::Sync, &[])?;
    if plan.wait_for_start {
        wait_for_start(progress)?;
    }
    process::close_others(plan.preserve_fds)?;
    process::say_executing(progress, plan.program_reports)?;
    process::confine(progress, seccomp_late)?;
    process::execute(progress, program)
}

/// A process between the parent and the container's first process, where a user namespace is joined and others are to
/// be new in it: they belong to the user namespace that their creator is in. Joins it, clones the first process as its
/// own sibling, tells the parent, and ends.
pub(crate) fn between(plan: &InitPlan<'_>, prepared: &Prepared<'_>, flags: u64) -> ! {
    let progress = Progress { sync: None, prepared, process: &plan.process };
    if let Err(halt) = start(&progress, plan.preserve_fds) {
        progress.fail(&halt);
    }
    let user = prepared.join.iter().find(|(kind, _)| *kind == NamespaceKind::User);
    if let Some((kind, namespace)) = user
        && let Err(halt) = sys::setns(namespace.fd(), kind.clone_flag()).at(Step::JoinNamespace, b"user")
    {
        progress.fail(&halt);
    }
    let mut pidfd = -1i32;
    let args = sys::CloneArgs {
        flags: flags | libc::CLONE_PARENT as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        ..sys::CloneArgs::default()
    };
    // SAFETY: no memory is shared, and the child goes on as this process would.
    match unsafe { sys::clone3(&args) } {
        Ok(0) => first_process(plan, prepared, true),
        Ok(pid) => {
            // SAFETY: the clone has put a new descriptor there.
            let pidfd = unsafe { BorrowedFd::borrow_raw(pidfd) };
            let told = sync::report(progress.sync(), Kind::Cloned, Step::Sync, pid, &[], &[pidfd]);
            sys::exit(i32::from(told.is_err()))
        }
        Err(errno) => progress.fail(&Halt::new(Step::NewNamespace, errno, b"in the user namespace")),
    }
}

/// Where both begin: nothing of the parent's shows, and nothing of the parent's memory can be read by whoever shares
/// the namespaces that are about to be joined.
fn start<'p>(progress: &Progress<'_>, preserve: u32) -> Outcome<'p, ()> {
    sys::reset_signals();
    keep_only_used(progress.prepared, preserve)?;
    // Cannot fail with a valid value.
    let _ = sys::prctl(libc::PR_SET_DUMPABLE, 0, 0);
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Closes what this process does not use, before anybody in the container could look at it: of a shared table it takes
/// only as much as it needs. Nothing may be opened or closed before, as the parent would see it.
fn keep_only_used<'p>(prepared: &Prepared<'_>, preserve: u32) -> Outcome<'p, ()> {
    let close = |range: std::ops::Range<u32>, unshare: bool| match range.is_empty() {
        true => Ok(()),
        // SAFETY: nothing in there is used here any more; the values that own it in the parent's memory are never
        // dropped in this one, as it ends by exec or exit.
        false => unsafe { sys::close_range(range, unshare) }.at(Step::Streams, b"what is not the container's"),
    };
    close(prepared.used_end().max(3 + preserve)..u32::MAX, prepared.shares_table)?;
    let mut first = 3 + preserve;
    while let Some(next) = prepared.used().filter(|fd| *fd >= first).min() {
        close(first..next, false)?;
        first = next + 1;
    }
    Ok(())
}

fn join_cgroups<'p>(prepared: &Prepared<'p>) -> Outcome<'p, ()> {
    for tasks in &prepared.cgroup_tasks {
        rustix::io::write(tasks, b"0").at(Step::JoinCgroup, b"")?;
    }
    Ok(())
}

/// Takes on the ids 0 of a user namespace, in which this process has every capability but no name yet.
fn become_root<'p>() -> Outcome<'p, ()> {
    sys::setresgid(0).at(Step::BecomeRoot, b"")?;
    sys::setresuid(0).at(Step::BecomeRoot, b"")?;
    match sys::setgroups(&[]) {
        // Denied in a namespace whose maps an unprivileged parent wrote.
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(Halt::new(Step::BecomeRoot, errno, b"")),
    }
}

/// `session_later`: an init of our own leaves the session, and with it the terminal, to the program.
fn new_session<'p>(own_keyring: bool, session_later: bool) -> Outcome<'p, ()> {
    if !session_later {
        rustix::process::setsid().at(Step::NewSession, b"")?;
    }
    if own_keyring {
        match sys::join_new_session_keyring() {
            // A kernel without keyrings, or a host's filter around all of us, has none to leak.
            Ok(()) | Err(Errno::NOSYS | Errno::PERM) => {}
            Err(errno) => return Err(Halt::new(Step::Keyring, errno, b"of the container")),
        }
    }
    Ok(())
}

/// Written through the container's own /proc, or else the host's: in both, the namespaces of the writer count. The own
/// one is the faster: in the host's the kernel keeps all containers' files of a name in one list, and searches it.
fn sysctls<'p>(context: &Context<'p>, places: &Places<'_, 'p>) -> Outcome<'p, ()> {
    if context.init.sysctls.is_empty() {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = places.own_at(c"proc").unwrap_or(context.prepared.proc.as_fd());
    let sys = rustix::fs::openat(proc, c"sys", flags, Mode::empty()).at(Step::Sysctl, b"")?;
    for (path, value) in &context.init.sysctls {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&sys, path.as_c_str(), flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.to_bytes()))
            .at(Step::Sysctl, path.to_bytes())?;
    }
    Ok(())
}

/// Waits for the start, on the sync socket or on a socket of its own that a later process connects to.
fn wait_for_start(progress: &mut Progress<'_>) -> Outcome<'static, ()> {
    if let Some(gate) = progress.prepared.gate {
        let connection = loop {
            match rustix::net::accept_with(gate, rustix::net::SocketFlags::CLOEXEC) {
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                other => break other.at(Step::Sync, b"")?,
            }
        };
        progress.sync = Some(connection);
    }
    loop {
        match receive(progress.sync()).at(Step::Sync, b"")? {
            None => sys::exit(1),
            Some((GO_START, _)) => return Ok(()),
            Some(_) => {}
        }
    }
}
