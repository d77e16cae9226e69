//! Images come in, are found, shared, and go.

mod support;

use bytes::Bytes;
use image::{Error, ImageUser, ListFilters, Progress, PruneFilters, RemoveOptions, Removed};
use support::{Place, Remote, base_layer, dir, file, gzip, reference, tar};

fn app() -> Remote {
    Remote::new(&[base_layer(), tar(&[dir("app"), file("app/run", "v1"), file(".wh.gone", "")])], |_| {})
}

#[tokio::test]
async fn a_pulled_image_is_there_under_all_its_names() {
    let place = Place::new();
    let remote = app();
    let id = remote.pull(&place.images, "example.com/team/app:1").await.unwrap();
    let digest = image::Digest::of(&remote.manifest);
    for name in [
        "example.com/team/app:1".to_owned(),
        format!("example.com/team/app@{digest}"),
        format!("example.com/team/app:1@{digest}"),
        id.to_string(),
        id.digest().hex(),
        id.short(),
    ] {
        assert_eq!(place.images.resolve(&name).unwrap(), id, "{name}");
    }
    for name in ["app", "example.com/team/app", "example.com/team/app:2", "ffff"] {
        let error = place.images.resolve(name).unwrap_err();
        assert!(error.to_string().starts_with("No such image: "), "{error}");
    }
    assert_eq!(place.images.config_json(&id).unwrap(), remote.config);
    assert_eq!(place.images.manifest_json(&id).unwrap().unwrap(), remote.manifest);
    let history = place.images.history(&id).unwrap();
    assert_eq!(history.iter().map(|step| step.created_by.as_str()).collect::<Vec<_>>(), ["step 1", "step 0"]);
    assert_eq!((history[0].size, history[0].id), (2, Some(id)));
}

#[tokio::test]
async fn after_a_restart_everything_is_as_before() {
    let place = Place::new();
    let id = app().pull(&place.images, "app").await.unwrap();
    place.images.create_rootfs("c1", Some(&id)).await.unwrap();
    std::fs::create_dir_all(place.root.join("staging/zz/fs")).unwrap();
    std::fs::create_dir_all(place.root.join("layers/zzz/fs")).unwrap();
    std::fs::create_dir_all(place.root.join("containers/nobody/upper")).unwrap();
    let again = place.reopened();
    again.settle();
    assert_eq!(again.resolve("app").unwrap(), id);
    assert_eq!(again.rootfs("c1").unwrap(), place.images.rootfs("c1").unwrap());
    assert_eq!(place.names("staging"), [""; 0]);
    assert_eq!(place.names("layers"), ["0", "1", "2"]);
    assert_eq!(place.names("containers"), ["c1"]);
    assert_eq!(place.names("trash"), [""; 0]);
}

