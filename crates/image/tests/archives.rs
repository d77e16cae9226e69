//! Images as archives: saved, loaded, imported, and exchanged with others' programs.

mod support;

use image::{Error, NewImageOptions, Phase, Progress};
use std::fs;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};
use support::{Place, Remote, base_layer, dir, file, gzip, reference, tar};

/// Somewhere to save to, and to look at afterwards.
#[derive(Clone, Default)]
struct Saved(Arc<Mutex<Vec<u8>>>);

impl Write for Saved {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn saved(place: &Place, images: &[&str]) -> Vec<u8> {
    let saved = Saved::default();
    let images: Vec<String> = images.iter().map(|name| (*name).to_owned()).collect();
    place.images.save(&images, saved.clone()).unwrap();
    std::mem::take(&mut *saved.0.lock().unwrap())
}

fn app(version: &str) -> Remote {
    Remote::new(&[base_layer(), tar(&[dir("app"), file("app/run", version)])], |_| {})
}

#[tokio::test]
async fn what_was_saved_is_loaded() {
    let here = Place::new();
    let (one, two) = (app("1"), app("2"));
    one.pull(&here.images, "team/app:1").await.unwrap();
    two.pull(&here.images, "team/app:2").await.unwrap();
    let archive = saved(&here, &["team/app", &one.id().to_string()]);
    assert_eq!(archive, saved(&here, &["team/app", &one.id().to_string()]), "the same bytes each time");

    for archive in [archive.clone(), gzip(&archive)] {
        let there = Place::new();
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let progress = Progress::new(move |event| heard.lock().unwrap().push(event));
        let loaded = there.images.load(std::io::Cursor::new(archive), None, progress).await.unwrap();
        assert_eq!(loaded.len(), 2);
        assert_eq!(there.images.resolve("team/app:1").unwrap(), one.id());
        assert_eq!(there.images.resolve("team/app:2").unwrap(), two.id());
        assert_eq!(there.images.config_json(&two.id()).unwrap(), two.config);
        assert_eq!(there.names("layers").len(), 1 + 3);
        let loaded = events.lock().unwrap().iter().filter(|event| event.phase == Phase::Loaded).count();
        assert_eq!(loaded, 2);
        // Again changes nothing.
        let archive = saved(&there, &["team/app"]);
        there.images.load(std::io::Cursor::new(archive), None, Progress::none()).await.unwrap();
        there.images.gc(true).await.unwrap();
        there.images.settle();
        assert_eq!((there.names("layers").len(), there.names("staging").len()), (4, 0));
    }
}

#[tokio::test]
async fn by_id_an_image_is_saved_without_a_name() {
    let here = Place::new();
    let id = app("1").pull(&here.images, "app").await.unwrap();
    let there = Place::new();
    let archive = saved(&here, &[&id.short()]);
    let loaded = there.images.load(std::io::Cursor::new(archive), None, Progress::none()).await.unwrap();
    assert_eq!((loaded[0].id, loaded[0].names.len()), (id, 0));
    let error = here.images.save(&["nothing".into()], std::io::sink()).unwrap_err();
    assert_eq!(error.to_string(), "No such image: nothing:latest");
}

#[tokio::test]
async fn what_docker_saved_before_is_loaded() {
    let (base, top) = (base_layer(), tar(&[file("top", "1")]));
    let remote = Remote::new(&[base.clone(), top.clone()], |_| {});
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let config = format!("{}.json", remote.id().digest().hex());
    let raw = |path: &str, bytes: &[u8]| {
        let (mut entry, _) = file(path, "");
        entry.size = bytes.len() as u64;
        (entry, bytes.to_vec())
    };
    let link = (
        image::tar::Entry {
            link: b"../aaa/layer.tar".to_vec(),
            ..image::tar::Entry::new("bbb/layer.tar", image::tar::Kind::Symlink, 0o777)
        },
        vec![],
    );
    let manifest = format!(
        r#"[{{"Config":"{config}","RepoTags":["old:1"],"Layers":["aaa/layer.tar","ccc/layer.tar"]}},
        {{"Config":"other.json","RepoTags":null,"Layers":["bbb/layer.tar"]}}]"#
    );
    let other = Remote::new(std::slice::from_ref(&base), |_| {});
    let archive = tar(&[
        dir("aaa"),
        file("aaa/VERSION", "1.0"),
        raw("aaa/layer.tar", &base),
        link,
        raw("ccc/layer.tar", &top),
        file(&config, &text(&remote.config)),
        file("other.json", &text(&other.config)),
        file("manifest.json", &manifest),
    ]);
    let place = Place::new();
    let loaded = place.images.load(std::io::Cursor::new(archive), None, Progress::none()).await.unwrap();
    assert_eq!(loaded.iter().map(|image| image.id).collect::<Vec<_>>(), [remote.id(), other.id()]);
    assert_eq!(place.images.resolve("old:1").unwrap(), remote.id());

