//! What stands on a stream: documents of one line, and bytes in pieces, of which each says how long it is.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a line that says what a stream is for, or what became of it.
pub(crate) const LINE: usize = 64 << 10;

/// Bytes of a piece.
pub(crate) const PIECE: usize = 64 << 10;

/// What is not as it was agreed.
pub(crate) fn refused(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads a document of one line, of at most so many bytes; `None` at the end.
pub(crate) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncBufRead + Unpin),
    most: usize,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let limit = most as u64 + 1;
    from.take(limit).read_until(b'\n', &mut line).await?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(refused),
        Some(_) if line.len() > most => Err(refused(format!("a line of more than {most} bytes"))),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Writes a document as one line, which may wait for the next ones.
pub(crate) async fn put(to: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(document).map_err(refused)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Writes a document as one line.
pub(crate) async fn write(to: &mut (impl AsyncWrite + Unpin), document: &impl Serialize) -> io::Result<()> {
    put(to, document).await?;
    to.flush().await
}

/// Bytes that are written in pieces. Only where [`PieceWriter::end`] is called does the other side take them for all.
pub(crate) struct PieceWriter<W> {
    to: W,
    piece: Vec<u8>,
}

/// Where a piece's length stands.
const HEAD: usize = 4;

impl<W: Write> PieceWriter<W> {
    pub(crate) fn new(to: W) -> PieceWriter<W> {
        PieceWriter { to, piece: vec![0; HEAD] }
    }

    fn piece(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.piece.len() - HEAD).map_err(refused)?;
        if length > 0 {
            self.piece[..HEAD].copy_from_slice(&length.to_le_bytes());
            self.to.write_all(&self.piece)?;
            self.piece.truncate(HEAD);
        }
        Ok(())
    }

    /// That was all.
    pub(crate) fn end(mut self) -> io::Result<W> {
        self.piece()?;
        self.to.write_all(&[0; HEAD])?;
        Ok(self.to)
    }
}

impl<W: Write> Write for PieceWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(HEAD + PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == HEAD + PIECE {
            self.piece()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.piece()?;
        self.to.flush()
    }
}

/// Bytes that come in pieces. Where they stop before their end was said, that is an error.
pub(crate) struct PieceReader<R> {
    from: R,
    /// Bytes of the present piece that are still to come.
    left: usize,
    ended: bool,
}

impl<R: Read> PieceReader<R> {
    pub(crate) fn new(from: R) -> PieceReader<R> {
        PieceReader { from, left: 0, ended: false }
    }

    /// What they came from, once they have ended.
    pub(crate) fn into_inner(self) -> R {
        self.from
    }
}

impl<R: Read> Read for PieceReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            let mut head = [0; HEAD];
            self.from.read_exact(&mut head)?;
            self.left = u32::from_le_bytes(head) as usize;
            if self.left > PIECE {
                return Err(refused(format!("a piece of {} bytes, of which there are at most {PIECE}", self.left)));
            }
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let wanted = into.len().min(self.left);
        let got = self.from.read(&mut into[..wanted])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_come_as_they_went(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100_000), 0..4)) {
            let mut writer = PieceWriter::new(Vec::new());
            for part in &parts {
                writer.write_all(part).expect("memory");
            }
            let bytes = writer.end().expect("memory");
            let mut read = Vec::new();
            PieceReader::new(&bytes[..]).read_to_end(&mut read).expect("all of it");
            prop_assert_eq!(read, parts.concat());
            // What breaks off is never taken for all.
            let cut = &bytes[..bytes.len() - 1];
            prop_assert!(PieceReader::new(cut).read_to_end(&mut Vec::new()).is_err());
        }
    }

    #[tokio::test]
    async fn a_line_has_an_end() {
        let read = async |text: &[u8]| {
            let mut from = text;
            read::<u32>(&mut from, 4).await
        };
        assert_eq!(read(b"123\n4\n").await.expect("a number"), Some(123));
        assert_eq!(read(b"").await.expect("nothing"), None);
        assert_eq!(read(b"12").await.expect_err("no end").kind(), io::ErrorKind::UnexpectedEof);
        assert!(read(b"123456789\n").await.expect_err("too long").to_string().contains("more than 4 bytes"));
        assert!(read(b"abc\n").await.is_err());
    }
}
