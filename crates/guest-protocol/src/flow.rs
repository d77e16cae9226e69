//! The flow of one standard stream: what was written and not taken yet, and how much more may come.
//!
//! Offsets count bytes from the stream's beginning, and outlive connections. The reader says up to where it has taken everything and
//! up to where the writer may send; the writer keeps what was not taken, so that whoever connects anew can go on there.

use std::collections::VecDeque;

/// A stream's writer: the guest for output, the host for input.
#[derive(Debug, Clone)]
pub struct Outgoing {
    kept: VecDeque<u8>,
    capacity: usize,
    /// The offset of the first byte that is kept: everything before was taken.
    taken: u64,
    sent: u64,
    limit: u64,
    ended: bool,
    end_sent: bool,
}

impl Outgoing {
    /// Nothing written yet; at most `capacity` bytes are kept, and `limit` bytes may be sent.
    pub fn new(capacity: usize, limit: u64) -> Self {
        Self { kept: VecDeque::new(), capacity, taken: 0, sent: 0, limit, ended: false, end_sent: false }
    }

    /// How many bytes can be written now.
    pub fn room(&self) -> usize {
        if self.ended { 0 } else { self.capacity.saturating_sub(self.kept.len()) }
    }

    /// Up to where everything was taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How much was written.
    pub fn written(&self) -> u64 {
        self.taken + self.kept.len() as u64
    }

    /// Whether nothing more will be written.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything was taken, and the end was sent.
    pub fn is_done(&self) -> bool {
        self.end_sent && self.kept.is_empty()
    }

    /// Takes as many of the bytes as there is room for, and says how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.kept.extend(&bytes[..count]);
        count
    }

    /// Nothing more will be written.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What is to be sent next: its offset, and at most `most` bytes, which count as sent then.
    pub fn next(&mut self, most: usize) -> Option<(u64, &[u8])> {
        let (offset, end) = (self.sent, self.written().min(self.limit));
        let from = usize::try_from(offset - self.taken).ok()?;
        let count = usize::try_from(end.checked_sub(offset)?).ok()?.min(most);
        let (front, back) = self.kept.as_slices();
        let piece = if from < front.len() {
            &front[from..front.len().min(from + count)]
        } else {
            &back[from - front.len()..from - front.len() + count]
        };
        if piece.is_empty() {
            return None;
        }
        self.sent += piece.len() as u64;
        Some((offset, piece))
    }

    /// Whether [`Outgoing::next`] or [`Outgoing::next_end`] has something.
    pub fn has_next(&self) -> bool {
        self.sent < self.written().min(self.limit) || (self.ended && !self.end_sent && self.sent == self.written())
    }

    /// A stream of which another writer wrote the beginning. Nothing may be sent yet.
    pub fn begin_at(&mut self, offset: u64) {
        self.kept.clear();
        (self.taken, self.sent, self.limit) = (offset, offset, offset);
    }

    /// The offset of the end, once everything before it was sent; it counts as sent then.
    pub fn next_end(&mut self) -> Option<u64> {
        let due = self.ended && !self.end_sent && self.sent == self.written();
        self.end_sent |= due;
        due.then_some(self.sent)
    }

    /// What the reader says.
    ///
    /// # Errors
    /// It took what was never sent, gave back what it had taken, or took back what it allowed.
    pub fn credit(&mut self, taken: u64, limit: u64) -> Result<(), BadFlow> {
        if taken < self.taken || taken > self.sent || limit < self.limit {
            return Err(BadFlow::Credit);
        }
        self.forget(taken);
        self.limit = limit;
        Ok(())
    }

    /// What the reader says at the beginning of a conversation: it goes on at `taken`, whatever was sent beyond.
    ///
    /// # Errors
    /// It asks for what is not kept any more, or was never written.
    pub fn resume(&mut self, taken: u64, limit: u64) -> Result<(), BadFlow> {
        if taken < self.taken || taken > self.written() {
            return Err(BadFlow::Resume { wanted: taken, first: self.taken, end: self.written() });
        }
        self.forget(taken);
        (self.sent, self.limit, self.end_sent) = (taken, limit, false);
        Ok(())
    }

    /// The conversation is over: nothing may be sent until the next one [resumes](Self::resume).
    pub fn pause(&mut self) {
        (self.sent, self.limit, self.end_sent) = (self.taken, self.taken, false);
    }

    fn forget(&mut self, taken: u64) {
        // What was taken is within what is kept.
        self.kept.drain(..(taken - self.taken) as usize);
        self.taken = taken;
        if self.kept.is_empty() && self.kept.capacity() > 4096 {
            self.kept = VecDeque::new();
        }
    }
}

