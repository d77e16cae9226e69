//! How bytes are compressed, as their first ones tell. Names and media types are not believed.

use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, Read};

/// The longest of the magic numbers below.
pub(crate) const MAGIC: usize = 6;

/// Memory that a stranger's zstd stream may ask for: 128 MiB, zstd's own default limit (`--long=27`).
const ZSTD_WINDOW_LOG: u32 = 27;

/// Memory that a stranger's xz stream may ask for, in KiB: what `xz -9` needs, and a little.
const XZ_MEMORY: u32 = 80 << 10;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// Zstandard (RFC 8878), of one frame or several.
    Zstd,
    /// bzip2. Archives of Docker's may have it; layers of registries do not.
    Bzip2,
    /// xz. Likewise.
    Xz,
}

impl Compression {
    /// What bytes that begin so are compressed with. Takes at least six of them, where there are so many.
    pub fn of(first: &[u8]) -> Compression {
        match first {
            [0x1f, 0x8b, 8, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A skippable frame, as eStargz's relatives begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            _ => Compression::None,
        }
    }

    /// Reads what `input` holds compressed.
    pub(crate) fn decoder<'a>(self, input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY)),
        })
    }
}

/// Fills `into` as far as `input` goes.
pub(crate) fn read_full(input: &mut dyn Read, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match input.read(&mut into[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn every_compression_is_known_by_its_first_bytes_and_read() {
        let text = "many words ".repeat(10_000);
        for (program, expected) in [
            ("gzip", Compression::Gzip),
            ("bzip2", Compression::Bzip2),
            ("xz", Compression::Xz),
            ("zstd", Compression::Zstd),
        ] {
            let Ok(mut child) = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
            else {
                eprintln!("{program} is not installed: skipped");
                continue;
            };
            let mut stdin = child.stdin.take().unwrap();
            let copy = text.clone();
            let writer = std::thread::spawn(move || io::Write::write_all(&mut stdin, copy.as_bytes()));
            let packed = child.wait_with_output().unwrap().stdout;
            writer.join().unwrap().unwrap();
            assert_eq!(Compression::of(&packed), expected);
            // Two in a row are one.
            let twice = [&packed[..], &packed[..]].concat();
            let mut unpacked = String::new();
            expected.decoder(&twice[..]).unwrap().read_to_string(&mut unpacked).unwrap();
            assert!(unpacked == text.repeat(2), "{program}");
        }
        assert_eq!(Compression::of(b"{\"a\":1}"), Compression::None);
        assert_eq!(Compression::of(b""), Compression::None);
    }
}
