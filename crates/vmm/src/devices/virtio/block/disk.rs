//! Where a disk's contents are: in parts of files, one behind the other, or in an image.

use super::super::buffers::Buffers;
use super::qcow2::{ImageError, Qcow2};
use super::{PHYSICAL_SECTORS, SECTOR};
use crate::memory::Whole;
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// A part of a disk.
#[derive(Debug)]
struct Part {
    /// Its first byte on the disk.
    start: u64,
    /// How many bytes.
    length: u64,
    /// Where they are: at the beginning of this.
    file: Arc<File>,
    /// How many bytes that had: what is behind them is zero. A file that has fewer now was cut, and what is missing is not there.
    there: u64,
}

/// What a disk holds, and how.
#[derive(Debug)]
enum Contents {
    /// As it is: parts of files.
    Parts(Vec<Part>),
    /// In QEMU's format.
    Qcow2(Box<Qcow2>),
}

/// A disk's contents.
#[derive(Debug)]
pub(crate) struct Disk {
    contents: Contents,
    size: u64,
    read_only: bool,
    /// What is written is there after a loss of power at once, as the guest does not say when it has to be (5.2.6.2).
    write_through: bool,
    serial: [u8; 20],
    /// Of the memory of the guest that writes.
    whole: Whole,
}

impl Disk {
    /// A file as a disk. A last part of a sector is not on it.
    pub(crate) fn of_file(file: File, read_only: bool, serial: &str) -> io::Result<Disk> {
        let there = file.metadata()?.len();
        let length = there / SECTOR * SECTOR;
        Ok(Disk {
            contents: Contents::Parts(vec![Part { start: 0, length, file: Arc::new(file), there }]),
            size: length,
            read_only,
            write_through: false,
            serial: serial_of(serial),
            whole: Whole::default(),
        })
    }

    /// A qcow2 image as a disk. A last part of a sector is not on it.
    ///
    /// # Errors
    /// It is none, or none that is taken.
    pub(crate) fn of_qcow2(file: File, read_only: bool, serial: &str) -> Result<Disk, ImageError> {
        let image = Qcow2::of(file, read_only)?;
        Ok(Disk {
            size: image.size() / SECTOR * SECTOR,
            contents: Contents::Qcow2(Box::new(image)),
            read_only,
            write_through: false,
            serial: serial_of(serial),
            whole: Whole::default(),
        })
    }

    /// Files one behind the other, each from a multiple of `align` bytes on, read-only. Returns where each begins, too.
    pub(crate) fn of_files(files: Vec<File>, align: u64, serial: &str) -> io::Result<(Disk, Vec<u64>)> {
        let (mut parts, mut starts, mut size) = (Vec::new(), Vec::new(), 0u64);
        for file in files {
            let start = size.next_multiple_of(align);
            let there = file.metadata()?.len();
            let length = there.next_multiple_of(SECTOR);
            size = start + length;
            starts.push(start);
            parts.push(Part { start, length, file: Arc::new(file), there });
        }
        Ok((
            Disk {
                contents: Contents::Parts(parts),
                size,
                read_only: true,
                write_through: false,
                serial: serial_of(serial),
                whole: Whole::default(),
            },
            starts,
        ))
    }

    /// Lays a file over what is at `start`, so that the guest finds it there from then on; `None`: zeros are there, as far as the file went that begins there. What is covered is
    /// expected to be zeros, and is cut.
    ///
    /// # Errors
    /// The disk can be written to, or the file does not lie on it as a whole.
    pub(super) fn lay(&mut self, start: u64, file: Option<File>) -> io::Result<()> {
        let Contents::Parts(parts) = &mut self.contents else { return Err(io::ErrorKind::ReadOnlyFilesystem.into()) };
        let Some(file) = file else {
            parts.retain(|part| part.start != start);
            return Ok(());
        };
        let there = file.metadata()?.len();
        let length = there.next_multiple_of(SECTOR);
        let end =
            start.checked_add(length).filter(|end| *end <= self.size && self.read_only && start.is_multiple_of(SECTOR));
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        for part in std::mem::take(parts) {
            let (from, until) = (part.start, part.start + part.length);
            if from < start.min(until) {
                let length = start.min(until) - from;
                parts.push(Part { start: from, length, file: Arc::clone(&part.file), there: part.there.min(length) });
            }
            if end.max(from) < until {
                let length = until - end.max(from);
                parts.push(Part { start: end.max(from), length, file: part.file, there: part.there.min(length) });
            }
        }
        parts.push(Part { start, length, file: Arc::new(file), there });
        parts.sort_by_key(|part| part.start);
        Ok(())
    }

