//! A disk that is full, and `kill -9` in the middle.

use crate::mounted::check;
use crate::support::{Place, Remote, file, tar};
use crate::trees::verified;
use image::Digest;
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD: &str = "IMAGE_TEST_EROFS_CHILD";

fn remote() -> Remote {
    let files: Vec<_> = (0..400).map(|n| file(&format!("app/{n}"), &format!("{n} ").repeat(n * 10))).collect();
    Remote::new(&[tar(&files)], |_| {})
}

fn open(path: &Path) -> Place {
    Place::at(path.join("images"), store::Store::open(path.join("store")).unwrap())
}

/// What the killed process does, for ever.
async fn churn(place: &Place) {
    let remote = remote();
    loop {
        remote.pull(&place.images, "app").await.unwrap();
        place.images.erofs(&remote.layers[0].1).await.unwrap();
        place.images.remove("app", Default::default()).await.unwrap();
        place.images.gc(true).await.unwrap();
    }
}

#[tokio::test]
async fn a_kill_at_any_point_leaves_a_whole_file_or_none() {
    if let Some(path) = std::env::var_os(CHILD) {
        churn(&open(Path::new(&path))).await;
    }
    let temp = tempfile::tempdir().unwrap();
    let expected = {
        let place = Place::new();
        let remote = remote();
        remote.pull(&place.images, "app").await.unwrap();
        let erofs = verified(&place, &remote.layers[0].1).await;
        Digest::of(&fs::read(erofs.path()).unwrap())
    };
    for round in 0..25u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "interrupted::a_kill_at_any_point_leaves_a_whole_file_or_none", "--nocapture"])
            .env(CHILD, temp.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30 + round * 17 % 300)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let place = open(temp.path());
        place.images.settle();
        assert_eq!((place.names("staging").len(), place.names("trash").len()), (0, 0));
        let layer = place.images.keep_layers(&[remote().layers[0].1]);
        let has_file = layer.is_some_and(|kept| kept.layers[0].erofs.is_some());
        assert_eq!(place.names("erofs").len(), usize::from(has_file), "a file that no record has, or none of a record");
        for name in place.names("erofs") {
            let path = place.root.join("erofs").join(name);
            assert_eq!(Digest::of(&fs::read(&path).unwrap()), expected);
            check(&path);
        }
    }
}

#[tokio::test]
async fn on_a_full_disk_it_is_said_and_nothing_is_left() {
    let temp = tempfile::tempdir().unwrap();
    let options = c"size=8m,mode=700";
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), options).unwrap();
    let place = Place::at(temp.path().join("images"), store::Store::in_memory().unwrap());
    let remote = remote();
    remote.pull(&place.images, "app").await.unwrap();
    let ballast = temp.path().join("ballast");
    {
        let mut file = fs::File::create(&ballast).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length - (512 << 10)).unwrap();
    }
    let error = place.images.erofs(&remote.layers[0].1).await.unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(error.to_string().contains("EROFS file of app/"), "{error}");
    assert!(place.names("staging").is_empty() && place.names("erofs").is_empty());
    fs::remove_file(ballast).unwrap();
    verified(&place, &remote.layers[0].1).await;
    drop(place);
    rustix::mount::unmount(temp.path(), UnmountFlags::DETACH).unwrap();
}
