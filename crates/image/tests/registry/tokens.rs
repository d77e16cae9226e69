//! Registries that ask for tokens, and the server that hands them out.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use hyper::Method;
use image::Progress;
use image::registry::{Auth, Credential, RegistryErrorKind};
use serde_json::{Value, json};

use crate::fixture::{Fixture, Place, registries};
use crate::misbehaving::{Misbehaving, Reply, Seen, refused, unescape};
use crate::server::Server;

/// Signs tokens with a key of its own, which a registry was told to trust.
struct Issuer {
    dir: tempfile::TempDir,
}

impl Issuer {
    fn new() -> Issuer {
        let issuer = Issuer { dir: tempfile::tempdir().unwrap() };
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=issuer", "-keyout"])
            .arg(issuer.file("key"))
            .arg("-out")
            .arg(issuer.file("crt"))
            .stderr(Stdio::null())
            .status()
            .expect("openssl is installed");
        assert!(made.success());
        issuer
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A token for `ann` that permits what the scopes ask for.
    fn token(&self, scopes: &[String]) -> String {
        let access: Vec<Value> =
            scopes.iter().flat_map(|scope| scope.split(' ')).filter(|scope| !scope.is_empty()).map(grant).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let pem = std::fs::read_to_string(self.file("crt")).unwrap();
        let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = json!({"iss": "issuer", "sub": "ann", "aud": "reg", "exp": now + 600, "nbf": now - 60, "iat": now - 60,
            "jti": format!("{now}"), "access": access});
        let text = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(sign(&self.file("key"), &text)))
    }

    /// The registry's configuration that trusts this issuer and sends people to the address.
    fn config(&self, realm: &str) -> String {
        let bundle = self.file("crt");
        format!(
            "auth:\n  token:\n    realm: {realm}\n    service: reg\n    issuer: issuer\n    rootcertbundle: {}\n",
            bundle.display()
        )
    }
}

fn grant(scope: &str) -> Value {
    let mut parts = scope.split(':');
    let (kind, name, actions) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()})
}

fn sign(key: &Path, text: &str) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-sign"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    openssl.wait_with_output().unwrap().stdout
}

/// Hands tokens to `ann`, and to whoever has her refresh token.
async fn token_server(issuer: &Arc<Issuer>) -> Misbehaving {
    let issuer = issuer.clone();
    Misbehaving::start(&Fixture::new("none", &[]), move |seen, _| {
        let password = BASE64_STANDARD.encode("ann:geheim");
        let is_ann = seen.header("authorization") == Some(&format!("Basic {password}"));
        let form = form_of(seen);
        let field =
            |name: &str| form.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect::<Vec<_>>();
        Some(match seen.method {
            Method::POST if field("refresh_token") == ["refresh"] && field("grant_type") == ["refresh_token"] => {
                Reply::new(200, json!({"access_token": issuer.token(&field("scope")), "expires_in": 300}).to_string())
            }
            Method::GET if is_ann => {
                let refresh = (seen.query("offline_token") == ["true"]).then_some("refresh");
                let token = issuer.token(&seen.query("scope"));
                Reply::new(200, json!({"token": token, "refresh_token": refresh}).to_string())
            }
            _ => refused(401, "UNAUTHORIZED", "incorrect username or password"),
        })
    })
    .await
}

