//! Layers that are made here, of a directory: nothing is copied, and their archive is made when somebody wants it.

mod support;

use image::{
    Base, Contents, Digest, Error, Existing, Filling, ImageConfig, Images, LayerList, Look, NewLayer, PathReason,
    RemoveOptions, Times,
};
use rustix::fd::AsFd as _;
use rustix::fs::FileType;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use support::{Place, Remote, base_layer, dir, reference, tar};

const TIMES: Option<Times> = Some(Times { since: 0, becomes: 1_000_000 });

fn fill(directory: &Path) {
    fs::create_dir(directory.join("app")).unwrap();
    fs::write(directory.join("app/run"), "v1").unwrap();
    fs::set_permissions(directory.join("app/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::hard_link(directory.join("app/run"), directory.join("app/also")).unwrap();
    symlink("run", directory.join("app/link")).unwrap();
    let whiteout = FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, directory.join("gone"), whiteout, rustix::fs::Mode::empty(), 0).unwrap();
    drop(UnixListener::bind(directory.join("app/socket")).unwrap());
}

fn config(diff_ids: Vec<Digest>) -> ImageConfig {
    ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        rootfs: LayerList { diff_ids, ..LayerList::default() },
        ..ImageConfig::default()
    }
}

#[tokio::test]
async fn the_same_directory_is_the_same_layer_on_another_day() {
    let (one, other) = (Place::new(), Place::new());
    let mut made = Vec::new();
    for place in [&one, &other] {
        let layer = place.images.begin_layer().unwrap();
        fill(&layer.directory());
        made.push(layer.finish(TIMES).await.unwrap().unwrap());
    }
    assert_eq!(made[0].layers[0].diff_id, made[1].layers[0].diff_id);
    assert_eq!(made[0].layers[0].size, 2 + 3 + 2, "two names of a file, and a link's target");
    let directory = one.root.join("layers").join(&made[0].layers[0].dir).join("fs");
    assert!(!directory.join("app/socket").exists(), "no archive can hold one");
    for path in ["app", "app/run", "app/link"] {
        assert_eq!(fs::symlink_metadata(directory.join(path)).unwrap().mtime(), 1_000_000, "{path}");
    }
    assert!(one.names("blobs/sha256").is_empty(), "no archive is kept");
}

#[tokio::test]
async fn an_image_of_made_layers_is_saved_and_pushed_like_any_other() {
    let place = Place::new();
    let layer = place.images.begin_layer().unwrap();
    fill(&layer.directory());
    let kept = layer.finish(TIMES).await.unwrap().unwrap();
    let diff_id = kept.layers[0].diff_id;
    let id = place.images.assemble(config(vec![diff_id]), vec![reference("made:1")]).await.unwrap();
    drop(kept);
    place.images.gc(true).await.unwrap();

    let mut archive = Vec::new();
    place.images.save(&["made:1".into()], &mut archive).unwrap();
    let elsewhere = Place::new();
    let loaded = elsewhere.images.load(std::io::Cursor::new(archive), None, image::Progress::none()).await.unwrap();
    assert_eq!(loaded[0].id, id);
    assert_eq!(elsewhere.images.layers(&id).unwrap()[0].diff_id, diff_id);

    let pushed = place.images.manifest_for_push(&id).await.unwrap();
    assert_eq!(pushed.layers[0].diff_id, diff_id);
    assert_eq!(place.names("blobs/sha256").len(), 2, "the configuration, and the layer as it was pushed");
}

