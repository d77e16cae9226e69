//! Trees of all that a layer can have.

use crate::mounted::{Mounted, assert_same, check, data};
use crate::support::{Place, Remote, dir, file, tar};
use image::{Digest, ErofsLayer, Images};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

/// A layer's directory.
pub(crate) fn directory(place: &Place, diff_id: &Digest) -> PathBuf {
    let layers = place.images.keep_layers(&[*diff_id]).unwrap();
    place.root.join("layers").join(&layers.layers[0].dir).join("fs")
}

/// A layer that is made of what somebody fills a directory with.
pub(crate) async fn made(images: &Images, fill: impl FnOnce(&Path)) -> image::KeptLayers {
    let layer = images.begin_layer().unwrap();
    fill(&layer.directory());
    layer.finish(None).await.unwrap().unwrap()
}

/// Whether the file of a layer shows what its directory has.
pub(crate) async fn verified(place: &Place, diff_id: &Digest) -> ErofsLayer {
    let erofs = place.images.erofs(diff_id).await.unwrap();
    assert_eq!(fs::metadata(erofs.path()).unwrap().len(), erofs.size());
    assert_eq!(erofs.size() % 4096, 0);
    let mounted = Mounted::erofs(erofs.path());
    assert_same(mounted.path(), &directory(place, diff_id));
    check(erofs.path());
    erofs
}

