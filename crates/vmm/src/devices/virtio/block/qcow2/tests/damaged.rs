//! Images that are damaged, or were made to do harm.

use super::*;
use crate::devices::virtio::block::qcow2::hostile::run;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    /// Whatever is changed in an image with data, it is an error at the most.
    #[test]
    fn a_damaged_image_is_no_panic(
        cluster_bits in 9u32..13,
        version in 2u32..4,
        program in prop::collection::vec(any::<u8>(), 64),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut image = with_data(version, cluster_bits);
        for (at, byte, near) in &changes {
            // Most of what counts is at the beginning of a cluster.
            let at = at.index(image.len());
            let at = if *near { at >> cluster_bits << cluster_bits | at & 7 } else { at };
            image[at] = *byte;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        run(&[program, image].concat());
    }

    /// Tables that name what they like, within an image that is taken.
    #[test]
    fn entries_of_any_value_are_no_panic(
        program in prop::collection::vec(any::<u8>(), 64),
        entries in prop::collection::vec((0usize..64, 0u64..20, 0u64..16, any::<u64>(), any::<bool>()), 1..12),
    ) {
        let mut image = with_data(3, 9);
        let second = second_table(&image, 9);
        for (number, cluster, flags, wild, is_wild) in entries {
            let entry = if is_wild { wild } else { cluster << 9 | flags >> 2 << 62 | flags & 1 };
            image[second + number * 8..][..8].copy_from_slice(&entry.to_be_bytes());
        }
        run(&[program, image].concat());
    }
}

/// An image with a second table and data.
fn with_data(version: u32, cluster_bits: u32) -> Vec<u8> {
    let file = file(&empty(version, 200 << 10, cluster_bits));
    let mut disk = disk(&file);
    write(&mut disk, 0, &[7; 5 << 10]).unwrap();
    disk.flush().unwrap();
    let mut image = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut image, 0).unwrap();
    image
}

/// Where the second table is that the first entry of the first one names.
fn second_table(image: &[u8], cluster_bits: u32) -> usize {
    let first = 3 << cluster_bits;
    let entry = u64::from_be_bytes(image[first..first + 8].try_into().unwrap());
    (entry & 0x00ff_ffff_ffff_fe00) as usize
}

#[test]
fn tables_that_a_file_has_as_holes_take_no_more_than_they_may() {
    // The largest first table there may be, of a file that has nothing of it.
    let mut image = empty(3, 1 << 20, 16);
    image[36..40].copy_from_slice(&(4u32 << 20).to_be_bytes());
    image[40..48].copy_from_slice(&(4u64 << 16).to_be_bytes());
    let file = file(&image);
    file.set_len((4 << 16) + (32 << 20)).unwrap();
    let mut disk = disk(&file);
    assert!(read(&mut disk, 0, 512).unwrap() == [0; 512]);
    image[36..40].copy_from_slice(&((4u32 << 20) + 1).to_be_bytes());
    assert!(refusal(&image, true).to_string().contains("are the most"));
}

#[test]
fn a_compressed_cluster_that_is_none_is_an_error() {
    let mut image = with_data(3, 9);
    let second = second_table(&image, 9);
    image[second..second + 8].copy_from_slice(&(1u64 << 62 | 3 << 61 | 0x200).to_be_bytes());
    let mut disk = disk(&file(&image));
    read(&mut disk, 0, 512).unwrap_err();
    // The next one is there all the same.
    assert!(read(&mut disk, 512, 512).unwrap() == [7; 512]);
}

#[test]
fn what_has_clusters_without_counts_is_not_written_to() {
    // More clusters than one block of counts is for: making one of them free had the library search for room for ever, which `fuzz` found.
    let mut image = with_data(3, 9);
    image.resize(300 << 9, 0);
    let refused = refusal(&image, false).to_string();
    assert!(refused.contains("has not all that the file's clusters need"), "{refused}");
    assert!(read(&mut Disk::of_qcow2(file(&image), true, "image").unwrap(), 0, 512).unwrap() == [7; 512]);
}
