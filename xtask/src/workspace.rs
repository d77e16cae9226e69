//! The workspace's crates and what they are built from, as `cargo metadata` tells them.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace, as far as the checks look at it.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    /// Where cargo puts what it builds.
    pub(crate) target_directory: PathBuf,
}

/// One crate of it, or one that it is built from.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) manifest_path: PathBuf,
    /// An SPDX expression.
    pub(crate) license: Option<String>,
    /// Where it comes from; none for a crate of this repository.
    pub(crate) source: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// A crate that another one uses: to build, to run, or to test.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Its folder, for one of this repository; none for one from a registry.
    pub(crate) path: Option<PathBuf>,
}

/// Something that cargo builds from a crate.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: PathBuf,
}

impl Workspace {
    /// The crates of the workspace at `root`.
    pub(crate) fn load(root: &Path) -> Result<Workspace> {
        Workspace::ask(root, &["--no-deps"])
    }

    /// They, and all that they are built from on Linux.
    pub(crate) fn load_with_dependencies(root: &Path) -> Result<Workspace> {
        Workspace::ask(root, &["--filter-platform=x86_64-unknown-linux-gnu"])
    }

    fn ask(root: &Path, arguments: &[&str]) -> Result<Workspace> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1"])
            .args(arguments)
            .current_dir(root)
            .output()
            .context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata says something that is not understood")
    }
}

impl Package {
    /// The crate's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new(""))
    }
}