fn form_of(seen: &Seen) -> Vec<(String, String)> {
    let body = String::from_utf8_lossy(&seen.body).into_owned();
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), unescape(value)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_bought_for_what_is_done_and_kept() {
    let issuer = Arc::new(Issuer::new());
    let tokens = token_server(&issuer).await;
    let server = Server::start(&issuer.config(&format!("http://{}/token", tokens.host))).await;
    let (place, registries) = (Place::new(), registries());
    let fixture = Fixture::new("token", &[100_000, 20]);
    fixture.publish(&server.text("base"), Some("ann:geheim"));
    let before = tokens.seen(&Method::GET, "/token").len();
    let ann = Auth::password("ann", "geheim", &server.host);

    registries.pull(&place.images, &server.name("base"), None, Some(&ann), Progress::none()).await.unwrap();
    place.holds(&fixture);
    let bought = tokens.seen(&Method::GET, "/token").split_off(before);
    assert_eq!(bought.len(), 1, "one token does for the manifest and all layers");
    assert_eq!(
        (bought[0].query("service"), bought[0].query("scope")),
        (vec!["reg".to_owned()], vec!["repository:base:pull".to_owned()])
    );

    // A mount needs a token for both repositories.
    let events = crate::fixture::Events::default();
    registries.push(&place.images, &fixture.id(), &server.name("copy"), Some(&ann), events.progress()).await.unwrap();
    assert!(events.all().contains(&image::Phase::Mounted { from: "base".into() }));
    let both = tokens.seen(&Method::GET, "/token").pop().unwrap().query("scope");
    assert_eq!(both, ["repository:base:pull", "repository:copy:pull,push"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_gives_an_identity_token_which_opens_the_registry() {
    let issuer = Arc::new(Issuer::new());
    let tokens = token_server(&issuer).await;
    let server = Server::start(&issuer.config(&format!("http://{}/token", tokens.host))).await;
    let registries = registries();
    Fixture::new("id", &[10]).publish(&server.text("app"), Some("ann:geheim"));
    let login = registries.login(&Auth::password("ann", "geheim", &server.host)).await.unwrap();
    let credential = Credential::Identity(login.identity_token.unwrap());
    let auth = Auth { credential, server_address: server.host.clone() };
    assert_eq!(registries.tags(&server.name("app"), Some(&auth)).await.unwrap(), ["latest"]);
    // A token of the registry's own is sent as it is.
    let credential = Credential::Bearer(issuer.token(&["repository:app:pull".to_owned()]));
    let auth = Auth { credential, server_address: server.host.clone() };
    assert_eq!(registries.tags(&server.name("app"), Some(&auth)).await.unwrap(), ["latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_as_docker_tells_it() {
    let issuer = Arc::new(Issuer::new());
    let tokens = token_server(&issuer).await;
    let server = Server::start(&issuer.config(&format!("http://{}/token", tokens.host))).await;
    let (place, registries) = (Place::new(), registries());
    let eve = Auth::password("eve", "x", &server.host);
    let error =
        registries.pull(&place.images, &server.name("app"), None, Some(&eve), Progress::none()).await.unwrap_err();
    let want =
        format!("Get \"http://{}/v2/app/manifests/latest\": unauthorized: incorrect username or password", server.host);
    assert_eq!((error.to_string(), error.kind()), (want, RegistryErrorKind::Unauthorized));
    let error = registries.login(&eve).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Get \"http://{}/v2/\": unauthorized: incorrect username or password", server.host)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ended_is_replaced() {
    let fixture = Fixture::new("ended", &[1000]);
    let tokens =
        Misbehaving::start(&fixture, |_, before| Some(Reply::new(200, format!(r#"{{"token":"t{before}"}}"#)))).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.host);
    let registry = Misbehaving::start(&fixture, move |seen, _| {
        // From the layer on, only the second token is good.
        let good: &[&str] = if seen.path().contains("/blobs/") { &["Bearer t1"] } else { &["Bearer t0", "Bearer t1"] };
        let is_good = seen.header("authorization").is_some_and(|header| good.contains(&header));
        (!is_good)
            .then(|| refused(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", realm.clone()))
    })
    .await;
    let place = Place::new();
    let config = image::registry::RegistryConfig { concurrent_downloads: 1, ..crate::fixture::impatient() };
    image::registry::Registries::new(config)
        .pull(&place.images, &registry.name("x"), None, None, Progress::none())
        .await
        .unwrap();
    place.holds(&fixture);
    assert_eq!(tokens.seen(&Method::GET, "/token").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_does_not_follow_a_redirection() {
    let fixture = Fixture::new("away", &[10]);
    let elsewhere = Misbehaving::start(&fixture, |_, _| Some(Reply::new(200, r#"{"token":"t"}"#))).await;
    let to = format!("http://{}/token", elsewhere.host);
    let tokens = Misbehaving::start(&fixture, move |_, _| Some(Reply::new(307, "").with("location", to.clone()))).await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", tokens.host);
    let registry = Misbehaving::start(&fixture, move |_, _| {
        Some(refused(401, "UNAUTHORIZED", "authentication required").with("www-authenticate", realm.clone()))
    })
    .await;
    let credential = Credential::Identity("refresh".to_owned());
    let auth = Auth { credential, server_address: registry.host.clone() };
    let error = registries().tags(&registry.name("app"), Some(&auth)).await.unwrap_err().to_string();
    assert!(error.contains("redirects to") && error.contains("meant for it alone"), "{error}");
    assert_eq!(tokens.seen(&Method::POST, "/token").len(), 1);
    assert!(elsewhere.seen(&Method::POST, "/token").is_empty());
}
