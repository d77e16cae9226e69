//! A registry of images on loopback: Debian's `docker-registry`.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::{Daemon, Waiting};

/// A registry that holds what is pushed to it until it is dropped.
pub struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    /// Starts one that keeps its data below the daemon's working directory, on the last port of the daemon's.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(beside: &Daemon) -> Self {
        Self::start_with(beside, "")
    }

    /// Starts one that lets only `user` in, with the password `open sesame`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_for(beside: &Daemon, user: &str) -> Self {
        // bcrypt, the only way in which it takes passwords; with few rounds, as nobody is to be kept from guessing it.
        const PASSWORD: &str = "$2b$04$Xd/c1V0h5LcQGUMbmchWnubv4rZzMqBy1mNgSiSiV.ZOSAYho/TsG";
        let users = beside.work().join("users");
        fs::write(&users, format!("{user}:{PASSWORD}\n")).expect("write the registry's users");
        Self::start_with(beside, &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", users.display()))
    }

    fn start_with(beside: &Daemon, more: &str) -> Self {
        let port = beside.port() + 19;
        let data = beside.work().join("registry");
        let config = beside.work().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n{more}",
            data.display()
        );
        fs::write(&config, text).expect("write the registry's configuration");
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start docker-registry");
        let registry = Self { process, port };
        let mut waiting = Waiting::for_what("the registry to answer");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            waiting.look_again();
        }
        registry
    }

    /// Its name in references: `localhost:PORT`.
    pub fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
