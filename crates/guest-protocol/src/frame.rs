//! Frames: how the stream of bytes is cut.
//!
//! ```text
//! 0        4          8      9         12
//! +--------+----------+------+---------+----------------
//! | length | channel  | kind | zero    | length bytes
//! +--------+----------+------+---------+----------------
//! ```
//! Numbers are little-endian. A message has channel 0. What belongs to a standard stream has its channel ([`Channel`]):
//!
//! | kind | is | body |
//! |---|---|---|
//! | 1 | a message | postcard |
//! | 2 | a piece of the stream | its offset (8 bytes), then at most [`MAX_DATA`] bytes |
//! | 3 | a credit: what was taken, and up to where may be sent | two offsets |
//! | 4 | the end of the stream | its offset |
//! | 5 | a message, masked | a mask of 16 bytes, and the message, of which each 16 bytes are combined with it (exclusive or) |
//! | 6 | a piece of the stream, masked | its offset, a mask, and the bytes, likewise |
//!
//! A preamble ([`PREAMBLE`], and a token of 8 bytes) begins a conversation, and can stand between any two frames: whoever reads it forgets
//! what came before. A virtio-serial port has no connections, and may hold the rest of an earlier conversation. So one reads on to the
//! preamble; a host calls with one, again and again, as nobody may be listening yet; and as a guest answers each with its token, the host
//! knows which answer is to the last.
//!
//! Who sent may be gone in the middle of a frame, and another one call where the rest of it was to come. So no body has a preamble's first bytes in it, nor ends with the
//! first of them (an offset is less than 2^48): one that would is combined with a mask. Whoever finds them in a body knows that it was broken off, wherever that was.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use crate::message::{ProcessId, Stream};

/// What begins a conversation. Its first four bytes are no length that a frame may have.
pub const PREAMBLE: &[u8; 16] = b"stratus\0guest\r\n\x01";
/// A preamble's bytes: what begins it, and its token.
const PREAMBLE_LENGTH: usize = PREAMBLE.len() + 8;
/// The most bytes of a message.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The most bytes of a stream in one frame.
pub const MAX_DATA: usize = 32 << 10;

const HEADER: usize = 12;
/// Bytes of what a message is combined with, where it has a preamble in it.
const MASK: usize = 16;

/// Where a preamble is first in a body, or begins at its end.
fn preamble_in(body: &[u8]) -> Option<usize> {
    let whole = body.windows(PREAMBLE.len()).position(|window| window == PREAMBLE);
    whole.or_else(|| {
        (1..PREAMBLE.len().min(body.len() + 1))
            .rev()
            .find(|count| body.ends_with(&PREAMBLE[..*count]))
            .map(|count| body.len() - count)
    })
}

fn combine(bytes: &mut [u8], mask: &[u8]) {
    bytes.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// A mask, and bytes combined with it, without a preamble in them. Nobody who has a part in the bytes knows the mask before.
fn masked(bytes: &[u8]) -> Vec<u8> {
    loop {
        let half = || RandomState::new().build_hasher().finish().to_le_bytes();
        let mut all = [&half()[..], &half(), bytes].concat();
        let (mask, body) = all.split_at_mut(MASK);
        combine(body, mask);
        if preamble_in(&all).is_none() {
            return all;
        }
    }
}

/// A standard stream of a process, on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel {
    /// Whose.
    pub process: ProcessId,
    /// Which.
    pub stream: Stream,
}

impl Channel {
    fn to_bits(self) -> u32 {
        self.process.get() << 2 | self.stream as u32
    }

