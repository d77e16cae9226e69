//! What a guest may ask of a disk (5.2.6), and the answer.

use super::super::buffers::Buffers;
use super::super::queue::{Nonsense, Request};
use super::disk::Disk;
use super::{MOST_SECTORS, SECTOR};
use std::io;

/// Kinds of requests.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// The last byte of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok = 0,
    Failed = 1,
    Unsupported = 2,
}

/// Zeroed sectors may lose their blocks.
const UNMAP: u32 = 1;

/// Carries a request out. Returns how many bytes were written into its buffers.
pub(super) fn answer(disk: &mut Disk, mut request: Request<'_>) -> Result<u32, Nonsense> {
    let nonsense = |what: &str| Nonsense(format!("a disk's request {what}"));
    let header: [u8; 16] = request.readable.array().ok_or_else(|| nonsense("is shorter than its header"))?;
    let mut status = request.writable.split_end(1).ok_or_else(|| nonsense("has no room for its status"))?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
    let room = request.writable.len();
    let outcome = match word(0) {
        kind::IN => range(disk, sector, room).and_then(|offset| disk.read(offset, &mut request.writable)),
        kind::OUT => {
            range(disk, sector, request.readable.len()).and_then(|offset| disk.write(offset, &mut request.readable))
        }
        kind::FLUSH => disk.flush(),
        kind::GET_ID => {
            request.writable.write(disk.serial());
            Ok(())
        }
        discard @ (kind::DISCARD | kind::WRITE_ZEROES) => {
            give_back(disk, discard == kind::DISCARD, &mut request.readable)
        }
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    let outcome = match outcome {
        Ok(()) => Status::Ok,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Status::Unsupported,
        Err(_) => Status::Failed,
    };
    status.write(&[outcome as u8]);
    let written = if outcome == Status::Ok { room - request.writable.len() } else { 0 };
    // What is before the status counts as written, too, as nothing says otherwise of it.
    Ok(u32::try_from(written + 1).unwrap_or(u32::MAX))
}

/// Where a range begins, in bytes, if it is of whole sectors and lies on the disk.
fn range(disk: &Disk, sector: u64, length: usize) -> io::Result<u64> {
    let length = length as u64;
    let offset =
        sector.checked_mul(SECTOR).filter(|offset| offset.checked_add(length).is_some_and(|end| end <= disk.size()));
    offset.filter(|_| length.is_multiple_of(SECTOR)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Discards or zeroes the one range that such a request may have.
fn give_back(disk: &mut Disk, discard: bool, of: &mut Buffers<'_>) -> io::Result<()> {
    let segment: [u8; 16] = of.array().ok_or(io::ErrorKind::InvalidInput)?;
    if of.len() > 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let [a, b, c, d, e, f, g, h, rest @ ..] = segment;
    let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
    let (sectors, flags) = (word(0), word(4));
    if flags & !UNMAP != 0 || (discard && flags != 0) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    if sectors > MOST_SECTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u64::from(sectors) * SECTOR;
    let offset = range(disk, sector, length as usize)?;
    if length == 0 { Ok(()) } else { disk.zero(offset, length, discard || flags & UNMAP != 0) }
}

#[cfg(test)]
mod tests {
    use super::super::super::queue::Request;
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use vm_memory::VolatileSlice;

    const SIZE: u64 = 1 << 20;

    fn disk(read_only: bool) -> (Disk, File) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; SIZE as usize], 0).unwrap();
        (Disk::of_file(file.try_clone().unwrap(), read_only, "serial").unwrap(), file)
    }

    /// Asks for something. Returns the status, how much counts as written, and what was written.
    fn ask(disk: &mut Disk, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, u32, Vec<u8>) {
        let mut out = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes(), data].concat();
        let mut answer_ = vec![0xee; room + 1];
        let (mut readable, mut writable) = (Buffers::default(), Buffers::default());
        readable.push(VolatileSlice::from(&mut out[..])).unwrap();
        writable.push(VolatileSlice::from(&mut answer_[..])).unwrap();
        let written = answer(disk, Request::for_test(readable, writable)).unwrap();
        let status = answer_.pop().unwrap();
        (status, written, answer_)
    }

    fn segment(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (mut disk, file) = disk(false);
        assert_eq!(ask(&mut disk, kind::OUT, 3, &[9; 1024], 0), (0, 1, vec![]));
        let (status, written, read) = ask(&mut disk, kind::IN, 2, &[], 2048);
        assert_eq!((status, written), (0, 2049));
        assert!(read == [vec![7; 512], vec![9; 1024], vec![7; 512]].concat());
        assert_eq!(ask(&mut disk, kind::FLUSH, 0, &[], 0).0, 0);
        let mut there = [0; 1024];
        file.read_exact_at(&mut there, 1536).unwrap();
        assert_eq!(there, [9; 1024]);
        assert_eq!(&ask(&mut disk, kind::GET_ID, 0, &[], 20).2[..7], b"serial\0");
    }

    #[test]
    fn what_is_not_on_the_disk_or_no_whole_sector_fails_and_touches_nothing() {
        let (mut disk, file) = disk(false);
        let last = SIZE / SECTOR;
        for (kind, sector, data, room) in [
            (kind::IN, last, 0, 512),
            (kind::IN, last - 1, 0, 1024),
            (kind::IN, u64::MAX, 0, 512),
            (kind::IN, u64::MAX / 512, 0, 512),
            (kind::IN, 0, 0, 511),
            (kind::OUT, last, 512, 0),
            (kind::OUT, last - 1, 1024, 0),
            (kind::OUT, 0, 100, 0),
        ] {
            let (status, written, _) = ask(&mut disk, kind, sector, &vec![1; data], room);
            assert_eq!((status, written), (1, 1), "{kind} {sector} {data} {room}");
        }
        for data in
            [segment(last, 1, 0), segment(0, MOST_SECTORS + 1, 0), segment(u64::MAX, 1, 0), vec![0; 15], vec![0; 32]]
        {
            assert_eq!(ask(&mut disk, kind::DISCARD, 0, &data, 0).0, 1, "{data:?}");
        }
        assert_eq!(ask(&mut disk, 99, 0, &[], 0).0, 2);
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        let mut all = vec![0; SIZE as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_discarded_is_a_hole_and_what_is_zeroed_is_zero() {
        let (mut disk, file) = disk(false);
        let before = file.metadata().unwrap().blocks();
        assert_eq!(ask(&mut disk, kind::DISCARD, 0, &segment(0, 1024, 0), 0).0, 0);
        assert!(file.metadata().unwrap().blocks() < before);
        assert_eq!(ask(&mut disk, kind::WRITE_ZEROES, 0, &segment(1024, 8, 0), 0).0, 0);
        assert_eq!(ask(&mut disk, kind::WRITE_ZEROES, 0, &segment(1032, 8, 1), 0).0, 0);
        assert!(ask(&mut disk, kind::IN, 1024, &[], 8192).2 == vec![0; 8192]);
        assert!(ask(&mut disk, kind::IN, 1040, &[], 512).2 == vec![7; 512]);
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    }

    #[test]
    fn a_read_only_disk_refuses_what_writes() {
        let (mut disk, _file) = disk(true);
        assert_eq!(ask(&mut disk, kind::OUT, 0, &[1; 512], 0).0, 1);
        assert_eq!(ask(&mut disk, kind::DISCARD, 0, &segment(0, 8, 0), 0).0, 1);
        assert_eq!(ask(&mut disk, kind::FLUSH, 0, &[], 0).0, 0);
    }

    #[test]
    fn a_request_without_header_or_room_for_its_status_is_nonsense() {
        let (mut disk, _file) = disk(false);
        let mut bytes = [0; 16];
        let mut whole = Buffers::default();
        whole.push(VolatileSlice::from(&mut bytes[..])).unwrap();
        assert!(answer(&mut disk, Request::for_test(whole.clone(), Buffers::default())).is_err());
        whole.array::<1>().unwrap();
        assert!(answer(&mut disk, Request::for_test(whole, Buffers::default())).is_err());
    }
}
