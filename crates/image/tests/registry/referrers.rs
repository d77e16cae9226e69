//! What is said of an image goes up with it, whatever the registry knows of referrers.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use hyper::Method;
use image::registry::{RegistryError, Said, SaidOf};
use image::{Attestation, Digest, ImageId, Progress, Reference, RemoveOptions};
use serde_json::{Value, json};

use crate::fixture::{Fixture, Place, registries};
use crate::misbehaving::{Misbehaving, Reply, Seen, missing, refused};
use crate::server::Server;

const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const SPDX: &str = "https://spdx.dev/Document";

fn said(kind: &str, what: &str) -> Attestation {
    Attestation { predicate_type: kind.into(), predicate: json!({ "what": what }) }
}

/// A place with the fixture, of which this is said.
async fn place(fixture: &Fixture, all: Vec<Attestation>) -> (Place, ImageId) {
    let place = Place::new();
    let origin = Misbehaving::start(fixture, |_, _| None).await;
    let pulled = registries().pull(&place.images, &origin.name("x"), None, None, Progress::none()).await.unwrap();
    place.images.attest(&pulled.image_id, &[], all).await.unwrap();
    (place, pulled.image_id)
}

async fn push(place: &Place, image: &ImageId, name: &Reference) -> Result<Digest, RegistryError> {
    registries().push(&place.images, image, name, None, Progress::none()).await.map(|pushed| pushed.digest)
}

