//! What a disk holds, in an image of QEMU's format (docs/interop/qcow2.txt).
//!
//! - [`refusal`]: why an image is not taken
//! - [`header`]: what is looked at before an image is taken
//! - [`storage`]: its file
//! - here: reading and writing, by `imago`
//!
//! Data go through a buffer of this process, and not from the guest's memory to the library: its slices would be of memory that a guest changes meanwhile. What the library keeps in memory,
//! which are tables, is at most 160 clusters; it is written when the guest flushes, and whenever the disk's thread comes to rest, so that a file that is copied while a machine is paused
//! is whole.

mod header;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "what fuzzing uses is public"))]
pub(crate) mod hostile;
mod refusal;
mod storage;

pub use refusal::ImageError;

use super::super::buffers::Buffers;
use header::Header;
use imago::qcow2::Qcow2 as Format;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder as _, Mapping, StorageExt as _};
use std::fs::File;
use std::io;
use storage::ImageFile;

/// Bytes that are read or written at once.
const BUFFER: usize = 256 << 10;

/// An image.
pub(super) struct Qcow2 {
    image: FormatAccess<ImageFile>,
    header: Header,
    buffer: Vec<u8>,
    /// Clusters were freed, and the file's tables may say after a loss of power that they are not.
    has_freed: bool,
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Qcow2 {
    /// Takes an image that somebody opened.
    ///
    /// # Errors
    /// It names another file, has a feature that is not supported, is damaged, or can't be read.
    pub(super) fn of(file: File, read_only: bool) -> Result<Qcow2, ImageError> {
        let header = Header::read(&file, read_only)?;
        let format = Format::<ImageFile>::builder(ImageFile::new(file)?)
            .write(!read_only)
            .backing(None)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map_err(|error| ImageError::damaged(error.to_string()))?;
        Ok(Qcow2 { image: FormatAccess::new(format), header, buffer: Vec::new(), has_freed: false })
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.header.size
    }

    /// Bytes of a cluster, if a part of the disk can be given back by clusters: version 2 can't say that one is zero.
    pub(super) fn gives_back(&self) -> Option<u64> {
        (self.header.version > 2).then_some(self.header.cluster)
    }

    /// Reads from `offset` on until the buffers are full; they lie on the disk as a whole.
    pub(super) fn read(&mut self, mut offset: u64, into: &mut Buffers<'_>) -> io::Result<()> {
        while into.len() > 0 {
            let part = self.buffer(into.len());
            let (image, buffer) = (&self.image, &mut self.buffer[..part]);
            image.read(&mut *buffer, offset)?;
            into.write(buffer);
            offset += part as u64;
        }
        Ok(())
    }

    /// Writes from `offset` on, as long as `may` says that what was copied is what it is to be.
    pub(super) fn write(
        &mut self,
        mut offset: u64,
        from: &mut Buffers<'_>,
        may: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        self.may_use_what_was_freed()?;
        while from.len() > 0 {
            let part = self.buffer(from.len());
            let (image, buffer) = (&self.image, &mut self.buffer[..part]);
            from.read(buffer);
            may()?;
            image.write(&*buffer, offset)?;
            offset += part as u64;
        }
        Ok(())
    }

    /// Has a range be zeros, and its clusters free where they may be.
    pub(super) fn zero(&mut self, offset: u64, length: u64, may_be_hole: bool) -> io::Result<()> {
        self.may_use_what_was_freed()?;
        if !may_be_hole {
            return self.image.write_zeroes(offset, length);
        }
        self.has_freed = true;
        self.give_back(offset, length)?;
        self.image.discard_to_zero(offset, length)
    }

    /// Before anything is written, which may be into clusters that were freed: what had them has to be without them after a loss of power, too, or it would be found with what is written now. The
    /// library keeps the order of its tables, and does not sync between them.
    fn may_use_what_was_freed(&mut self) -> io::Result<()> {
        if self.has_freed {
            self.flush()?;
            self.has_freed = false;
        }
        Ok(())
    }

    /// Gives the file's blocks of whole clusters in a range back, which are to be zeros: the library only notes that they are free. That comes first, as they may be another's after it.
    fn give_back(&self, offset: u64, length: u64) -> io::Result<()> {
        let cluster = self.header.cluster;
        let (mut at, end) = (offset.next_multiple_of(cluster), (offset + length) / cluster * cluster);
        while at < end {
            let (mapping, length) = self.image.get_mapping(at, end - at)?;
            if let Mapping::Raw { storage, offset, writable: true, .. } = mapping {
                storage.discard(offset, length)?;
            }
            // There is none at the end of the disk.
            at += length.max(1);
        }
        Ok(())
    }

    /// Writes what is kept in memory.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.image.flush()
    }

    /// Makes sure that what was written is there after a loss of power.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.settle()?;
        self.image.sync()
    }

    /// Makes room in the buffer. Returns how many bytes of so many it takes.
    fn buffer(&mut self, length: usize) -> usize {
        let part = length.min(BUFFER);
        if self.buffer.len() < part {
            self.buffer.resize(part, 0);
        }
        part
    }
}

#[cfg(test)]
mod tests;
