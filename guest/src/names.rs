//! Names: who asks at 127.0.0.11 is answered by the host.
//!
//! The agent makes nothing of what is asked: it carries a message of DNS there, and another one back. What is not answered is asked
//! again by whoever wants to know.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use guest_protocol::message::{Blob, Failure, ToHost};
use rustix::event::epoll::EventFlags;

use crate::agent::{Poller, Token};
use crate::failed_io;

const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// Questions that wait for an answer; the oldest makes room.
const WAITING: usize = 256;
/// Connections at once; what is more has to wait until one is closed.
const CONNECTIONS: usize = 32;
/// The longest question by UDP that is read, in bytes.
const LONGEST: usize = 4096;
/// Questions that are read at once, before others have their turn.
const TURN: usize = 32;

/// Who asked.
#[derive(Debug, Clone, Copy)]
enum Asker {
    Udp(SocketAddr),
    Tcp(u32),
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// What has come of a question: two bytes of its length, and it.
    read: Vec<u8>,
    /// What is to be written, as it takes it.
    write: Vec<u8>,
    /// It asks nothing more, and may wait for answers.
    ended: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Names {
    sockets: Option<(UdpSocket, TcpListener)>,
    waiting: BTreeMap<u64, Asker>,
    next: u64,
    connections: HashMap<u32, Connection>,
    next_connection: u32,
}

impl Names {
    /// Answers from now on.
    pub(crate) fn listen(&mut self, poller: &Poller) -> Result<(), Failure> {
        if self.sockets.is_some() {
            return Ok(());
        }
        let failed = || failed_io("listen on", "127.0.0.11, port 53");
        let udp = UdpSocket::bind(ADDRESS).map_err(failed())?;
        let tcp = TcpListener::bind(ADDRESS).map_err(failed())?;
        udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).map_err(failed())?;
        poller.add(&udp, Token::NamesUdp, EventFlags::IN)?;
        poller.add(&tcp, Token::NamesTcp, EventFlags::IN)?;
        self.sockets = Some((udp, tcp));
        Ok(())
    }

    /// Something can be read or written. Says what the host is asked.
    pub(crate) fn on_ready(&mut self, token: Token, poller: &Poller) -> Vec<ToHost> {
        match token {
            Token::NamesUdp => self.read_udp(),
            Token::NamesTcp => {
                self.accept(poller);
                Vec::new()
            }
            Token::NamesConnection(number) => self.on_connection(number, poller),
            _ => Vec::new(),
        }
    }

    fn ask(&mut self, asker: Asker, query: Vec<u8>) -> ToHost {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_first();
        }
        self.next += 1;
        self.waiting.insert(self.next, asker);
        ToHost::Name { number: self.next, tcp: matches!(asker, Asker::Tcp(_)), query: Blob(query) }
    }

    fn read_udp(&mut self) -> Vec<ToHost> {
        let mut asked = Vec::new();
        let mut query = [0; LONGEST];
        while asked.len() < TURN
            && let Some(Ok((count, from))) = self.sockets.as_ref().map(|(udp, _)| udp.recv_from(&mut query))
        {
            asked.push(self.ask(Asker::Udp(from), query[..count].to_vec()));
        }
        asked
    }

    fn accept(&mut self, poller: &Poller) {
        let Some(Ok((stream, _))) = self.sockets.as_ref().map(|(_, tcp)| tcp.accept()) else { return };
        if self.connections.len() >= CONNECTIONS {
            // The one that was there longest has had its time.
            let oldest = self.connections.keys().copied().min();
            oldest.into_iter().for_each(|number| self.close(number));
        }
        self.next_connection = self.next_connection.wrapping_add(1);
        let number = self.next_connection;
        let watched = stream.set_nonblocking(true).is_ok()
            && poller.add(&stream, Token::NamesConnection(number), EventFlags::IN).is_ok();
        if watched {
            self.connections.insert(number, Connection { stream, read: Vec::new(), write: Vec::new(), ended: false });
        }
    }

    /// Closing takes it out of the poller.
    fn close(&mut self, number: u32) {
        self.connections.remove(&number);
        self.waiting.retain(|_, asker| !matches!(asker, Asker::Tcp(other) if *other == number));
    }

    fn on_connection(&mut self, number: u32, poller: &Poller) -> Vec<ToHost> {
        self.write(number, poller);
        let Some(connection) = self.connections.get_mut(&number) else { return Vec::new() };
        let mut bytes = [0; LONGEST];
        match connection.stream.read(&mut bytes) {
            Ok(0) => {
                connection.ended = true;
                self.write(number, poller);
                return Vec::new();
            }
            Ok(count) => connection.read.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Vec::new(),
            Err(_) => {
                self.close(number);
                return Vec::new();
            }
        }
        let mut queries = Vec::new();
        while let Some((length, rest)) = connection.read.split_first_chunk()
            && let Some(query) = rest.get(..usize::from(u16::from_be_bytes(*length)))
        {
            let (query, end) = (query.to_vec(), 2 + query.len());
            connection.read.drain(..end);
            queries.push(query);
        }
        queries.into_iter().map(|query| self.ask(Asker::Tcp(number), query)).collect()
    }

    /// The host has answered; an empty answer: there is none.
    pub(crate) fn answer(&mut self, number: u64, answer: &[u8], poller: &Poller) {
        match self.waiting.remove(&number) {
            // Without an answer it asks again, or another server.
            Some(Asker::Udp(to)) if !answer.is_empty() => {
                if let Some((udp, _)) = &self.sockets {
                    let _ = udp.send_to(answer, to);
                }
            }
            Some(Asker::Tcp(connection)) => {
                match (u16::try_from(answer.len()), self.connections.get_mut(&connection)) {
                    (Ok(length), Some(asker)) if length > 0 => {
                        asker.write.extend_from_slice(&length.to_be_bytes());
                        asker.write.extend_from_slice(answer);
                        self.write(connection, poller);
                    }
                    _ => self.close(connection),
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, number: u32, poller: &Poller) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        while !connection.write.is_empty() {
            match connection.stream.write(&connection.write) {
                Ok(count) => {
                    connection.write.drain(..count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return self.close(number),
            }
        }
        let is_waited_for = |asker: &Asker| matches!(asker, Asker::Tcp(other) if *other == number);
        if connection.ended && connection.write.is_empty() && !self.waiting.values().any(is_waited_for) {
            return self.close(number);
        }
        let more = if connection.ended { EventFlags::empty() } else { EventFlags::IN };
        let room = if connection.write.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        poller.modify(&connection.stream, Token::NamesConnection(number), more | room);
    }
}
