//! Pulling from a real registry.

use image::registry::{PullStatus, RegistryConfig, RegistryErrorKind};
use image::{Phase, Progress, media_type};

use crate::fixture::{Events, Fixture, Place, impatient, registries};
use crate::misbehaving::{Misbehaving, Reply, missing};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_in_and_is_up_to_date_the_second_time() {
    let (server, place, events) = (Server::open().await, Place::new(), Events::default());
    let fixture = Fixture::new("first", &[300_000, 20, 2_000_000]);
    fixture.publish(&server.text("team/app:1"), None);
    let registries = registries();
    let name = server.name("team/app:1");

    let pulled = registries.pull(&place.images, &name, None, None, events.progress()).await.unwrap();
    assert_eq!((pulled.image_id, pulled.digest), (fixture.id(), fixture.digest()));
    assert_eq!(pulled.status, PullStatus::DownloadedNewer);
    place.holds(&fixture);
    for layer in &fixture.layers {
        let phases = events.of(&layer.digest);
        assert_eq!(phases.first(), Some(&Phase::PullingFsLayer));
        assert_eq!(phases.last(), Some(&Phase::PullComplete));
        let at = |wanted: &Phase| phases.iter().position(|phase| phase == wanted).unwrap();
        assert!(at(&Phase::VerifyingChecksum) < at(&Phase::DownloadComplete));
    }

    let again = registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap();
    assert_eq!((again.image_id, again.status), (fixture.id(), PullStatus::UpToDate));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_here_are_not_fetched_again() {
    let (server, place, events) = (Server::open().await, Place::new(), Events::default());
    let small = Fixture::new("shared", &[1000]);
    let large = Fixture::new("shared", &[1000, 2000]);
    small.publish(&server.text("small"), None);
    large.publish(&server.text("large"), None);
    let registries = registries();
    registries.pull(&place.images, &server.name("small"), None, None, Progress::none()).await.unwrap();
    registries.pull(&place.images, &server.name("large"), None, None, events.progress()).await.unwrap();
    assert_eq!(events.of(&large.layers[0].digest), [Phase::AlreadyExists]);
    assert_eq!(events.of(&large.layers[1].digest).last(), Some(&Phase::PullComplete));
    place.holds(&large);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_pins_an_image_while_its_tag_moves_on() {
    let (server, place) = (Server::open().await, Place::new());
    let (old, new) = (Fixture::new("old", &[10]), Fixture::new("new", &[10]));
    let registries = registries();
    old.publish(&server.text("app:1"), None);
    new.publish(&server.text("app:1"), None);
    let by_tag = registries.pull(&place.images, &server.name("app:1"), None, None, Progress::none()).await.unwrap();
    assert_eq!(by_tag.image_id, new.id());
    let pinned = server.name(&format!("app@{}", old.digest()));
    let by_digest = registries.pull(&place.images, &pinned, None, None, Progress::none()).await.unwrap();
    assert_eq!((by_digest.image_id, by_digest.digest), (old.id(), old.digest()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_as_docker_says_it() {
    let (server, place) = (Server::open().await, Place::new());
    Fixture::new("x", &[10]).publish(&server.text("app:1"), None);
    for name in ["app:2", "none:1"] {
        let reference = server.name(name);
        let error = registries().pull(&place.images, &reference, None, None, Progress::none()).await.unwrap_err();
        let want = format!("manifest for {} not found: manifest unknown: manifest unknown", reference.familiar());
        assert_eq!((error.to_string(), error.kind()), (want, RegistryErrorKind::NotFound));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_for_the_platform() {
    let place = Place::new();
    let (amd64, arm) = (Fixture::on("a", &[10], "amd64"), Fixture::on("b", &[10], "arm"));
    let entry = |fixture: &Fixture, architecture: &str, variant: Option<&str>| {
        serde_json::json!({"mediaType": media_type::OCI_MANIFEST, "digest": fixture.digest(), "size": fixture.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture, "variant": variant}})
    };
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [entry(&arm, "arm", Some("v6")), entry(&amd64, "amd64", None)]});
    let index = index.to_string().into_bytes();
    let top = image::Digest::of(&index);
    let mut both = amd64.clone();
    both.blobs.extend(arm.blobs.clone());
    let manifests = [(amd64.digest(), amd64.manifest.clone()), (arm.digest(), arm.manifest.clone())];
    let registry = Misbehaving::start(&both, move |seen, _| {
        let version = seen.path().strip_prefix("/v2/x/manifests/")?;
        if version == "latest" {
            return Some(Reply::new(200, index.clone()).with("content-type", media_type::OCI_INDEX));
        }
        let found = manifests.iter().find(|(digest, _)| digest.to_string() == version)?;
        Some(Reply::new(200, found.1.clone()).with("content-type", media_type::OCI_MANIFEST))
    })
    .await;
    let registries = registries();
    let name = registry.name("x");
    let pull = async |platform: Option<&str>| {
        let platform = platform.map(|text| text.parse().unwrap());
        registries.pull(&place.images, &name, platform.as_ref(), None, Progress::none()).await
    };
    let own = pull(None).await.unwrap();
    assert_eq!((own.image_id, own.digest), (amd64.id(), top));
    assert_eq!(pull(Some("linux/arm/v7")).await.unwrap().image_id, arm.id());
    let error = pull(Some("linux/s390x")).await.unwrap_err();
    assert_eq!(error.to_string(), "no matching manifest for linux/s390x in the manifest list entries");
    let inspected = registries.inspect(&name, None).await.unwrap();
    assert_eq!(inspected.descriptor.digest, top);
    let platforms: Vec<String> = inspected.platforms.iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/arm/v6", "linux/amd64"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_the_registry_where_it_fails() {
    let fixture = Fixture::new("m", &[5000]);
    let mirror = Misbehaving::start(&fixture, |_, _| None).await;
    let broken =
        Misbehaving::start(&fixture, |seen, _| seen.path().contains("blobs").then(|| missing("BLOB_UNKNOWN", "gone")))
            .await;
    let upstream = Misbehaving::start(&fixture, |_, _| None).await;
    let with_mirror = |address: String| {
        let mirrors = [(upstream.host.clone(), vec![address])].into();
        image::registry::Registries::new(RegistryConfig { mirrors, ..impatient() })
    };
    let name = upstream.name("x");
    let get = hyper::Method::GET;

    let place = Place::new();
    let registries = with_mirror(format!("http://ann:pass@{}/", mirror.host));
    registries
        .pull(&place.images, &name, None, Some(&image::registry::Auth::password("bob", "secret", "")), Progress::none())
        .await
        .unwrap();
    place.holds(&fixture);
    assert!(upstream.seen(&get, "manifests").is_empty() && !mirror.seen(&get, "blobs").is_empty());

    let place = Place::new();
    let registries = with_mirror(format!("http://{}", broken.host));
    registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
    assert!(!broken.seen(&get, "blobs").is_empty(), "the mirror was asked for the layer");

    let place = Place::new();
    let registries = with_mirror("http://127.0.0.1:1".into());
    registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image_fetch_each_layer_once() {
    let fixture = Fixture::new("twice", &[3_000_000, 10]);
    let registry = Misbehaving::start(&fixture, |_, _| None).await;
    let (place, registries) = (Place::new(), registries());
    let (one, two) = (registry.name("one"), registry.name("two"));
    let (a, b) = tokio::join!(
        registries.pull(&place.images, &one, None, None, Progress::none()),
        registries.pull(&place.images, &two, None, None, Progress::none())
    );
    assert_eq!(a.unwrap().image_id, b.unwrap().image_id);
    let fetched = registry.seen(&hyper::Method::GET, &fixture.layers[0].digest.to_string());
    assert_eq!(fetched.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tags_are_listed_page_by_page() {
    let fixture = Fixture::new("t", &[10]);
    let registry = Misbehaving::start(&fixture, |seen, _| {
        let last = seen.query("last");
        match (seen.path(), last.first().map(String::as_str)) {
            ("/v2/x/tags/list", None) => Some(
                Reply::new(200, r#"{"name":"x","tags":["a","b"]}"#)
                    .with("link", r#"</v2/x/tags/list?last=b&n=2>; rel="next""#),
            ),
            ("/v2/x/tags/list", Some(_)) => Some(Reply::new(200, r#"{"name":"x","tags":["c"]}"#)),
            _ => None,
        }
    })
    .await;
    assert_eq!(registries().tags(&registry.name("x"), None).await.unwrap(), ["a", "b", "c"]);
}
