//! Looking without pulling.

use image::registry::RegistryErrorKind;

use crate::fixture::{Fixture, registries};
use crate::misbehaving::{Misbehaving, Reply};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_looked_up_without_pulling_it() {
    let (server, registries) = (Server::open().await, registries());
    let fixture = Fixture::on("look", &[1000], "arm64");
    fixture.publish(&server.text("app:1"), None);
    let inspected = registries.inspect(&server.name("app:1"), None).await.unwrap();
    assert_eq!(inspected.descriptor.digest, fixture.digest());
    assert_eq!(inspected.descriptor.size, fixture.manifest.len() as u64);
    assert_eq!(inspected.descriptor.media_type, image::media_type::OCI_MANIFEST);
    assert_eq!(inspected.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64"]);
    let head = registries.head(&server.name("app:1"), None).await.unwrap().unwrap();
    assert_eq!((head.digest, head.size), (fixture.digest(), fixture.manifest.len() as u64));
    assert_eq!(registries.head(&server.name("app:2"), None).await.unwrap(), None);
    let error = registries.inspect(&server.name("app:2"), None).await.unwrap_err();
    assert_eq!(
        (error.kind(), &*error.to_string()),
        (RegistryErrorKind::NotFound, "manifest unknown: manifest unknown")
    );
    assert_eq!(registries.tags(&server.name("app"), None).await.unwrap(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_an_index_can_be_searched_and_others_say_so() {
    let (server, registries) = (Server::open().await, registries());
    let error = registries.search(&server.text("busybox"), None, None).await.unwrap_err();
    assert!(error.to_string().contains("cannot be searched"), "{error}");
    let index = Misbehaving::start(&Fixture::new("s", &[1]), |seen, _| {
        (seen.path() == "/v1/search").then(|| {
            assert_eq!((seen.query("q"), seen.query("n")), (vec!["busy box".to_owned()], vec!["3".to_owned()]));
            Reply::new(200, r#"{"num_results":1,"results":[{"name":"busybox","description":"d","star_count":5,"is_official":true}]}"#)
        })
    })
    .await;
    let found = registries.search(&format!("{}/busy box", index.host), Some(3), None).await.unwrap();
    assert_eq!((&*found[0].name, found[0].star_count, found[0].is_official), ("busybox", 5, true));
}
