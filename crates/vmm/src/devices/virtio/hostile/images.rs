//! A disk with an image, as a guest has it: on a thread of its own that may do little.

use super::super::block::qcow2::hostile::empty;
use super::super::buffers::Buffers;
use super::tests::until_answered;
use super::*;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use vm_memory::VolatileSlice;

/// Bytes of the disk.
const SIZE: u64 = 64 << 20;
/// Where the guest has answers.
const ANSWER: u64 = BUFFERS + 0x10_0000;

/// A file with an image without data.
fn image() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&empty(3, SIZE, 16)).unwrap();
    file
}

fn with_image(file: &File) -> Guest {
    let disk = Disk::of_qcow2(file.try_clone().unwrap(), false, "image").unwrap();
    let ending = Arc::new(Ending::new().unwrap());
    Guest::new(Arc::new(Mutex::new(Block::new(disk, Limits::default(), &ending).unwrap())))
}

/// Asks for something, and returns how it went.
fn ask(guest: &mut Guest, index: u16, kind: u8, sector: u64, data: &[u8], room: u32) -> u8 {
    guest.put(BUFFERS, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &sector.to_le_bytes(), data].concat());
    let length = 16 + data.len() as u32;
    guest.descriptor(0, 0, Descriptor { address: BUFFERS, length, flags: NEXT, next: 1 });
    guest.descriptor(0, 1, Descriptor { address: ANSWER, length: room + 1, flags: WRITE, next: 0 });
    guest.offer(0, index, &[0], 8);
    guest.notify(0);
    until_answered(guest, index);
    guest.memory.regions().read_obj(GuestAddress(ANSWER + u64::from(room))).unwrap()
}

/// The sector that was read.
fn answer(guest: &Guest) -> [u8; 512] {
    let mut sector = [0; 512];
    guest.memory.regions().read_slice(&mut sector, GuestAddress(ANSWER)).unwrap();
    sector
}

#[test]
fn its_thread_may_do_all_that_an_image_takes() {
    let mut guest = with_image(&image());
    // Its size, and of how many sectors what is discarded is to be.
    assert_eq!((guest.read(0x100), guest.read(0x100 + 44)), ((SIZE / 512) as u32, 128));
    guest.set_up(8);
    let mut index = 0;
    let mut next = || {
        index += 1;
        index
    };
    for round in 0..40u64 {
        let at = round * 3001;
        assert_eq!(ask(&mut guest, next(), 1, at, &vec![round as u8 + 1; 300 << 10], 0), 0);
        assert_eq!(ask(&mut guest, next(), 0, at, &[], 512), 0);
        assert_eq!(answer(&guest), [round as u8 + 1; 512]);
        let range = [&(at + 7).to_le_bytes()[..], &400u32.to_le_bytes(), &[0; 4]].concat();
        let kind = if round.is_multiple_of(2) { 11 } else { 13 };
        assert_eq!(ask(&mut guest, next(), kind, 0, &range, 0), 0);
        if round.is_multiple_of(8) {
            assert_eq!(ask(&mut guest, next(), 4, 0, &[], 0), 0);
        }
    }
    // Beyond its end.
    assert_eq!(ask(&mut guest, next(), 1, SIZE / 512, &[1; 512], 0), 1);
}

#[test]
fn a_file_is_whole_once_its_disk_rests_and_who_goes_on_has_it() {
    let file = image();
    let mut guest = with_image(&file);
    guest.set_up(8);
    // It is not flushed.
    assert_eq!(ask(&mut guest, 1, 1, 5000, &[7; 512], 0), 0);
    guest.attached.rest();
    let state = guest.transport.save().unwrap();
    // A copy, as a snapshot has one, with which a guest goes on.
    let copy = tempfile::tempfile().unwrap();
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    copy.write_all_at(&bytes, 0).unwrap();
    let mut other = with_image(&copy);
    other.memory = guest.memory.clone();
    other.transport = Transport::new(other.attached.clone(), guest.memory.clone());
    other.transport.restore(&state).unwrap();
    assert_eq!(ask(&mut other, 2, 0, 5000, &[], 512), 0);
    assert_eq!(answer(&other), [7; 512]);
    // What is written then, the first one has not.
    assert_eq!(ask(&mut other, 3, 1, 5000, &[8; 512], 0), 0);
    drop(other);
    let mut first = Disk::of_qcow2(file, true, "image").unwrap();
    let mut bytes = [0; 512];
    let mut buffers = Buffers::default();
    buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
    first.read(5000 * 512, &mut buffers).unwrap();
    assert_eq!(bytes, [7; 512]);
}
