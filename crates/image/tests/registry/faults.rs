//! What can go wrong between a registry and us, and what comes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use image::registry::{Registries, RegistryConfig, RegistryError, RegistryErrorKind};
use image::{Phase, Progress};

use crate::fixture::{Events, Fixture, Place, impatient, registries};
use crate::misbehaving::{Misbehaving, Reply, behaved, refused};

/// Pulls `x` and gives the error.
async fn error_of(registry: &Misbehaving) -> RegistryError {
    let place = Place::new();
    registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_where_the_connection_broke() {
    let fixture = Fixture::new("cut", &[2_000_000]);
    let layer = fixture.layers[0].digest;
    let served = fixture.clone();
    let registry = Misbehaving::start(&fixture, move |seen, before| {
        let is_layer = seen.path().ends_with(&layer.to_string());
        (is_layer && before < 4).then(|| behaved(seen, &served).cut_after(300_000))
    })
    .await;
    let (place, events) = (Place::new(), Events::default());
    registries().pull(&place.images, &registry.name("x"), None, None, events.progress()).await.unwrap();
    place.holds(&fixture);
    let starts: Vec<u64> = registry
        .seen(&Method::GET, &layer.to_string())
        .iter()
        .map(|seen| {
            seen.header("range").map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap())
        })
        .collect();
    assert!(starts.len() == 5 && starts.is_sorted_by(|a, b| a < b), "each went on behind the last: {starts:?}");
    assert_eq!(events.all().iter().filter(|phase| matches!(phase, Phase::Retrying { .. })).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_begins_again_and_nothing_comes_twice() {
    let fixture = Fixture::new("no ranges", &[1_000_000]);
    let layer = fixture.layers[0].digest;
    let blob = fixture.blobs[&layer].clone();
    let registry = Misbehaving::start(&fixture, move |seen, before| {
        let whole = || Reply::new(200, blob.clone());
        seen.path()
            .ends_with(&layer.to_string())
            .then(|| if before == 0 { whole().cut_after(400_000) } else { whole() })
    })
    .await;
    let place = Place::new();
    registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_pull_goes_on_where_the_last_one_gave_up() {
    let fixture = Fixture::new("resume", &[2_000_000]);
    let layer = fixture.layers[0].digest;
    let served = fixture.clone();
    // At first only the beginning is served, and later only what follows it.
    let is_later = Arc::new(AtomicBool::new(false));
    let later = is_later.clone();
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        let is_layer = seen.path().ends_with(&layer.to_string());
        let denied = || Some(refused(403, "DENIED", "not now"));
        match (is_layer, later.load(Ordering::SeqCst), seen.header("range").is_some()) {
            (false, _, _) | (true, true, true) => None,
            (true, false, false) => Some(behaved(seen, &served).cut_after(700_000)),
            (true, false, true) | (true, true, false) => denied(),
        }
    })
    .await;
    let (place, registries, name) = (Place::new(), registries(), registry.name("x"));
    registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap_err();
    assert!(!place.images.begin_image().has_layer(&fixture.diff_ids[0]), "half a layer is no layer");
    is_later.store(true, Ordering::SeqCst);
    // The thread that unpacked the first half may still be about to end, and what it holds can't be resumed until then.
    let mut tries = 0;
    while let Err(error) = registries.pull(&place.images, &name, None, None, Progress::none()).await {
        tries += 1;
        assert!(tries < 1000, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    place.holds(&fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_not_its_digest_is_never_seen() {
    let fixture = Fixture::new("wrong", &[100_000]);
    let layer = fixture.layers[0].digest;
    let mut blob = fixture.blobs[&layer].clone();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        seen.path().ends_with(&layer.to_string()).then(|| Reply::new(200, blob.clone()))
    })
    .await;
    let place = Place::new();
    let error = registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Store, "{error}");
    let ingest = place.images.begin_image();
    assert!(!ingest.has_layer(&fixture.diff_ids[0]) && !ingest.has_blob(&layer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_fetched_again() {
    let fixture = Fixture::new("damaged", &[20_000_000]);
    let layer = fixture.layers[0].digest;
    let mut blob = fixture.blobs[&layer].clone();
    // A kind of block that deflate doesn't have, right behind gzip's header.
    blob[10] |= 0b110;
    let registry = Misbehaving::start(&fixture, move |seen, before| {
        (seen.path().ends_with(&layer.to_string()) && before == 0).then(|| Reply::new(200, blob.clone()))
    })
    .await;
    let place = Place::new();
    registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}

/// All of it came, and its very last bytes are wrong: what was kept of it is not what the next try goes on from.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_whose_checksum_fails_at_the_end_is_fetched_again() {
    let fixture = Fixture::new("checksum", &[20_000_000]);
    let layer = fixture.layers[0].digest;
    let mut blob = fixture.blobs[&layer].clone();
    let checksum = blob.len() - 8;
    blob[checksum] ^= 1;
    let registry = Misbehaving::start(&fixture, move |seen, before| {
        (seen.path().ends_with(&layer.to_string()) && before == 0).then(|| Reply::new(200, blob.clone()))
    })
    .await;
    let place = Place::new();
    registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_verified() {
    let fixture = Fixture::new("documents", &[10]);
    let other = Fixture::new("other", &[10]).manifest;
    let registry = Misbehaving::start(&fixture, {
        let (digest, other) = (fixture.digest().to_string(), other.clone());
        move |seen, _| {
            let is_manifest = seen.path().contains("/manifests/");
            is_manifest.then(|| Reply::new(200, other.clone()).with("docker-content-digest", digest.clone()))
        }
    })
    .await;
    assert!(matches!(error_of(&registry).await, RegistryError::WrongDigest { .. }));
    let config = fixture.config.to_string();
    let size = fixture.blobs[&fixture.config].len();
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        seen.path().ends_with(&config).then(|| Reply::new(200, vec![b' '; size]))
    })
    .await;
    assert!(matches!(error_of(&registry).await, RegistryError::WrongDigest { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_bounded_and_known() {
    let fixture = Fixture::new("bounds", &[10]);
    let manifest = async |body: Vec<u8>, kind: &'static str| {
        let registry = Misbehaving::start(&fixture, move |seen, _| {
            seen.path().contains("/manifests/").then(|| Reply::new(200, body.clone()).with("content-type", kind))
        })
        .await;
        error_of(&registry).await
    };
    let oci = image::media_type::OCI_MANIFEST;
    assert!(matches!(manifest(vec![b' '; 5 << 20], oci).await, RegistryError::TooLarge { .. }));
    let old = manifest(br#"{"schemaVersion":1}"#.to_vec(), "application/json").await;
    assert!(matches!(old, RegistryError::OldSchema(_)), "{old}");
    let chart = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}"#;
    assert!(matches!(manifest(chart.to_vec(), oci).await, RegistryError::UnsupportedMedia(_)));
    let nonsense = manifest(b"<html>".to_vec(), oci).await;
    assert_eq!(nonsense.kind(), RegistryErrorKind::Store, "{nonsense}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_layer_than_announced_is_cut_off() {
    let fixture = Fixture::new("long", &[1000]);
    let layer = fixture.layers[0].digest;
    let mut blob = fixture.blobs[&layer].clone();
    blob.extend([0; 70_000]);
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        seen.path().ends_with(&layer.to_string()).then(|| Reply::new(200, blob.clone()))
    })
    .await;
    assert!(matches!(error_of(&registry).await, RegistryError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_is_asked_again() {
    let fixture = Fixture::new("busy", &[1000]);
    let registry = Misbehaving::start(&fixture, |seen, before| match (seen.path().contains("/v2/x/"), before) {
        (true, 0) => Some(refused(429, "TOOMANYREQUESTS", "slow down").with("retry-after", "1")),
        (true, 1) => Some(Reply::new(503, "")),
        _ => None,
    })
    .await;
    let place = Place::new();
    registries().pull(&place.images, &registry.name("x"), None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_hours() {
    let fixture = Fixture::new("limit", &[10]);
    let registry = Misbehaving::start(&fixture, |seen, _| {
        let reply =
            || refused(429, "TOOMANYREQUESTS", "You have reached your pull rate limit.").with("retry-after", "21600");
        seen.path().contains("/manifests/").then(reply)
    })
    .await;
    let error = error_of(&registry).await;
    assert_eq!(error.kind(), RegistryErrorKind::TooManyRequests);
    assert_eq!(error.to_string(), "toomanyrequests: You have reached your pull rate limit.");
    assert_eq!(registry.seen(&Method::GET, "manifests").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falls_silent_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    // Takes connections and says nothing.
    let silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let config = RegistryConfig {
        connect_timeout: Duration::from_millis(50),
        stall_timeout: Duration::from_millis(50),
        attempts: 2,
        ..impatient()
    };
    let place = Place::new();
    let name = format!("{host}/x").parse().unwrap();
    let error = Registries::new(config).pull(&place.images, &name, None, None, Progress::none()).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("stood still"), "{error}");
    silent.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_there_is_named_as_go_names_it() {
    let place = Place::new();
    let error = async |name: &str| {
        let name = name.parse().unwrap();
        registries().pull(&place.images, &name, None, None, Progress::none()).await.unwrap_err().to_string()
    };
    assert_eq!(
        error("127.0.0.1:1/x").await,
        r#"Get "http://127.0.0.1:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused"#
    );
    let unknown = error("registry.invalid/x").await;
    assert!(
        unknown.starts_with(r#"Get "https://registry.invalid/v2/": dial tcp: lookup registry.invalid"#),
        "{unknown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_a_redirection() {
    let fixture = Fixture::new("redirect", &[1000]);
    let elsewhere = Misbehaving::start(&fixture, |_, _| None).await;
    let to = elsewhere.host.clone();
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        if seen.header("authorization").is_none() {
            return Some(
                refused(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", "Basic realm=\"r\""),
            );
        }
        seen.path()
            .contains("/blobs/")
            .then(|| Reply::new(307, "").with("location", format!("http://{to}{}", seen.path())))
    })
    .await;
    let place = Place::new();
    let auth = image::registry::Auth::password("ann", "geheim", "");
    registries().pull(&place.images, &registry.name("x"), None, Some(&auth), Progress::none()).await.unwrap();
    place.holds(&fixture);
    let fetched = elsewhere.seen(&Method::GET, "/blobs/");
    assert!(!fetched.is_empty() && fetched.iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirections_that_never_end_do() {
    let fixture = Fixture::new("loop", &[10]);
    let registry = Misbehaving::start(&fixture, |seen, _| {
        seen.path().contains("/manifests/").then(|| Reply::new(302, "").with("location", seen.path()))
    })
    .await;
    assert!(error_of(&registry).await.to_string().ends_with("stopped after 10 redirects"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_may_be_dropped_at_any_time() {
    let fixture = Fixture::new("drop", &[1_000_000, 10]);
    let registry = Misbehaving::start(&fixture, |_, _| None).await;
    let (place, registries, name) = (Place::new(), registries(), registry.name("x"));
    for turns in 1..40 {
        let mut pull = Box::pin(registries.pull(&place.images, &name, None, None, Progress::none()));
        for _ in 0..turns {
            tokio::select! { biased; _ = &mut pull => {}, () = tokio::task::yield_now() => continue }
            break;
        }
    }
    registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap();
    place.holds(&fixture);
}
