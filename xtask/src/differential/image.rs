//! The image that both daemons have: made byte by byte, so that its id is the same everywhere.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs;
use std::process::Command;

pub(super) const NAME: &str = "busybox:latest";
const BUSYBOX: &str = "/bin/busybox";
const CREATED: &str = "2024-02-29T12:00:00Z";
const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nstaff:x:50:user\nuser:x:1000:\n";

/// An archive for `docker load`, and the ids of what is in it.
pub(super) struct Image {
    pub(super) archive: Vec<u8>,
    /// Id of the image, without its `sha256:`.
    pub(super) id: String,
    /// Digest of its layer, without its `sha256:`.
    pub(super) layer: String,
}

/// Busybox with all its commands, and as much of `/etc` as users and groups need.
pub(super) fn busybox() -> Result<Image> {
    let layer = layer()?;
    let layer_digest = hex(&layer);
    let config = json!({
        "architecture": architecture(), "os": "linux", "created": CREATED,
        "config": { "Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        "history": [{ "created": CREATED, "created_by": "busybox --install", "comment": "the base" }],
    });
    let config = config.to_string().into_bytes();
    let id = hex(&config);
    let manifest = json!([{ "Config": format!("{id}.json"), "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    let mut archive = Archive::new();
    archive.file("manifest.json", 0o644, manifest.to_string().as_bytes())?;
    archive.file(&format!("{id}.json"), 0o644, &config)?;
    archive.file("layer.tar", 0o644, &layer)?;
    Ok(Image { archive: archive.finish()?, id, layer: layer_digest })
}

/// As an image's configuration names it.
fn architecture() -> Value {
    match std::env::consts::ARCH {
        "x86_64" => "amd64".into(),
        "aarch64" => "arm64".into(),
        other => other.into(),
    }
}

fn layer() -> Result<Vec<u8>> {
    let program =
        fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}: install the package busybox-static"))?;
    let commands = Command::new(BUSYBOX).arg("--list").output().context("cannot run busybox")?;
    let mut archive = Archive::new();
    for directory in ["bin", "etc", "home", "root", "var"] {
        archive.directory(directory, 0o755, 0)?;
    }
    archive.directory("tmp", 0o1777, 0)?;
    archive.directory("home/user", 0o755, 1000)?;
    archive.file("bin/busybox", 0o755, &program)?;
    for command in String::from_utf8(commands.stdout).context("busybox lists no names")?.lines() {
        if command != "busybox" {
            archive.link(&format!("bin/{command}"), "busybox")?;
        }
    }
    archive.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    archive.file("etc/group", 0o644, GROUP.as_bytes())?;
    archive.finish()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar archive that is the same whenever and wherever it is made.
struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, 0);
        header.set_size(u64::try_from(content.len())?);
        self.0.append_data(&mut header, path, content).with_context(|| format!("cannot write {path} into an archive"))
    }

    fn directory(&mut self, path: &str, mode: u32, owner: u64) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, owner);
        self.0.append_data(&mut header, path, &[][..]).with_context(|| format!("cannot write {path} into an archive"))
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).with_context(|| format!("cannot write {path} into an archive"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("cannot end an archive")
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    header
}
