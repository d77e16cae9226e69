//! The daemon's side of the forwarder: starts it when it is first needed, and talks to it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::protocol::{self, Held, Hold, MAX_MESSAGE, Mode, Refusal, Reply, Request, Status};
use super::{LOCK_FILE, LOG_FILE, READY, SOCKET_FILE, holder, socket_address};

/// How long the forwarder may take to answer before it counts as hung. It answers in microseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it may take to go on as another program, which is read from the disk and tried first.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a process may take to die.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the forwarder could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// It understood, and said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It ended (or was killed) since it was last heard of, and everything that it held is no longer held. The next
    /// [`ForwardClient::hold`] starts another; hold everything again.
    #[error("the port forwarder under {run_dir:?} has ended, and its ports with it; they have to be held again")]
    Lost {
        /// Its run directory.
        run_dir: PathBuf,
    },
    /// It could not be started.
    #[error("cannot start the port forwarder {program:?}: {why} (its log is {log:?})")]
    Start {
        /// The program that was to be started.
        program: PathBuf,
        /// What it said, or what the system said.
        why: String,
        /// Where its messages go.
        log: PathBuf,
    },
    /// The program that it should go on as cannot be compared with its own.
    #[error("cannot compare the port forwarder's program with {path:?}: {source}")]
    Program {
        /// The program that it should go on as.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call on its socket failed.
    #[error("cannot {what} the port forwarder at {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not answer in time. What it carries may go on, as far as it does.
    #[error(
        "the port forwarder (process {pid}) does not answer: it is stopped (then `kill -CONT {pid}` lets it go on), or hangs (then \
         `kill -9 {pid}` has another one take its place)"
    )]
    Silent {
        /// Its process.
        pid: i32,
    },
    /// It answered what nobody asked for.
    #[error("the port forwarder at {path:?} gave a wrong kind of answer; restart it")]
    WrongAnswer {
        /// Its socket.
        path: PathBuf,
    },
}

/// The forwarder of one run directory, which may or may not be running.
///
/// All calls are synchronous and take some ten microseconds; the first [`hold`](Self::hold) of a run directory starts the
/// process, which takes a few milliseconds. Calls may come from several threads.
///
/// Everything but [`hold`](Self::hold) works on the forwarder that is running and does not start one.
pub struct ForwardClient {
    run_dir: PathBuf,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// The process, where this client started it: it has to be reaped.
    child: Option<Child>,
}

impl ForwardClient {
    /// A client for the forwarder of `run_dir`, which runs as `PROGRAM forward --run-dir RUN_DIR`. Nothing is started yet.
    pub fn new(run_dir: impl Into<PathBuf>, program: impl Into<PathBuf>) -> Self {
        let (run_dir, program) = (run_dir.into(), program.into());
        let dir = run_dir.clone();
        Self::with_command(run_dir, move || {
            let mut command = Command::new(&program);
            command.arg("forward").arg("--run-dir").arg(&dir);
            command
        })
    }

    /// The same, for a forwarder that is started in another way or with other limits (see [`super::main`]).
    /// The command's standard streams are set by the client.
    pub fn with_command(run_dir: impl Into<PathBuf>, command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        ForwardClient { run_dir: run_dir.into(), command: Box::new(command), state: Mutex::default() }
    }

    /// Gives a bound socket into the forwarder's keeping; starts the forwarder where none runs. The caller may close its
    /// own descriptor afterwards. A key that is held already is replaced, and connections that its old socket accepted
    /// live on: the call is idempotent.
    ///
    /// The socket should come from [`super::bind`], which knows the options that each use needs.
    ///
    /// # Errors
    /// [`ForwardError::Lost`] once, when the forwarder that this client knew has ended.
    pub fn hold(&self, hold: &Hold, socket: impl AsFd) -> Result<(), ForwardError> {
        let mut state = self.state.lock();
        self.connect_or_start(&mut state)?;
        match self.call(&mut state, &Request::Hold(hold.clone()), Some(socket.as_fd()))? {
            (Reply::Done, _) => Ok(()),
            other => Err(self.wrong(other.0)),
        }
    }

