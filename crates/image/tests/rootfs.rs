//! Root file systems: made of images, looked into, copied into and out of, committed, removed.

mod support;

use image::archive::{self, ReadOptions, WriteOptions};
use image::tar::{Kind, TarReader};
use image::{ChangeKind, Error, MountedRootfs, NewImageOptions, PathReason, Rootfs};
use rustix::fd::AsFd as _;
use rustix::fs::OFlags;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use support::{Place, Remote, base_layer, dir, file, reference, tar};

/// A container's root file system, mounted where a test can use it by path.
struct Container {
    mounted: MountedRootfs,
}

impl Container {
    async fn new(place: &Place, id: &str) -> Container {
        Container { mounted: place.images.mount_rootfs(id, Vec::new(), false).await.unwrap() }
    }

    fn path(&self, path: &str) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}/{path}", self.mounted.as_fd().as_raw_fd()))
    }
}

fn image() -> Remote {
    let upper = tar(&[
        dir("app"),
        file("app/run", "v1"),
        file("app/conf", "a=1"),
        dir("old"),
        file("old/a", "1"),
        file("old/b", "2"),
        file(".wh.gone", ""),
    ]);
    Remote::new(&[base_layer(), upper], |_| {})
}

async fn with_container() -> (Place, Rootfs) {
    let place = Place::new();
    let id = image().pull(&place.images, "app").await.unwrap();
    let rootfs = place.images.create_rootfs("c1", Some(&id)).await.unwrap();
    (place, rootfs)
}

#[tokio::test]
async fn a_container_sees_its_image_and_not_what_was_deleted() {
    let (place, rootfs) = with_container().await;
    let c = Container::new(&place, "c1").await;
    assert_eq!(fs::read_to_string(c.path("app/run")).unwrap(), "v1");
    assert!(!c.path("gone").exists());
    assert_eq!(fs::read_to_string(c.path("etc/passwd")).unwrap(), "root:x:0:0::/root:/bin/sh\n");
    assert!(c.path("etc/resolv.conf").exists() && c.path("dev/shm").is_dir(), "places to mount on");
    assert_eq!(rootfs.lower.len(), 3);
    assert!(rootfs.lower.iter().all(|name| name.len() <= 4), "{:?}", rootfs.lower);
}

#[tokio::test]
async fn a_container_of_nothing_has_a_root_too() {
    let place = Place::new();
    place.images.create_rootfs("c", None).await.unwrap();
    let c = Container::new(&place, "c").await;
    fs::write(c.path("file"), "x").unwrap();
    drop(c);
    let changes = place.images.diff("c", None).await.unwrap();
    assert_eq!(changes.iter().map(|c| c.path.to_str().unwrap()).collect::<Vec<_>>(), ["/file"]);
}

#[tokio::test]
async fn mistakes_are_told() {
    let (place, _) = with_container().await;
    let again = place.images.create_rootfs("c1", None).await.unwrap_err();
    assert!(matches!(again, Error::RootfsExists(_)));
    for id in ["", "../x", "a/b", ".hidden"] {
        assert!(matches!(place.images.create_rootfs(id, None).await.unwrap_err(), Error::Invalid(_)), "{id}");
    }
    assert!(matches!(place.images.rootfs("c2").unwrap_err(), Error::NoSuchRootfs(_)));
    let nothing = image::ImageId(image::Digest::of(b"nothing"));
    assert!(matches!(place.images.create_rootfs("c3", Some(&nothing)).await.unwrap_err(), Error::NoSuchImage(_)));
    assert_eq!(place.names("containers"), ["c1"]);
}

/// What a container changed, as `docker diff` shows it.
async fn shown(place: &Place, id: &str) -> Vec<String> {
    let changes = place.images.diff(id, None).await.unwrap();
    let line = |change: &image::Change| {
        let letter = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Modified => 'C',
            ChangeKind::Deleted => 'D',
        };
        format!("{letter} {}", change.path.display())
    };
    changes.iter().map(line).collect()
}