fn statements(found: &[SaidOf]) -> Vec<Attestation> {
    let all = found.iter().flat_map(|one| &one.said).filter_map(|(_, said)| match said {
        Said::Statement(attestation) => Some(attestation.clone()),
        Said::Odd(_) => None,
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by(|a, b| a.predicate_type.cmp(&b.predicate_type));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_no_referrers_has_a_list_under_a_tag() {
    let server = Server::open().await;
    let fixture = Fixture::new("said", &[1000]);
    let all = vec![said(PROVENANCE, "how"), said(SPDX, "what of")];
    let (place, image) = place(&fixture, all.clone()).await;
    let name = server.name("team/app:1");
    assert_eq!(push(&place, &image, &name).await.unwrap(), fixture.digest(), "the image is what it was");
    let found = registries().said_of(&name, None).await.unwrap();
    assert_eq!((found.len(), found[0].subject), (1, fixture.digest()));
    assert_eq!(statements(&found), all);
    // Again, under another name: it is the same, and there once.
    push(&place, &image, &server.name("team/app:2")).await.unwrap();
    assert_eq!(registries().said_of(&server.name("team/app:2"), None).await.unwrap(), found);
    // Something else of the same kind is said beside it, and an image of which nothing is said has nothing.
    place.images.attest(&image, &[], vec![said(SPDX, "more")]).await.unwrap();
    push(&place, &image, &name).await.unwrap();
    let found = statements(&registries().said_of(&name, None).await.unwrap());
    assert_eq!(found, [said(PROVENANCE, "how"), said(SPDX, "what of"), said(SPDX, "more")]);
    let other = Fixture::new("nothing said", &[10]);
    other.publish(&server.text("team/app:3"), None);
    assert_eq!(statements(&registries().said_of(&server.name("team/app:3"), None).await.unwrap()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_who_say_something_at_once_are_all_heard() {
    let server = Server::open().await;
    let fixture = Fixture::new("at once", &[1000]);
    let (registries, name) = (registries(), server.name("app:1"));
    let mut pushes = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (place, image) = place(&fixture, vec![said(SPDX, &number.to_string())]).await;
        let (registries, name) = (registries.clone(), name.clone());
        pushes.spawn(async move {
            // All of it: its directory goes with it.
            let place = place;
            registries.push(&place.images, &image, &name, None, Progress::none()).await.unwrap();
        });
    }
    while let Some(done) = pushes.join_next().await {
        done.unwrap();
    }
    assert_eq!(statements(&registries.said_of(&name, None).await.unwrap()).len(), 6);
}

/// A registry that takes everything, and keeps manifests.
fn taking(
    manifests: Arc<Mutex<std::collections::BTreeMap<String, Vec<u8>>>>,
    behave: impl Fn(&Seen, usize, &str) -> Option<Reply> + Send + Sync + 'static,
) -> impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static {
    move |seen, before| {
        let version = seen.path().rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(reply) = behave(seen, before, &version) {
            return Some(reply);
        }
        match (&seen.method, seen.path()) {
            (&Method::HEAD, path) if path.contains("/blobs/") => Some(Reply::new(200, "")),
            (&Method::PUT, path) if path.contains("/manifests/") => {
                manifests.lock().unwrap().insert(version, seen.body.to_vec());
                Some(Reply::new(201, ""))
            }
            (&Method::GET, path) if path.contains("/manifests/") => {
                let kept = manifests.lock().unwrap().get(&version).cloned();
                Some(kept.map_or_else(|| missing("MANIFEST_UNKNOWN", "unknown"), |kept| Reply::new(200, kept)))
            }
            _ => None,
        }
    }
}

fn digests(list: &[u8]) -> BTreeSet<String> {
    let list: Value = serde_json::from_slice(list).unwrap();
    list["manifests"].as_array().unwrap().iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_somebody_else_writes_at_the_same_moment_has_both() {
    let fixture = Fixture::new("race", &[10]);
    let (place, image) = place(&fixture, vec![said(SPDX, "ours")]).await;
    let manifests = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let tag = format!("sha256-{}", fixture.digest().hex());
    let theirs = |name: &str| json!({ "mediaType": "x/y", "digest": Digest::of(name.as_bytes()), "size": 1 });
    let list = move |names: &[&str]| {
        let entries: Vec<Value> = names.iter().map(|name| theirs(name)).collect();
        let kind = image::media_type::OCI_INDEX;
        json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries }).to_string().into_bytes()
    };
    manifests.lock().unwrap().insert(tag.clone(), list(&["a"]));
    let (kept, listed) = (manifests.clone(), tag.clone());
    let registry = Misbehaving::start(
        &fixture,
        taking(manifests.clone(), move |seen, before, version| {
            // Each time somebody who had read the list before us writes it after us; the second time once it was looked at.
            let mut kept = kept.lock().unwrap();
            match (&seen.method, version == listed, before) {
                (&Method::PUT, true, 0) => kept.insert(version.to_owned(), list(&["a", "b"])),
                (&Method::GET, true, 3) => kept.insert(version.to_owned(), list(&["a", "b", "c"])),
                _ => return None,
            };
            (seen.method == Method::PUT).then(|| Reply::new(201, ""))
        }),
    )
    .await;
    push(&place, &image, &registry.name("x")).await.unwrap();
    let list = manifests.lock().unwrap()[&tag].clone();
    let puts = registry.seen(&Method::PUT, "/manifests/sha256:");
    let ours =
        puts.iter().map(|put| Digest::of(&put.body).to_string()).filter(|own| *own != fixture.digest().to_string());
    let theirs = ["a", "b", "c"].map(|name| Digest::of(name.as_bytes()).to_string());
    assert_eq!(digests(&list), theirs.into_iter().chain(ours).collect());
    assert_eq!(digests(&list).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_keeps_the_list_itself_is_asked_for_it() {
    let fixture = Fixture::new("knows", &[10]);
    let (place, image) = place(&fixture, vec![said(SPDX, "ours")]).await;
    let manifests = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let subject = fixture.digest().to_string();
    let known = subject.clone();
    let registry = Misbehaving::start(
        &fixture,
        taking(manifests.clone(), move |seen, _, version| {
            let refers = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["subject"]["digest"] == *known;
            (seen.method == Method::PUT && version.starts_with("sha256:") && refers(&seen.body))
                .then(|| Reply::new(201, "").with("oci-subject", known.clone()))
        }),
    )
    .await;
    push(&place, &image, &registry.name("x")).await.unwrap();
    let written: Vec<String> = manifests.lock().unwrap().keys().cloned().collect();
    assert_eq!(written, ["latest"], "no list is written");
    // Two pages of what refers to the image, one thing of which is no statement.
    let put = registry.seen(&Method::PUT, "/manifests/sha256:")[0].clone();
    let mut served = fixture.clone();
    let statement = image_statement(&put.body, &subject);
    let layer = Digest::of(&statement);
    served.blobs.insert(layer, statement);
    let manifest = json!({ "schemaVersion": 2, "config": { "mediaType": "x/y", "digest": layer, "size": 2 },
        "layers": [{ "mediaType": "application/vnd.in-toto+json", "digest": layer, "size": 1 }] })
    .to_string();
    let (first, empty) = (Digest::of(manifest.as_bytes()), Digest::of(b"{}"));
    let page = |digest: &Digest| {
        let kind = "application/vnd.in-toto+json";
        json!({ "schemaVersion": 2, "manifests": [{ "digest": digest, "size": 1, "artifactType": kind }, { "digest": "sha512:odd" }] })
            .to_string()
    };
    let (one, two) = (page(&first), page(&empty));
    let registry = Misbehaving::start(&served, move |seen, _| match (seen.path(), seen.query("page").is_empty()) {
        (path, true) if path.ends_with(&format!("/referrers/{subject}")) => {
            Some(Reply::new(200, one.clone()).with("link", "<?page=2>; rel=\"next\""))
        }
        (path, false) if path.contains("/referrers/") => Some(Reply::new(200, two.clone())),
        (path, _) if path.ends_with(&first.to_string()) && path.contains("/manifests/") => {
            Some(Reply::new(200, manifest.clone()))
        }
        (path, _) if path.ends_with(&empty.to_string()) => Some(Reply::new(200, "{}")),
        _ => None,
    })
    .await;
    let found = registries().said_of(&registry.name("x"), None).await.unwrap();
    assert_eq!(statements(&found), [said(SPDX, "theirs")]);
    assert!(matches!(&found[0].said[1].1, Said::Odd(why) if why.contains("manifest")), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_fill_the_memory() {
    let mut fixture = Fixture::new("much", &[10]);
    let text = "x".repeat(4 << 20);
    let layer = Digest::of(text.as_bytes());
    fixture.blobs.insert(layer, text.into_bytes());
    let kind = "application/vnd.in-toto+json";
    let manifest = json!({ "schemaVersion": 2, "config": { "mediaType": "x/y", "digest": layer, "size": 2 },
        "layers": [{ "mediaType": kind, "digest": layer, "size": 1 }] })
    .to_string();
    let digest = Digest::of(manifest.as_bytes());
    let entries = vec![json!({ "digest": digest, "size": 1, "artifactType": kind }); 20];
    let list = json!({ "schemaVersion": 2, "manifests": entries }).to_string();
    let registry = Misbehaving::start(&fixture, move |seen, _| match seen.path() {
        path if path.contains("/referrers/") => Some(Reply::new(200, list.clone())),
        path if path.ends_with(&format!("/manifests/{digest}")) => Some(Reply::new(200, manifest.clone())),
        _ => None,
    })
    .await;
    let error = registries().said_of(&registry.name("x"), None).await.unwrap_err().to_string();
    assert!(error.contains("all together, is larger than 67108864 bytes"), "{error}");
    assert_eq!(registry.seen(&Method::GET, "/blobs/").len(), 17);
}

/// A statement about the same image as the referrer that was pushed.
fn image_statement(referrer: &[u8], subject: &str) -> Vec<u8> {
    let referrer: Value = serde_json::from_slice(referrer).unwrap();
    assert_eq!(referrer["subject"]["digest"], subject);
    let hex = subject.strip_prefix("sha256:").unwrap();
    json!({ "_type": "https://in-toto.io/Statement/v1", "subject": [{ "name": "_", "digest": { "sha256": hex } }],
        "predicateType": SPDX, "predicate": { "what": "theirs" } })
    .to_string()
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_take_it_has_the_image_and_the_push_says_so() {
    let fixture = Fixture::new("refuses", &[10]);
    let (place, image) = place(&fixture, vec![said(SPDX, "ours")]).await;
    let manifests = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let registry = Misbehaving::start(
        &fixture,
        taking(manifests.clone(), |seen, _, version| {
            (seen.method == Method::PUT && version.starts_with("sha256:"))
                .then(|| refused(400, "MANIFEST_INVALID", "no such kind"))
        }),
    )
    .await;
    let error = push(&place, &image, &registry.name("x")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(SPDX) && text.contains("no such kind") && text.contains("the image is there"), "{text}");
    assert!(manifests.lock().unwrap().contains_key("latest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_of_an_image_goes_with_it() {
    let fixture = Fixture::new("goes", &[10]);
    let (place, image) = place(&fixture, vec![said(PROVENANCE, "first")]).await;
    place.images.attest(&image, &[], vec![said(SPDX, "packages"), said(PROVENANCE, "how")]).await.unwrap();
    let collected = place.images.gc(true).await.unwrap();
    assert_eq!(collected.blobs, 1, "what is no longer said");
    let kept = place.images.attestations(&image).await.unwrap();
    let kinds: Vec<_> = kept.iter().map(|(record, _)| &*record.predicate_type).collect();
    assert_eq!((kinds, &kept[0].1["what"]), (vec![PROVENANCE, SPDX], &json!("how")));
    // An image that comes again is no other.
    let origin = Misbehaving::start(&fixture, |_, _| None).await;
    registries().pull(&place.images, &origin.name("x"), None, None, Progress::none()).await.unwrap();
    assert_eq!(place.images.attestations(&image).await.unwrap(), kept);
    place.images.remove(&image.to_string(), RemoveOptions { force: true, ..RemoveOptions::default() }).await.unwrap();
    place.images.gc(true).await.unwrap();
    let ingest = place.images.begin_image();
    assert!(kept.iter().all(|(record, _)| !ingest.has_blob(&record.predicate)));
    place.images.attest(&image, &[], Vec::new()).await.expect_err("it is gone");
}
