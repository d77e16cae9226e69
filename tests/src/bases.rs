//! Stand-ins for the images that Dockerfiles begin with: of the same names, from Debian's own packages. Each is made once, by
//! stratus itself, and kept in the user's cache, as that fetches some hundred megabytes.

use crate::Daemon;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// What the others are built upon.
const DEBIAN: &str = "debian:bookworm";

/// A stand-in: its name, the stage of `tests/dockerfiles/bases/Dockerfile`, and the packages in it.
const BASES: [(&str, &str, &str); 8] = [
    ("debian:bookworm-slim", "slim", ""),
    ("node:18-bookworm-slim", "node", "nodejs npm"),
    ("python:3.11-slim-bookworm", "python", "python3 python3-pip python3-venv"),
    ("golang:1.19-bookworm", "golang", "golang-go"),
    ("rust:1-slim-bookworm", "rust", "rustc-web cargo-web gcc libc6-dev"),
    ("eclipse-temurin:17-jdk", "temurin", "openjdk-17-jdk-headless ant binutils"),
    ("gcc:12-bookworm", "gcc", "gcc g++ make cmake ninja-build autoconf automake libc6-dev"),
    ("nginx:1.22", "nginx", "nginx-light"),
];

/// The certificates that the host trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

impl Daemon {
    /// Has the images of these names here, or their stand-ins.
    ///
    /// # Panics
    /// When one can't be made, or is none of those that there are.
    pub fn has(&self, names: &[&str]) -> &Self {
        for name in names {
            match *name {
                DEBIAN => self.kept(DEBIAN, "", || {
                    self.slowly(&format!("$STRATUS image bootstrap {DEBIAN} --include ca-certificates")).ok();
                }),
                name => self.stand_in(name),
            }
        }
        self
    }

    fn stand_in(&self, name: &str) {
        let (_, target, packages) = BASES.iter().find(|base| base.0 == name).expect("a base that there is");
        let recipes = source().join("bases");
        let recipe = fs::read_to_string(recipes.join("Dockerfile")).expect("the recipes");
        let certificates = fs::read_to_string(CERTIFICATES).expect("the host's certificates");
        self.kept(name, &[&recipe, *target, *packages, &certificates].concat(), || {
            self.has(&[DEBIAN]);
            let (recipes, build) = (recipes.display(), "env DOCKER_BUILDKIT=0 docker build");
            self.sh(&format!("rm -rf bases && cp -r {recipes} bases && cp {CERTIFICATES} bases/certificates.pem")).ok();
            self.slowly(&format!("{build} --target {target} --build-arg PACKAGES='{packages}' -t {name} bases")).ok();
        });
    }

    /// Loads an image that was made before, else makes it and keeps it. Whoever else needs it meanwhile waits.
    fn kept(&self, name: &str, recipe: &str, make: impl FnOnce()) {
        let mut hasher = DefaultHasher::new();
        (name, recipe).hash(&mut hasher);
        let all = cache().join("bases");
        fs::create_dir_all(&all).expect("a directory for what is kept");
        let file = all.join(format!("{}-{:016x}.tar.zst", name.replace([':', '/'], "-"), hasher.finish()));
        let lock = File::create(file.with_extension("lock")).expect("create a lock");
        lock.lock().expect("wait for who makes it");
        let path = file.display();
        if file.exists() {
            self.slowly(&format!("zstd -dcq {path} | docker load -q")).ok();
            return;
        }
        make();
        self.slowly(&format!("docker save {name} | zstd -1 -T2 -qf -o {path}.new && mv {path}.new {path}")).ok();
    }
}

/// Where the Dockerfiles of tests are.
fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dockerfiles")
}

/// What is kept from one run of the tests to the next.
fn cache() -> PathBuf {
    let own = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = own.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.expect("a home directory").join("stratus")
}