    fn from_bits(bits: u32) -> Option<Self> {
        let stream = match bits & 3 {
            1 => Stream::Stdin,
            2 => Stream::Stdout,
            3 => Stream::Stderr,
            _ => return None,
        };
        Some(Self { process: ProcessId::new(bits >> 2)?, stream })
    }
}

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'b> {
    /// The beginning of a conversation.
    Preamble {
        /// The host's choice, which the guest repeats; 0: nobody has called, as the connection is new.
        token: u64,
    },
    /// A message, encoded.
    Message(&'b [u8]),
    /// A piece of a stream.
    Data {
        /// Of which.
        channel: Channel,
        /// Where in it.
        offset: u64,
        /// The bytes.
        bytes: &'b [u8],
    },
    /// How far the reader of a stream is.
    Credit {
        /// Of which.
        channel: Channel,
        /// Up to this offset everything was taken, and may be forgotten.
        taken: u64,
        /// Up to this offset bytes may be sent.
        limit: u64,
    },
    /// The end of a stream.
    End {
        /// Of which.
        channel: Channel,
        /// How long it was.
        offset: u64,
    },
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFrame {
    /// There is no such kind.
    Kind(u8),
    /// The channel belongs to nothing, or not to this kind.
    Channel(u32),
    /// A frame of that kind is never so long, or so short.
    Length {
        /// The kind.
        kind: u8,
        /// The bytes that it claims.
        length: u32,
    },
    /// What has to be zero is not.
    Reserved,
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "a frame of kind {kind}, which there is not"),
            Self::Channel(bits) => write!(f, "a frame of channel {bits:#x}, which can't be"),
            Self::Length { kind, length } => write!(f, "a frame of kind {kind} that claims {length} bytes"),
            Self::Reserved => f.write_str("a frame with something where nothing may be"),
        }
    }
}

impl std::error::Error for BadFrame {}

impl Frame<'_> {
    /// Appends it to `out`.
    ///
    /// # Panics
    /// A message of more than [`MAX_MESSAGE`] or a piece of more than [`MAX_DATA`] bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut frame = |kind: u8, channel: u32, parts: [&[u8]; 2], most: usize| {
            let length = parts[0].len() + parts[1].len();
            assert!(length <= most, "a frame of kind {kind} with {length} bytes");
            out.reserve(HEADER + length);
            out.extend_from_slice(&(length as u32).to_le_bytes());
            out.extend_from_slice(&channel.to_le_bytes());
            out.extend_from_slice(&[kind, 0, 0, 0]);
            parts.iter().for_each(|part| out.extend_from_slice(part));
        };
        match *self {
            Self::Preamble { token } => {
                out.extend_from_slice(PREAMBLE);
                out.extend_from_slice(&token.to_le_bytes());
            }
            Self::Message(body) if preamble_in(body).is_none() => frame(1, 0, [body, &[]], MAX_MESSAGE),
            Self::Message(body) => frame(5, 0, [&masked(body), &[]], MASK + MAX_MESSAGE),
            Self::Data { channel, offset, bytes } if preamble_in(bytes).is_none() => {
                frame(2, channel.to_bits(), [&offset.to_le_bytes(), bytes], 8 + MAX_DATA);
            }
            Self::Data { channel, offset, bytes } => {
                frame(6, channel.to_bits(), [&offset.to_le_bytes(), &masked(bytes)], 8 + MASK + MAX_DATA);
            }
            Self::Credit { channel, taken, limit } => {
                frame(3, channel.to_bits(), [&taken.to_le_bytes(), &limit.to_le_bytes()], 16);
            }
            Self::End { channel, offset } => frame(4, channel.to_bits(), [&offset.to_le_bytes(), &[]], 8),
        }
    }
}

/// Cuts what comes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What of the buffer is behind us.
    read: usize,
    /// A preamble was seen, so that frames begin where one ended.
    aligned: bool,
    /// So many bytes of a body that is not whole have no preamble in them.
    searched: usize,
}

impl Decoder {
    /// Nothing has come yet; the preamble is what is read first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing has come yet, and a frame is what is read first: on a connection that is new and the reader's own.
    pub fn aligned() -> Self {
        Self { aligned: true, ..Self::default() }
    }

    /// Adds bytes that have come. To be followed by [`Decoder::next`] until there is nothing more: what is kept is less than one frame.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Forgets all, and reads on to the next preamble.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// As [`Decoder::reset`], but for what has come already: a preamble may be in it.
    pub fn resynchronise(&mut self) {
        (self.aligned, self.searched) = (false, 0);
    }