#[tokio::test]
async fn a_shared_layer_is_unpacked_once() {
    let place = Place::new();
    let other = Remote::new(&[base_layer(), tar(&[file("other", "123")])], |_| {});
    app().pull(&place.images, "app").await.unwrap();
    other.pull(&place.images, "other").await.unwrap();
    assert_eq!(place.names("layers").len(), 1 + 3);
    let usage = place.images.disk_usage().await.unwrap();
    let base = place.images.layers(&other.id()).unwrap()[0].size;
    assert_eq!(usage.images.len(), 2);
    assert!(usage.images.iter().all(|image| image.shared == base));
    assert_eq!(usage.layers, base + 2 + 3);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke() {
    let place = Place::new();
    let noise: String =
        (0..200_000u32).map(|i| char::from(33 + (i.wrapping_mul(2_654_435_761) >> 24) as u8 % 90)).collect();
    let remote = Remote::new(&[tar(&[file("noise", &noise)])], |_| {});
    let (descriptor, diff_id, blob) = &remote.layers[0];
    let half = blob.len() / 2;
    {
        let ingest = place.images.begin_image();
        let mut sink = ingest.unpack_layer(descriptor, diff_id, Progress::none()).await.unwrap();
        sink.write(Bytes::copy_from_slice(&blob[..half])).await.unwrap();
    }
    // Its thread ends by itself; a restart sees what it left.
    let partial = place.root.join("ingest").join(format!("{}.part", descriptor.digest.hex()));
    while std::fs::metadata(&partial).map_or(0, |meta| meta.len()) < half as u64 || place.names("staging") != [""; 0] {
        tokio::task::yield_now().await;
    }
    let images = place.reopened();
    let ingest = images.begin_image();
    let mut sink = ingest.unpack_layer(descriptor, diff_id, Progress::none()).await.unwrap();
    assert_eq!(sink.resume_offset(), half as u64);
    sink.write(Bytes::copy_from_slice(&blob[half..])).await.unwrap();
    sink.finish().await.unwrap();
    let id = ingest.finish(remote.finished("noise")).await.unwrap();
    let layer = &images.layers(&id).unwrap()[0];
    let unpacked = place.root.join("layers").join(&layer.dir).join("fs/noise");
    assert_eq!(std::fs::read_to_string(unpacked).unwrap(), noise);
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_never_seen() {
    let place = Place::new();
    let remote = app();
    let (descriptor, diff_id, _) = &remote.layers[0];
    let ingest = place.images.begin_image();
    let wrong = gzip(&tar(&[file("evil", "x")]));
    let mut sink = ingest.unpack_layer(descriptor, diff_id, Progress::none()).await.unwrap();
    let mut result = sink.write(Bytes::from(wrong)).await;
    if result.is_ok() {
        result = sink.finish().await;
    }
    assert!(matches!(result.unwrap_err(), Error::DigestMismatch { .. } | Error::SizeMismatch { .. }));

    // The right blob, but not of the layer that the configuration names.
    let (descriptor, _, blob) = &remote.layers[1];
    let other = image::Digest::of(b"other");
    let mut sink = ingest.unpack_layer(descriptor, &other, Progress::none()).await.unwrap();
    sink.write(Bytes::from(blob.clone())).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    assert!(error.to_string().contains("uncompressed"), "{error}");

    let error = ingest.finish(remote.finished("app")).await.unwrap_err();
    assert!(matches!(error, Error::LayerMissing { .. }), "{error}");
    assert!(place.images.list(&ListFilters::default()).is_empty());
    place.images.gc(true).await.unwrap();
    place.images.settle();
    assert_eq!(
        (place.names("layers"), place.names("staging"), place.names("blobs/sha256")),
        (vec!["0".into()], vec![], vec![])
    );
}

#[tokio::test]
async fn a_cut_layer_is_an_error() {
    let place = Place::new();
    let remote = app();
    let (descriptor, diff_id, blob) = &remote.layers[0];
    let ingest = place.images.begin_image();
    let mut sink = ingest.unpack_layer(descriptor, diff_id, Progress::none()).await.unwrap();
    sink.write(Bytes::copy_from_slice(&blob[..blob.len() - 20])).await.unwrap();
    assert!(sink.finish().await.is_err());
    assert_eq!(remote.pull(&place.images, "app").await.unwrap(), remote.id());
}

#[tokio::test]
async fn the_same_layer_may_come_twice_at_once() {
    let place = Place::new();
    let remote = app();
    let (a, b) = tokio::join!(remote.pull(&place.images, "a"), remote.pull(&place.images, "b"));
    assert_eq!((a.unwrap(), b.unwrap()), (remote.id(), remote.id()));
    place.images.settle();
    assert_eq!(place.names("layers"), place.names("layers").into_iter().filter(|n| n.len() == 1).collect::<Vec<_>>());
    assert_eq!(place.names("layers").len(), 3);
}

#[tokio::test]
async fn removal_follows_dockers_rules() {
    let place = Place::new();
    let id = app().pull(&place.images, "app").await.unwrap();
    place.images.tag(&id, &reference("other:2")).await.unwrap();
    let images = &place.images;
    let remove = |name: String, force| async move {
        images.remove(&name, RemoveOptions { force, prune_parents: true, users: vec![] }).await
    };
    let error = remove(id.to_string(), false).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            id.short()
        )
    );
    let steps = remove("other:2".into(), false).await.unwrap();
    assert_eq!(steps, [Removed::Untagged(reference("other:2"))]);

    place.images.create_rootfs("0123456789abcdef", Some(&id)).await.unwrap();
    let error = remove("app".into(), false).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to remove repository reference \"app\" (must force) - container 0123456789ab is using its referenced image {}",
            id.short()
        )
    );
    let error = remove(id.short(), false).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container 0123456789ab",
            id.short()
        )
    );
    let users = vec![ImageUser { image: id, container: "0123456789abcdef".into(), running: true }];
    let running = images.remove(&id.to_string(), RemoveOptions { force: true, prune_parents: true, users }).await;
    assert_eq!(
        running.unwrap_err().to_string(),
        format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container 0123456789ab",
            id.short()
        )
    );

    let steps = remove("app".into(), true).await.unwrap();
    assert!(
        matches!(&steps[..], [Removed::Untagged(_), Removed::Untagged(_), Removed::Deleted(deleted)] if *deleted == id),
        "{steps:?}"
    );
    place.images.gc(false).await.unwrap();
    assert_eq!(place.names("layers").len(), 3, "the container still has its layers");
    place.images.remove_rootfs("0123456789abcdef").await.unwrap();
    place.images.gc(false).await.unwrap();
    place.images.settle();
    assert_eq!((place.names("layers"), place.names("blobs/sha256").len()), (vec!["0".to_owned()], 0));
}

