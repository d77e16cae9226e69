//! As much of HTTP/1.1 as it takes to talk to a daemon: one connection, one request after the other, nothing hidden, so
//! that what is timed is the daemon.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a daemon may be silent before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest line of a head, in bytes.
const LINE: u64 = 64 << 10;

/// A connection to a daemon's socket. It can be used again once an answer was read to its end.
pub(crate) struct Connection<S> {
    stream: BufReader<S>,
}

/// What a request carries.
pub(crate) enum Payload<'a> {
    Nothing,
    Json(&'a Value),
    /// A whole archive.
    Tar(&'a [u8]),
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// An answer that is still being read.
pub(crate) struct Incoming<'a, S> {
    pub(crate) status: u16,
    framing: Framing,
    stream: &'a mut BufReader<S>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes to go.
    Length(u64),
    /// So many bytes to go of this chunk; the next one's size follows.
    Chunk(u64),
    /// The last chunk was read, or there is no body.
    Over,
    /// Until the other side closes.
    Close,
}

impl Connection<UnixStream> {
    pub(crate) fn open(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl Connection<TcpStream> {
    pub(crate) fn to_port(port: u16) -> Result<Self> {
        let stream =
            TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot connect to port {port}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }
}

impl<S: Read + Write> Connection<S> {
    /// Sends a request and reads the answer's head.
    pub(crate) fn send(&mut self, method: &str, path: &str, payload: Payload<'_>) -> Result<Incoming<'_, S>> {
        self.write(method, path, payload).with_context(|| format!("cannot send {method} {path}"))?;
        loop {
            let (status, framing) = self.head().with_context(|| format!("no answer to {method} {path}"))?;
            // 100 Continue comes before the answer; 101 is one.
            if status != 100 {
                return Ok(Incoming { status, framing, stream: &mut self.stream });
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) fn call(&mut self, method: &str, path: &str, payload: Payload<'_>) -> Result<Answer> {
        let mut incoming = self.send(method, path, payload)?;
        let mut body = Vec::new();
        incoming.read_to_end(&mut body).with_context(|| format!("the answer to {method} {path} broke off"))?;
        Ok(Answer { status: incoming.status, body })
    }

    /// Sends a request that must succeed. The error is the daemon's own word.
    pub(crate) fn ask(&mut self, method: &str, path: &str, payload: Payload<'_>) -> Result<Value> {
        let answer = self.call(method, path, payload)?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path}: {} ({})", answer.message(), answer.status);
        }
        answer.json()
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Value> {
        self.ask("GET", path, Payload::Nothing)
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.ask("POST", path, Payload::Json(body))
    }

    fn write(&mut self, method: &str, path: &str, payload: Payload<'_>) -> std::io::Result<()> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
        let stream = self.stream.get_mut();
        match payload {
            Payload::Nothing if method == "GET" => request.extend(b"\r\n"),
            Payload::Nothing => request.extend(b"Content-Length: 0\r\n\r\n"),
            Payload::Json(value) => {
                let body = value.to_string();
                request.extend(
                    format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).bytes(),
                );
            }
            Payload::Tar(bytes) => {
                request.extend(
                    format!("Content-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n", bytes.len()).bytes(),
                );
                request.extend(bytes);
            }
        }
        stream.write_all(&request)?;
        stream.flush()
    }

    fn head(&mut self) -> Result<(u16, Framing)> {
        let status_line = line(&mut self.stream)?;
        let status: u16 = status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("not HTTP: {status_line:?}"))?;
        let mut framing = Framing::Close;
        loop {
            let header = line(&mut self.stream)?;
            let Some((name, value)) = header.split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                framing = Framing::Length(value.trim().parse().context("a Content-Length that is no number")?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
                framing = Framing::Chunk(0);
            }
        }
        // RFC 9112, section 6.3: these have no body, whatever their head says.
        let bodiless = status == 204 || status == 304 || status == 100;
        Ok((status, if bodiless || framing == Framing::Length(0) { Framing::Over } else { framing }))
    }
}

impl Answer {
    /// The document that it carries; null where there is none.
    pub(crate) fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .or_else(|_| Ok(Value::String(String::from_utf8_lossy(&self.body).into_owned())))
    }

    fn message(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        match serde_json::from_slice::<Value>(&self.body) {
            Ok(Value::Object(mut object)) => match object.remove("message") {
                Some(Value::String(message)) => message,
                _ => text.into_owned(),
            },
            _ => text.trim().to_owned(),
        }
    }
}

impl<S: Read> Incoming<'_, S> {
    fn begin_chunk(&mut self) -> Result<()> {
        let mut size = line(self.stream)?;
        if size.is_empty() {
            // The line's end after the chunk before this one.
            size = line(self.stream)?;
        }
        let digits = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).with_context(|| format!("not the size of a chunk: {size:?}"))?;
        if size == 0 {
            while !line(self.stream)?.is_empty() {}
            self.framing = Framing::Over;
        } else {
            self.framing = Framing::Chunk(size);
        }
        Ok(())
    }
}

impl<S: Read> Read for Incoming<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.framing == Framing::Chunk(0) {
            self.begin_chunk().map_err(std::io::Error::other)?;
        }
        let left = match self.framing {
            Framing::Over => return Ok(0),
            Framing::Close => u64::MAX,
            Framing::Length(left) | Framing::Chunk(left) => left,
        };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.stream.read(&mut buffer[..most])?;
        if count == 0 && most > 0 && self.framing != Framing::Close {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.framing = match self.framing {
            Framing::Length(left) if left == count as u64 => Framing::Over,
            Framing::Length(left) => Framing::Length(left - count as u64),
            Framing::Chunk(left) => Framing::Chunk(left - count as u64),
            other => other,
        };
        Ok(count)
    }
}

/// A value as it stands in a query.
pub(crate) fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream.by_ref().take(LINE).read_line(&mut line)?;
    if !line.ends_with('\n') {
        bail!("the daemon closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection over which this comes, however it is asked.
    fn answering(text: &str) -> (Connection<UnixStream>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(text.as_bytes()).unwrap();
        (Connection { stream: BufReader::new(ours) }, theirs)
    }

    #[test]
    fn answers_in_every_framing() {
        let sized = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour";
        let chunked = "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        let (mut connection, _theirs) = answering(&format!("{sized}HTTP/1.1 204 No Content\r\n\r\n{chunked}{sized}"));
        let mut next = || connection.call("GET", "/", Payload::Nothing).unwrap();
        assert_eq!(next().body, b"four");
        assert_eq!(next().status, 204);
        let answer = next();
        assert_eq!((answer.status, answer.body.as_slice()), (201, b"abcde".as_slice()));
        assert_eq!(next().body, b"four");
    }

    #[test]
    fn the_daemons_word_is_the_error() {
        let text = "{\"message\":\"No such image: x\"}";
        let (mut connection, _theirs) =
            answering(&format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{text}", text.len()));
        let error = connection.get("/images/x/json").unwrap_err();
        assert_eq!(error.to_string(), "GET /images/x/json: No such image: x (404)");
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        let (mut connection, theirs) = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour");
        drop(theirs);
        assert!(connection.get("/").is_err());
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(escape("ENV A=b c"), "ENV%20A%3Db%20c");
    }
}
