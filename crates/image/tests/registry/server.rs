//! Debian's `docker-registry` on loopback, with a data directory of its own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Checks `ann` with the password `geheim`.
const HTPASSWD: &str = "ann:$2b$04$7i0ssynkIV6KiQGj2JgqeuBN1DbhrYo7OqrIjSQAHGU5OMC3CYGuC\n";

/// A registry that ends with the test.
pub(crate) struct Server {
    _running: Running,
    /// `127.0.0.1:PORT`
    pub(crate) host: String,
    _dir: tempfile::TempDir,
}

impl Server {
    /// A registry for everybody.
    pub(crate) async fn open() -> Server {
        Server::start("").await
    }

    /// A registry for `ann` only.
    pub(crate) async fn with_password() -> Server {
        Server::start_in(|dir| {
            let file = dir.join("htpasswd");
            std::fs::write(&file, HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", file.display())
        })
        .await
    }

    /// A registry with more in its configuration.
    pub(crate) async fn start(more: &str) -> Server {
        Server::start_in(|_| more.to_owned()).await
    }

    async fn start_in(more: impl FnOnce(&Path) -> String) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let more = more(dir.path());
        let config = dir.path().join("config.yml");
        let mut tries = 0;
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let data = dir.path().join("data");
            let text = format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
                data.display()
            );
            std::fs::write(&config, &text).unwrap();
            let child = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry is installed");
            let mut running = Running(child);
            let host = format!("127.0.0.1:{port}");
            if running.answers(&host).await {
                return Server { _running: running, host, _dir: dir };
            }
            // Another process may take the port between our look and the registry's: then another one is taken.
            tries += 1;
            assert!(tries < 5, "docker-registry ends by itself, with this configuration:\n{text}");
        }
    }

    /// A reference on it.
    pub(crate) fn name(&self, rest: &str) -> image::Reference {
        self.text(rest).parse().unwrap()
    }

    pub(crate) fn text(&self, rest: &str) -> String {
        format!("{}/{rest}", self.host)
    }
}

struct Running(Child);

impl Running {
    /// Waits until it listens; false where it ended instead.
    async fn answers(&mut self, host: &str) -> bool {
        loop {
            if self.0.try_wait().unwrap().is_some() {
                return false;
            }
            if tokio::net::TcpStream::connect(host).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after this.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
