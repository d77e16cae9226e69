//! Pushing to a real registry, and to one that misbehaves.

use std::sync::{Arc, Mutex};

use hyper::Method;
use image::registry::{Registries, RegistryError};
use image::{Digest, ImageId, Phase, Progress};

use crate::fixture::{Events, Fixture, Place, registries};
use crate::misbehaving::{Misbehaving, Reply, refused};
use crate::server::Server;

/// Has the fixture in `place`, without a word to the registry that it is going to be pushed to.
async fn bring_in(place: &Place, fixture: &Fixture) -> ImageId {
    let origin = Misbehaving::start(fixture, |_, _| None).await;
    registries().pull(&place.images, &origin.name("x"), None, None, Progress::none()).await.unwrap().image_id
}

async fn pull_elsewhere(registries: &Registries, name: &image::Reference, fixture: &Fixture) {
    let elsewhere = Place::new();
    registries.pull(&elsewhere.images, name, None, None, Progress::none()).await.unwrap();
    elsewhere.holds(fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_up_as_it_came_and_only_once() {
    let (server, place, events) = (Server::open().await, Place::new(), Events::default());
    let fixture = Fixture::new("push", &[500_000, 20, 3_000_000]);
    let image = bring_in(&place, &fixture).await;
    let (registries, name) = (registries(), server.name("team/app:1"));
    let pushed = registries.push(&place.images, &image, &name, None, events.progress()).await.unwrap();
    assert_eq!((pushed.digest, pushed.size), (fixture.digest(), fixture.manifest.len() as u64));
    for diff_id in &fixture.diff_ids {
        let phases = events.of(diff_id);
        assert_eq!((phases.first(), phases.last()), (Some(&Phase::Preparing), Some(&Phase::Pushed)));
    }
    pull_elsewhere(&registries, &name, &fixture).await;

    let events = Events::default();
    registries.push(&place.images, &image, &server.name("team/app:2"), None, events.progress()).await.unwrap();
    for diff_id in &fixture.diff_ids {
        assert_eq!(events.of(diff_id).last(), Some(&Phase::LayerAlreadyExists));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_mounted_from_where_it_was_pulled_or_pushed() {
    let (server, place, registries) = (Server::open().await, Place::new(), registries());
    let fixture = Fixture::new("mount", &[100_000]);
    fixture.publish(&server.text("base:1"), None);
    let image =
        registries.pull(&place.images, &server.name("base:1"), None, None, Progress::none()).await.unwrap().image_id;
    let events = Events::default();
    registries.push(&place.images, &image, &server.name("derived:1"), None, events.progress()).await.unwrap();
    let from = |path: &str| Phase::Mounted { from: path.into() };
    assert_eq!(events.of(&fixture.diff_ids[0]).last(), Some(&from("base")));
    pull_elsewhere(&registries, &server.name("derived:1"), &fixture).await;

    // Brought in from elsewhere, the first push sends it, and the second knows where it is.
    let (place, other) = (Place::new(), Fixture::new("mount 2", &[100_000]));
    let image = bring_in(&place, &other).await;
    registries.push(&place.images, &image, &server.name("one"), None, Progress::none()).await.unwrap();
    let events = Events::default();
    registries.push(&place.images, &image, &server.name("two"), None, events.progress()).await.unwrap();
    assert_eq!(events.of(&other.diff_ids[0]).last(), Some(&from("one")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_cannot_be_pushed_to() {
    let place = Place::new();
    let fixture = Fixture::new("digest", &[10]);
    let name = format!("127.0.0.1:1/x@{}", fixture.digest()).parse().unwrap();
    let error = registries().push(&place.images, &fixture.id(), &name, None, Progress::none()).await.unwrap_err();
    assert!(matches!(error, RegistryError::PushByDigest));
}

/// Uploads as a registry keeps them: what came, and whether it was accepted.
#[derive(Default)]
struct Uploads {
    open: Vec<u8>,
    done: Vec<Digest>,
    manifest: Option<Vec<u8>>,
}

/// A registry that takes one upload after another, and asks for chunks of at least `chunk_min` bytes where given.
fn taking(
    uploads: Arc<Mutex<Uploads>>,
    chunk_min: Option<u64>,
    behave: impl Fn(&crate::misbehaving::Seen, usize, &mut Uploads) -> Option<Reply> + Send + Sync + 'static,
) -> impl Fn(&crate::misbehaving::Seen, usize) -> Option<Reply> + Send + Sync + 'static {
    move |seen, before| {
        let mut uploads = uploads.lock().unwrap();
        if let Some(reply) = behave(seen, before, &mut uploads) {
            return Some(reply);
        }
        let at = |status: u16, uploads: &Uploads| {
            let reply = Reply::new(status, "").with("location", "/v2/x/blobs/uploads/1?state=a");
            match uploads.open.len() {
                0 => reply.with("range", "0-0"),
                length => reply.with("range", format!("0-{}", length - 1)),
            }
        };
        match (&seen.method, seen.path()) {
            (&Method::HEAD, path) if path.contains("/blobs/") => Some(Reply::new(404, "")),
            (&Method::POST, _) => {
                uploads.open.clear();
                let reply = at(202, &uploads);
                Some(match chunk_min {
                    Some(min) => reply.with("oci-chunk-min-length", min.to_string()),
                    None => reply,
                })
            }
            (&Method::GET, path) if path.contains("uploads") => Some(at(204, &uploads)),
            (&Method::PATCH, _) => {
                let start = seen.header("content-range").map(|range| range.split('-').next().unwrap().parse().unwrap());
                if start.is_some_and(|start: usize| start != uploads.open.len()) {
                    return Some(Reply::new(416, ""));
                }
                uploads.open.extend_from_slice(&seen.body);
                Some(at(202, &uploads))
            }
            (&Method::PUT, path) if path.contains("uploads") => {
                let digest = Digest::of(&uploads.open);
                if seen.query("digest") != [digest.to_string()] {
                    return Some(refused(400, "DIGEST_INVALID", "provided digest did not match uploaded content"));
                }
                uploads.done.push(digest);
                uploads.open.clear();
                Some(Reply::new(201, ""))
            }
            (&Method::PUT, _) => {
                uploads.manifest = Some(seen.body.to_vec());
                Some(Reply::new(201, ""))
            }
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_sent_where_the_registry_wants_them() {
    let (place, fixture) = (Place::new(), Fixture::new("chunks", &[20_000_000]));
    let image = bring_in(&place, &fixture).await;
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let registry = Misbehaving::start(&fixture, taking(uploads.clone(), Some(5 << 20), |_, _, _| None)).await;
    registries().push(&place.images, &image, &registry.name("x"), None, Progress::none()).await.unwrap();
    let uploads = uploads.lock().unwrap();
    assert_eq!(uploads.done, [fixture.layers[0].digest, fixture.config]);
    assert_eq!(uploads.manifest.as_ref(), Some(&fixture.manifest));
    let chunks: Vec<usize> = registry.seen(&Method::PATCH, "").iter().map(|seen| seen.body.len()).collect();
    assert!(chunks.len() >= 3 && chunks[0] == 8 << 20, "{chunks:?}");
    assert!(
        registry.seen(&Method::PUT, "uploads").iter().all(|seen| seen.query("state") == ["a"]),
        "the state is given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let (place, fixture) = (Place::new(), Fixture::new("broken", &[2_000_000]));
    let image = bring_in(&place, &fixture).await;
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let registry = Misbehaving::start(
        &fixture,
        taking(uploads.clone(), None, |seen, before, uploads| {
            // The first time, only a part arrives.
            (seen.method == Method::PATCH && before == 0).then(|| {
                uploads.open.extend_from_slice(&seen.body[..700_000]);
                Reply::new(502, "")
            })
        }),
    )
    .await;
    let events = Events::default();
    registries().push(&place.images, &image, &registry.name("x"), None, events.progress()).await.unwrap();
    assert_eq!(uploads.lock().unwrap().done, [fixture.layers[0].digest, fixture.config]);
    let again = &registry.seen(&Method::PATCH, "")[1];
    assert!(again.header("content-range").unwrap().starts_with("700000-"));
    assert!(events.all().iter().any(|phase| matches!(phase, Phase::Retrying { .. })));
}

/// A registry that writes a manifest in place finds another digest while somebody else pushes the same one.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_another_push_is_just_writing_is_put_again() {
    let (place, fixture) = (Place::new(), Fixture::new("same", &[10]));
    let image = bring_in(&place, &fixture).await;
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let registry = Misbehaving::start(
        &fixture,
        taking(uploads.clone(), None, |seen, before, _| {
            (seen.method == Method::PUT && seen.path().contains("/manifests/") && before == 0)
                .then(|| refused(400, "DIGEST_INVALID", "provided digest did not match uploaded content"))
        }),
    )
    .await;
    registries().push(&place.images, &image, &registry.name("x"), None, Progress::none()).await.unwrap();
    assert_eq!(uploads.lock().unwrap().manifest.as_ref(), Some(&fixture.manifest));
    assert_eq!(registry.seen(&Method::PUT, "/manifests/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_forgot_begins_again() {
    let (place, fixture) = (Place::new(), Fixture::new("forgot", &[100_000]));
    let image = bring_in(&place, &fixture).await;
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let registry = Misbehaving::start(
        &fixture,
        taking(uploads.clone(), None, |seen, before, _| match (&seen.method, seen.path().contains("uploads")) {
            (&Method::PATCH, _) if before == 0 => Some(Reply::new(500, "")),
            (&Method::GET, true) => Some(refused(404, "BLOB_UPLOAD_UNKNOWN", "unknown")),
            _ => None,
        }),
    )
    .await;
    registries().push(&place.images, &image, &registry.name("x"), None, Progress::none()).await.unwrap();
    assert_eq!(uploads.lock().unwrap().done, [fixture.layers[0].digest, fixture.config]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_is_told_so() {
    let (place, fixture) = (Place::new(), Fixture::new("denied", &[10]));
    let image = bring_in(&place, &fixture).await;
    let registry = Misbehaving::start(&fixture, |seen, _| match seen.method {
        Method::POST => Some(refused(403, "DENIED", "requested access to the resource is denied")),
        Method::HEAD => Some(Reply::new(404, "")),
        _ => None,
    })
    .await;
    let error =
        registries().push(&place.images, &image, &registry.name("x"), None, Progress::none()).await.unwrap_err();
    assert_eq!(error.to_string(), "denied: requested access to the resource is denied");
    assert_eq!(error.kind(), image::registry::RegistryErrorKind::Forbidden);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_made_here_travels() {
    let (server, place, registries) = (Server::open().await, Place::new(), registries());
    let spec = "busybox".parse().unwrap();
    let prepared = image::bootstrap::prepare(&spec, &|_| {}).unwrap();
    let metadata = prepared.metadata();
    // The archive is imported while it is made.
    let (archive, sink) = std::io::pipe().unwrap();
    let import = place.images.import(archive, metadata.options(), Progress::none());
    let (image, written) =
        tokio::join!(import, async { tokio::task::block_in_place(|| prepared.write(sink, &|_| {})) });
    written.unwrap();
    let image = image.unwrap();
    assert_eq!(place.images.resolve("busybox").unwrap(), image);
    let name = server.name("busybox:made");
    registries.push(&place.images, &image, &name, None, Progress::none()).await.unwrap();

    let elsewhere = Place::new();
    let pulled = registries.pull(&elsewhere.images, &name, None, None, Progress::none()).await.unwrap();
    assert_eq!(pulled.image_id, image);
    let config = elsewhere.images.config(&image).unwrap();
    assert_eq!(config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    assert_eq!(config.history[0].created_by, "stratus image bootstrap busybox");
}