    /// Changes what is done with a socket that is held already: a container came back with another address. Connections
    /// that it carries stay with the old target.
    ///
    /// # Errors
    /// [`Refusal::UnknownKey`] where it isn't held.
    pub fn retarget(&self, key: &str, mode: Mode) -> Result<(), ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Err(Refusal::UnknownKey { key: key.into() }.into());
        }
        match self.call(&mut state, &Request::Retarget { key: key.into(), mode }, None)? {
            (Reply::Done, _) => Ok(()),
            other => Err(self.wrong(other.0)),
        }
    }

    /// Lets go of a port. Connections that it accepted live on until one of their ends closes them.
    /// Returns whether it was held.
    ///
    /// # Errors
    /// Where the forwarder cannot be asked.
    pub fn release(&self, key: &str) -> Result<bool, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Ok(false);
        }
        match self.call(&mut state, &Request::Release { key: key.into() }, None) {
            Ok((Reply::Done, _)) => Ok(true),
            Ok(other) => Err(self.wrong(other.0)),
            Err(ForwardError::Refused(Refusal::UnknownKey { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Everything that is held, by key; empty where no forwarder runs.
    ///
    /// # Errors
    /// Where the forwarder cannot be asked.
    pub fn list(&self) -> Result<Vec<Held>, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Ok(Vec::new());
        }
        self.list_connected(&mut state)
    }

    fn list_connected(&self, state: &mut State) -> Result<Vec<Held>, ForwardError> {
        let mut all: Vec<Held> = Vec::new();
        loop {
            let after = all.last().map(|held| held.hold.key.clone());
            match self.call(state, &Request::List { after }, None)? {
                (Reply::Holds { held, more }, _) => {
                    let stuck = held.is_empty();
                    all.extend(held);
                    if !more || stuck {
                        return Ok(all);
                    }
                }
                other => return Err(self.wrong(other.0)),
            }
        }
    }

    /// A duplicate of a socket that is held.
    ///
    /// # Errors
    /// [`Refusal::UnknownKey`] where it isn't held.
    pub fn fetch(&self, key: &str) -> Result<OwnedFd, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Err(Refusal::UnknownKey { key: key.into() }.into());
        }
        self.fetch_connected(&mut state, key)
    }

    fn fetch_connected(&self, state: &mut State, key: &str) -> Result<OwnedFd, ForwardError> {
        match self.call(state, &Request::Fetch { key: key.into() }, None)? {
            (Reply::Socket, Some(socket)) => Ok(socket),
            other => Err(self.wrong(other.0)),
        }
    }

    /// What the forwarder tells about itself; `None` where none runs.
    ///
    /// # Errors
    /// Where it runs, and cannot be asked.
    pub fn status(&self) -> Result<Option<Status>, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Ok(None);
        }
        match self.call(&mut state, &Request::Ping, None)? {
            (Reply::Pong(status), _) => Ok(Some(status)),
            other => Err(self.wrong(other.0)),
        }
    }

    /// Ends the forwarder, and breaks what it carries. When this returns, its ports are free and another can be started in its run
    /// directory. Returns whether one was running.
    ///
    /// # Errors
    /// Where it runs, and cannot be asked.
    pub fn shutdown(&self) -> Result<bool, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Ok(false);
        }
        match self.call(&mut state, &Request::Shutdown, None)? {
            (Reply::Done, _) => {
                state.connection = None;
                reap(&mut state, true);
                Ok(true)
            }
            other => Err(self.wrong(other.0)),
        }
    }

    /// Kills the forwarder, and waits for its end. Returns whether one was running. It is not asked, so it may be one that takes no
    /// connection.
    fn kill(&self) -> Result<bool, ForwardError> {
        let failed = |source| self.io("kill the process that listens on", source);
        let lock = self.run_dir.join(LOCK_FILE);
        let Some(pid) = holder::of(&lock).map_err(failed)? else { return Ok(false) };
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(false),
            Err(errno) => return Err(failed(errno.into())),
        };
        // Who has the lock still is whom the descriptor leads to.
        if holder::of(&lock).map_err(failed)? != Some(pid) {
            return Ok(false);
        }
        match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        wait_for_exit(&process);
        Ok(true)
    }

    /// Has the forwarder go on as this client's program, with everything it holds and carries, where it is of another file: as a rule
    /// a newer program has been installed since it began. It stays the same process, and what [`watch`](Self::watch) gave goes on to
    /// watch it. Returns whether that was so.
    ///
    /// # Errors
    /// Where it goes on as the program that it is, and why.
    pub fn bring_up_to_date(&self) -> Result<bool, ForwardError> {
        let mut state = self.state.lock();
        if !self.connect(&mut state)? {
            return Ok(false);
        }
        let Some(connection) = &state.connection else { return Ok(false) };
        let path = PathBuf::from((self.command)().get_program());
        let failed = |source| ForwardError::Program { path: path.clone(), source };
        let program = File::open(&path).map_err(failed)?;
        let executed = fs::metadata(format!("/proc/{}/exe", connection.pid.as_raw_nonzero())).map_err(failed)?;
        let wanted = program.metadata().map_err(failed)?;
        if (executed.dev(), executed.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(false);
        }
        connection.answer_within(UPGRADE_TIMEOUT).map_err(|source| self.io("talk to", source))?;
        match self.call(&mut state, &Request::Upgrade, Some(program.as_fd()))? {
            (Reply::Done, _) => {}
            other => return Err(self.wrong(other.0)),
        }
        if let Some(connection) = &state.connection {
            connection.answer_within(ANSWER_TIMEOUT).map_err(|source| self.io("talk to", source))?;
        }
        Ok(true)
    }

    /// Something that tells when the forwarder has ended, so that whoever holds ports can hold them again at once: poll it,
    /// or wait with [`Watch::ended`]. `None` where no forwarder runs.
    ///
    /// # Errors
    /// Where the forwarder runs, and cannot be connected to.
    pub fn watch(&self) -> Result<Option<Watch>, ForwardError> {
        Ok(self.dial()?.map(Watch))
    }

    /// Forgets a connection whose other end is gone, and reports that as [`ForwardError::Lost`]; else makes sure that there
    /// is a connection where a forwarder runs.
    fn connect(&self, state: &mut State) -> Result<bool, ForwardError> {
        if let Some(connection) = &state.connection {
            if !has_ended(&connection.socket) {
                return Ok(true);
            }
            return Err(self.lost(state));
        }
        state.connection = self.dial()?;
        Ok(state.connection.is_some())
    }

    fn connect_or_start(&self, state: &mut State) -> Result<(), ForwardError> {
        if self.connect(state)? {
            return Ok(());
        }
        reap(state, false);
        state.child = Some(self.start()?);
        state.connection = self.dial()?;
        match state.connection {
            Some(_) => Ok(()),
            None => Err(self.lost(state)),
        }
    }

    fn dial(&self) -> Result<Option<Connection>, ForwardError> {
        match Connection::open(&self.run_dir) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            // As many wait already to be heard as it lets.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(match holder::of(&self.run_dir.join(LOCK_FILE)) {
                    Ok(Some(pid)) => ForwardError::Silent { pid: pid.as_raw_nonzero().get() },
                    _ => self.io("connect to", error),
                })
            }
            outcome => outcome.map(Some).map_err(|source| self.io("connect to", source)),
        }
    }

    fn start(&self) -> Result<Child, ForwardError> {
        let mut command = (self.command)();
        let program = PathBuf::from(command.get_program());
        let log = self.run_dir.join(LOG_FILE);
        let failed = |why: String| ForwardError::Start { program: program.clone(), why, log: log.clone() };

        let log_file = open_log(&log).map_err(|error| failed(format!("cannot open its log: {error}")))?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::from(log_file));
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        // The command keeps its own copy of the child's end: without it, the read below sees the end when the child ends.
        drop(command);

        let mut said = String::new();
        let read = ours.take(4096).read_to_string(&mut said);
        if read.is_ok() && said == READY {
            return Ok(child);
        }
        let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let said = said.trim();
        Err(failed(if said.is_empty() { format!("it ended with {status} before it was ready") } else { said.into() }))
    }

    /// One request, one reply.
    fn call(
        &self,
        state: &mut State,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>), ForwardError> {
        let Some(connection) = &state.connection else { return Err(self.lost(state)) };
        let bytes =
            protocol::encode(request).map_err(|error| self.io("encode a request for", io::Error::other(error)))?;
        let mut buffer = vec![0; MAX_MESSAGE];
        let socket = &connection.socket;
        let answer = protocol::send(socket, &bytes, fd, SendFlags::empty())
            .and_then(|()| protocol::recv(socket, &mut buffer, RecvFlags::empty()));
        match answer {
            Ok(received) if received.len == 0 => Err(self.lost(state)),
            Ok(received) => match protocol::decode(&buffer[..received.len]) {
                Some(Reply::Refused(refusal)) => Err(refusal.into()),
                Some(reply) if !received.cut_short => Ok((reply, received.fd)),
                _ => {
                    state.connection = None;
                    Err(ForwardError::WrongAnswer { path: self.socket_path() })
                }
            },
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(self.lost(state)),
            Err(errno) => {
                let pid = connection.pid.as_raw_nonzero().get();
                // A late answer must not be taken for the answer to the next question.
                state.connection = None;
                Err(match errno {
                    Errno::AGAIN => ForwardError::Silent { pid },
                    errno => self.io("talk to", errno.into()),
                })
            }
        }
    }

    fn lost(&self, state: &mut State) -> ForwardError {
        if let Some(connection) = state.connection.take() {
            connection.wait_for_exit();
        }
        reap(state, false);
        ForwardError::Lost { run_dir: self.run_dir.clone() }
    }

    fn wrong(&self, _reply: Reply) -> ForwardError {
        ForwardError::WrongAnswer { path: self.socket_path() }
    }

    fn io(&self, what: &'static str, source: io::Error) -> ForwardError {
        ForwardError::Io { what, path: self.socket_path(), source }
    }

    fn socket_path(&self) -> PathBuf {
        self.run_dir.join(SOCKET_FILE)
    }
}

