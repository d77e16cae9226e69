//! One connection, synchronously.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Call, ClientError};
use crate::protocol::{Event, FromKeeper, PROTOCOL, ToKeeper};
use crate::records::Holder;
use crate::wire::{self, Packet, ReceiveBuffer};
use crate::{SOCKET_NAME, records};

/// A keeper answers in microseconds; one that is about to go on as another program, after ten seconds at most.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
/// How long a keeper that was killed may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// What the keeper said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Its release.
    pub release: String,
    /// Its process id.
    pub pid: u32,
}

/// A connection to the keeper for one task at a time.
#[derive(Debug)]
pub struct Client {
    pub(super) socket: OwnedFd,
    pub(super) welcome: Welcome,
    pub(super) events: VecDeque<Event>,
    buffer: ReceiveBuffer,
    last_number: u64,
}

impl Client {
    /// Connects to the keeper of a run directory, and greets it. One that does not answer is not waited for for ever
    /// ([`ClientError::Silent`]): it is stopped, or hangs.
    pub fn connect(run_dir: &Path) -> Result<Client, ClientError> {
        Client::connect_within(run_dir, ANSWERS_WITHIN)
    }

    /// As [`Client::connect`], with a time of the caller's.
    pub fn connect_within(run_dir: &Path, within: Duration) -> Result<Client, ClientError> {
        let socket = connect(run_dir, within)?;
        let patience = Patience::of(peer(&socket, run_dir)?, Some(within));
        let mut buffer = ReceiveBuffer::default();
        send(socket.as_fd(), &Packet::encode(&ToKeeper::Hello { protocol: PROTOCOL }, Vec::new())?, &patience)?;
        loop {
            match receive(socket.as_fd(), &mut buffer, &patience)?.0 {
                FromKeeper::Welcome { release, pid, .. } => {
                    let welcome = Welcome { release, pid };
                    return Ok(Client { socket, welcome, events: VecDeque::new(), buffer, last_number: 0 });
                }
                FromKeeper::Refused { reason, protocol } => return Err(ClientError::Refused { reason, protocol }),
                FromKeeper::Upgraded { .. } => continue,
                other => return Err(ClientError::Unexpected(format!("{other:?}"))),
            }
        }
    }

    /// What the keeper said of itself.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Asks, and waits for the answer. Events that arrive meanwhile are kept for [`Client::next_event`].
    pub fn call<C: Call>(&mut self, call: C) -> Result<C::Output, ClientError> {
        self.ask(call, None)
    }

    /// As [`Client::call`], but one that does not answer in this time is given up: [`ClientError::Silent`]. The connection
    /// is of no use then.
    pub fn call_within<C: Call>(&mut self, call: C, within: Duration) -> Result<C::Output, ClientError> {
        self.ask(call, Some(within))
    }

    fn ask<C: Call>(&mut self, call: C, within: Option<Duration>) -> Result<C::Output, ClientError> {
        let patience = Patience::of(self.welcome.pid, within);
        let (body, descriptors) = call.into_request();
        self.last_number += 1;
        let asked = self.last_number;
        send(
            self.socket.as_fd(),
            &Packet::encode(&ToKeeper::Request { number: asked, body }, descriptors)?,
            &patience,
        )?;
        loop {
            match receive(self.socket.as_fd(), &mut self.buffer, &patience)? {
                (FromKeeper::Response { number, result }, descriptors) if number == asked => {
                    let reply = result?;
                    let told = format!("{reply:?}");
                    return C::output(reply, descriptors).ok_or(ClientError::Unexpected(told));
                }
                (FromKeeper::Event(event), _) => self.events.push_back(event),
                (FromKeeper::Upgraded { .. }, _) => {}
                (other, _) => return Err(ClientError::Unexpected(format!("{other:?}"))),
            }
        }
    }

    /// Asks without wanting an answer.
    pub fn post<C: Call>(&mut self, call: C) -> Result<(), ClientError> {
        let (body, descriptors) = call.into_request();
        let patience = Patience::of(self.welcome.pid, None);
        send(self.socket.as_fd(), &Packet::encode(&ToKeeper::Request { number: 0, body }, descriptors)?, &patience)
    }