#[tokio::test]
async fn a_root_directory_of_another_time_is_the_same_layer() {
    let place = Place::new();
    let mut made = Vec::new();
    for hour in [1, 2] {
        let layer = place.images.begin_layer().unwrap();
        fs::set_permissions(layer.directory(), fs::Permissions::from_mode(0o555)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_hours(hour);
        fs::File::open(layer.directory()).unwrap().set_modified(time).unwrap();
        made.push(layer.finish(TIMES).await.unwrap().unwrap().layers[0].diff_id);
    }
    assert_eq!(made[0], made[1]);
}

#[tokio::test]
async fn a_layer_that_was_changed_on_the_disk_goes_nowhere() {
    let place = Place::new();
    let layer = place.images.begin_layer().unwrap();
    fill(&layer.directory());
    let kept = layer.finish(TIMES).await.unwrap().unwrap();
    place.images.assemble(config(vec![kept.layers[0].diff_id]), vec![reference("made:1")]).await.unwrap();
    fs::write(place.root.join("layers").join(&kept.layers[0].dir).join("fs/app/run"), "v2").unwrap();
    let saved = place.images.save(&["made:1".into()], Vec::new());
    assert!(matches!(saved, Err(Error::DigestMismatch { .. })), "{saved:?}");
    let id = place.images.resolve("made:1").unwrap();
    let pushed = place.images.manifest_for_push(&id).await;
    assert!(matches!(pushed, Err(Error::DigestMismatch { .. })), "{pushed:?}");
}

#[tokio::test]
async fn what_a_container_changed_becomes_a_layer_without_a_copy() {
    let place = Place::new();
    let base = Remote::new(&[base_layer()], |_| {}).pull(&place.images, "app").await.unwrap();
    let rootfs = place.images.create_rootfs("c1", Some(&base)).await.unwrap();
    fs::write(rootfs.upper.join("new"), "made").unwrap();
    let inode = fs::metadata(rootfs.upper.join("new")).unwrap().ino();
    let made = place.images.take_changes("c1").unwrap().finish(None).await.unwrap().unwrap();
    let file = place.root.join("layers").join(&made.layers[0].dir).join("fs/new");
    assert_eq!(fs::metadata(file).unwrap().ino(), inode);
    assert!(fs::read_dir(&rootfs.upper).unwrap().next().is_none(), "the container has changed nothing any more");
    assert!(place.images.take_changes("c1").unwrap().finish(None).await.unwrap().is_none(), "nothing is no layer");

    let mut diff_ids = place.images.get(&base).unwrap().diff_ids.clone();
    diff_ids.push(made.layers[0].diff_id);
    let on_top = Base::Layers { image: base, diff_ids };
    let next = place.images.begin_rootfs("c2", &on_top, &[]).unwrap();
    assert_eq!(next.rootfs().lower.len(), rootfs.lower.len() + 1);
    drop(made);
    place.images.gc(true).await.unwrap();
    assert!(place.images.keep_layers(&[Digest::of(b"")]).is_none());
}

const OLD: i64 = 5_000;

fn look(mode: u32) -> Look {
    Look { owner: (0, 0), mode, mtime: (OLD, 0), attributes: Vec::new() }
}

#[tokio::test]
async fn what_is_copied_lies_as_in_what_is_below() {
    let place = Place::new();
    let mut opt = dir("opt");
    (opt.0.mode, opt.0.uid, opt.0.mtime.seconds) = (0o750, 7, 4_000);
    let mut link = dir("srv");
    (link.0.kind, link.0.link) = (image::tar::Kind::Symlink, b"/opt/data".to_vec());
    let mut top = dir("./");
    top.0.mode = 0o555;
    let below = tar(&[top, opt, dir("opt/data"), link]);
    let base = Remote::new(&[base_layer(), below], |_| {}).pull(&place.images, "app").await.unwrap();
    let diff_ids = place.images.get(&base).unwrap().diff_ids.clone();

    let context = tempfile::tempdir().unwrap();
    fs::write(context.path().join("a"), "contents").unwrap();
    let from = fs::File::open(context.path()).unwrap();
    let contents = |name| Contents::Of { parent: from.as_fd(), name, known: None };
    let above = Look::of_directory((0, 0), OLD);
    fs::set_permissions(context.path().join("a"), fs::Permissions::from_mode(0o640)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(OLD as u64);
    fs::File::open(context.path().join("a")).unwrap().set_modified(old).unwrap();

    let layer = place.images.begin_layer().unwrap();
    let below = Arc::new(place.images.view_layers(diff_ids).await.unwrap());
    let mut filling = layer.fill(Some(below)).unwrap();
    let at = filling.resolve(Path::new("/srv/new/../x/a")).unwrap();
    assert_eq!(at, Path::new("/opt/data/x/a"));
    assert_eq!(filling.found(Path::new("/srv")).unwrap(), Some(FileType::Symlink));
    filling.file(&at, contents(b"a"), &look(0o640), &above).unwrap();
    filling.file(Path::new("/opt/b"), contents(b"a"), &look(0o640), &above).unwrap();
    fs::write(context.path().join("m"), "contents").unwrap();
    fs::set_permissions(context.path().join("m"), fs::Permissions::from_mode(0o644)).unwrap();
    filling.file(Path::new("/opt/m"), contents(b"m"), &look(0o600), &above).unwrap();
    filling.file(Path::new("/opt/c"), Contents::Bytes(b"here"), &look(0o4755), &above).unwrap();
    filling.symlink(Path::new("/opt/l"), b"c", &look(0o777), &above).unwrap();
    filling.directory(Path::new("/opt/data"), &look(0o700), Existing::Keep, &above).unwrap();
    let refused = |made: image::Result<()>| match made {
        Err(Error::Path { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let onto = filling.file(Path::new("/opt/data"), Contents::Bytes(b""), &look(0o644), &above);
    assert_eq!(refused(onto), PathReason::DirectoryInTheWay);
    let onto = filling.directory(Path::new("/etc/passwd"), &look(0o755), Existing::Keep, &above);
    assert_eq!(refused(onto), PathReason::FileInTheWay);
    let through = filling.file(Path::new("/srv/x"), Contents::Bytes(b""), &look(0o644), &above);
    assert_eq!(
        refused(through),
        PathReason::FileInTheWay,
        "links are followed where it is asked for, and nowhere else"
    );
    let layer = filling.finish().unwrap();

    let made = layer.directory();
    let meta = |path: &str| fs::symlink_metadata(made.join(path)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o555, "the root directory is that of the uppermost layer");
    let opt = meta("opt");
    assert_eq!((opt.mode() & 0o7777, opt.uid(), opt.mtime()), (0o750, 7, 4_000), "as below");
    assert_eq!(meta("opt/data/x").mtime(), OLD);
    for (path, file) in [("opt/data/x/a", context.path().join("a")), ("opt/b", made.join("opt/b"))] {
        assert_eq!(
            (meta(path).nlink(), fs::metadata(&file).unwrap().nlink()),
            (1, 1),
            "a step sees how many names it has"
        );
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let modes = (mode(&made.join("opt/m")), mode(&context.path().join("m")));
    assert_eq!(modes, (0o600, 0o644), "the next who copies it sees the mode that it came with");
    assert_ne!(meta("opt/b").ino(), meta("opt/data/x/a").ino(), "two files");
    assert_eq!(meta("opt/c").mode() & 0o7777, 0o4755);
    assert_eq!(fs::read_link(made.join("opt/l")).unwrap(), Path::new("c"));
    let names: Vec<_> = fs::read_dir(&made).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["opt"], "nothing else of what is below");
}

/// What a copy is of: paths, with what they hold; `None` is a directory.
type Files<'f> = &'f [(&'f str, Option<&'f str>)];

const LARGE: usize = 9 << 20;

/// Fills a layer as a copy does, with a large file beside what is said.
fn filled(layer: NewLayer, context: &Path, files: Files<'_>) -> Filling {
    let mut filling = layer.fill(None).unwrap();
    let large = ("srv/m", Some("l"));
    let above = Look::of_directory((0, 0), OLD);
    for (path, contents) in files.iter().chain([&large]) {
        let at = Path::new("/").join(path);
        let Some(contents) = contents else {
            filling.directory(&at, &look(0o750), Existing::Change, &above).unwrap();
            continue;
        };
        if let Some(target) = contents.strip_prefix("-> ") {
            filling.symlink(&at, target.as_bytes(), &look(0o777), &above).unwrap();
            continue;
        }
        let bytes = if *contents == "l" { "l".repeat(LARGE) } else { (*contents).to_owned() };
        fs::write(context.join("file"), &bytes).unwrap();
        let from = fs::File::open(context).unwrap();
        let known = Some((Digest::of(bytes.as_bytes()), bytes.len() as u64));
        let contents = Contents::Of { parent: from.as_fd(), name: b"file", known };
        filling.file(&at, contents, &look(0o644), &above).unwrap();
    }
    filling
}

#[tokio::test]
async fn a_layer_like_another_has_what_differs_and_is_the_same_layer_as_one_that_has_all() {
    let first: Files<'_> = &[
        ("srv", None),
        ("srv/a", Some("a")),
        ("srv/d", None),
        ("srv/d/x", Some("x")),
        ("srv/l", Some("-> a")),
        ("srv/z", Some("z")),
    ];
    let with = |path: &str, contents: Option<&'static str>| -> Vec<(String, Option<&'static str>)> {
        let mut files: Vec<(String, Option<&'static str>)> = first
            .iter()
            .map(|(path, contents)| {
                (
                    (*path).to_owned(),
                    contents.map(|c| match c {
                        "a" => "a",
                        "x" => "x",
                        "z" => "z",
                        _ => "-> a",
                    }),
                )
            })
            .collect();
        match files.iter_mut().find(|(there, _)| there == path) {
            Some(there) => there.1 = contents,
            None => files.push((path.to_owned(), contents)),
        }
        files
    };
    let without = |path: &str| {
        with("none", None).into_iter().filter(|(there, _)| there != path && there != "none").collect::<Vec<_>>()
    };
    // What changes, and whether the layer may then lie upon the first.
    let cases = [
        (with("srv/a", Some("other")), true, "before what is large"),
        (with("srv/z", Some("other")), true, "behind it"),
        (with("srv/d/new", Some("new")), true, "one more, in a directory"),
        (with("srv/e", None), true, "a directory more"),
        (with("srv/l", Some("-> z")), true, "a link to somewhere else"),
        (with("srv/l", Some("file")), true, "a file for a link"),
        (with("srv/a", Some("a")), true, "nothing"),
        (without("srv/a"), false, "one less"),
        (with("srv/d/x", None), false, "a directory for a file"),
        (with("srv/b", Some("l")), false, "much"),
    ];
    for (files, upon, what) in cases {
        let (place, other, context) = (Place::new(), Place::new(), tempfile::tempdir().unwrap());
        let files: Vec<(&str, Option<&str>)> = files.iter().map(|(path, contents)| (&path[..], *contents)).collect();
        let layer = place.images.begin_layer().unwrap();
        let former = filled(layer, context.path(), first).finish().unwrap().finish(None).await.unwrap().unwrap();
        let former_id = former.layers[0].diff_id;

        let layer = place.images.begin_layer_like(&former_id).unwrap().expect("it was written down");
        let filling = filled(layer, context.path(), &files);
        assert_eq!(filling.fits(), upon, "{what}");
        if !upon {
            continue;
        }
        let made = filling.finish().unwrap().finish(None).await.unwrap().unwrap();
        let whole = filled(other.images.begin_layer().unwrap(), context.path(), &files);
        let whole = whole.finish().unwrap().finish(None).await.unwrap().unwrap();
        let (made, whole) = (made.layers[0].clone(), whole.layers[0].clone());
        assert_eq!((made.diff_id, made.size, made.tar_size), (whole.diff_id, whole.size, whole.tar_size), "{what}");
        if what == "nothing" {
            assert_eq!(made.diff_id, former_id);
            continue;
        }
        assert!(made.under.as_ref().is_some_and(|under| under.own < 100), "{what}: {made:?}");

        // The former goes, and what the other needs of it stays: also over a restart.
        place.images.assemble(config(vec![made.diff_id]), vec![reference("made:1")]).await.unwrap();
        drop(former);
        place.images.gc(true).await.unwrap();
        assert!(place.images.keep_layers(&[former_id]).is_none());
        let images = place.reopened();
        let next = images.begin_layer_like(&made.diff_id).unwrap().expect("one that lies upon it will do as well");
        drop(next);
        let mut archive = Vec::new();
        images.save(&["made:1".into()], &mut archive).unwrap();
        other.images.assemble(config(vec![whole.diff_id]), vec![reference("made:1")]).await.unwrap();
        let mut same = Vec::new();
        other.images.save(&["made:1".into()], &mut same).unwrap();
        assert!(archive == same, "{what}");
        images.create_rootfs("c1", Some(&images.resolve("made:1").unwrap())).await.unwrap();
        let (seen, all) = (view(&images, made.diff_id).await, view(&other.images, whole.diff_id).await);
        assert_eq!(seen, all, "{what}");
        images.remove_rootfs("c1").await.unwrap();
        images.remove("made:1", RemoveOptions::default()).await.unwrap();
        images.gc(true).await.unwrap();
        assert_eq!(place.names("layers"), ["0"], "nothing but what belongs to no layer");
    }
}

/// All that is seen of a layer: paths, modes and what they hold.
async fn view(images: &Images, diff_id: Digest) -> Vec<String> {
    let view = images.view_layers(vec![diff_id]).await.unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    let root = rustix::fs::openat(&view, ".", flags, rustix::fs::Mode::empty()).unwrap();
    let mut seen = Vec::new();
    image::tree::walk::walk(root, &mut |found| {
        let path = String::from_utf8_lossy(found.path).into_owned();
        seen.push(format!(
            "{path} {:o} {} {}",
            found.stat.st_mode,
            found.stat.st_size * i64::from(found.kind() != FileType::Directory),
            found.stat.st_mtime
        ));
        Ok(true)
    })
    .unwrap();
    seen
}

/// Each of these would be another layer upon a former one than one that has all of it: so it does not lie upon it.
#[tokio::test]
async fn a_layer_that_would_be_another_upon_a_former_one_does_not_lie_upon_it() {
    let (place, context) = (Place::new(), tempfile::tempdir().unwrap());
    let first: Files<'_> = &[("srv", None), ("srv/a", Some("a")), ("srv/on/the/way", Some("x"))];
    let layer = place.images.begin_layer().unwrap();
    let former = filled(layer, context.path(), first).finish().unwrap().finish(None).await.unwrap().unwrap();
    let former = former.layers[0].clone();
    let like = || place.images.begin_layer_like(&former.diff_id).unwrap().expect("it was written down");

    // A file where the former has a directory that nobody named.
    let files: Files<'_> = &[("srv", None), ("srv/a", Some("a")), ("srv/on/the/way", Some("x")), ("srv/on", Some("y"))];
    assert!(!filled(like(), context.path(), files).fits());
    // A name that means a deletion to whoever takes the archive.
    let files: Files<'_> =
        &[("srv", None), ("srv/.wh.b", Some("b")), ("srv/a", Some("a")), ("srv/on/the/way", Some("x"))];
    let filling = filled(like(), context.path(), files);
    let refused = filling.finish().unwrap().finish(None).await;
    assert!(matches!(refused, Err(Error::HostileEntry { .. })), "{refused:?}");
    // A directory that lost an attribute.
    let above = Look::of_directory((0, 0), OLD);
    let with = |attributes: image::tar::Attributes| Look { attributes, ..look(0o755) };
    let large = "l".repeat(LARGE);
    let fill = |layer: NewLayer, attributes| {
        let mut filling = layer.fill(None).unwrap();
        filling.directory(Path::new("/d"), &with(attributes), Existing::Change, &above).unwrap();
        filling.file(Path::new("/d/l"), Contents::Bytes(large.as_bytes()), &look(0o644), &above).unwrap();
        filling.finish().unwrap()
    };
    let attribute = vec![(b"user.k".to_vec(), b"1".to_vec())];
    let had = fill(place.images.begin_layer().unwrap(), attribute).finish(None).await.unwrap().unwrap();
    let upon = place.images.begin_layer_like(&had.layers[0].diff_id).unwrap().expect("it was written down");
    let lost = fill(upon, Vec::new()).finish(None).await.unwrap().unwrap();
    let whole = fill(Place::new().images.begin_layer().unwrap(), Vec::new()).finish(None).await.unwrap().unwrap();
    assert_eq!(lost.layers[0].diff_id, whole.layers[0].diff_id);
    // A list that was damaged is none.
    let list = place.root.join("layers").join(&former.dir).join("contents");
    let mut bytes = fs::read(&list).unwrap();
    bytes[40] ^= 1;
    fs::write(&list, bytes).unwrap();
    assert!(place.images.begin_layer_like(&former.diff_id).unwrap().is_none());
}
