//! The file under the store, for redb: one that asks the disk for space before it writes, and keeps some back.

use redb::StorageBackend;
use redb::backends::FileBackend;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Space kept behind the end of the file for the day the disk is full, in bytes.
const BALLAST: u64 = 1 << 20;

/// Whether the ballast may be spent.
///
/// A database that copies on write needs space even to delete. So that a full disk can be cleaned up, the file holds
/// blocks behind its end, which only transactions that free space are given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relief(Arc<AtomicBool>);

impl Relief {
    pub(crate) fn allow(&self, allowed: bool) {
        self.0.store(allowed, Ordering::Release);
    }

    pub(crate) fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A file whose length only grows together with blocks that really are its own. Without this a file grows as a hole,
/// and a full disk shows in the middle of writing pages; with it, it shows before anything was written.
#[derive(Debug)]
pub(crate) struct ReservedFile {
    file: File,
    backend: FileBackend,
    /// `None` for a file that is being made, see [`ReservedFile::new`].
    relief: Option<Relief>,
}

impl ReservedFile {
    /// `relief`: `None` for a file that nobody opens before it is whole. It keeps no ballast, and whoever makes it syncs
    /// it once, when it is closed: none of the steps on the way there has to be on the disk.
    pub(crate) fn new(file: File, relief: Option<Relief>) -> Result<ReservedFile, redb::Error> {
        let again = file.try_clone()?;
        let reserved = ReservedFile { file, backend: FileBackend::new(again)?, relief };
        reserved.lay_in_ballast();
        Ok(reserved)
    }

    /// Keeps space behind the end, if there is some: without it everything works until the disk is full.
    fn lay_in_ballast(&self) {
        let Some(_) = &self.relief else { return };
        let laid_in = self.backend.len().and_then(|length| self.allocate(length + BALLAST));
        if let Err(error) = laid_in {
            tracing::debug!(%error, "no space can be kept back for a full disk");
        }
    }

    /// Makes every byte up to `end` one that has a block, wherever the file ends.
    fn allocate(&self, end: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, end) {
            // File systems that cannot reserve (NFS before 4.2, some FUSE ones) let the file grow by a hole. A full
            // disk is then found while writing, before the commit's header is: still nothing half done, only later.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn grow(&self, from: u64, to: u64) -> io::Result<()> {
        let ballast = self.relief.as_ref().map_or(0, |_| BALLAST);
        match self.allocate(to + ballast) {
            Ok(()) => self.file.set_len(to),
            Err(error) => {
                // Gives back what was allocated up to there, ballast and all.
                self.file.set_len(from)?;
                if self.relief.as_ref().is_some_and(Relief::is_allowed) {
                    // By a hole: the few pages that are written find the blocks that were just given back.
                    return self.file.set_len(to);
                }
                self.lay_in_ballast();
                Err(error)
            }
        }
    }
}

type Edge = Bound<u64>;

impl StorageBackend for ReservedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let present = self.backend.len()?;
        if len > present {
            return self.grow(present, len);
        }
        self.backend.set_len(len)?;
        self.lay_in_ballast();
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.relief {
            Some(_) => self.backend.sync_data(),
            None => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Edge, end: Edge) -> Result<bool, redb::BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Edge, end: Edge) -> Result<bool, redb::BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Edge, end: Edge) -> Result<(), redb::BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Edge, end: Edge) -> Result<(), redb::BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Edge, end: Edge) -> Result<(), redb::BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Edge, end: Edge) -> Result<bool, redb::BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
