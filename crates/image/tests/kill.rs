//! `kill -9` in the middle of pulls, commits and removals: what is shown afterwards is whole, and nothing is left over.

mod support;

use image::{ListFilters, NewImageOptions, RemoveOptions};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Place, Remote, base_layer, dir, file, tar};

const CHILD: &str = "IMAGE_TEST_KILL_CHILD";

fn remotes() -> Vec<Remote> {
    let layer = |n: usize| {
        let files: Vec<_> = (0..60).map(|f| file(&format!("app/{f}"), &format!("{n}-{f} ").repeat(200))).collect();
        tar(&[vec![dir("app")], files].concat())
    };
    (0..4).map(|n| Remote::new(&[base_layer(), layer(n)], |_| {})).collect()
}

/// What the killed process does, for ever.
async fn churn(place: &Place) {
    let remotes = remotes();
    loop {
        for (n, remote) in remotes.iter().enumerate() {
            let name = format!("app{n}");
            let id = remote.pull(&place.images, &name).await.unwrap();
            let container = format!("c{n}");
            place.images.remove_rootfs(&container).await.unwrap();
            let rootfs = place.images.create_rootfs(&container, Some(&id)).await.unwrap();
            std::fs::write(rootfs.upper.join("changed"), n.to_string()).unwrap();
            place.images.commit(&container, None, NewImageOptions::default()).await.unwrap();
            place.images.remove_rootfs(&container).await.unwrap();
            place.images.prune(Default::default(), vec![]).await.unwrap();
            let options = RemoveOptions { force: true, prune_parents: true, users: vec![] };
            place.images.remove(&name, options).await.unwrap();
            place.images.gc(true).await.unwrap();
        }
        println!("round");
    }
}

fn open(path: &Path) -> Place {
    Place::at(path.join("images"), store::Store::open(path.join("store")).unwrap())
}

/// Everything that is shown is whole.
fn check(place: &Place) {
    let images = &place.images;
    for summary in images.list(&ListFilters { all: true, ..ListFilters::default() }) {
        let id = summary.image.id;
        assert_eq!(image::Digest::of(&images.config_json(&id).unwrap()), id.0);
        for layer in images.layers(&id).unwrap() {
            let fs = place.root.join("layers").join(&layer.dir).join("fs");
            let bytes: u64 = walk(&fs);
            assert_eq!(bytes, layer.size, "{id}: {}", fs.display());
            assert!(layer.blobs.iter().all(|blob| {
                let bytes = std::fs::read(place.root.join("blobs/sha256").join(blob.digest.hex())).unwrap();
                image::Digest::of(&bytes) == blob.digest
            }));
        }
    }
    for container in images.rootfs_owners() {
        let rootfs = images.rootfs(&container).unwrap();
        assert!(rootfs.lower.iter().all(|dir| rootfs.layers_dir.join(dir).is_dir()));
        assert!(rootfs.upper.is_dir() && rootfs.work.is_dir());
    }
    images.settle();
    assert_eq!((place.names("staging").len(), place.names("trash").len()), (0, 0));
}

fn walk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap() {
            kind if kind.is_dir() => walk(&entry.path()),
            kind if kind.is_file() => entry.metadata().unwrap().len(),
            _ => 0,
        })
        .sum()
}

#[tokio::test]
async fn a_kill_at_any_point_leaves_everything_whole() {
    if let Some(path) = std::env::var_os(CHILD) {
        churn(&open(Path::new(&path))).await;
    }
    let temp = tempfile::tempdir().unwrap();
    for round in 0..25u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_kill_at_any_point_leaves_everything_whole", "--nocapture"])
            .env(CHILD, temp.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Wherever it happens to be by then; the first rounds find it at its start.
        tokio::time::sleep(std::time::Duration::from_millis(20 + round * 23 % 400)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let place = open(temp.path());
        check(&place);
    }
    let place = open(temp.path());
    for container in place.images.rootfs_owners() {
        place.images.remove_rootfs(&container).await.unwrap();
    }
    let options = RemoveOptions { force: true, prune_parents: true, users: vec![] };
    while let Some(summary) = place.images.list(&ListFilters::default()).first() {
        place.images.remove(&summary.image.id.to_string(), options.clone()).await.unwrap();
    }
    place.images.gc(true).await.unwrap();
    place.images.settle();
    assert_eq!(
        (place.names("layers"), place.names("blobs/sha256").len(), place.names("ingest").len()),
        (vec!["0".into()], 0, 0)
    );
    let (root, store) = (place.root.clone(), place.store.clone());
    drop(place);
    image::Images::clean(&root, &store).unwrap();
    assert!(!root.exists() && store.list("image/").unwrap().entries.is_empty());
}