    /// The next event, in the order in which they happened. `None`: there was none in this time; without a time it
    /// waits for one.
    pub fn next_event(&mut self, within: Option<Duration>) -> Result<Option<Event>, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        loop {
            if !wait(self.socket.as_fd(), PollFlags::IN, within)? {
                return Ok(None);
            }
            match receive(self.socket.as_fd(), &mut self.buffer, &Patience::of(self.welcome.pid, None))?.0 {
                FromKeeper::Event(event) => return Ok(Some(event)),
                FromKeeper::Upgraded { .. } => {}
                other => return Err(ClientError::Unexpected(format!("{other:?}"))),
            }
        }
    }
}

/// How long an upgrade is waited for: longer than a keeper waits that knows a limit itself, with time to try the
/// program.
const UPGRADE_WITHIN: Duration = Duration::from_secs(60);

/// Makes the keeper of a run directory go on as another program (`stratus` itself, newer), with everything it holds,
/// and waits until that has happened. Works with a keeper of any release. The keeper tries the program's state format
/// first: one that cannot read it hands everything back to the old program, and this tells the reason.
pub fn upgrade(run_dir: &Path, program: &Path) -> Result<Welcome, ClientError> {
    upgrade_within(UPGRADE_WITHIN, run_dir, program)
}

fn upgrade_within(within: Duration, run_dir: &Path, program: &Path) -> Result<Welcome, ClientError> {
    let file = File::open(program).map_err(ClientError::system("open", program))?;
    let socket = connect(run_dir, within)?;
    let pid = peer(&socket, run_dir)?;
    let patience = Patience::of(pid, Some(within));
    let mut buffer = ReceiveBuffer::default();
    send(socket.as_fd(), &Packet::encode(&ToKeeper::Upgrade, vec![file.into()])?, &patience)?;
    // The end of the connection takes the request back.
    if !wait(socket.as_fd(), PollFlags::IN, Some(within))? {
        return Err(ClientError::NotUpgraded { pid, within });
    }
    match receive(socket.as_fd(), &mut buffer, &patience)?.0 {
        FromKeeper::Upgraded { release, .. } => Ok(Welcome { release, pid }),
        FromKeeper::Refused { reason, protocol } => Err(ClientError::Refused { reason, protocol }),
        other => Err(ClientError::Unexpected(format!("{other:?}"))),
    }
}

/// Kills the keeper of a run directory, of whatever release it is, and returns when it has ended. One that is stopped ends too.
/// What it held are orphans then, see [`super::recover_orphans`].
pub fn kill(run_dir: &Path) -> Result<(), ClientError> {
    let pid = process(run_dir)?;
    let failed = |errno: Errno| ClientError::system("kill the keeper, process", pid.to_string())(errno.into());
    let number = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH).map_err(failed)?;
    let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(failed)?;
    // Who has the lock still is whom the descriptor leads to.
    if process(run_dir)? != pid {
        return Err(failed(Errno::SRCH));
    }
    match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(failed(errno)),
    }
    match wait(pidfd.as_fd(), PollFlags::IN, Some(ENDS_WITHIN))? {
        true => Ok(()),
        false => Err(ClientError::NotKilled { pid, within: ENDS_WITHIN }),
    }
}

/// The process id of the keeper of a run directory, of whatever release it is. It is not asked, so it may be one that does not answer.
pub fn process(run_dir: &Path) -> Result<u32, ClientError> {
    let holder = records::holder(run_dir).map_err(ClientError::system("look for a keeper in", run_dir))?;
    match holder {
        Some(Holder::Process(pid)) => Ok(pid),
        Some(Holder::Elsewhere) => Err(ClientError::Unexpected(format!(
            "the keeper of {} is outside of this PID namespace, so it has no process id here: try again in the host's",
            run_dir.display()
        ))),
        None => Err(ClientError::NotRunning { path: run_dir.join(SOCKET_NAME) }),
    }
}

