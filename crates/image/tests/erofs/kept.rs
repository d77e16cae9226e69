//! How long a file is kept, and what there is of it.

use crate::mounted::check;
use crate::support::{Place, Remote, base_layer, file, tar};
use crate::trees::{made, verified};
use image::Error;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn some(root: &Path) {
    fs::write(root.join("file"), vec![7; 100_000]).unwrap();
}

#[tokio::test]
async fn a_file_is_written_once_and_goes_with_its_layer() {
    let place = Place::new();
    let remote = Remote::new(&[base_layer()], |_| {});
    remote.pull(&place.images, "base").await.unwrap();
    let diff_id = remote.layers[0].1;
    let before = place.images.disk_usage().await.unwrap().layers;
    let erofs = verified(&place, &diff_id).await;
    assert_eq!(place.images.disk_usage().await.unwrap().layers, before + erofs.size());
    let inode = erofs.file().metadata().unwrap().ino();
    assert_eq!(erofs.file().metadata().unwrap().mode() & 0o7777, 0o644, "for machines, who are nobody");
    assert_eq!(
        fs::metadata(place.images.layers_dir().parent().unwrap()).unwrap().mode() & 0o077,
        0,
        "and for nobody else"
    );
    drop(erofs);
    // It is the same after a restart, and where the layer comes once more.
    let again = place.reopened().erofs(&diff_id).await.unwrap();
    assert_eq!(again.file().metadata().unwrap().ino(), inode);
    drop(again);

    let held = place.images.erofs(&diff_id).await.unwrap();
    place.images.remove("base", Default::default()).await.unwrap();
    place.images.gc(true).await.unwrap();
    assert_eq!(place.names("erofs"), [diff_id.hex()], "somebody has it");
    let size = held.size();
    drop(held);
    let collected = place.images.gc(true).await.unwrap();
    assert!(collected.layers == 1 && collected.bytes >= size, "{collected:?}");
    assert!(place.names("erofs").is_empty());
    let error = place.images.erofs(&diff_id).await.unwrap_err();
    assert!(matches!(error, Error::LayerMissing { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_ask_at_once_get_the_same_file() {
    let place = Place::new();
    let kept = made(&place.images, some).await;
    let diff_id = kept.layers[0].diff_id;
    let ask = || {
        let images = place.images.clone();
        tokio::spawn(async move { images.erofs(&diff_id).await.unwrap() })
    };
    let asked: Vec<_> = (0..16).map(|_| ask()).collect();
    // One who goes away takes nothing from the others.
    asked[0].abort();
    let mut inodes = Vec::new();
    for one in asked.into_iter().skip(1) {
        inodes.push(one.await.unwrap().file().metadata().unwrap().ino());
    }
    inodes.dedup();
    assert_eq!(inodes.len(), 1);
    assert!(place.names("staging").is_empty());
    verified(&place, &diff_id).await;
}

#[tokio::test]
async fn what_is_not_as_it_was_written_is_written_anew() {
    let place = Place::new();
    let remote = Remote::new(&[base_layer()], |_| {});
    remote.pull(&place.images, "base").await.unwrap();
    let diff_id = remote.layers[0].1;
    let path = place.images.erofs(&diff_id).await.unwrap().path().to_path_buf();
    let whole = fs::read(&path).unwrap();

    fs::write(&path, &whole[..4096]).unwrap();
    assert!(fs::read(place.images.erofs(&diff_id).await.unwrap().path()).unwrap() == whole, "while it runs");
    fs::remove_file(&path).unwrap();
    fs::write(path.with_file_name("of-no-layer"), "x").unwrap();
    fs::write(place.root.join("staging/1a"), "half of one").unwrap();
    let images = place.reopened();
    assert!(place.names("erofs").is_empty() && place.names("staging").is_empty(), "after a start");
    assert!(fs::read(images.erofs(&diff_id).await.unwrap().path()).unwrap() == whole);
    check(&path);
}

#[tokio::test]
async fn a_small_layer_is_one_block() {
    let place = Place::new();
    let remote = Remote::new(&[tar(&[file("a", "a")])], |_| {});
    remote.pull(&place.images, "small").await.unwrap();
    assert_eq!(verified(&place, &remote.layers[0].1).await.size(), 4096);
}

/// An XFS that shares blocks, in a file.
struct SharingDisk(tempfile::TempDir);

impl SharingDisk {
    fn new() -> SharingDisk {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::File::create(at("disk")).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(at("mounted")).unwrap();
        let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(at("disk")));
        run(Command::new("mount").args(["-o", "loop"]).arg(at("disk")).arg(at("mounted")));
        SharingDisk(temp)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mounted")
    }

    /// Bytes that are used.
    fn used(&self) -> u64 {
        rustix::fs::syncfs(fs::File::open(self.path()).unwrap()).unwrap();
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for SharingDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_file_system_that_shares_blocks_has_contents_once() {
    let disk = SharingDisk::new();
    let place = Place::at(disk.path().join("images"), store::Store::in_memory().unwrap());
    // Ends that fill no block are what made it take room for more after each of them.
    let files: Vec<_> = (0..200).map(|n| file(&format!("{n}"), &format!("{n:07} ").repeat(12_500 + n))).collect();
    let remote = Remote::new(&[tar(&files)], |_| {});
    remote.pull(&place.images, "large").await.unwrap();
    let before = disk.used();
    let erofs = place.images.erofs(&remote.layers[0].1).await.unwrap();
    let (taken, on_disk) = (disk.used() - before, fs::metadata(erofs.path()).unwrap().blocks() * 512);
    assert!(erofs.size() > 20_000_000 && taken < 4_000_000 && on_disk <= erofs.size(), "{taken} {on_disk}");
    verified(&place, &remote.layers[0].1).await;
    drop(erofs);
    drop(place);
}