/// A stream's reader: the host for output.
///
/// What has come is kept by whoever reads it until he has taken it, whatever becomes of the conversation: what comes again in the next one is told from what is new.
#[derive(Debug, Clone)]
pub struct Incoming {
    window: u64,
    /// Where this conversation is: before what has come, as long as that comes again.
    at: u64,
    received: u64,
    taken: u64,
    limit: u64,
    ended: bool,
}

impl Incoming {
    /// Goes on at an offset, with at most `window` bytes that were sent and not taken.
    pub fn new(at: u64, window: u32) -> Self {
        let window = u64::from(window);
        Self { window, at, received: at, taken: at, limit: at.saturating_add(window), ended: false }
    }

    /// Up to where everything was taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How much has come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the end has come.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// A piece has come. Says how many of its first bytes came in an earlier conversation.
    ///
    /// # Errors
    /// It does not follow what came before, is more than may be sent, or comes behind the end.
    pub fn receive(&mut self, offset: u64, length: usize) -> Result<usize, BadFlow> {
        let end = offset.checked_add(length as u64).ok_or(BadFlow::Excess)?;
        if self.ended || offset != self.at {
            return Err(BadFlow::Gap { expected: self.at, got: offset });
        }
        if end > self.limit {
            return Err(BadFlow::Excess);
        }
        let known = usize::try_from(self.received.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        self.at = end;
        self.received = self.received.max(end);
        Ok(known)
    }

    /// The end has come.
    ///
    /// # Errors
    /// It is not where the stream is, or has come before.
    pub fn end(&mut self, offset: u64) -> Result<(), BadFlow> {
        if self.ended || offset != self.at || offset < self.received {
            return Err(BadFlow::Gap { expected: self.at.max(self.received), got: offset });
        }
        self.ended = true;
        Ok(())
    }

    /// Whoever wanted the stream has taken so many bytes of what has come. Says `(taken, limit)` where the writer is to be told.
    pub fn take(&mut self, count: u64) -> Option<(u64, u64)> {
        self.took(count);
        self.credit()
    }

    /// As [`take`](Self::take), without telling the writer: he may send no more for now.
    pub fn took(&mut self, count: u64) {
        self.taken = self.received.min(self.taken.saturating_add(count));
    }

    /// `(taken, limit)`, where the writer is to be told: he may send as much from here on.
    pub fn credit(&mut self) -> Option<(u64, u64)> {
        let limit = self.taken.saturating_add(self.window);
        let due = limit - self.limit >= self.window.div_ceil(2) || (self.ended && self.taken == self.received);
        // What was taken meanwhile, and comes again, the writer has not sent yet.
        if !due || limit == self.limit || self.taken > self.at {
            return None;
        }
        self.limit = limit;
        Some((self.taken, limit))
    }

    /// Another conversation begins: `(taken, limit)`, from where the writer sends again, and up to where he may.
    pub fn resume(&mut self) -> (u64, u64) {
        (self.at, self.ended) = (self.taken, false);
        self.limit = self.taken.saturating_add(self.window);
        (self.taken, self.limit)
    }
}

/// A stream that does not go as it has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadFlow {
    /// A piece or the end is not at the offset that comes next.
    Gap {
        /// What comes next.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// More came than may be sent.
    Excess,
    /// A credit that contradicts the ones before.
    Credit,
    /// A reader wants to go on where it can't.
    Resume {
        /// Where it wants to.
        wanted: u64,
        /// The first byte that there is.
        first: u64,
        /// Behind the last one.
        end: u64,
    },
}

impl std::fmt::Display for BadFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gap { expected, got } => write!(f, "offset {got} of a stream that is at {expected}"),
            Self::Excess => f.write_str("more of a stream than may be sent"),
            Self::Credit => f.write_str("a credit that contradicts the ones before"),
            Self::Resume { wanted, first, end } => {
                write!(f, "a stream cannot go on at {wanted}: there is {first} to {end}")
            }
        }
    }
}

