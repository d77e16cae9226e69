//! Images as disks: by themselves, beside QEMU's tools, damaged, and whose process is killed.

mod damaged;
mod killed;
mod qemu;

use super::super::super::buffers::Buffers;
use super::super::{Disk, SECTOR};
use super::hostile::empty;
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::{FileExt, MetadataExt};
use vm_memory::VolatileSlice;

/// A file with an image.
fn file(image: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(image, 0).unwrap();
    file
}

fn disk(file: &File) -> Disk {
    Disk::of_qcow2(file.try_clone().unwrap(), false, "image").unwrap()
}

fn read(disk: &mut Disk, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; length];
    let mut buffers = Buffers::default();
    let slice = VolatileSlice::from(&mut bytes[..]);
    buffers.push(slice.subslice(0, length / 3).unwrap()).unwrap();
    buffers.push(slice.subslice(length / 3, length - length / 3).unwrap()).unwrap();
    disk.read(offset, &mut buffers)?;
    Ok(bytes)
}

fn write(disk: &mut Disk, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut bytes = bytes.to_vec();
    let mut buffers = Buffers::default();
    buffers.push(VolatileSlice::from(&mut bytes[..])).unwrap();
    disk.write(offset, &mut buffers)
}

fn refusal(image: &[u8], read_only: bool) -> ImageError {
    Disk::of_qcow2(file(image), read_only, "image").unwrap_err()
}

/// An image in which something else is at one place.
fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = empty(3, 1 << 20, 12);
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn what_is_written_is_there_for_who_opens_it_next() {
    let file = file(&empty(3, (10 << 20) + 700, 16));
    let mut first = disk(&file);
    // A last part of a sector is not on it.
    assert_eq!(first.size(), (10 << 20) + 512);
    assert!(read(&mut first, 0, 1 << 20).unwrap() == vec![0; 1 << 20]);
    write(&mut first, 512, &[7; 600 << 10]).unwrap();
    write(&mut first, 10 << 20, &[9; 512]).unwrap();
    first.flush().unwrap();
    // As after a kill: what was not flushed is nobody's to write any more.
    std::mem::forget(first);
    let mut second = disk(&file);
    assert!(read(&mut second, 0, 512).unwrap() == [0; 512]);
    assert!(read(&mut second, 512, 600 << 10).unwrap() == vec![7; 600 << 10]);
    assert!(read(&mut second, 10 << 20, 512).unwrap() == [9; 512]);
}

#[test]
fn what_is_discarded_is_zero_and_takes_no_room() {
    let file = file(&empty(3, 4 << 20, 16));
    let mut disk = disk(&file);
    assert_eq!(disk.gives_back(), Some(1 << 16));
    write(&mut disk, 0, &vec![7; 2 << 20]).unwrap();
    disk.flush().unwrap();
    let before = file.metadata().unwrap().blocks();
    disk.zero(0, 1 << 20, true).unwrap();
    disk.flush().unwrap();
    assert!(file.metadata().unwrap().blocks() + 1800 < before, "{before}");
    // Also what is no whole cluster.
    disk.zero((1 << 20) + 512, 1024, true).unwrap();
    disk.zero((1 << 20) + 65536 + 512, 1024, false).unwrap();
    let read = read(&mut disk, 0, 2 << 20).unwrap();
    let mut expected = vec![7; 2 << 20];
    expected[..1 << 20].fill(0);
    expected[(1 << 20) + 512..(1 << 20) + 1536].fill(0);
    expected[(1 << 20) + 66048..(1 << 20) + 67072].fill(0);
    assert!(read == expected);
}

