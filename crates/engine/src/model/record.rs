//! A container as the store keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ContainerConfig, ContainerId, EndpointSettings, ExposedPort, HostConfig, PortBinding, State, Timestamp};

/// A container: what was asked, what was decided, and where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its identifier.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Digest of its image's configuration (`sha256:…`); empty: none.
    pub image_id: String,
    /// Digest of the image's manifest, where known.
    pub image_manifest: Option<String>,
    /// `linux`
    pub platform: String,
    /// What runs.
    pub config: ContainerConfig,
    /// How it runs here.
    pub host: HostConfig,
    /// Its endpoints by the network's name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// What is mounted beyond the root file system and the kernel's own.
    pub mounts: Vec<MountPoint>,
    /// Published ports as they are now; empty while not running.
    pub ports: BTreeMap<ExposedPort, Vec<PortBinding>>,
    /// What `net` made for its present run.
    #[serde(default)]
    pub net: Option<net::Sandbox>,
    /// A network is being connected to its present run: `net` may not be what the kernel has.
    #[serde(default)]
    pub connecting: bool,
    /// It is a step of a build: whoever builds takes what it changed, and removes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub step: bool,
    /// What it was made for, in the words of whoever made it (a crate of a higher floor): no client and no image says that, and no copy has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Where it is.
    pub state: State,
    /// Where it was before its start. Only the store has it: the record of a start is written while the start goes on, and the
    /// keeper alone knows what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_start: Option<Box<BeforeStart>>,
}

/// What a start changes, as it was before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BeforeStart {
    /// Where the container was.
    pub state: State,
    /// The identifiers of its networks, by their names, as clients saw them.
    pub network_ids: BTreeMap<String, String>,
}

impl ContainerRecord {
    /// The program and its arguments: the entrypoint, then the command.
    pub fn argv(&self) -> Vec<String> {
        let entrypoint = self.config.entrypoint.iter().flatten();
        entrypoint.chain(self.config.cmd.iter().flatten()).cloned().collect()
    }

    /// Whether it runs in a microVM, with a kernel of its own.
    pub fn is_machine(&self) -> bool {
        self.host.isolation == super::MICROVM || self.host.runtime == super::MICROVM
    }
}

#[cfg(test)]
impl ContainerRecord {
    /// One that has never run, for tests.
    pub(crate) fn sample() -> Self {
        Self {
            id: ContainerId::random(),
            name: "c".into(),
            created: Timestamp::UNIX_EPOCH,
            image_id: String::new(),
            image_manifest: None,
            platform: "linux".into(),
            config: ContainerConfig::default(),
            host: HostConfig::default(),
            networks: BTreeMap::new(),
            mounts: Vec::new(),
            ports: BTreeMap::new(),
            net: None,
            connecting: false,
            step: false,
            state: State::default(),
            before_start: None,
            purpose: None,
        }
    }
}

/// A mount as decided at creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// `bind`, `volume`, `tmpfs` or `image`
    pub kind: MountPointKind,
    /// The volume's name, or the image's as it was asked for.
    pub name: Option<String>,
    /// Path on the host; of an image, its identifier.
    pub source: String,
    /// Path in the container.
    pub target: String,
    /// The volume's driver.
    pub driver: String,
    /// Options as the client wrote them (`z`, `rw`, …).
    pub mode: String,
    /// Whether it may be written.
    pub writable: bool,
    /// Propagation of mounts.
    pub propagation: String,
    /// Options of a tmpfs; flags of a bind.
    pub options: Vec<String>,
    /// Part of the volume's or the image's tree.
    pub subpath: String,
    /// Whether the image's files are copied into it on first use.
    pub copy_up: bool,
    /// It came from `-v`, or from the image, without a name.
    pub anonymous: bool,
}

impl MountPoint {
    /// The name of the volume that is mounted, if it is one.
    pub fn volume(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| self.kind == MountPointKind::Volume)
    }
}

/// What a mount shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountPointKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// An image's tree.
    Image,
}

impl MountPointKind {
    /// The kind as clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}
