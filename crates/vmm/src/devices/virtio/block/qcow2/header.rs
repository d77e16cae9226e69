//! What an image says of itself, looked at before anything else of it is (QEMU's docs/interop/qcow2.txt).
//!
//! An image may come from a stranger. So all that would have another file opened is refused here, before the library that reads images sees it; and tables are no
//! larger than QEMU's may be, lie within the file, and not upon each other: what is read of them is bounded, and none is written to as another one.

use super::refusal::ImageError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// "QFI\xfb"
const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a header of version 2, and of the part of version 3's that all have.
const LENGTH_2: u32 = 72;
const LENGTH_3: u32 = 104;
/// Logarithms of the least and the most bytes of a cluster: the most is QEMU's.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// The most bytes of the first table, and of the one of reference counts, as QEMU has them.
const FIRST_TABLE_MOST: u64 = 32 << 20;
const COUNTS_MOST: u64 = 8 << 20;
/// In an entry of either table: where what it is for begins.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;

/// Bits of the incompatible features.
mod feature {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
}

/// What is needed of an image's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// 2 or 3.
    pub(super) version: u32,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    /// Bytes of the disk.
    pub(super) size: u64,
}

/// A table of an image.
struct Table {
    what: &'static str,
    start: u64,
    /// Bytes.
    length: u64,
    /// The most that it may have.
    most: u64,
    /// How many of its first entries have to name something.
    filled: u64,
}

impl Header {
    /// Reads it, and looks whether the image can be taken for a disk.
    ///
    /// # Errors
    /// It can't, and why.
    pub(super) fn read(file: &File, read_only: bool) -> Result<Header, ImageError> {
        let mut bytes = [0; LENGTH_3 as usize];
        read_at(file, &mut bytes, 0)?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let version = word(4);
        if word(0) != MAGIC {
            return Err(ImageError::NoImage);
        }
        if !matches!(version, 2 | 3) {
            return Err(ImageError::Version(version));
        }
        if long(8) != 0 {
            return Err(ImageError::BackingFile);
        }
        if word(32) != 0 {
            return Err(ImageError::Encrypted);
        }
        let (features, counts_order, length) =
            if version == 2 { (0, 4, LENGTH_2) } else { (long(72), word(96), word(100)) };
        refuse_features(features)?;
        if word(60) != 0 && !read_only {
            return Err(ImageError::Snapshots(word(60)));
        }
        let cluster_bits = word(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(ImageError::damaged(format!("its clusters have 2^{cluster_bits} bytes")));
        }
        let header = Header { version, cluster: 1 << cluster_bits, size: long(24) };
        if version == 3 && !(LENGTH_3..=1 << cluster_bits).contains(&length) {
            return Err(ImageError::damaged(format!("its header has {length} bytes")));
        }
        if counts_order > 6 {
            return Err(ImageError::damaged(format!("its reference counts have 2^{counts_order} bits")));
        }
        // The last cluster need not be there as a whole.
        let end = file.metadata()?.len().next_multiple_of(header.cluster);
        let first = Table {
            what: "first table",
            start: long(40),
            length: u64::from(word(36)) * size_of::<u64>() as u64,
            most: FIRST_TABLE_MOST,
            filled: 0,
        };
        // Each cluster of the file has a count: where one without is made free, the library looks for room there, and for room for its count there, and so on for ever.
        let counted = header.cluster * ((header.cluster * 8) >> counts_order);
        let counts = Table {
            what: "table of reference counts",
            start: long(48),
            length: u64::from(word(56)) << cluster_bits,
            most: COUNTS_MOST,
            filled: if read_only { 0 } else { end.div_ceil(counted) },
        };
        header.check_size(&first)?;
        header.check_tables(file, end, &[first, counts])?;
        Ok(header)
    }

    /// Looks whether the first table has an entry for each part of the disk.
    fn check_size(&self, first: &Table) -> Result<(), ImageError> {
        // A second table has a cluster of entries, each for a cluster.
        let part = self.cluster * (self.cluster / size_of::<u64>() as u64);
        if self.size > i64::MAX as u64 || self.size.div_ceil(part) * size_of::<u64>() as u64 > first.length {
            return Err(ImageError::damaged(format!(
                "its first table has {} entries, too few for {} bytes",
                first.length / size_of::<u64>() as u64,
                self.size
            )));
        }
        Ok(())
    }

    /// Looks whether the tables, and what their entries are for, are within the file, which has its end there, and apart from each other.
    fn check_tables(&self, file: &File, end: u64, tables: &[Table]) -> Result<(), ImageError> {
        let mut taken = vec![0];
        let mut take = |what: &str, start: u64, length: u64| {
            if !start.is_multiple_of(self.cluster) || start.checked_add(length).is_none_or(|behind| behind > end) {
                return Err(ImageError::damaged(format!(
                    "its {what} is to be at {start:#x}, with {length} bytes: in no cluster of the file"
                )));
            }
            taken.extend((start..start + length).step_by(self.cluster as usize));
            Ok(())
        };
        for Table { what, start, length, most, filled } in tables {
            if length > most {
                return Err(ImageError::damaged(format!("its {what} has {length} bytes, and {most} are the most")));
            }
            take(what, *start, *length)?;
            let mut entries = vec![0; *length as usize];
            read_at(file, &mut entries, *start)?;
            let (entries, _) = entries.as_chunks();
            let places = || entries.iter().map(|entry| u64::from_be_bytes(*entry) & PLACE);
            for place in places().filter(|place| *place != 0) {
                take("table that another one names", place, self.cluster)?;
            }
            if (places().take_while(|place| *place != 0).count() as u64) < *filled {
                return Err(ImageError::damaged(format!("its {what} has not all that the file's clusters need")));
            }
        }
        taken.sort_unstable();
        if taken.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(ImageError::damaged("two of its tables lie at the same place"));
        }
        Ok(())
    }
}

/// Says which of the features is in the way.
fn refuse_features(features: u64) -> Result<(), ImageError> {
    // Whose data are elsewhere is told so, whatever else it is.
    if features & feature::DATA_FILE != 0 {
        Err(ImageError::DataFile)
    } else if features & feature::CORRUPT != 0 {
        Err(ImageError::Corrupt)
    } else if features & feature::DIRTY != 0 {
        Err(ImageError::Dirty)
    } else if features != 0 {
        Err(ImageError::Features(features))
    } else {
        Ok(())
    }
}

/// Reads as much as there is, and zeros behind the file's end.
pub(super) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into[done..].fill(0);
    Ok(())
}