fn peer(socket: &OwnedFd, run_dir: &Path) -> Result<u32, ClientError> {
    let credentials = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|errno| ClientError::system("look at the peer of", run_dir.join(SOCKET_NAME))(errno.into()))?;
    Ok(credentials.pid.as_raw_nonzero().get().unsigned_abs())
}

fn connect(run_dir: &Path, within: Duration) -> Result<OwnedFd, ClientError> {
    let path = run_dir.join(SOCKET_NAME);
    let failed = |tried| {
        let path = path.clone();
        move |errno: Errno| ClientError::system(tried, path)(errno.into())
    };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("make a socket for"))?;
    // It waits where nobody takes connections, and as many wait already as the keeper lets.
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Send, Some(within))
        .map_err(failed("use"))?;
    let address = SocketAddrUnix::new(&path).map_err(failed("use as the name of a socket"))?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Err(ClientError::NotRunning { path }),
        Err(Errno::AGAIN) => return Err(ClientError::Silent { pid: process(run_dir)?, within }),
        Err(errno) => return Err(failed("connect to")(errno)),
    }
    rustix::io::ioctl_fionbio(&socket, true).map_err(failed("use"))?;
    Ok(socket)
}

/// Who is waited for, and how long.
struct Patience {
    pid: u32,
    /// In all, and until when. `None`: as long as it takes.
    within: Option<(Duration, Instant)>,
}

impl Patience {
    fn of(pid: u32, within: Option<Duration>) -> Patience {
        Patience { pid, within: within.map(|within| (within, Instant::now() + within)) }
    }

    fn wait(&self, socket: BorrowedFd<'_>, flags: PollFlags) -> Result<(), ClientError> {
        let left = self.within.map(|(_, until)| until.saturating_duration_since(Instant::now()));
        match (wait(socket, flags, left)?, self.within) {
            (false, Some((within, _))) => Err(ClientError::Silent { pid: self.pid, within }),
            _ => Ok(()),
        }
    }
}

fn send(socket: BorrowedFd<'_>, packet: &Packet, patience: &Patience) -> Result<(), ClientError> {
    loop {
        match packet.send(socket) {
            Ok(()) => return Ok(()),
            Err(error) if error.would_block() => patience.wait(socket, PollFlags::OUT)?,
            Err(error) => return Err(disconnected(error)),
        }
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut ReceiveBuffer,
    patience: &Patience,
) -> Result<(FromKeeper, Vec<OwnedFd>), ClientError> {
    loop {
        match wire::receive(socket, buffer) {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => return Err(ClientError::Disconnected),
            Err(error) if error.would_block() => patience.wait(socket, PollFlags::IN)?,
            Err(error) => return Err(disconnected(error)),
        }
    }
}

/// A broken connection is told as such.
pub(super) fn disconnected(error: wire::WireError) -> ClientError {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    match error {
        wire::WireError::Socket { ref source, .. } if matches!(source.kind(), BrokenPipe | ConnectionReset) => {
            ClientError::Disconnected
        }
        error => ClientError::Wire(error),
    }
}

fn wait(socket: BorrowedFd<'_>, flags: PollFlags, within: Option<Duration>) -> Result<bool, ClientError> {
    let within = within.and_then(|within| Timespec::try_from(within).ok());
    let mut fds = [PollFd::new(&socket, flags)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, within.as_ref()))
        .map_err(|errno| ClientError::system("wait for", SOCKET_NAME)(errno.into()))?;
    Ok(ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one of the release before does while a start hangs.
    #[test]
    fn a_keeper_that_does_not_answer_an_upgrade_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(dir.path().join(SOCKET_NAME)).unwrap()).unwrap();
        rustix::net::listen(&listener, 1).unwrap();
        let error = upgrade_within(Duration::from_millis(10), dir.path(), Path::new("/bin/true")).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(error, ClientError::NotUpgraded { pid: told, .. } if told == pid), "{error}");
        assert!(error.to_string().contains("stratus daemon --clean"), "{error}");
    }
}
