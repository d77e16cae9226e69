//! Registries that ask who is there, by name and password.

use image::Progress;
use image::registry::{Auth, RegistryErrorKind};

use crate::fixture::{Fixture, Place, registries};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_the_registry_and_none_does_not() {
    let (server, place, registries) = (Server::with_password().await, Place::new(), registries());
    let fixture = Fixture::new("secret", &[1000]);
    fixture.publish(&server.text("app"), Some("ann:geheim"));
    let name = server.name("app");
    let ann = Auth::password("ann", "geheim", &server.host);
    let eve = Auth::password("eve", "geheim", &server.host);

    let error = registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap_err();
    let url = format!("http://{}/v2/app/manifests/latest", server.host);
    assert_eq!(error.to_string(), format!("Get \"{url}\": no basic auth credentials"));
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    let error = registries.pull(&place.images, &name, None, Some(&eve), Progress::none()).await.unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: authentication required");
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);

    registries.pull(&place.images, &name, None, Some(&ann), Progress::none()).await.unwrap();
    place.holds(&fixture);
    registries.push(&place.images, &fixture.id(), &server.name("copy"), Some(&ann), Progress::none()).await.unwrap();
    assert_eq!(registries.tags(&server.name("copy"), Some(&ann)).await.unwrap(), ["latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_checked() {
    let (server, registries) = (Server::with_password().await, registries());
    let login = registries.login(&Auth::password("ann", "geheim", &format!("http://{}/v2/", server.host))).await;
    assert_eq!(login.unwrap().identity_token, None);
    let error = registries.login(&Auth::password("ann", "falsch", &server.host)).await.unwrap_err();
    let want = format!("login attempt to http://{}/v2/ failed with status: 401 Unauthorized", server.host);
    assert_eq!((error.to_string(), error.kind()), (want, RegistryErrorKind::Unauthorized));
}
