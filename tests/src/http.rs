//! Requests as bytes on the daemon's socket, for what no client sends, and to know exactly what a client was told.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::Daemon;
use crate::machine::DEADLINE;

/// An answer that came whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its status line and headers.
    pub head: String,
    /// Its body, out of its chunks.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("expected JSON of {self:?}: {error}"))
    }

    /// Reads an answer that ends with its connection, or says that it did not come whole.
    fn parse(bytes: &[u8]) -> Result<Self, Cut> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or(Cut)?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(Cut)?;
        let header = |name: &str| {
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(':'))
                .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase()))
        };
        let rest = &bytes[end + 4..];
        let body = match (header("transfer-encoding"), header("content-length")) {
            (Some(coding), _) if coding == "chunked" => joined(rest)?,
            (_, Some(length)) => rest.get(..length.parse().map_err(|_| Cut)?).ok_or(Cut)?.to_vec(),
            _ => rest.to_vec(),
        };
        Ok(Self { status, head, body })
    }
}

/// There was no connection, or it ended before the answer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut;

fn joined(mut chunks: &[u8]) -> Result<Vec<u8>, Cut> {
    let mut whole = Vec::new();
    loop {
        let line = chunks.windows(2).position(|two| two == b"\r\n").ok_or(Cut)?;
        let size = std::str::from_utf8(&chunks[..line]).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let size = size.ok_or(Cut)?;
        if size == 0 {
            return Ok(whole);
        }
        whole.extend(chunks.get(line + 2..line + 2 + size).ok_or(Cut)?);
        chunks = chunks.get(line + 4 + size..).ok_or(Cut)?;
    }
}

impl Daemon {
    /// A connection to the daemon.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).expect("connect to the daemon");
        bounded(&stream);
        stream
    }

    /// Begins to copy a directory `two` into a container, and goes on with it for as long as the connection is open.
    ///
    /// # Panics
    /// When nobody listens.
    #[track_caller]
    pub fn begins_copy_into(&self, container: &str) -> UnixStream {
        let archive = self.sh("mkdir two && tar -c two | head -c 512").stdout().to_owned();
        let mut stream = self.connect();
        let head = format!(
            "PUT /containers/{container}/archive?path=/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10240\r\n\r\n"
        );
        stream.write_all((head + &archive).as_bytes()).expect("send a request, and the beginning of its body");
        stream
    }

    /// Sends a request with a body of JSON, and reads the answer.
    ///
    /// # Panics
    /// When the daemon hangs.
    #[track_caller]
    pub fn ask(&self, request: &str, body: &str) -> Result<Reply, Cut> {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.sends(
            format!(
                "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    }

    /// Sends bytes, and reads the answer that they get.
    ///
    /// # Panics
    /// When the daemon hangs.
    #[track_caller]
    pub fn sends(&self, bytes: &[u8]) -> Result<Reply, Cut> {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return Err(Cut) };
        bounded(&stream);
        // Who does not like the beginning need not read the rest: what it says to that is what counts.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                panic!("no end of the answer to {}\n{}", shown(bytes), shown(&answer))
            }
            _ => Reply::parse(&answer),
        }
    }
}

fn bounded(stream: &UnixStream) {
    stream.set_read_timeout(Some(*DEADLINE)).expect("set a timeout");
    stream.set_write_timeout(Some(*DEADLINE)).expect("set a timeout");
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(1000)]).into_owned()
}
