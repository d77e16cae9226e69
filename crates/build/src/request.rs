//! What is to be built.

use crate::attest::{Attest, Fetched};
use crate::cache::CacheLimits;
use crate::contexts::LayoutImage;
use crate::dockerfile::{Builtin, Given, Source};
use crate::elsewhere::CacheFrom;
use crate::entitlement::Entitlement;
use crate::files::Files;
use engine::model::HostConfig;
use futures_util::future::BoxFuture;
use image::registry::{Auth, Reach};
use image::{Descriptor, ImageId, Platform, Reference};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;

/// What the daemon's administrator says of all builds.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which addresses files are fetched from that a build names.
    pub reach: Reach,
    /// What steps may have that others have not, where their build allows it, too.
    pub entitlements: BTreeSet<Entitlement>,
    /// How much stays of what builds keep.
    pub cache: CacheLimits,
}

/// What is to be built. Cheap to clone, but for its Dockerfile.
#[derive(Clone)]
pub struct Request {
    /// The file.
    pub file: Source,
    /// What it copies from.
    pub context: Arc<Files>,
    /// Where the context was fetched from, if it was.
    pub origin: Option<Fetched>,
    /// When the commit was made that the context is, seconds since 1970: images are as young as that.
    pub commit_time: Option<i64>,
    /// Arguments, platforms, the target.
    pub given: Given,
    /// Names of the image.
    pub names: Vec<Reference>,
    /// Labels beside those of the file.
    pub labels: BTreeMap<String, String>,
    /// Nothing is taken from the cache.
    pub no_cache: bool,
    /// Stages of which nothing is taken from the cache, by their names or numbers.
    pub no_cache_filter: Vec<String>,
    /// Caches of elsewhere, looked into for what is not in this machine's.
    pub cache_from: Vec<CacheFrom>,
    /// The image says of itself what the steps that made its layers are found by.
    pub inline_cache: bool,
    /// Base images are pulled even where they are here.
    pub pull: bool,
    /// All layers above those of the base become one.
    pub squash: bool,
    /// How commands run: network, limits, names of hosts, the size of `/dev/shm`.
    pub host: HostConfig,
    /// What commands may have that others have not, where the daemon allows it, too.
    pub allowed: BTreeSet<Entitlement>,
    /// Which containers of commands stay.
    pub leaves: Leaves,
    /// How long each command may take.
    pub step_timeout: Option<Duration>,
    /// Credentials for registries, by their names.
    pub credentials: BTreeMap<String, Auth>,
    /// Further contexts, by the names that the file has for them.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Who has secrets and agents; `None`: there are none.
    pub lender: Option<Arc<dyn Lender>>,
    /// What is to be said of the image.
    pub attest: Attest,
}

/// Which containers stay that commands ran in, as ones that have exited, until somebody removes them: dockerd's classic builder leaves some to be
/// looked at. Without any, none does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Those of commands that ended well.
    pub done: bool,
    /// Those of commands that did not, or that could not be started.
    pub failed: bool,
}

impl Request {
    /// Whether the image says of itself what the steps that made its layers are found by.
    pub(crate) fn says_steps(&self) -> bool {
        // What is neither yes nor no ended the build before.
        self.inline_cache || Builtin::InlineCache.is_yes(&self.given).unwrap_or(false)
    }
}

/// What a name stands for that is no stage's.
#[derive(Clone)]
pub enum NamedContext {
    /// Files.
    Files {
        /// They themselves.
        files: Arc<Files>,
        /// Where they were fetched from, if they were.
        origin: Option<Fetched>,
    },
    /// An image, by its name.
    Image(String),
    /// An image in a directory of whoever asks.
    Layout(LayoutImage),
}

/// Whoever asks for a build, and has something for its commands that is nobody else's to see.
pub trait Lender: Send + Sync {
    /// Whether it has a secret.
    fn has_secret(&self, id: &str) -> bool;

    /// What is in a secret. It is asked for once for each command that mounts it. An error is one line for people.
    fn secret(&self, id: &str) -> BoxFuture<'static, Result<Vec<u8>, String>>;

    /// What is known of a host's keys: lines of `known_hosts`, those that may be of a host that is called so there. An error is one line for people.
    fn known_hosts(&self, host: &str) -> BoxFuture<'static, Result<Vec<u8>, String>>;

    /// Whether it has an SSH agent.
    fn has_agent(&self, id: &str) -> bool;

    /// Carries what a command and an agent say to each other, to the end of one of them.
    fn agent(&self, id: &str, command: UnixStream) -> BoxFuture<'static, ()>;
}

/// Built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The image; of several platforms, that for this machine, else the first one.
    pub id: ImageId,
    /// The names that it was given.
    pub names: Vec<Reference>,
    /// What it is for: several, if it was built for several.
    pub platforms: Vec<Platform>,
    /// What was exported last of it, or pushed: a manifest, or an index of several.
    pub descriptor: Option<Descriptor>,
}
