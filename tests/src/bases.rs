//! Stand-ins for the images that Dockerfiles begin with: of the same names, from Debian's own packages. Each is made once, by
//! stratus itself, and kept in the user's cache, as that fetches some hundred megabytes.

use crate::Daemon;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

/// What builds with the classic builder's endpoint.
const BUILD: &str = "env DOCKER_BUILDKIT=0 docker build";

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

/// A stand-in that has the packages of projects in `tests/dockerfiles`, and takes these, for where there is no network.
struct WithPackages {
    /// What it is asked for by. In its archive it has the name of the stand-in that it is built upon.
    name: &'static str,
    base: &'static str,
    /// What is copied from there.
    files: &'static [&'static str],
    steps: &'static str,
}

const WITH_PACKAGES: [WithPackages; 3] = [
    WithPackages {
        name: "debian-packages",
        base: DEBIAN,
        files: &[],
        // A repository of the packages and of what these need, in the place of Debian's own.
        steps: "RUN mkdir -p /packages/partial && apt-get update \
                && apt-get install -y --download-only --no-install-recommends -o Dir::Cache::archives=/packages redis-server redis-tools \
                && cd /packages && rm -rf partial lock && for file in *.deb; do dpkg-deb -f $file && printf 'Filename: ./%s\\nSize: %s\\nSHA256: %s\\n\\n' \
                $file $(stat -c %s $file) $(sha256sum $file | cut -d ' ' -f 1); done > Packages \
                && rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/* && echo 'deb [trusted=yes] file:/packages ./' > /etc/apt/sources.list\n",
    },
    WithPackages {
        name: "python-packages",
        base: "python:3.11-slim-bookworm",
        files: &["python-plain/requirements.txt", "python-onbuild/requirements.txt"],
        steps: "COPY python-plain/requirements.txt /tmp/plain\n\
                COPY python-onbuild/requirements.txt /tmp/onbuild\n\
                RUN for list in plain onbuild; do pip wheel --no-cache-dir --wheel-dir /wheels -r /tmp/$list; done\n\
                ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels\n",
    },
    WithPackages {
        name: "node-packages",
        base: "node:18-bookworm-slim",
        files: &["node-typescript/package.json", "node-typescript/package-lock.json"],
        steps: "COPY node-typescript/package*.json /fetched/\n\
                RUN cd /fetched && npm ci --no-audit --no-fund && rm -r /fetched\n\
                ENV npm_config_offline=true\n",
    },
];

fn with_packages(name: &str) -> Option<&'static WithPackages> {
    WITH_PACKAGES.iter().find(|with| with.name == name)
}

/// The certificates that the host trusts.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The archive of an image or of its stand-in, as `docker save | zstd` makes it. Where it is not kept yet, it is made, with a daemon of its own.
///
/// # Panics
/// As [`Daemon::has`].
pub fn base_archive(name: &str) -> PathBuf {
    let path = kept_as(name, &recipe(name));
    if !path.exists() {
        Daemon::start().has(&[name]);
    }
    path
}

impl Daemon {
    /// Has the images of these names here, or their stand-ins.
    ///
    /// # Panics
    /// When one can't be made, or is none of those that there are.
    pub fn has(&self, names: &[&str]) -> &Self {
        for name in names {
            match *name {
                DEBIAN => self.kept(DEBIAN, || {
                    self.slowly(&format!("$STRATUS image bootstrap {DEBIAN} --include ca-certificates")).ok();
                }),
                name => self.stand_in(name),
            }
        }
        self
    }

    fn stand_in(&self, name: &str) {
        if let Some(WithPackages { base, steps, .. }) = with_packages(name) {
            return self.kept(name, || {
                self.has(&[base]);
                self.write(".", &[("packages.Dockerfile", &format!("FROM {base}\n{steps}"))]);
                let source = source();
                self.slowly(&format!("{BUILD} -t {name} -f packages.Dockerfile {}", source.display())).ok();
                // Under the name that Dockerfiles begin with.
                self.sh(&format!("docker tag {name} {base}")).ok();
            });
        }
        let (_, target, packages) = BASES.iter().find(|base| base.0 == name).expect("a base that there is");
        self.kept(name, || {
            self.has(&[DEBIAN]);
            let recipes = source().join("bases");
            let recipes = recipes.display();
            self.sh(&format!("rm -rf bases && cp -r {recipes} bases && cp {CERTIFICATES} bases/certificates.pem")).ok();
            self.slowly(&format!("{BUILD} --target {target} --build-arg PACKAGES='{packages}' -t {name} bases")).ok();
        });
    }

    /// Loads an image that was made before, else makes it and keeps it. Whoever else needs it meanwhile waits.
    fn kept(&self, name: &str, make: impl FnOnce()) {
        let file = kept_as(name, &recipe(name));
        let lock = File::create(file.with_extension("lock")).expect("create a lock");
        lock.lock().expect("wait for who makes it");
        let path = file.display();
        if file.exists() {
            self.slowly(&format!("zstd -dcq {path} | docker load -q")).ok();
            return;
        }
        make();
        let saved = with_packages(name).map_or(name, |with| with.base);
        self.slowly(&format!("docker save {saved} | zstd -1 -T2 -qf -o {path}.new && mv {path}.new {path}")).ok();
    }
}

/// What an image is made from: where one of it changes, it is another.
fn recipe(name: &str) -> String {
    if name == DEBIAN {
        return String::new();
    }
    let read = |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    if let Some(WithPackages { base, files, steps, .. }) = with_packages(name) {
        let files: String = files.iter().map(|file| read(source().join(file))).collect();
        return [&recipe(base), *steps, &files].concat();
    }
    let (_, target, packages) = BASES.iter().find(|base| base.0 == name).expect("a base that there is");
    [&read(source().join("bases/Dockerfile")), *target, *packages, &read(CERTIFICATES.into())].concat()
}

/// Where an image is kept that is made from this.
fn kept_as(name: &str, recipe: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (name, recipe).hash(&mut hasher);
    let all = cache().join("bases");
    fs::create_dir_all(&all).expect("a directory for what is kept");
    all.join(format!("{}-{:016x}.tar.zst", name.replace([':', '/'], "-"), hasher.finish()))
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