    /// For a guest whose memory may turn out not to be as it should: then it writes nothing more.
    pub(crate) fn of_guest(self, whole: Whole) -> Disk {
        Disk { whole, ..self }
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether nothing can be written to it.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// How many bytes a part of it has that can be given back by itself. `None`: none can.
    pub(super) fn gives_back(&self) -> Option<u64> {
        match &self.contents {
            _ if self.read_only => None,
            Contents::Parts(_) => Some(PHYSICAL_SECTORS as u64 * SECTOR),
            Contents::Qcow2(image) => image.gives_back(),
        }
    }

    /// Whether what is written has to be there after a loss of power at once.
    pub(super) fn set_write_through(&mut self, write_through: bool) {
        self.write_through = write_through;
    }

    /// What tells it from others.
    pub(super) fn serial(&self) -> &[u8; 20] {
        &self.serial
    }

    /// Reads from `offset` on until the buffers are full; they lie on the disk as a whole.
    ///
    /// # Errors
    /// What the file says, or that it was cut.
    pub(in super::super) fn read(&mut self, mut offset: u64, into: &mut Buffers<'_>) -> io::Result<()> {
        let parts = match &mut self.contents {
            Contents::Parts(parts) => parts,
            Contents::Qcow2(image) => return image.read(offset, into),
        };
        while into.len() > 0 {
            let (part, at, most) = at(parts, self.size, offset, into.len());
            let Some(mut buffers) = into.take(most) else { return Err(io::ErrorKind::InvalidInput.into()) };
            if let Some(Part { file, there, .. }) = part {
                let mut place = at;
                buffers.transfer(|list| {
                    // SAFETY: each buffer is a part of the guest's memory, mapped for as long as the buffers live, to which nothing has references.
                    let count =
                        unsafe { libc::preadv(file.as_raw_fd(), list.as_ptr(), list.len() as i32, place as i64) };
                    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
                    place += count as u64;
                    Ok(count)
                })?;
                if buffers.len() > 0 && place < *there {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            // Behind the file's end, and between two parts.
            let zeros = [0; 4096];
            while buffers.write(&zeros) > 0 {}
            offset += most as u64;
        }
        Ok(())
    }

    /// Writes from `offset` on.
    pub(super) fn write(&mut self, offset: u64, from: &mut Buffers<'_>) -> io::Result<()> {
        from.touch(&self.whole);
        self.may_write()?;
        let file = match &mut self.contents {
            Contents::Parts(parts) => the_one(parts)?,
            Contents::Qcow2(image) => {
                image.write(offset, from, || whole(&self.whole))?;
                return self.written();
            }
        };
        let mut place = offset;
        from.transfer(|list| {
            // SAFETY: as above; the guest may change what is written while it is, which is its own matter.
            let count = unsafe { libc::pwritev(file.as_raw_fd(), list.as_ptr(), list.len() as i32, place as i64) };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            place += count as u64;
            Ok(count)
        })?;
        if from.len() > 0 { Err(io::ErrorKind::WriteZero.into()) } else { self.written() }
    }

    /// Something was written.
    fn written(&self) -> io::Result<()> {
        if self.write_through { self.flush() } else { Ok(()) }
    }

    /// Makes sure that what was written is there after a loss of power.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.may_write()?;
        match &self.contents {
            Contents::Parts(parts) => the_one(parts)?.sync_data(),
            Contents::Qcow2(image) => image.flush(),
        }
    }

    /// Has its file hold all that was written: nothing of it is in this process alone then.
    pub(super) fn settle(&self) -> io::Result<()> {
        match &self.contents {
            Contents::Qcow2(image) if !self.read_only => image.settle(),
            _ => Ok(()),
        }
    }

    /// Has a range be zeros, without blocks of its own where the file system can.
    pub(super) fn zero(&mut self, offset: u64, length: u64, may_be_hole: bool) -> io::Result<()> {
        self.may_write()?;
        match &mut self.contents {
            Contents::Parts(parts) => {
                let hole = if may_be_hole { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
                rustix::fs::fallocate(the_one(parts)?, hole | FallocateFlags::KEEP_SIZE, offset, length)?;
            }
            Contents::Qcow2(image) => image.zero(offset, length, may_be_hole)?,
        }
        self.written()
    }

    fn may_write(&self) -> io::Result<()> {
        whole(&self.whole)?;
        if self.read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

/// Who lost a part of the guest's memory writes nothing of it.
fn whole(whole: &Whole) -> io::Result<()> {
    if whole.is() { Ok(()) } else { Err(io::Error::other("a part of the guest's memory is lost")) }
}

/// The file of a disk that has one: others can't be written to.
fn the_one(parts: &[Part]) -> io::Result<&File> {
    match parts {
        [part] => Ok(&part.file),
        _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
    }
}

/// What is at an offset of a disk of that size: the part and where in its file, if any, and how many bytes from there on are of the same kind, `most` at the most.
fn at(parts: &[Part], size: u64, offset: u64, most: usize) -> (Option<&Part>, u64, usize) {
    let after = parts.partition_point(|part| part.start <= offset);
    let until = |end: u64| usize::try_from(end - offset).unwrap_or(usize::MAX).min(most);
    if let Some(part) =
        after.checked_sub(1).map(|before| &parts[before]).filter(|part| offset - part.start < part.length)
    {
        return (Some(part), offset - part.start, until(part.start + part.length));
    }
    let next = parts.get(after).map_or(size.max(offset + most as u64), |part| part.start);
    (None, 0, until(next))
}

/// Cut to 20 bytes, filled up with zeros (5.2.6).
pub(super) fn serial_of(serial: &str) -> [u8; 20] {
    let mut bytes = [0; 20];
    for (to, from) in bytes.iter_mut().zip(serial.bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use vm_memory::VolatileSlice;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(disk: &mut Disk, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        let mut buffers = Buffers::default();
        let slice = VolatileSlice::from(&mut bytes[..]);
        buffers.push(slice.subslice(0, length / 3).unwrap()).unwrap();
        buffers.push(slice.subslice(length / 3, length - length / 3).unwrap()).unwrap();
        disk.read(offset, &mut buffers).unwrap();
        bytes
    }

    #[test]
    fn parts_lie_one_behind_the_other_with_zeros_between() {
        let (mut disk, starts) =
            Disk::of_files(vec![file(&[1; 1000]), file(&[2; 5000]), file(&[3; 1])], 4096, "layers").unwrap();
        assert_eq!(starts, [0, 4096, 12288]);
        assert_eq!(disk.size(), 12288 + 512);
        let mut expected = vec![0; disk.size() as usize];
        expected[..1000].fill(1);
        expected[4096..9096].fill(2);
        expected[12288] = 3;
        assert!(read(&mut disk, 0, expected.len()) == expected);
        for offset in (0..disk.size() - 1536).step_by(512) {
            assert!(read(&mut disk, offset, 1536) == expected[offset as usize..offset as usize + 1536], "at {offset}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_and_no_zeros() {
        let whole = file(&[1; 5000]);
        let cut = whole.try_clone().unwrap();
        let (mut disk, _) = Disk::of_files(vec![whole], 4096, "layers").unwrap();
        assert_eq!(read(&mut disk, 4608, 512)[300..], [1; 92].iter().chain(&[0; 120]).copied().collect::<Vec<u8>>());
        cut.set_len(4700).unwrap();
        let mut bytes = [0; 512];
        for (offset, is_there) in [(0, true), (4096, true), (4608, false)] {
            let mut buffers = Buffers::default();
            buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
            assert_eq!(disk.read(offset, &mut buffers).is_ok(), is_there, "at {offset}");
        }
    }

    #[test]
    fn files_are_laid_over_what_is_zeros_and_taken_away_again() {
        let (mut disk, _) = Disk::of_files(vec![file(&[1; 4096]), file(&[0; 32768])], 4096, "layers").unwrap();
        disk.lay(8192, Some(file(&[2; 5000]))).unwrap();
        disk.lay(16384, Some(file(&[3; 512]))).unwrap();
        let expected = |second: u8, third: u8| {
            let mut bytes = vec![0; 36864];
            bytes[..4096].fill(1);
            bytes[8192..13192].fill(second);
            bytes[16384..16896].fill(third);
            bytes
        };
        assert!(read(&mut disk, 0, 36864) == expected(2, 3));
        disk.lay(8192, None).unwrap();
        assert!(read(&mut disk, 0, 36864) == expected(0, 3));
        // Where one was, another one can be, also one that is shorter or reaches further.
        disk.lay(8192, Some(file(&[4; 5000]))).unwrap();
        assert!(read(&mut disk, 0, 36864) == expected(4, 3));
        for (start, length) in [(32768, 4097), (8191, 512), (u64::MAX - 511, 512)] {
            assert!(disk.lay(start, Some(file(&vec![5; length]))).is_err(), "at {start}");
        }
        assert!(read(&mut disk, 0, 36864) == expected(4, 3));
        let mut written = Disk::of_file(file(&[0; 4096]), false, "").unwrap();
        assert!(written.lay(0, Some(file(&[5; 512]))).is_err());
    }

    #[test]
    fn what_is_read_only_is_not_written_to() {
        let mut disk = Disk::of_file(file(&[1; 1024]), true, "").unwrap();
        let mut bytes = [9; 512];
        let mut buffers = Buffers::default();
        buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
        assert_eq!(disk.write(0, &mut buffers).unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(disk.zero(0, 512, true).is_err());
        disk.flush().unwrap();
        assert_eq!(read(&mut disk, 0, 3), [1; 3]);
    }
}