impl std::error::Error for BadFlow {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize),
        Send(usize),
        Take(u64),
        Break,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1usize..200).prop_map(Step::Write),
            (1usize..100).prop_map(Step::Send),
            (1u64..150).prop_map(Step::Take),
            Just(Step::Break),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        /// Whatever breaks when: everything that was written is taken once, in order, also what had come and was not taken yet.
        #[test]
        fn nothing_is_lost_or_told_twice(steps in steps(), window in 1u32..128) {
            let mut out = Outgoing::new(256, u64::from(window));
            let mut into = Incoming::new(0, window);
            let (mut written, mut at_reader, mut taken) = (0u8, VecDeque::new(), Vec::new());
            let finish = [Step::Send(usize::MAX), Step::Take(u64::MAX)];
            let finish = finish.into_iter().cycle().take(4 * 256);
            for step in steps.into_iter().chain(finish) {
                match step {
                    Step::Write(count) => {
                        let bytes: Vec<u8> = (0..count).map(|at| written.wrapping_add(at as u8)).collect();
                        written = written.wrapping_add(out.write(&bytes) as u8);
                    }
                    Step::Send(most) => {
                        if let Some((offset, bytes)) = out.next(most) {
                            let known = into.receive(offset, bytes.len()).unwrap();
                            at_reader.extend(bytes[known..].iter().copied());
                        }
                    }
                    Step::Take(count) => {
                        let count = count.min(at_reader.len() as u64);
                        taken.extend(at_reader.drain(..count as usize));
                        if let Some((taken, limit)) = into.take(count) {
                            out.credit(taken, limit).unwrap();
                        }
                    }
                    Step::Break => {
                        out.pause();
                        let (taken, limit) = into.resume();
                        out.resume(taken, limit).unwrap();
                    }
                }
            }
            prop_assert_eq!(taken.len() as u64, out.written());
            prop_assert!(taken.iter().enumerate().all(|(at, byte)| *byte == at as u8));
        }
    }

    #[test]
    fn a_writer_keeps_to_what_it_may_and_is_held_to_it() {
        let mut out = Outgoing::new(8, 4);
        assert_eq!(out.write(b"0123456789"), 8);
        assert_eq!(out.next(100), Some((0, &b"0123"[..])));
        assert_eq!(out.next(100), None);
        assert_eq!(out.credit(5, 9), Err(BadFlow::Credit));
        assert_eq!(out.credit(4, 3), Err(BadFlow::Credit));
        out.credit(4, 9).unwrap();
        assert_eq!(out.next(2), Some((4, &b"45"[..])));
        out.end();
        assert_eq!(out.next_end(), None);
        assert_eq!(out.next(100), Some((6, &b"67"[..])));
        assert_eq!(out.next_end(), Some(8));
        assert_eq!(out.next_end(), None);
        let mut into = Incoming::new(0, 4);
        assert_eq!(into.receive(0, 5), Err(BadFlow::Excess));
        assert_eq!(into.receive(1, 1), Err(BadFlow::Gap { expected: 0, got: 1 }));
        into.receive(0, 4).unwrap();
        assert_eq!(into.end(3), Err(BadFlow::Gap { expected: 4, got: 3 }));
        into.end(4).unwrap();
        assert!(into.end(4).is_err() && into.receive(4, 0).is_err());
    }
}
