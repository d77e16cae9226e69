//! The framing of a process's two output streams over one connection: eight bytes (stream, three zeros, length as
//! big-endian `u32`), then so many bytes. Documented with the API's `ContainerAttach`.

use bytes::{BufMut, Bytes, BytesMut};
use engine::{OutputChunk, OutputStream};

/// Bytes of a frame's header.
const HEADER: usize = 8;

/// Content type of a stream of bytes as they are.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
/// Content type of a stream of frames, named from API 1.42 on.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamId {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A failure of the daemon itself; clients report it as an error.
    System = 3,
}

impl From<OutputStream> for StreamId {
    fn from(stream: OutputStream) -> Self {
        match stream {
            OutputStream::Stdout => Self::Stdout,
            OutputStream::Stderr => Self::Stderr,
        }
    }
}

/// How output is put on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As it is: the process has a terminal, and so only one stream.
    Raw,
    /// In frames.
    Multiplexed,
}

impl Framing {
    /// The framing of a process's output.
    pub(crate) fn of(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }

    /// The content type that tells the framing to clients; those before 1.42 know one only.
    pub(crate) fn content_type(self, version: crate::version::ApiVersion) -> &'static str {
        match self {
            Self::Multiplexed if version.at_least(42) => MULTIPLEXED,
            _ => RAW,
        }
    }

    /// `bytes` as they go on the wire.
    pub(crate) fn frame(self, stream: StreamId, bytes: Bytes) -> Bytes {
        if self == Self::Raw {
            return bytes;
        }
        let mut framed = BytesMut::with_capacity(HEADER + bytes.len());
        framed.put_slice(&header(stream, bytes.len()));
        framed.put_slice(&bytes);
        framed.freeze()
    }

    /// A header to write before `chunk`, so that its bytes need not be copied; nothing where there is no framing.
    pub(crate) fn header_of(self, chunk: &OutputChunk) -> Option<[u8; HEADER]> {
        (self == Self::Multiplexed).then(|| header(chunk.stream.into(), chunk.bytes.len()))
    }
}

/// The header of a frame. Chunks are read from pipes in pieces far below 4 GiB.
fn header(stream: StreamId, length: usize) -> [u8; HEADER] {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream as u8, 0, 0, 0, length[0], length[1], length[2], length[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::ApiVersion;

    #[test]
    fn frames_carry_stream_and_length() {
        let framed = Framing::Multiplexed.frame(StreamId::Stderr, Bytes::from_static(b"oops\n"));
        assert_eq!(&framed[..], b"\x02\0\0\0\0\0\0\x05oops\n");
        let chunk = OutputChunk { stream: OutputStream::Stdout, bytes: Bytes::from(vec![0; 0x1_0203]) };
        assert_eq!(Framing::Multiplexed.header_of(&chunk), Some([1, 0, 0, 0, 0, 1, 2, 3]));
    }

    #[test]
    fn terminals_are_not_framed() {
        assert_eq!(Framing::of(true).frame(StreamId::Stdout, Bytes::from_static(b"x")), "x");
    }

    #[test]
    fn the_content_type_tells_frames_from_1_42_on() {
        let type_of = |tty, minor| Framing::of(tty).content_type(ApiVersion::new(1, minor));
        assert_eq!((type_of(false, 41), type_of(false, 42), type_of(true, 42)), (RAW, MULTIPLEXED, RAW));
    }
}