pub(crate) fn node(path: &Path, kind: FileType, device: u64) {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

pub(crate) fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn files(root: &Path) {
    // About the ends of blocks, of what lies behind an inode, and of what lies in one block with it.
    let sizes = [0, 1, 1023, 1024, 1025, 4031, 4032, 4033, 4095, 4096, 4097, 5120, 5121, 8192, 70_000, 3_000_001];
    for size in sizes {
        fs::write(root.join(format!("of-{size}")), noise(size)).unwrap();
    }
    let names: [&[u8]; 7] = [b"\xff\xfe", b"-", b"!", b".a", b"..a", b" a\nb", &[b'n'; 255]];
    for name in names {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

fn others(root: &Path) {
    symlink("of-0", root.join("link")).unwrap();
    symlink("t".repeat(4031), root.join("long")).unwrap();
    symlink("t".repeat(4095), root.join("longest")).unwrap();
    node(&root.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node(&root.join("disk"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node(&root.join("deleted"), FileType::CharacterDevice, 0);
    node(&root.join("pipe"), FileType::Fifo, 0);
    for (name, target) in [("again", "of-70000"), ("d/again", "of-70000"), ("second", "link"), ("d/null", "null")] {
        fs::create_dir_all(root.join("d")).unwrap();
        let flags = AtFlags::empty();
        rustix::fs::linkat(CWD, root.join(target), CWD, root.join(name), flags).unwrap();
    }
    // A name that is in no layer.
    fs::hard_link(root.join("of-8192"), root.join("../outside")).unwrap();
    fs::set_permissions(root.join("of-1"), fs::Permissions::from_mode(0o6755)).unwrap();
    chown(root.join("of-1024"), Some(4_000_000_000), Some(70_000)).unwrap();
    time(&root.join("of-4096"), -5, 999_999_999);
    time(&root.join("link"), 8_000_000_000, 1);
}

fn attributes(root: &Path) {
    fs::create_dir(root.join("attributes")).unwrap();
    let at = |name: &str| root.join("attributes").join(name);
    // cap_net_raw, as `setcap` writes it; and an ACL of a user: xattr(7), acl(5).
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    for n in 0..20 {
        let path = at(&format!("file{n}"));
        fs::write(&path, noise(n * 100)).unwrap();
        attribute(&path, "user.same", b"on all of them");
        attribute(&path, "security.capability", capability);
        attribute(&path, "system.posix_acl_access", acl);
        attribute(&path, &format!("user.{n}"), &noise(n * 7));
    }
    fs::create_dir(at("opaque")).unwrap();
    attribute(&at("opaque"), "trusted.overlay.opaque", b"y");
    attribute(&at("opaque"), "system.posix_acl_default", acl);
    symlink("x", at("link")).unwrap();
    attribute(&at("link"), "trusted.of-a-link", b"");
    // More than fits into a block with the inode.
    fs::write(at("many"), "x").unwrap();
    attribute(&at("many"), "user.large", &noise(3000));
    attribute(&at("link"), "trusted.large", &noise(2500));
}

#[tokio::test]
async fn the_kernel_shows_all_that_a_layer_has() {
    let place = Place::new();
    let fill = |root: &Path| {
        files(root);
        others(root);
        attributes(root);
        fs::set_permissions(root, fs::Permissions::from_mode(0o1750)).unwrap();
        chown(root, Some(5), Some(6)).unwrap();
        time(&root.join("d"), 1, 2);
    };
    let kept = made(&place.images, fill).await;
    let diff_id = kept.layers[0].diff_id;
    let directory = directory(&place, &diff_id);
    // Its name outside of the layer is none that is counted.
    fs::remove_file(directory.join("../outside")).unwrap();
    fs::hard_link(directory.join("of-1025"), directory.join("../outside")).unwrap();
    let erofs = place.images.erofs(&diff_id).await.unwrap();
    fs::remove_file(directory.join("../outside")).unwrap();
    drop(erofs);
    verified(&place, &diff_id).await;
}

#[tokio::test]
async fn what_describes_the_place_of_a_layer_is_left_out() {
    let place = Place::new();
    let fill = |root: &Path| {
        fs::create_dir(root.join("d")).unwrap();
        attribute(&root.join("d"), "trusted.overlay.origin", b"a file handle");
        attribute(&root.join("d"), "trusted.kept", b"1");
    };
    let kept = made(&place.images, fill).await;
    let erofs = place.images.erofs(&kept.layers[0].diff_id).await.unwrap();
    let mounted = Mounted::erofs(erofs.path());
    let mut names = [0; 256];
    let length = rustix::fs::llistxattr(mounted.path().join("d"), &mut names).unwrap();
    assert_eq!(&names[..length], b"trusted.kept\0");
}

#[tokio::test]
async fn directories_of_any_size_are_found_in() {
    let place = Place::new();
    let fill = |root: &Path| {
        for (directory, count, width) in [("many", 20_000, 1), ("long", 300, 250), ("few", 3, 250), ("empty", 0, 0)] {
            fs::create_dir(root.join(directory)).unwrap();
            for n in 0..count {
                fs::write(root.join(directory).join(format!("{n:0width$}")), "").unwrap();
            }
        }
        // Blocks that are full to the last byte, or nearly: of entries of 12 bytes, a name, and the two that all directories have.
        for over in 0..80 {
            let directory = root.join(format!("full{over}"));
            fs::create_dir(&directory).unwrap();
            let mut left = 4096 - 64 - 27 - over;
            for n in 0.. {
                if left < 12 + 4 {
                    break;
                }
                let name = (left - 12).min(200);
                fs::write(directory.join(format!("{n:0>name$}")), "").unwrap();
                left -= 12 + name;
            }
        }
        let mut deep = root.to_path_buf();
        for _ in 0..300 {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
        }
    };
    let kept = made(&place.images, fill).await;
    verified(&place, &kept.layers[0].diff_id).await;
}

#[tokio::test]
async fn holes_stay_holes() {
    let place = Place::new();
    let fill = |root: &Path| {
        let sparse = |name: &str, size: u64, parts: &[(u64, usize)]| {
            let file = fs::File::create(root.join(name)).unwrap();
            file.set_len(size).unwrap();
            parts.iter().for_each(|(at, length)| file.write_all_at(&noise(*length), *at).unwrap());
        };
        sparse("nothing", 100_000, &[]);
        sparse("begin", 100_000, &[(0, 5000)]);
        sparse("end", 100_001, &[(98_304, 1697)]);
        sparse("middle", 1 << 20, &[(40_960, 4096), (50_000, 1), (999_999, 40_000)]);
        sparse("large", 1 << 26, &[(3, 10), ((1 << 26) - 1, 1), (1 << 25, 500_000)]);
        // Holes that are smaller than its chunks.
        let parts: Vec<(u64, usize)> = (0..1024).map(|n| (n << 14, 4096)).collect();
        sparse("comb", 1 << 24, &parts);
        sparse("small", 4096, &[]);
        sparse("dense", 20_000, &[(0, 20_000)]);
    };
    let kept = made(&place.images, fill).await;
    let erofs = verified(&place, &kept.layers[0].diff_id).await;
    assert!(erofs.size() < 24 << 20, "{}", erofs.size());
    use std::os::unix::fs::MetadataExt as _;
    let on_disk = fs::metadata(erofs.path()).unwrap().blocks() * 512;
    assert!(on_disk < 6 << 20, "what is a hole in a chunk is one of the file: {on_disk}");
    // Linux says so since 6.12; before, a file has none to whoever asks.
    let mounted = Mounted::erofs(erofs.path());
    let shown = data(&mounted.path().join("begin"));
    if shown != [(0, 100_000)] {
        assert_eq!(shown, [(0, 8192)]);
        assert_eq!(data(&mounted.path().join("nothing")), []);
        assert_eq!(data(&mounted.path().join("end")), [(98_304, 100_001)]);
    }
}

#[tokio::test]
async fn the_same_layer_is_the_same_bytes_in_another_place() {
    let mut entries = vec![dir("usr")];
    for n in 0..3000 {
        if n % 30 == 0 {
            entries.push(dir(&format!("usr/{}", n / 30)));
        }
        entries.push(file(&format!("usr/{}/file{n}", n / 30), &format!("{n} ").repeat(n % 700)));
    }
    let remote = Remote::new(&[tar(&entries)], |_| {});
    let diff_id = remote.layers[0].1;
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let place = Place::new();
        remote.pull(&place.images, "many").await.unwrap();
        let erofs = verified(&place, &diff_id).await;
        bytes.push(fs::read(erofs.path()).unwrap());
    }
    assert!(bytes[0] == bytes[1]);
    // The superblock's UUID is the layer's own.
    assert_eq!(bytes[0][1024 + 48..1024 + 54], diff_id.as_bytes()[..6]);
}