    /// The next frame; `None`: more has to come.
    ///
    /// # Errors
    /// What is no frame. Nothing more can be read then, but after [`Decoder::resynchronise`].
    #[expect(clippy::should_implement_trait, reason = "a frame borrows from the decoder")]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>, BadFrame> {
        if !self.aligned {
            return Ok(self.seek().map(|token| Frame::Preamble { token }));
        }
        let rest = &self.buffer[self.read..];
        if rest.starts_with(&PREAMBLE[..4.min(rest.len())]) && rest.len() >= 4 {
            if let Some(token) = token(rest) {
                self.read += PREAMBLE_LENGTH;
                return Ok(Some(Frame::Preamble { token }));
            }
            if rest.len() < PREAMBLE_LENGTH {
                return Ok(None);
            }
        }
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = check(header)?;
        let body = &rest[..length.min(rest.len())];
        // What was searched may have ended with the beginning of one.
        let from = self.searched.saturating_sub(PREAMBLE.len() - 1).min(body.len());
        self.searched = body.len();
        if let Some(at) =
            preamble_in(&body[from..]).filter(|at| body.len() == length || from + at + PREAMBLE.len() <= body.len())
        {
            // It was broken off, and somebody begins anew.
            self.read += HEADER + from + at;
            self.searched = 0;
            return self.next();
        }
        if body.len() < length {
            return Ok(None);
        }
        self.searched = 0;
        let at = self.read + HEADER;
        self.read = at + length;
        let header = *header;
        parse(&header, &mut self.buffer[at..self.read]).map(Some)
    }

    /// Looks for the preamble, and drops what comes before.
    fn seek(&mut self) -> Option<u64> {
        let rest = &self.buffer[self.read..];
        let found = rest.windows(PREAMBLE_LENGTH).enumerate().find_map(|(at, window)| Some((at, token(window)?)));
        let Some((at, token)) = found else {
            // It may have come in part.
            self.read += rest.len().saturating_sub(PREAMBLE_LENGTH - 1);
            return None;
        };
        self.read += at + PREAMBLE_LENGTH;
        self.aligned = true;
        Some(token)
    }
}

/// The token of what begins with a preamble.
fn token(bytes: &[u8]) -> Option<u64> {
    bytes.strip_prefix(PREAMBLE)?.first_chunk().map(|token| u64::from_le_bytes(*token))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word))
}

/// How many bytes follow, if a frame may begin so.
fn check(header: &[u8; HEADER]) -> Result<usize, BadFrame> {
    let (length, kind) = (word(header, 0), header[8]);
    let sizes = match kind {
        1 => 1..=MAX_MESSAGE,
        2 => 9..=8 + MAX_DATA,
        3 => 16..=16,
        4 => 8..=8,
        5 => MASK + 1..=MASK + MAX_MESSAGE,
        6 => 8 + MASK + 1..=8 + MASK + MAX_DATA,
        _ => return Err(BadFrame::Kind(kind)),
    };
    if header[9..] != [0; 3] {
        return Err(BadFrame::Reserved);
    }
    match usize::try_from(length) {
        Ok(size) if sizes.contains(&size) => Ok(size),
        _ => Err(BadFrame::Length { kind, length }),
    }
}

fn parse<'b>(header: &[u8], body: &'b mut [u8]) -> Result<Frame<'b>, BadFrame> {
    let (bits, kind) = (word(header, 4), header[8]);
    if matches!(kind, 1 | 5) && bits != 0 {
        return Err(BadFrame::Channel(bits));
    }
    if kind == 5 {
        let (mask, message) = body.split_at_mut(MASK);
        combine(message, mask);
        return Ok(Frame::Message(message));
    }
    if kind == 6 {
        let (mask, bytes) = body[8..].split_at_mut(MASK);
        combine(bytes, mask);
    }
    let body = &*body;
    if kind == 1 {
        return Ok(Frame::Message(body));
    }
    let channel = Channel::from_bits(bits).ok_or(BadFrame::Channel(bits))?;
    let length = BadFrame::Length { kind, length: word(header, 0) };
    let (offset, rest) = body.split_first_chunk().ok_or(length)?;
    let offset = u64::from_le_bytes(*offset);
    Ok(match kind {
        2 => Frame::Data { channel, offset, bytes: rest },
        6 => Frame::Data { channel, offset, bytes: &rest[MASK..] },
        3 => {
            let limit = rest.first_chunk().ok_or(length)?;
            Frame::Credit { channel, taken: offset, limit: u64::from_le_bytes(*limit) }
        }
        _ => Frame::End { channel, offset },
    })
}

