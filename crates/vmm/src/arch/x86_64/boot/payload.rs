//! The kernel within a bzImage, unpacked here instead of in the guest.
//!
//! An ELF file that lies unpacked on the host's disk is mapped into a guest, and shared by all guests; a bzImage unpacks itself in each, which
//! takes each a second of processor time, and memory of its own. So who starts many guests unpacks the kernel once.

use super::{BzImage, Error};
use flate2::read::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

/// Bytes behind a payload that say how long it is unpacked. They are behind all but gzip's, which says so itself.
const SIZE: u64 = 4;
/// A kernel is smaller: what is larger is no kernel, and fills the disk.
const MOST: u64 = 1 << 30;

/// How a payload is packed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Lz4,
    Xz,
    Zstd,
}

impl Packing {
    fn of(start: [u8; 6]) -> Option<Packing> {
        match start {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Packing::Lz4),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Packing::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Packing::Zstd),
            _ => None,
        }
    }
}

impl BzImage {
    /// Writes the kernel within it, an ELF file. Returns how many bytes that is.
    pub fn unpack(&self, out: &mut dyn Write) -> Result<u64, Error> {
        let (offset, length) = self.payload();
        let mut start = [0; 6];
        self.file().read_exact_at(&mut start, offset).map_err(|_| self.damaged("what it is to unpack is not there"))?;
        let packing = Packing::of(start).ok_or_else(|| {
            self.damaged("it is packed in a way that this does not know: gzip, LZ4, xz and zstd it does")
        })?;
        let behind = if packing == Packing::Gzip { 0 } else { SIZE };
        let packed = BufReader::new(Part { file: self.file(), at: offset, left: length.saturating_sub(behind) });
        let failed = |error: io::Error| self.damaged(&format!("unpack it: {error}"));
        let mut unpacked: Box<dyn Read + '_> = match packing {
            Packing::Gzip => Box::new(GzDecoder::new(packed)),
            Packing::Lz4 => Box::new(FrameDecoder::new(packed)),
            Packing::Xz => Box::new(XzReader::new(packed, false)),
            Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?.single_frame()),
        };
        let written = io::copy(&mut unpacked.by_ref().take(MOST), out).map_err(failed)?;
        if written == MOST {
            return Err(self.damaged("it unpacks to more than a GiB"));
        }
        Ok(written)
    }
}

/// A part of a file, read from its own place on.
struct Part<'a> {
    file: &'a std::fs::File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, bzimage};
    use super::*;
    use std::fs::File;
    use std::path::Path;

    /// A bzImage of which nothing is right but its header, and `payload`.
    fn bzimage(payload: &[u8]) -> BzImage {
        let mut file = vec![0; 1024 + bzimage::ENTRY_64 as usize];
        file[0x1f1] = 1;
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        file[0x236..0x238].copy_from_slice(&1u16.to_le_bytes());
        file[0x248..0x24c].copy_from_slice(&(bzimage::ENTRY_64 as u32).to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file.extend(payload);
        file.extend([0; 64]);
        let mut written = tempfile::tempfile().unwrap();
        written.write_all(&file).unwrap();
        match Kernel::open(written, Path::new("vmlinuz")).unwrap() {
            Kernel::BzImage(kernel) => kernel,
            Kernel::Pvh(_) => panic!("it is no ELF file"),
        }
    }

    fn kernel() -> Vec<u8> {
        (0..100_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect()
    }

    fn sized(mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend((kernel().len() as u32).to_le_bytes());
        packed
    }

    fn unpack(payload: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        bzimage(payload).unpack(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn what_kernels_are_packed_with_is_unpacked() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel()).unwrap();
        assert!(unpack(&gzip.finish().unwrap()).unwrap() == kernel());
        assert!(unpack(&sized(zstd::encode_all(&kernel()[..], 1).unwrap())).unwrap() == kernel());
        // The form that kernels have: a magic number, then blocks, each behind its length.
        let block = lz4_flex::block::compress(&kernel());
        let lz4 = [&[0x02, 0x21, 0x4c, 0x18][..], &(block.len() as u32).to_le_bytes(), &block].concat();
        assert!(unpack(&sized(lz4)).unwrap() == kernel());
    }

    #[test]
    fn what_is_damaged_or_unknown_is_told_by_its_name() {
        for (payload, why) in [
            (&b"BZh91AY&SY............"[..], "is packed in a way that this does not know"),
            (&[0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3, 4, 5, 6, 7, 8], "unpack it"),
            (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9], "unpack it"),
        ] {
            let told = unpack(payload).unwrap_err();
            assert!(
                told.starts_with("the kernel vmlinuz is no bzImage that can be booted") && told.contains(why),
                "{told}"
            );
        }
    }

    #[test]
    fn a_payload_beyond_the_file_is_an_error() {
        let whole = bzimage(b"\x1f\x8b");
        let mut header = vec![0; 2048];
        whole.file().read_at(&mut header, 0).unwrap();
        header[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut file: File = tempfile::tempfile().unwrap();
        file.write_all(&header).unwrap();
        let Ok(Kernel::BzImage(cut)) = Kernel::open(file, Path::new("vmlinuz")) else { panic!("it has a header") };
        assert!(cut.unpack(&mut io::sink()).unwrap_err().to_string().contains("is not there"));
    }
}