/// Takes the exit status of a forwarder that this process started, where it has ended (or is about to).
fn reap(state: &mut State, is_ending: bool) {
    if let Some(child) = &mut state.child {
        let ended = if is_ending { child.wait().is_ok() } else { !matches!(child.try_wait(), Ok(None)) };
        if ended {
            state.child = None;
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
}

/// Whether the other end has closed.
fn has_ended(connection: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    match protocol::recv(connection, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok(received) => received.len == 0,
        Err(errno) => errno != Errno::AGAIN,
    }
}

/// A connection to a forwarder, and the process at its other end.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    process: OwnedFd,
    pid: Pid,
}

impl Connection {
    fn open(run_dir: &Path) -> io::Result<Self> {
        let (address, _dir) = socket_address(run_dir)?;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // It waits where nobody takes connections, and as many wait already as the forwarder lets.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(ANSWER_TIMEOUT))?;
        rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address))?;
        let pid = sockopt::socket_peercred(&socket)?.pid;
        let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Err(errno) => return Err(errno.into()),
        };
        // As long as the connection lives the number is its process's; if not, it may have been given to another.
        if has_ended(&socket) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let connection = Connection { socket, process, pid };
        connection.answer_within(ANSWER_TIMEOUT)?;
        Ok(connection)
    }

    /// From now on, an answer that takes longer is an error.
    fn answer_within(&self, timeout: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, Some(timeout))?)
    }

    /// Waits until a process whose end of the connection has closed is gone: the kernel closes the descriptors of a dying
    /// process in no certain order, so that its ports may be taken a moment longer than its connections last.
    fn wait_for_exit(&self) {
        wait_for_exit(&self.process);
    }
}