#[tokio::test]
async fn a_held_image_stays() {
    let place = Place::new();
    let id = app().pull(&place.images, "app").await.unwrap();
    place.images.hold("function/f1", &id).await.unwrap();
    let images = place.reopened();
    let options = RemoveOptions { force: true, ..RemoveOptions::default() };
    let error = images.remove(&id.to_string(), options.clone()).await.unwrap_err().to_string();
    assert!(error.contains("being used by function/f1"), "{error}");
    images.release("function/f1").await.unwrap();
    images.remove(&id.to_string(), options).await.unwrap();
}

#[tokio::test]
async fn lists_are_filtered_and_pruned() {
    let place = Place::new();
    let old = Remote::new(&[base_layer()], |config| {
        config.created = Some("2020-01-01T00:00:00Z".into());
        config.config.labels.insert("stage".into(), "old".into());
    });
    let new = Remote::new(&[base_layer()], |config| config.config.labels.extend([("stage".into(), "new".into())]));
    old.pull(&place.images, "team/app:1").await.unwrap();
    new.pull(&place.images, "team/app:2").await.unwrap();
    let newer = Remote::new(&[base_layer()], |config| config.created = Some("2026-05-05T00:00:00Z".into()));
    newer.pull(&place.images, "team/app:2").await.unwrap();
    let ids = |filters: ListFilters| place.images.list(&filters).iter().map(|s| s.image.id).collect::<Vec<_>>();
    assert_eq!(ids(ListFilters::default()), [newer.id(), new.id(), old.id()]);
    assert_eq!(ids(ListFilters { dangling: Some(true), ..Default::default() }), [new.id()]);
    let label = image::LabelFilter::parse("stage=old");
    assert_eq!(ids(ListFilters { labels: vec![label], ..Default::default() }), [old.id()]);
    assert_eq!(ids(ListFilters { before: Some(new.id()), ..Default::default() }), [old.id()]);
    assert_eq!(ids(ListFilters { since: Some(new.id()), ..Default::default() }), [newer.id()]);
    let pattern = image::reference::Pattern::parse("team/*:1").unwrap();
    assert_eq!(ids(ListFilters { references: vec![pattern], ..Default::default() }), [old.id()]);

    let steps = place.images.prune(PruneFilters::default(), vec![]).await.unwrap();
    assert!(steps.contains(&Removed::Deleted(new.id())), "{steps:?}");
    let users = vec![ImageUser { image: newer.id(), container: "c".into(), running: true }];
    let steps = place.images.prune(PruneFilters { all: true, ..Default::default() }, users).await.unwrap();
    assert!(steps.contains(&Removed::Deleted(old.id())), "{steps:?}");
    assert_eq!(ids(ListFilters::default()), [newer.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_collected_while_images_come_and_go() {
    let place = Place::new();
    let remotes: Vec<Remote> =
        (0..6).map(|n| Remote::new(&[base_layer(), tar(&[file("n", &n.to_string())])], |_| {})).collect();
    let images = place.images.clone();
    let collector = tokio::spawn(async move {
        for _ in 0..200 {
            images.gc(true).await.unwrap();
        }
    });
    for round in 0..5 {
        for (n, remote) in remotes.iter().enumerate() {
            let id = remote.pull(&place.images, &format!("app{n}")).await.unwrap();
            let rootfs = place.images.create_rootfs(&format!("c{n}"), Some(&id)).await.unwrap();
            for lower in &rootfs.lower {
                assert!(rootfs.layers_dir.join(lower).is_dir(), "round {round}: {lower}");
            }
            place.images.remove(&id.to_string(), RemoveOptions { force: true, ..Default::default() }).await.unwrap();
            place.images.remove_rootfs(&format!("c{n}")).await.unwrap();
        }
    }
    collector.await.unwrap();
}

#[tokio::test]
async fn what_is_pushed_is_what_was_pulled() {
    let place = Place::new();
    let remote = app();
    let id = remote.pull(&place.images, "app").await.unwrap();
    let push = place.images.manifest_for_push(&id).await.unwrap();
    assert_eq!(push.manifest, remote.manifest);
    for layer in push.layers.iter() {
        let mut reader = place.images.open_blob(&layer.descriptor.digest, 3).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&piece);
        }
        let blob = &remote.layers.iter().find(|(d, _, _)| d.digest == layer.descriptor.digest).unwrap().2;
        assert_eq!(bytes, blob[3..]);
    }
    let digest = image::Digest::of(&push.manifest);
    place.images.note_pushed(&id, "mirror.example/app", &digest).await.unwrap();
    let push = place.images.manifest_for_push(&id).await.unwrap();
    assert_eq!(push.layers[0].sources, ["mirror.example/app"]);
    assert_eq!(place.images.resolve(&format!("mirror.example/app@{digest}")).unwrap(), id);
}