pub(crate) fn fuzz(data: &[u8]) {
    let mut decoder = Decoder::aligned();
    let (mut frames, mut told) = (Vec::new(), Vec::new());
    // Its pieces have any lengths.
    for piece in data.chunk_by(|_, next| next & 7 != 0) {
        decoder.push(piece);
        while let Ok(Some(frame)) = decoder.next() {
            frame.write(&mut frames);
            told.push(format!("{frame:?}"));
        }
        let most = HEADER + MASK + MAX_MESSAGE;
        assert!(decoder.buffer.len() - decoder.read <= most || decoder.next().is_err(), "more is kept than a frame");
    }
    // However they came, they are read again as they were.
    let (mut decoder, mut again) = (Decoder::aligned(), Vec::new());
    decoder.push(&frames);
    while let Ok(Some(frame)) = decoder.next() {
        again.push(format!("{frame:?}"));
    }
    assert!(told == again, "what was read is not what was there");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Owned {
        Preamble(u64),
        Message(Vec<u8>),
        Data(Channel, u64, Vec<u8>),
        Credit(Channel, u64, u64),
        End(Channel, u64),
    }

    impl Owned {
        fn frame(&self) -> Frame<'_> {
            match self {
                Self::Preamble(token) => Frame::Preamble { token: *token },
                Self::Message(body) => Frame::Message(body),
                Self::Data(channel, offset, bytes) => Frame::Data { channel: *channel, offset: *offset, bytes },
                Self::Credit(channel, taken, limit) => {
                    Frame::Credit { channel: *channel, taken: *taken, limit: *limit }
                }
                Self::End(channel, offset) => Frame::End { channel: *channel, offset: *offset },
            }
        }
    }

    fn channel() -> impl Strategy<Value = Channel> {
        let stream = prop_oneof![Just(Stream::Stdin), Just(Stream::Stdout), Just(Stream::Stderr)];
        ((1..=ProcessId::MAX), stream).prop_map(|(id, stream)| Channel { process: ProcessId::new(id).unwrap(), stream })
    }

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 1..most)
    }

    /// No stream is longer.
    const OFFSETS: std::ops::Range<u64> = 0..1 << 48;

    fn frames() -> impl Strategy<Value = Vec<Owned>> {
        let frame = prop_oneof![
            any::<u64>().prop_map(Owned::Preamble),
            bytes(300).prop_map(Owned::Message),
            (channel(), OFFSETS, bytes(300)).prop_map(|(channel, at, bytes)| Owned::Data(channel, at, bytes)),
            (channel(), OFFSETS, OFFSETS).prop_map(|(channel, taken, limit)| Owned::Credit(channel, taken, limit)),
            (channel(), OFFSETS).prop_map(|(channel, at)| Owned::End(channel, at)),
        ];
        prop::collection::vec(frame, 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_in_whatever_pieces_it_comes(sent in frames(), piece in 1usize..40, stale in bytes(60)) {
            let mut wire = stale.clone();
            prop_assume!(!stale.windows(4).any(|part| part == &PREAMBLE[..4]));
            Frame::Preamble { token: 7 }.write(&mut wire);
            sent.iter().for_each(|frame| frame.frame().write(&mut wire));
            let (mut decoder, mut told) = (Decoder::new(), Vec::new());
            for piece in wire.chunks(piece) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    told.push(format!("{frame:?}"));
                }
            }
            let expected = std::iter::once(Frame::Preamble { token: 7 }).chain(sent.iter().map(Owned::frame));
            prop_assert_eq!(told, expected.map(|frame| format!("{frame:?}")).collect::<Vec<_>>());
        }

        #[test]
        fn anything_else_is_refused_or_waited_for(data in bytes(4000)) {
            fuzz(&data);
        }
    }

    /// What is left of a host that went away, and another one that calls.
    fn broken_off(frame: &Frame<'_>, cut: usize, piece: usize) -> Vec<String> {
        let mut wire = Vec::new();
        Frame::Preamble { token: 1 }.write(&mut wire);
        let start = wire.len();
        frame.write(&mut wire);
        wire.truncate(start + cut % (wire.len() - start));
        Frame::Preamble { token: 2 }.write(&mut wire);
        Frame::Message(b"hello").write(&mut wire);
        let (mut decoder, mut told) = (Decoder::new(), Vec::new());
        for piece in wire.chunks(piece) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => told.push(format!("{frame:?}")),
                    Ok(None) => break,
                    Err(_) => decoder.resynchronise(),
                }
            }
        }
        told
    }

    proptest! {
        #[test]
        fn another_conversation_is_found_wherever_the_last_one_broke_off(
            sent in frames().prop_filter("one", |frames| !frames.is_empty()), cut in any::<usize>(), piece in 1usize..50,
        ) {
            prop_assume!(!matches!(sent[0], Owned::Preamble(_)));
            let told = broken_off(&sent[0].frame(), cut, piece);
            let expected = [Frame::Preamble { token: 1 }, Frame::Preamble { token: 2 }, Frame::Message(b"hello")];
            prop_assert_eq!(told, expected.map(|frame| format!("{frame:?}")));
        }

        #[test]
        fn what_has_a_preamble_in_it_is_sent_whole(before in bytes(70), after in bytes(70), twice in any::<bool>(), piece in 1usize..50) {
            let body = [&before[..], &PREAMBLE[..], if twice { PREAMBLE } else { b"" }, &after].concat();
            let mut wire = Vec::new();
            Frame::Message(&body).write(&mut wire);
            let mut flow = crate::flow::Outgoing::new(1000, 1000);
            prop_assert_eq!(flow.write(&body), body.len());
            let channel = Channel { process: ProcessId::new(1).unwrap(), stream: Stream::Stdin };
            while let Some((offset, bytes)) = flow.next(MAX_DATA) {
                Frame::Data { channel, offset, bytes }.write(&mut wire);
            }
            prop_assert_eq!(preamble_in(&wire), None);
            let (mut decoder, mut message, mut streamed) = (Decoder::aligned(), Vec::new(), Vec::new());
            for piece in wire.chunks(piece) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    match frame {
                        Frame::Message(body) => message = body.to_vec(),
                        Frame::Data { offset, bytes, .. } => {
                            prop_assert_eq!(offset, streamed.len() as u64);
                            streamed.extend_from_slice(bytes);
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
            prop_assert!(message == body && streamed == body);
        }
    }

    #[test]
    fn a_claimed_length_takes_no_memory() {
        let mut decoder = Decoder::new();
        decoder.push(&[PREAMBLE, &[0; 8][..]].concat());
        decoder.push(&[&(MAX_MESSAGE as u32).to_le_bytes()[..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat());
        assert_eq!(decoder.next(), Ok(Some(Frame::Preamble { token: 0 })));
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.buffer.capacity() < 4096);
        decoder.reset();
        decoder.push(
            &[PREAMBLE, &[0; 8][..], &(MAX_MESSAGE as u32 + 1).to_le_bytes()[..], &[0, 0, 0, 0, 1, 0, 0, 0]].concat(),
        );
        assert_eq!(decoder.next(), Ok(Some(Frame::Preamble { token: 0 })));
        assert_eq!(decoder.next(), Err(BadFrame::Length { kind: 1, length: MAX_MESSAGE as u32 + 1 }));
    }

    #[test]
    fn after_nonsense_the_next_conversation_is_found() {
        let mut decoder = Decoder::new();
        decoder.push(&[&PREAMBLE[..], &[0; 8], &[0xff; 40]].concat());
        assert_eq!(decoder.next(), Ok(Some(Frame::Preamble { token: 0 })));
        assert_eq!(decoder.next(), Err(BadFrame::Kind(0xff)));
        decoder.resynchronise();
        assert_eq!(decoder.next(), Ok(None));
        decoder.push(&[PREAMBLE, &[0; 8][..]].concat());
        assert_eq!(decoder.next(), Ok(Some(Frame::Preamble { token: 0 })));
        assert_eq!(decoder.next(), Ok(None));
    }
}
