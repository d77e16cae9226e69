//! `GET /containers/{name}/logs`

use bytes::{BufMut, Bytes, BytesMut};
use engine::{LogLine, LogOptions, LogStream};
use futures_util::{StreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::frames::{Framing, StreamId};
use crate::query::Query;
use crate::time::{parse_seconds, rfc3339_fixed};

/// How many lines go into one write, where so many are ready.
const BATCH: usize = 256;
/// What Go's `url.QueryEscape` leaves as it is.
const QUERY_ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// How lines are put.
#[derive(Clone, Copy, Debug)]
struct Layout {
    framing: Framing,
    timestamps: bool,
    details: bool,
}

/// `GET /containers/{name}/logs`
pub(crate) async fn logs(call: Call) -> Result<Response> {
    let options = options(&call.query)?;
    let log = call.engine().logs(&call.name, options).await?;
    let framing = Framing::of(log.tty);
    let layout = Layout { framing, timestamps: call.query.flag("timestamps"), details: call.query.flag("details") };
    let lines = stream::unfold(log, |mut log: LogStream| async { log.next().await.map(|line| (line, log)) });
    let pieces = lines.ready_chunks(BATCH).map(move |lines| {
        let mut piece = BytesMut::new();
        lines.into_iter().for_each(|line| layout.put(&mut piece, line));
        piece.freeze()
    });
    Ok(body::stream_until(&call.shutdown, framing.content_type(call.version), pieces))
}

fn options(query: &Query) -> Result<LogOptions> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !(stdout || stderr) {
        return Err(ApiError::bad_request("Bad parameters: you must choose at least one stream"));
    }
    Ok(LogOptions {
        stdout,
        stderr,
        follow: query.flag("follow"),
        since: parse_seconds(query.text("since"))?,
        // No log ends in 1970.
        until: parse_seconds(query.text("until"))?.filter(|until| *until != jiff::Timestamp::UNIX_EPOCH),
        // Everything that is no number means all lines, as a negative one does.
        tail: query.text("tail").parse().ok(),
    })
}

impl Layout {
    fn put(self, piece: &mut BytesMut, line: engine::Result<LogLine>) {
        match line {
            Ok(line) => piece.put(self.framing.frame(line.stream.into(), self.text(&line))),
            // What went wrong is told on a stream of its own; a terminal has none.
            Err(error) if self.framing == Framing::Multiplexed => {
                let text = format!("Error grabbing logs: {error}\n");
                piece.put(self.framing.frame(StreamId::System, Bytes::from(text)));
            }
            Err(error) => tracing::warn!(%error, "a log can't be read"),
        }
    }

    fn text(self, line: &LogLine) -> Bytes {
        if !(self.timestamps || self.details) {
            return line.bytes.clone();
        }
        let mut text = BytesMut::with_capacity(line.bytes.len() + 40);
        if self.timestamps {
            text.put_slice(rfc3339_fixed(line.time).as_bytes());
            text.put_u8(b' ');
        }
        if self.details {
            text.put_slice(details(&line.attributes).as_bytes());
            text.put_u8(b' ');
        }
        text.put_slice(&line.bytes);
        text.freeze()
    }
}

/// `a=b,c=d`, by key, escaped as in a query.
fn details(attributes: &[(String, String)]) -> String {
    let escape = |text: &str| utf8_percent_encode(text, QUERY_ESCAPED).to_string().replace(' ', "+");
    let mut pairs: Vec<_> =
        attributes.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    pairs.sort_unstable();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use engine::OutputStream;

    use super::*;

    fn line() -> LogLine {
        LogLine {
            stream: OutputStream::Stdout,
            time: "2024-03-01T10:20:30.5Z".parse().expect("a time"),
            bytes: Bytes::from_static(b"hello\n"),
            attributes: vec![("tag".to_owned(), "a b/c".to_owned()), ("env".to_owned(), "x".to_owned())],
        }
    }

    fn put(timestamps: bool, details: bool, framing: Framing) -> Vec<u8> {
        let mut piece = BytesMut::new();
        Layout { framing, timestamps, details }.put(&mut piece, Ok(line()));
        piece.to_vec()
    }

    #[test]
    fn lines_are_put_as_asked() {
        assert_eq!(put(false, false, Framing::Raw), b"hello\n");
        assert_eq!(put(true, false, Framing::Raw), b"2024-03-01T10:20:30.500000000Z hello\n");
        assert_eq!(put(false, true, Framing::Raw), b"env=x,tag=a+b%2Fc hello\n");
        assert_eq!(put(true, true, Framing::Raw), b"2024-03-01T10:20:30.500000000Z env=x,tag=a+b%2Fc hello\n");
        assert_eq!(put(false, false, Framing::Multiplexed), b"\x01\0\0\0\0\0\0\x06hello\n");
    }

    #[test]
    fn failures_go_to_a_stream_of_their_own() {
        let layout = Layout { framing: Framing::Multiplexed, timestamps: true, details: false };
        let mut piece = BytesMut::new();
        layout.put(&mut piece, Err(engine::Error::system("no disk")));
        assert_eq!(&piece[..], b"\x03\0\0\0\0\0\0\x1dError grabbing logs: no disk\n");
    }

    #[test]
    fn the_query_is_read() {
        let read = |text: &str| options(&Query::parse(text).expect("a query"));
        assert!(read("follow=1").expect_err("no stream").message().contains("at least one stream"));
        let options = read("stdout=1&tail=10&since=1709288430.5").expect("options");
        assert_eq!((options.stdout, options.stderr, options.follow, options.tail), (true, false, false, Some(10)));
        assert_eq!(options.since.map(|time| time.to_string()).as_deref(), Some("2024-03-01T10:20:30.5Z"));
        for all in ["all", "", "-1", "x"] {
            assert_eq!(read(&format!("stderr=1&tail={all}")).expect("options").tail, None);
        }
    }
}