/// Waits for the end of a process, but not for ever.
fn wait_for_exit(process: &OwnedFd) {
    let timeout = Timespec { tv_sec: EXIT_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&timeout)));
}

/// Tells when a forwarder has ended; see [`ForwardClient::watch`].
#[derive(Debug)]
pub struct Watch(Connection);

impl Watch {
    /// Returns when the forwarder has ended, whatever ended it, and its ports are free. Needs a `tokio` runtime with I/O.
    ///
    /// # Errors
    /// Where the runtime cannot watch the connection.
    pub async fn ended(self) -> io::Result<()> {
        let Connection { socket, process, pid } = self.0;
        // Of the stream only its readiness and its end are used, which are the same for every kind of socket.
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        loop {
            socket.readable().await?;
            match socket.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        let connection = Connection { socket: OwnedFd::from(socket.into_std()?), process, pid };
        tokio::task::spawn_blocking(move || connection.wait_for_exit()).await.map_err(io::Error::other)
    }
}

impl AsFd for Watch {
    /// A descriptor of the process (pidfd_open(2)), which is readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.process.as_fd()
    }
}

/// Ends the forwarder of a run directory, and removes the files that it left there. One that is stopped or hangs is killed. Returns
/// whether one was running.
///
/// # Errors
/// Where it runs and does not end, or a file cannot be removed.
pub fn clean(run_dir: &Path) -> Result<bool, ForwardError> {
    let client = ForwardClient::new(run_dir, "");
    let ran = match client.shutdown() {
        Err(ForwardError::Silent { .. }) => client.kill()?,
        ended => ended?,
    };
    for name in [SOCKET_FILE, LOCK_FILE, LOG_FILE] {
        match fs::remove_file(run_dir.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(client.io("remove the files of", source));
            }
            _ => {}
        }
    }
    Ok(ran)
}
