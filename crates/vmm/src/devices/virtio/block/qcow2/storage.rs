//! The file of an image, as the library takes it: a descriptor that somebody opened, and no way to open another one.

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::{Storage, StorageCreateOptions, StorageOpenOptions};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, preadv, pwritev};
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};

/// The most buffers of a system call (`IOV_MAX`).
const MOST_AT_ONCE: usize = 1024;
/// What is written where the file system can't zero by itself.
const ZEROS: [u8; 4096] = [0; 4096];

/// The one file of an image.
#[derive(Debug)]
pub(super) struct ImageFile {
    file: File,
    /// Its length, which nobody else changes.
    length: AtomicU64,
    helper: CommonStorageHelper,
}

impl ImageFile {
    pub(super) fn new(file: File) -> io::Result<ImageFile> {
        let length = AtomicU64::new(file.metadata()?.len());
        Ok(ImageFile { file, length, helper: CommonStorageHelper::default() })
    }

    fn write(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Empty ones would be taken for a disk without room.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match pwritev(&self.file, &slices[..slices.len().min(MOST_AT_ONCE)], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.length.fetch_max(offset, Ordering::Relaxed);
        Ok(())
    }

    /// Zeroes a range by the file system, or by writing where that can't.
    fn zero(&self, how: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, offset, length) {
            Err(Errno::OPNOTSUPP) => {}
            other => return Ok(other?),
        }
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = offset;
        while at < end {
            let part = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(&mut [IoSlice::new(&ZEROS[..part])], at)?;
            at += part as u64;
        }
        Ok(())
    }
}

impl fmt::Display for ImageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the image")
    }
}

/// Why nothing else is opened.
fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "no file is opened that an image names")
}

impl Storage for ImageFile {
    fn open(_: StorageOpenOptions) -> io::Result<ImageFile> {
        Err(refused())
    }

    fn create_open(_: StorageCreateOptions) -> io::Result<ImageFile> {
        Err(refused())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.length.load(Ordering::Relaxed))
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        let mut buffers = bufv.into_inner();
        let mut slices = &mut buffers[..];
        IoSliceMut::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let most = slices.len().min(MOST_AT_ONCE);
            match preadv(&self.file, &mut slices[..most], offset) {
                // Behind the file's end.
                Ok(0) => {
                    slices.iter_mut().for_each(|slice| slice.fill(0));
                    break;
                }
                Ok(count) => {
                    offset += count as u64;
                    IoSliceMut::advance_slices(&mut slices, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.write(&mut bufv.into_inner(), offset)
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(FallocateFlags::PUNCH_HOLE, offset, length)
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.zero(FallocateFlags::ZERO_RANGE, offset, length)
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
        {
            // What can't be given back is kept.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }
}
