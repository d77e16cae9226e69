//! Layers upon one another: of several parts, and as the lower directories of an overlay.

use crate::mounted::{Mounted, assert_same};
use crate::support::{Place, Remote, dir, file, tar};
use crate::trees::{directory, verified};
use image::{Contents, Existing, Look, NewLayer};
use std::fs;
use std::path::{Path, PathBuf};

/// Fills a layer with files and directories; a large file is one of them, so that the next can lie upon it.
fn filled(layer: NewLayer, files: &[(&str, &str)]) -> NewLayer {
    let above = Look::of_directory((0, 0), 1_000_000);
    let look = |mode| Look { mode, ..Look::of_directory((0, 0), 1_000_000) };
    let mut filling = layer.fill(None).unwrap();
    let large = "l".repeat(9 << 20);
    filling.file(Path::new("/srv/large"), Contents::Bytes(large.as_bytes()), &look(0o644), &above).unwrap();
    for (path, contents) in files {
        let path = Path::new("/").join(path);
        match contents {
            &"/" => filling.directory(&path, &look(0o750), Existing::Change, &above).unwrap(),
            contents => filling.file(&path, Contents::Bytes(contents.as_bytes()), &look(0o600), &above).unwrap(),
        }
    }
    assert!(filling.fits());
    filling.finish().unwrap()
}

#[tokio::test]
async fn a_layer_of_two_parts_is_one_file_as_if_it_were_one() {
    let (place, whole) = (Place::new(), Place::new());
    let first = [("srv/a", "a"), ("srv/d", "/"), ("srv/d/b", "b"), ("srv/d/c", "c"), ("e", "/"), ("e/f", "f")];
    let second = [("srv/a", "other"), ("srv/d", "/"), ("srv/d/b", "b"), ("srv/d/c", "more"), ("e", "/"), ("e/f", "f")];
    let second = [&second[..], &[("e/new", "/"), ("e/new/g", "g"), ("top", "t")]].concat();
    let former = filled(place.images.begin_layer().unwrap(), &first).finish(None).await.unwrap().unwrap();
    let like = place.images.begin_layer_like(&former.layers[0].diff_id).unwrap().unwrap();
    let kept = filled(like, &second).finish(None).await.unwrap().unwrap();
    let layer = &kept.layers[0];
    let under = layer.under.as_ref().expect("it lies upon the former one");

    let erofs = place.images.erofs(&layer.diff_id).await.unwrap();
    let part = |dir: &str| place.root.join("layers").join(dir).join("fs");
    let mounted = Mounted::erofs(erofs.path());
    assert_same(mounted.path(), Mounted::overlay(&[part(&layer.dir), part(&under.dir)]).path());

    let alone = filled(whole.images.begin_layer().unwrap(), &second).finish(None).await.unwrap().unwrap();
    assert_eq!(alone.layers[0].diff_id, layer.diff_id);
    let same = verified(&whole, &layer.diff_id).await;
    assert!(fs::read(erofs.path()).unwrap() == fs::read(same.path()).unwrap(), "the same layer is the same bytes");

    // The former one's file goes with it, though its directory stays.
    let former_id = former.layers[0].diff_id;
    drop(place.images.erofs(&former_id).await.unwrap());
    drop(former);
    place.images.gc(true).await.unwrap();
    assert_eq!(place.names("erofs"), [layer.diff_id.hex()]);
    assert!(part(&under.dir).exists());
}

#[tokio::test]
async fn an_overlay_of_files_shows_what_one_of_directories_does() {
    let place = Place::new();
    let base = tar(&[
        dir("etc"),
        file("etc/passwd", "root"),
        file("etc/group", "root"),
        dir("var"),
        dir("var/lib"),
        file("var/lib/old", "old"),
        dir("opt"),
        file("opt/one", "1"),
        file("gone", "x"),
        file("becomes", "x"),
    ]);
    let upper = tar(&[
        dir("etc"),
        file("etc/.wh.group", ""),
        file("etc/shadow", "s"),
        dir("var/lib"),
        file("var/lib/.wh..wh..opq", ""),
        file("var/lib/new", "new"),
        file(".wh.opt", ""),
        file(".wh.gone", ""),
        dir("becomes"),
        file("becomes/directory", "now"),
    ]);
    let remote = Remote::new(&[base, upper], |_| {});
    remote.pull(&place.images, "stacked").await.unwrap();
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for (_, diff_id, _) in remote.layers.iter().rev() {
        files.push(Mounted::erofs(verified(&place, diff_id).await.path()));
        directories.push(directory(&place, diff_id));
    }
    let lower: Vec<PathBuf> = files.iter().map(|mounted| mounted.path().to_path_buf()).collect();
    let (of_files, of_directories) = (Mounted::overlay(&lower), Mounted::overlay(&directories));
    assert_same(of_files.path(), of_directories.path());
    let at = |path: &str| of_files.path().join(path);
    assert!(!at("opt").exists() && !at("gone").exists() && !at("etc/group").exists() && !at("var/lib/old").exists());
    assert_eq!(fs::read(at("becomes/directory")).unwrap(), b"now");
    assert_eq!(
        (fs::read(at("etc/passwd")).unwrap(), fs::read(at("var/lib/new")).unwrap()),
        (b"root".into(), b"new".into())
    );
}