#[test]
fn what_is_read_only_or_of_version_2_can_give_nothing_back() {
    let image = file(&empty(3, 1 << 20, 16));
    let mut read_only = Disk::of_qcow2(image.try_clone().unwrap(), true, "image").unwrap();
    assert_eq!(read_only.gives_back(), None);
    assert_eq!(write(&mut read_only, 0, &[1; 512]).unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
    read_only.zero(0, 512, true).unwrap_err();
    read_only.flush().unwrap();
    assert!(read(&mut read_only, 0, 512).unwrap() == [0; 512]);
    let mut old = disk(&file(&empty(2, 1 << 20, 16)));
    assert_eq!(old.gives_back(), None);
    write(&mut old, 0, &[1; 512]).unwrap();
    old.flush().unwrap();
    assert!(read(&mut old, 0, 1024).unwrap() == [[1; 512], [0; 512]].concat());
}

#[test]
fn what_is_not_supported_is_refused_and_says_why() {
    for (at, bytes, why) in [
        (0, &b"QFI\xfa"[..], "does not begin as a qcow2 image"),
        (4, &4u32.to_be_bytes(), "version 4"),
        (8, &200u64.to_be_bytes(), "names a backing file"),
        (32, &1u32.to_be_bytes(), "encrypted"),
        (60, &2u32.to_be_bytes(), "2 snapshots"),
        (72, &1u64.to_be_bytes(), "not closed"),
        (72, &3u64.to_be_bytes(), "marked as damaged"),
        (72, &7u64.to_be_bytes(), "data are in a file of their own"),
        (72, &16u64.to_be_bytes(), "features 0x10"),
        (20, &8u32.to_be_bytes(), "2^8 bytes"),
        (20, &22u32.to_be_bytes(), "2^22 bytes"),
        (96, &7u32.to_be_bytes(), "2^7 bits"),
        (100, &96u32.to_be_bytes(), "header has 96"),
        (24, &u64::MAX.to_be_bytes(), "too few"),
        (24, &(3u64 << 20).to_be_bytes(), "too few"),
        (36, &u32::MAX.to_be_bytes(), "33554432 are the most"),
        (40, &(3u64 << 12 | 512).to_be_bytes(), "in no cluster"),
        (40, &(u64::MAX << 12).to_be_bytes(), "in no cluster"),
        (40, &0u64.to_be_bytes(), "in no cluster"),
        (40, &(1u64 << 12).to_be_bytes(), "same place"),
        (56, &u32::MAX.to_be_bytes(), "8388608 are the most"),
        (1 << 12, &(9u64 << 12).to_be_bytes(), "in no cluster"),
        (3 << 12, &(2u64 << 12).to_be_bytes(), "same place"),
    ] {
        let refused = refusal(&with(at, bytes), false).to_string();
        assert!(refused.contains(why), "{at} {bytes:?}: {refused}");
    }
    assert!(matches!(refusal(&[], true), ImageError::NoImage));
    // Who writes nothing changes no snapshot.
    Disk::of_qcow2(file(&with(60, &2u32.to_be_bytes())), true, "image").unwrap();
}

#[test]
fn a_file_of_an_image_opens_no_other_one() {
    let options = imago::StorageOpenOptions::new().filename("/dev/null");
    let refused = <ImageFile as imago::Storage>::open(options.clone()).unwrap_err();
    assert!(refused.to_string().contains("no file is opened that an image names"));
    let create = imago::StorageCreateOptions::new().filename("/dev/null");
    <ImageFile as imago::Storage>::create_open(create).unwrap_err();
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Flush,
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0u64..600, 1u64..60);
    prop_oneof![
        6 => (range.clone(), 1u8..).prop_map(|((at, count), byte)| Step::Write(at, count, byte)),
        3 => (range, any::<bool>()).prop_map(|((at, count), hole)| Step::Zero(at, count, hole)),
        1 => Just(Step::Flush),
        1 => Just(Step::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// A disk with an image is as one that has all its bytes, whatever is done with it.
    #[test]
    fn it_is_as_a_plain_disk(cluster_bits in 9u32..17, steps in prop::collection::vec(step(), 1..40)) {
        const SECTORS: u64 = 660;
        let file = file(&empty(3, SECTORS * SECTOR, cluster_bits));
        let mut disk = disk(&file);
        let mut plain = vec![0; (SECTORS * SECTOR) as usize];
        for step in steps {
            match step {
                Step::Write(at, count, byte) => {
                    let range = (at * SECTOR) as usize..((at + count) * SECTOR) as usize;
                    plain[range.clone()].fill(byte);
                    write(&mut disk, at * SECTOR, &plain[range]).unwrap();
                }
                Step::Zero(at, count, hole) => {
                    plain[(at * SECTOR) as usize..((at + count) * SECTOR) as usize].fill(0);
                    disk.zero(at * SECTOR, count * SECTOR, hole).unwrap();
                }
                Step::Flush => disk.flush().unwrap(),
                Step::Again => {
                    disk.settle().unwrap();
                    std::mem::forget(disk);
                    disk = self::disk(&file);
                }
            }
            prop_assert!(read(&mut disk, 0, plain.len()).unwrap() == plain);
        }
    }
}
