//! Registries behind TLS and behind proxies. They have names that exist only for the proxy, as loopback needs neither.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use image::Progress;
use image::registry::{ProxyConfig, Registries, RegistryConfig, RegistryErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::fixture::{Fixture, Place, impatient};
use crate::server::Server;

/// Certificates of a test.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Certificates {
        Certificates(tempfile::tempdir().unwrap())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// A certificate for itself, as `openssl req -x509` makes it: with the mark of an authority.
    fn self_signed(&self, name: &str, host: &str) {
        openssl(
            self.0.path(),
            &format!(
                "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={host} -addext subjectAltName=DNS:{host} -keyout {name}.key -out {name}.crt"
            ),
        );
    }

    /// A certificate that `authority` signs.
    fn signed(&self, authority: &str, name: &str, host: &str) {
        let dir = self.0.path();
        std::fs::write(dir.join("ext"), format!("subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n")).unwrap();
        openssl(dir, &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2 -extfile ext -out {name}.crt"
            ),
        );
    }

    /// A registry with this certificate; where `clients` is given, only for those whom that authority signed.
    async fn serve(&self, name: &str, clients: Option<&str>) -> Server {
        let (crt, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let mut more = format!("  tls:\n    certificate: {}\n    key: {}\n", crt.display(), key.display());
        if let Some(authority) = clients {
            more += &format!("    clientcas: [{}]\n", self.path(&format!("{authority}.crt")).display());
        }
        Server::start(&more).await
    }

    /// The directory of certificates for one registry.
    fn install(&self, host: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.path("certs.d");
        std::fs::create_dir_all(dir.join(host)).unwrap();
        for (from, to) in files {
            std::fs::copy(self.path(from), dir.join(host).join(to)).unwrap();
        }
        dir
    }
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).stdin(Stdio::null()).output();
    let output = output.expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A proxy that brings every request to the same place, and keeps the requests' heads.
struct Proxy {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (target, log) = (target.to_owned(), heads.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(pass_on(client, target.clone(), log.clone()));
            }
        });
        Proxy { address, heads, task }
    }

    fn config(&self, certificate_dirs: Vec<PathBuf>) -> RegistryConfig {
        let address = Some(format!("http://ann:pass%20word@{}", self.address));
        let proxy = ProxyConfig { http: address.clone(), https: address, no_proxy: String::new() };
        RegistryConfig { proxy, certificate_dirs, ..impatient() }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(mut client: TcpStream, target: String, log: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let mut server = TcpStream::connect(target).await?;
    log.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    match head.starts_with(b"CONNECT ") {
        true => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
        false => server.write_all(&head).await?,
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

async fn pull(config: RegistryConfig, name: &str, fixture: &Fixture) -> Result<(), String> {
    let place = Place::new();
    let pulled =
        Registries::new(config).pull(&place.images, &name.parse().unwrap(), None, None, Progress::none()).await;
    pulled.map(|_| place.holds(fixture)).map_err(|error| {
        assert_eq!(error.kind(), RegistryErrorKind::Unavailable);
        error.to_string()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_trusted_where_it_was_put() {
    let (certificates, fixture) = (Certificates::new(), Fixture::new("self", &[1000]));
    certificates.self_signed("own", "registry.test");
    let server = certificates.serve("own", None).await;
    fixture.publish(&server.text("app"), None);
    let proxy = Proxy::to(&server.host).await;
    let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
    let error = pull(proxy.config(vec![]), "registry.test:5000/app", &fixture).await.unwrap_err();
    assert_eq!(error, format!("Get \"https://registry.test:5000/v2/\": {unknown}"));

    let dirs = vec![certificates.install("registry.test:5000", &[("own.crt", "ca.crt")])];
    pull(proxy.config(dirs.clone()), "registry.test:5000/app", &fixture).await.unwrap();
    let head = proxy.heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("CONNECT registry.test:5000 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic YW5uOnBhc3Mgd29yZA==\r\n"), "{head}");

    // What one registry is trusted with, another is not; and a certificate is for its name only.
    let error = pull(proxy.config(dirs.clone()), "registry.test:5001/app", &fixture).await.unwrap_err();
    assert!(error.ends_with(unknown), "{error}");
    certificates.install("other.test", &[("own.crt", "ca.crt")]);
    let error = pull(proxy.config(dirs), "other.test/app", &fixture).await.unwrap_err();
    assert!(error.ends_with("x509: certificate is not valid for other.test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_signs_registries_and_clients() {
    let (certificates, fixture) = (Certificates::new(), Fixture::new("signed", &[1000]));
    certificates.self_signed("authority", "authority.test");
    certificates.signed("authority", "server", "registry.test");
    certificates.signed("authority", "client", "client.test");
    let open = certificates.serve("server", None).await;
    fixture.publish(&open.text("app"), None);
    let proxy = Proxy::to(&open.host).await;
    let dirs = vec![certificates.install("registry.test", &[("authority.crt", "ca.crt")])];
    pull(proxy.config(dirs.clone()), "registry.test/app", &fixture).await.unwrap();

    let closed = certificates.serve("server", Some("authority")).await;
    let proxy = Proxy::to(&closed.host).await;
    pull(proxy.config(dirs.clone()), "registry.test/app", &fixture).await.unwrap_err();
    certificates.install("registry.test", &[("client.crt", "client.cert")]);
    let error = pull(proxy.config(dirs.clone()), "registry.test/app", &fixture).await.unwrap_err();
    assert!(error.contains("missing key") && error.contains("client.key"), "{error}");
    certificates.install("registry.test", &[("client.key", "client.key")]);
    // The client is let in now, so that the registry can say that it has no such image.
    let place = Place::new();
    let name = "registry.test/app".parse().unwrap();
    let registries = Registries::new(proxy.config(dirs));
    let error = registries.pull(&place.images, &name, None, None, Progress::none()).await.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_registries_need_to_be_called_insecure() {
    let (server, fixture) = (Server::open().await, Fixture::new("plain", &[1000]));
    fixture.publish(&server.text("app"), None);
    let proxy = Proxy::to(&server.host).await;
    let error = pull(proxy.config(vec![]), "registry.test:5000/app", &fixture).await.unwrap_err();
    assert_eq!(error, "Get \"https://registry.test:5000/v2/\": http: server gave HTTP response to HTTPS client");
    let insecure = RegistryConfig { insecure: vec!["registry.test:5000".parse().unwrap()], ..proxy.config(vec![]) };
    pull(insecure, "registry.test:5000/app", &fixture).await.unwrap();
    let head = proxy.heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("GET http://registry.test:5000/v2/"), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic yw5uonbhc3mgd29yza==\r\n"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_registry_may_have_any_certificate() {
    let (certificates, fixture) = (Certificates::new(), Fixture::new("any", &[1000]));
    certificates.self_signed("own", "whatever.test");
    let server = certificates.serve("own", None).await;
    fixture.publish(&server.text("app"), None);
    pull(impatient(), &server.text("app"), &fixture).await.unwrap();
}