/// What a container changed may have become a layer, upon which it lies: its changes they are all the same, and go on from there.
#[tokio::test]
async fn what_was_raised_onto_a_layer_of_its_own_is_still_what_it_changed() {
    let (place, _) = with_container().await;
    let raise = async || {
        let made = place.images.take_changes("c1").unwrap().finish(None).await.unwrap().unwrap();
        place.images.raise_rootfs("c1", &[made.layers[0].diff_id]).unwrap();
    };
    let c = Container::new(&place, "c1").await;
    fs::write(c.path("app/conf"), "a=2, changed").unwrap();
    fs::create_dir_all(c.path("new/deep")).unwrap();
    fs::write(c.path("new/deep/file"), "123").unwrap();
    fs::write(c.path("short"), "").unwrap();
    fs::remove_file(c.path("bin/true")).unwrap();
    fs::remove_dir_all(c.path("old")).unwrap();
    drop(c);
    let before = shown(&place, "c1").await;
    assert_eq!(
        before,
        [
            "C /app",
            "C /app/conf",
            "C /bin",
            "D /bin/true",
            "A /new",
            "A /new/deep",
            "A /new/deep/file",
            "D /old",
            "A /short"
        ]
    );
    raise().await;
    assert_eq!(shown(&place, "c1").await, before);
    // What is there no more, was back, or is something else.
    let c = Container::new(&place, "c1").await;
    fs::remove_file(c.path("short")).unwrap();
    fs::write(c.path("bin/true"), "another").unwrap();
    fs::remove_dir_all(c.path("new/deep")).unwrap();
    fs::write(c.path("new/deep"), "a file").unwrap();
    fs::create_dir(c.path("old")).unwrap();
    fs::write(c.path("old/b"), "other").unwrap();
    drop(c);
    let after =
        ["C /app", "C /app/conf", "C /bin", "C /bin/true", "A /new", "A /new/deep", "C /old", "D /old/a", "C /old/b"];
    assert_eq!(shown(&place, "c1").await, after);
    raise().await;
    assert_eq!(shown(&place, "c1").await, after);
    // And so it is for the next one who opens the store.
    assert_eq!(place.reopened().diff("c1", None).await.unwrap().len(), after.len());
}

#[tokio::test]
async fn diff_shows_what_docker_diff_shows() {
    let (place, rootfs) = with_container().await;
    let c = Container::new(&place, "c1").await;
    fs::write(c.path("app/conf"), "a=2, changed").unwrap();
    fs::create_dir(c.path("app/new")).unwrap();
    fs::write(c.path("app/new/file"), "123").unwrap();
    fs::remove_file(c.path("bin/true")).unwrap();
    fs::remove_dir_all(c.path("old")).unwrap();
    fs::create_dir(c.path("old")).unwrap();
    fs::write(c.path("old/b"), "other").unwrap();
    // Opened for writing and left as it was: copied up, but not changed.
    drop(fs::OpenOptions::new().append(true).open(c.path("etc/passwd")).unwrap());
    drop(c);
    let shown = shown(&place, "c1").await;
    assert_eq!(
        shown,
        [
            "C /app",
            "C /app/conf",
            "A /app/new",
            "A /app/new/file",
            "C /bin",
            "D /bin/true",
            "C /old",
            "D /old/a",
            "C /old/b"
        ]
    );
    let size = place.images.rootfs_size("c1").await.unwrap();
    assert_eq!(size.own, 12 + 3 + 5 + 26);
    assert_eq!(size.total, size.own + place.images.get(&image().id()).unwrap().size);
    assert!(rootfs.upper.exists());
}

