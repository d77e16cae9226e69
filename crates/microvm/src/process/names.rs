//! Names for what runs in the machine: its agent passes questions on, and the resolver in the network namespace of this process answers them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use guest_protocol::host::Host;
use rustix::io::Errno;
use rustix::net::{AddressFamily, Ipv4Addr, SocketAddrV4, SocketFlags, SocketType};

/// Where the resolver of a container's network is.
const RESOLVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);
/// Who has no answer by then has asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest message of DNS.
const MESSAGE_MAX: usize = u16::MAX as usize;

/// A question that waits for its answer.
#[derive(Debug)]
struct Question {
    socket: OwnedFd,
    asked: Instant,
    /// Over TCP a message has its length before it, and comes in pieces.
    tcp: Option<Vec<u8>>,
}

/// The questions that are under way, by the guest's numbers.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<u64, Question>);

impl Names {
    /// Passes a question on. What can't be asked is answered with nothing, so that the asker is told.
    pub(super) fn ask(&mut self, host: &mut Host, number: u64, tcp: bool, query: &[u8]) {
        match question(tcp, query) {
            Ok(question) => {
                self.0.insert(number, question);
            }
            Err(_) => answer(host, number, Vec::new()),
        }
    }

    /// Where answers come.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.0.iter().map(|(number, question)| (*number, question.socket.as_fd()))
    }

    /// When the next one is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.values().map(|question| question.asked + PATIENCE).min()
    }

    /// Gives up what was not answered in time.
    pub(super) fn give_up(&mut self, host: &mut Host, now: Instant) {
        let late: Vec<_> =
            self.0.iter().filter(|(_, question)| question.asked + PATIENCE <= now).map(|(number, _)| *number).collect();
        for number in late {
            self.0.remove(&number);
            answer(host, number, Vec::new());
        }
    }

    /// Reads an answer.
    pub(super) fn read(&mut self, host: &mut Host, number: u64) {
        let Some(question) = self.0.get_mut(&number) else { return };
        let mut bytes = vec![0; MESSAGE_MAX + 2];
        let message = match (rustix::io::read(&question.socket, &mut bytes), &mut question.tcp) {
            (Err(Errno::AGAIN | Errno::INTR), _) => return,
            (Err(_), _) | (Ok(0), Some(_)) => Vec::new(),
            (Ok(count), None) => bytes[..count].to_vec(),
            (Ok(count), Some(pieces)) => {
                pieces.extend_from_slice(&bytes[..count]);
                let Some((length, rest)) = pieces.split_first_chunk::<2>() else { return };
                let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*length))) else { return };
                message.to_vec()
            }
        };
        self.0.remove(&number);
        answer(host, number, message);
    }
}

fn answer(host: &mut Host, number: u64, message: Vec<u8>) {
    // As long as a message of DNS at most, which goes into one of ours.
    let _ = host.answer_name(number, message);
}

/// Sends a question. The resolver is in this very machine, so that connecting and sending it take no time.
fn question(tcp: bool, query: &[u8]) -> Result<Question, Errno> {
    let kind = if tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &RESOLVER)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    let length = u16::try_from(query.len()).map_err(|_| Errno::MSGSIZE)?;
    let framed = if tcp { [&length.to_be_bytes(), query].concat() } else { query.to_vec() };
    if rustix::io::write(&socket, &framed)? != framed.len() {
        return Err(Errno::MSGSIZE);
    }
    Ok(Question { socket, asked: Instant::now(), tcp: tcp.then(Vec::new) })
}