    // As before 2016.
    let archive = tar(&[
        raw("aaa/layer.tar", &base),
        file("aaa/json", r#"{"id":"aaa","created":"2015-01-01T00:00:00Z","container_config":{"Cmd":["ADD","file"]}}"#),
        raw("ccc/layer.tar", &top),
        file(
            "ccc/json",
            r#"{"id":"ccc","parent":"aaa","created":"2015-01-02T00:00:00Z","os":"linux","architecture":"amd64","config":{"Cmd":["sh"]}}"#,
        ),
        file("repositories", r#"{"ancient":{"1":"ccc"}}"#),
    ]);
    let loaded = place.images.load(std::io::Cursor::new(archive), None, Progress::none()).await.unwrap();
    let config = place.images.config(&loaded[0].id).unwrap();
    assert_eq!((config.rootfs.diff_ids.len(), config.history[0].created_by.as_str()), (2, "ADD file"));
    assert_eq!(place.images.resolve("ancient:1").unwrap(), loaded[0].id);
}

#[tokio::test]
async fn an_archive_without_an_image_is_refused_with_the_reason() {
    let place = Place::new();
    let load = |archive: Vec<u8>| place.images.load(std::io::Cursor::new(archive), None, Progress::none());
    let said = |result: image::Result<_>| match result {
        Ok(()) => panic!("taken"),
        Err(error) => error.to_string(),
    };
    assert!(said(load(base_layer()).await.map(drop)).contains("docker import"));
    assert!(said(load(b"not an archive at all".repeat(100)).await.map(drop)).contains("malformed tar"));
    let manifest = r#"[{"Config":"c.json","RepoTags":["x:1"],"Layers":["gone/layer.tar"]}]"#;
    let archive =
        tar(&[file("manifest.json", manifest), file("c.json", r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#)]);
    assert!(said(load(archive).await.map(drop)).contains("gone/layer.tar is missing"));
    let manifest = r#"[{"Config":"../../../etc/passwd","RepoTags":["x:1"],"Layers":[]}]"#;
    assert!(said(load(tar(&[file("manifest.json", manifest)])).await.map(drop)).contains("it refers to"));
    let wrong = tar(&[file(&format!("blobs/sha256/{}", "0".repeat(64)), "{}")]);
    assert!(said(load(wrong).await.map(drop)).contains("not what its name says"));
    assert!(place.images.list(&Default::default()).is_empty());
}

#[tokio::test]
async fn an_imported_root_file_system_is_an_image() {
    for compress in [None, Some("gzip"), Some("bzip2"), Some("xz"), Some("zstd")] {
        let temp = tempfile::tempdir().unwrap();
        let plain = temp.path().join("root.tar");
        fs::write(&plain, base_layer()).unwrap();
        let archive = match compress {
            None => plain.clone(),
            Some(program) => {
                let packed = temp.path().join("root.packed");
                let out = fs::File::create(&packed).unwrap();
                let Ok(status) = Command::new(program).arg("-c").arg(&plain).stdout(out).status() else { continue };
                assert!(status.success());
                packed
            }
        };
        let place = Place::new();
        let options = NewImageOptions {
            name: Some(reference("imported")),
            message: "Imported from -".into(),
            changes: vec!["CMD /bin/true".into(), "EXPOSE 80".into()],
            ..NewImageOptions::default()
        };
        let id = place.images.import(fs::File::open(archive).unwrap(), options, Progress::none()).await.unwrap();
        assert_eq!(place.images.resolve("imported:latest").unwrap(), id);
        let config = place.images.config(&id).unwrap();
        assert_eq!(
            (config.config.exposed_ports.join(""), config.comment.as_str()),
            ("80/tcp".into(), "Imported from -")
        );
        assert_eq!(config.rootfs.diff_ids, [image::Digest::of(&base_layer())], "{compress:?}");
        // It goes to a registry as gzip, whatever it came as.
        let push = place.images.manifest_for_push(&id).await.unwrap();
        assert_eq!(push.media_type, image::media_type::DOCKER_MANIFEST);
        let blob = fs::read(place.root.join("blobs/sha256").join(push.layers[0].descriptor.digest.hex())).unwrap();
        assert_eq!(&blob[..2], [0x1f, 0x8b]);
        assert_eq!(place.images.manifest_for_push(&id).await.unwrap().manifest, push.manifest);
    }
}

#[tokio::test]
async fn a_mistyped_change_costs_nothing() {
    let place = Place::new();
    let options = NewImageOptions { changes: vec!["RUN x".into()], ..NewImageOptions::default() };
    let error = place.images.import(std::io::Cursor::new(base_layer()), options, Progress::none()).await.unwrap_err();
    assert!(matches!(error, Error::BadChange(_)), "{error}");
    assert_eq!(place.names("layers"), ["0"]);
}

/// skopeo reads both forms that are in one archive, and what it writes is loaded.
#[tokio::test]
async fn skopeo_and_we_read_each_others_archives() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        eprintln!("skopeo is not installed: skipped");
        return;
    }
    let here = Place::new();
    let remote = app("1");
    remote.pull(&here.images, "team/app:1").await.unwrap();
    let temp = tempfile::tempdir().unwrap();
    let ours = temp.path().join("ours.tar");
    fs::write(&ours, saved(&here, &["team/app:1"])).unwrap();
    let copy = |from: String, to: String| {
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "--tmpdir"])
            .arg(temp.path())
            .args(["copy", &from, &to])
            .output()
            .unwrap();
        assert!(output.status.success(), "{from} -> {to}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let at = |name: &str| temp.path().join(name).display().to_string();
    copy(format!("docker-archive:{}", at("ours.tar")), format!("oci-archive:{}:team/app:3", at("oci.tar")));
    copy(format!("oci-archive:{}", at("ours.tar")), format!("docker-archive:{}:team/app:4", at("docker.tar")));
    let there = Place::new();
    for (archive, name) in [("oci.tar", "team/app:3"), ("docker.tar", "team/app:4")] {
        there.images.load(fs::File::open(temp.path().join(archive)).unwrap(), None, Progress::none()).await.unwrap();
        let id = there.images.resolve(name).unwrap();
        assert_eq!(there.images.get(&id).unwrap().diff_ids, here.images.get(&remote.id()).unwrap().diff_ids);
    }
}