#[tokio::test]
async fn a_removed_root_is_gone_at_once_however_deep() {
    let (place, rootfs) = with_container().await;
    let mut at = fs::File::open(&rootfs.upper).unwrap();
    for _ in 0..300 {
        rustix::fs::mkdirat(&at, "directory-in-directory", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "directory-in-directory", OFlags::RDONLY, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    place.images.remove_rootfs("c1").await.unwrap();
    assert_eq!(place.names("containers"), [""; 0]);
    place.images.settle();
    assert_eq!(place.names("trash"), [""; 0]);
    place.images.remove_rootfs("c1").await.unwrap();
    place.images.create_rootfs("c1", None).await.unwrap();
}

#[tokio::test]
async fn a_commit_is_an_image_with_one_more_layer() {
    let (place, _) = with_container().await;
    let c = Container::new(&place, "c1").await;
    fs::write(c.path("app/run"), "v2").unwrap();
    fs::set_permissions(c.path("app/run"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(c.path("app/conf"), Some(100_000), Some(3)).unwrap();
    fs::hard_link(c.path("app/run"), c.path("app/run2")).unwrap();
    fs::remove_dir_all(c.path("old")).unwrap();
    fs::create_dir(c.path("old")).unwrap();
    fs::remove_file(c.path("bin/true")).unwrap();
    symlink("/app/run", c.path("start")).unwrap();
    drop(c);
    let options = NewImageOptions {
        name: Some(reference("app:2")),
        author: "me".into(),
        message: "second".into(),
        created_by: "sh".into(),
        config: place.images.config(&image().id()).unwrap().config.clone(),
        changes: vec!["ENV VERSION=2".into(), "CMD [\"/start\"]".into()],
        platform: None,
    };
    let id = place.images.commit("c1", None, options.clone()).await.unwrap();
    assert_eq!(place.images.resolve("app:2").unwrap(), id);
    let config = place.images.config(&id).unwrap();
    assert_eq!(
        (config.config.env.join(" "), config.config.cmd.clone().unwrap().join(" ")),
        ("VERSION=2".into(), "/start".into())
    );
    assert_eq!(config.history.len(), 3);
    let parent = image().id();
    let image = place.images.get(&id).unwrap();
    assert_eq!((image.diff_ids.len(), image.parent), (3, Some(parent)));

    place.images.create_rootfs("c2", Some(&id)).await.unwrap();
    let c = Container::new(&place, "c2").await;
    let run = fs::metadata(c.path("app/run")).unwrap();
    assert_eq!(
        (fs::read_to_string(c.path("app/run2")).unwrap().as_str(), run.mode() & 0o7777, run.nlink()),
        ("v2", 0o4755, 2)
    );
    assert_eq!(fs::metadata(c.path("app/conf")).unwrap().uid(), 100_000);
    assert_eq!(fs::read_dir(c.path("old")).unwrap().count(), 0);
    assert!(!c.path("bin/true").exists());
    assert_eq!(fs::read_link(c.path("start")).unwrap(), Path::new("/app/run"));
    drop(c);
    assert!(place.images.diff("c2", None).await.unwrap().is_empty());

    // The same changes make the same layer.
    let again = place.images.commit("c1", None, options.clone()).await.unwrap();
    assert_eq!(place.images.get(&again).unwrap().diff_ids, image.diff_ids);
    // No changes make none.
    let same = place.images.commit("c2", None, options).await.unwrap();
    assert_eq!(place.images.get(&same).unwrap().diff_ids, image.diff_ids);
    assert!(place.images.config(&same).unwrap().history[3].empty_layer);
    // Children are in the way of their parent.
    let error = place.images.remove(&id.to_string(), Default::default()).await.unwrap_err().to_string();
    assert!(error.contains("image has dependent child images"), "{error}");
}

#[tokio::test]
async fn what_a_commit_cannot_hold_is_refused() {
    let (place, rootfs) = with_container().await;
    fs::write(rootfs.upper.join(".wh.bin"), "").unwrap();
    let error = place.images.commit("c1", None, NewImageOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::HostileEntry { .. }), "{error}");
    place.images.gc(true).await.unwrap();
    place.images.settle();
    assert_eq!((place.names("staging").len(), place.names("ingest").len()), (0, 0));
}

#[tokio::test]
async fn files_are_copied_out_and_in() {
    let (place, _) = with_container().await;
    let c = Container::new(&place, "c1").await;
    let root = c.mounted.as_fd();
    symlink("/app", c.path("link")).unwrap();
    symlink("../../../../../etc", c.path("app/up")).unwrap();

    let names = |path: &str, options: &ReadOptions| {
        let mut bytes = Vec::new();
        archive::read_path(root, Path::new(path), &mut bytes, options).unwrap();
        let mut reader = TarReader::new(&bytes[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(entry.name());
        }
        names
    };
    assert_eq!(names("/app", &ReadOptions::default()), ["app/", "app/conf", "app/run", "app/up"]);
    assert_eq!(names("link", &ReadOptions::default()), ["link"]);
    assert_eq!(names("/link/", &ReadOptions::default()), ["link/", "link/conf", "link/run", "link/up"]);
    assert_eq!(names("/app/run", &ReadOptions { name: Some("other".into()), ..ReadOptions::default() }), ["other"]);
    assert!(names("/", &ReadOptions::default()).starts_with(&[".dockerenv".into(), "app/".into()]));

    let stat = archive::stat_path(root, Path::new("/link")).unwrap();
    assert_eq!((stat.name.to_str(), stat.link_target.as_deref()), (Some("link"), Some(Path::new("/app"))));
    let stat = archive::stat_path(root, Path::new("/app/up")).unwrap();
    assert_eq!(stat.link_target.as_deref(), Some(Path::new("/etc")));
    let missing = archive::stat_path(root, Path::new("/nothing")).unwrap_err();
    assert!(matches!(missing, Error::Path { reason: PathReason::NotFound, .. }));
    let not_a_directory = archive::stat_path(root, Path::new("/app/run/x")).unwrap_err();
    assert!(matches!(not_a_directory, Error::Path { reason: PathReason::NotADirectory, .. }));

    let incoming =
        support::gzip(&tar(&[file("conf", "a=3"), dir("up"), file("up/hosts.new", "in the container's own")]));
    let host = fs::read_dir("/etc").unwrap().count();
    archive::write_path(root, Path::new("/link"), &incoming[..], &WriteOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(c.path("app/conf")).unwrap(), "a=3");
    assert_eq!(fs::read_dir("/etc").unwrap().count(), host);
    let most = image::tree::TreeSize { entries: 1, ..image::tree::TreeSize::ENDLESS };
    let two = tar(&[file("one", "x"), file("two", "x")]);
    let refused =
        archive::write_path(root, Path::new("/app"), &two[..], &WriteOptions { most, ..WriteOptions::default() });
    assert!(matches!(refused, Err(Error::LimitExceeded { limit: 1, .. })), "{refused:?}");
    let keep = WriteOptions { keep_kinds: true, owner: Some((7, 8)), ..WriteOptions::default() };
    archive::write_path(root, Path::new("/app"), &tar(&[file("mine", "x")])[..], &keep).unwrap();
    let mine = fs::metadata(c.path("app/mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (7, 8));
    let error = archive::write_path(root, Path::new("/app/run"), &incoming[..], &keep).unwrap_err();
    assert!(matches!(error, Error::Path { reason: PathReason::NotADirectory, .. }), "{error}");
}

/// A container that swaps a directory for a link to the host's `/etc` again and again while files are copied into it.
#[tokio::test]
async fn copying_is_safe_from_a_container_that_swaps_links() {
    let (place, rootfs) = with_container().await;
    let c = Container::new(&place, "c1").await;
    drop(rootfs);
    let sentinel = tempfile::tempdir().unwrap();
    fs::create_dir(c.path("swap")).unwrap();
    symlink(sentinel.path(), c.path("evil")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    c.mounted.as_fd(),
                    "swap",
                    c.mounted.as_fd(),
                    "evil",
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        });
        let incoming = tar(&[dir("a"), file("a/b", "x"), file("c", "y")]);
        for _ in 0..300 {
            let _ = archive::write_path(c.mounted.as_fd(), Path::new("/swap"), &incoming[..], &WriteOptions::default());
            let _ = archive::read_path(c.mounted.as_fd(), Path::new("/swap"), std::io::sink(), &ReadOptions::default());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(sentinel.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn devices_and_pipes_in_a_container_do_not_stop_a_copy() {
    let (place, _) = with_container().await;
    let c = Container::new(&place, "c1").await;
    rustix::fs::mknodat(&c.mounted, "pipe", rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(c.path("socket")).unwrap();
    let mut bytes = Vec::new();
    archive::read_path(c.mounted.as_fd(), Path::new("/"), &mut bytes, &ReadOptions::default()).unwrap();
    let mut reader = TarReader::new(&bytes[..]);
    let mut kinds = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        kinds.push((entry.name(), entry.kind));
    }
    assert!(kinds.contains(&("pipe".into(), Kind::Fifo)));
    assert!(!kinds.iter().any(|(name, _)| name == "socket"));
    assert!(fs::symlink_metadata(c.path("pipe")).unwrap().file_type().is_fifo());
}
