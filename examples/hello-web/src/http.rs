//! As much of HTTP/1.1 (RFC 9112) as a service needs that takes no bodies.

use std::io::{self, Read, Write};

/// The longest head of a request, in bytes.
const HEAD: usize = 8 << 10;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without what follows a question mark.
    pub path: String,
    /// Whether the connection may serve another request after this one.
    pub keep_alive: bool,
}

/// What came over a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Request(Request),
    /// Something that is answered by this status, and by closing the connection.
    Refused(&'static str),
    /// The end.
    Closed,
}

/// A connection's requests, one after the other.
pub struct Requests<R> {
    connection: R,
    /// What was read beyond the last request.
    rest: Vec<u8>,
}

impl<R: Read> Requests<R> {
    pub fn new(connection: R) -> Requests<R> {
        Requests { connection, rest: Vec::new() }
    }

    /// Waits for the next request. An error is a connection that broke, or that said nothing for too long.
    pub fn next(&mut self) -> io::Result<Received> {
        loop {
            if let Some(end) = end_of_head(&self.rest) {
                let head: Vec<u8> = self.rest.drain(..end).collect();
                return Ok(parse(&head));
            }
            if self.rest.len() > HEAD {
                return Ok(Received::Refused("431 Request Header Fields Too Large"));
            }
            let mut more = [0; 1024];
            match self.connection.read(&mut more)? {
                0 if self.rest.is_empty() => return Ok(Received::Closed),
                0 => return Ok(Received::Refused("400 Bad Request")),
                read => self.rest.extend_from_slice(&more[..read]),
            }
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn parse(head: &[u8]) -> Received {
    const BAD: Received = Received::Refused("400 Bad Request");
    let Ok(head) = std::str::from_utf8(head) else { return BAD };
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return BAD;
    };
    let mut keep_alive = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Received::Refused("505 HTTP Version Not Supported"),
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { return BAD };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "connection" if value.eq_ignore_ascii_case("close") => keep_alive = false,
            "content-length" if value != "0" => return Received::Refused("413 Content Too Large"),
            "transfer-encoding" => return Received::Refused("413 Content Too Large"),
            _ => {}
        }
    }
    let path = target.split('?').next().unwrap_or("");
    Received::Request(Request { method: method.to_owned(), path: path.to_owned(), keep_alive })
}

/// An answer in plain text.
pub struct Response<'a> {
    pub status: &'a str,
    pub text: &'a str,
    pub keep_alive: bool,
    /// For `HEAD`, which wants to know, but not to have.
    pub without_text: bool,
}

impl Response<'_> {
    /// Sends it in one write.
    pub fn send(&self, mut connection: impl Write) -> io::Result<()> {
        let Response { status, text, .. } = self;
        let length = text.len();
        let persistence = if self.keep_alive { "keep-alive" } else { "close" };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: {persistence}\r\n\r\n"
        );
        if !self.without_text {
            answer.push_str(text);
        }
        connection.write_all(answer.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8]) -> Vec<Received> {
        let mut requests = Requests::new(bytes);
        let mut all = Vec::new();
        loop {
            match requests.next().unwrap() {
                Received::Closed => return all,
                Received::Refused(status) => {
                    all.push(Received::Refused(status));
                    return all;
                }
                request => all.push(request),
            }
        }
    }

    fn get(path: &str, keep_alive: bool) -> Received {
        Received::Request(Request { method: "GET".to_owned(), path: path.to_owned(), keep_alive })
    }

    #[test]
    fn requests_follow_one_another_on_a_connection() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /x?y=1 HTTP/1.1\r\ncOnNection:  Close\r\n\r\n";
        assert_eq!(received(bytes), [get("/", true), get("/x", false)]);
        assert_eq!(received(b"GET / HTTP/1.0\r\n\r\n"), [get("/", false)]);
        assert_eq!(received(b""), []);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let long = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 9000]].concat();
        let cases: [(&[u8], &str); 9] = [
            (b"GET / HTT", "400 Bad Request"),
            (b"\r\n\r\n", "400 Bad Request"),
            (b"GET /\r\n\r\n", "400 Bad Request"),
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400 Bad Request"),
            (b"GET /\xff HTTP/1.1\r\n\r\n", "400 Bad Request"),
            (b"GET / HTTP/2.0\r\n\r\n", "505 HTTP Version Not Supported"),
            (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "413 Content Too Large"),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "413 Content Too Large"),
            (&long, "431 Request Header Fields Too Large"),
        ];
        for (bytes, status) in cases {
            assert_eq!(received(bytes), [Received::Refused(status)]);
        }
    }
}
