//! Docker's `json-file` format: `{"log":"line\n","stream":"stdout","attrs":{…},"time":"…"}`, one object a line, byte for byte as
//! dockerd writes it.

use super::lines::Line;
use super::timestamp;

/// Appends a line's object and a newline. `attributes` is what [`encode_attributes`] made.
pub fn encode(line: &Line<'_>, attributes: &[u8], out: &mut Vec<u8>) {
    out.push(b'{');
    if !line.bytes.is_empty() || line.ends_line() {
        out.extend_from_slice(br#""log":""#);
        escape(line.bytes, Tabs::Numbered, out);
        if line.ends_line() {
            out.extend_from_slice(br"\n");
        }
        out.extend_from_slice(br#"","#);
    }
    out.extend_from_slice(br#""stream":""#);
    out.extend_from_slice(line.stream.name().as_bytes());
    out.push(b'"');
    if !attributes.is_empty() {
        out.extend_from_slice(br#","attrs":"#);
        out.extend_from_slice(attributes);
    }
    out.extend_from_slice(br#","time":""#);
    timestamp::format(line.time, out);
    out.extend_from_slice(b"\"}\n");
}

/// The object of a log's attributes, sorted by name; the last of several with one name counts. Empty without any.
pub fn encode_attributes(attributes: &[(String, String)]) -> Vec<u8> {
    let sorted: std::collections::BTreeMap<_, _> = attributes.iter().map(|(name, value)| (name, value)).collect();
    let mut out = Vec::new();
    for (name, value) in sorted {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.push(b'"');
        escape(name.as_bytes(), Tabs::Named, &mut out);
        out.extend_from_slice(b"\":\"");
        escape(value.as_bytes(), Tabs::Named, &mut out);
        out.push(b'"');
    }
    if !out.is_empty() {
        out.push(b'}');
    }
    out
}

/// dockerd writes lines with an encoder of its own, which numbers tabs, and attributes with Go's, which has a name for them.
#[derive(Clone, Copy, PartialEq)]
enum Tabs {
    Numbered,
    Named,
}

/// Go's escapes: HTML's characters and the line separators of JavaScript are numbered, and each byte that is not UTF-8 becomes U+FFFD.
fn escape(bytes: &[u8], tabs: Tabs, out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), tabs, out);
        for _ in chunk.invalid() {
            out.extend_from_slice(br"\ufffd");
        }
    }
}

fn escape_text(text: &str, tabs: Tabs, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
        let separator = byte == 0xe2 && bytes[at + 1] == 0x80 && matches!(bytes[at + 2], 0xa8 | 0xa9);
        if !separator && (byte >= 0x20) && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&') {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' if tabs == Tabs::Named => out.extend_from_slice(br"\t"),
            0xe2 => {
                out.extend_from_slice(br"\u202");
                out.push(bytes[at + 2] - 0xa8 + b'8');
                copied = at + 3;
            }
            _ => {
                out.extend_from_slice(br"\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::lines::Piece;
    use super::*;
    use crate::protocol::{Stream, UnixNanos};

    fn encoded(bytes: &[u8], piece: Option<Piece>, attributes: &[u8]) -> String {
        let mut out = Vec::new();
        let time = UnixNanos(1_767_323_045_123_456_789);
        encode(&Line { stream: Stream::Stderr, time, bytes, piece }, attributes, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_look_as_dockerd_writes_them() {
        assert_eq!(
            encoded("a\t<b> & \"c\" \\ \u{2028}\u{2029}é\u{1}\r\x7f".as_bytes(), None, b""),
            concat!(
                r#"{"log":"a\u0009\u003cb\u003e \u0026 \"c\" \\ \u2028\u2029é\u0001\r"#,
                "\x7f",
                r#"\n","stream":"stderr","time":"2026-01-02T03:04:05.123456789Z"}"#,
                "\n"
            )
        );
        assert_eq!(
            encoded(b"\xe2\x82|\xff", Some(Piece { id: [0; 32], ordinal: 1, last: false }), br#"{"a":"b"}"#),
            concat!(
                r#"{"log":"\ufffd\ufffd|\ufffd","stream":"stderr","attrs":{"a":"b"},"time":"2026-01-02T03:04:05.123456789Z"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn attributes_are_sorted() {
        let attributes = [("tag", "x\t<1>"), ("env", "é")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(encode_attributes(&attributes), r#"{"env":"é","tag":"x\t\u003c1\u003e"}"#.as_bytes());
        assert_eq!(encode_attributes(&[]), b"");
    }

    proptest! {
        #[test]
        fn any_bytes_become_json_that_says_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let value: serde_json::Value = serde_json::from_str(&encoded(&bytes, None, b"")).unwrap();
            let mut expected = String::new();
            for chunk in bytes.utf8_chunks() {
                expected.push_str(chunk.valid());
                expected.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
            }
            expected.push('\n');
            prop_assert_eq!(value["log"].as_str(), Some(expected.as_str()));
        }
    }
}
