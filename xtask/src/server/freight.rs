//! The second disk: the program, what installs it, the tests, and the `docker` client that the tests use here.

use crate::programs;
use crate::server::disk;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// In GiB. Most of it is what a debugger needs.
const SIZE: u64 = 2;
/// What the machine runs.
const RUN: &str = include_str!("run.sh");

/// A disk that goes when it is dropped.
pub(super) struct Freight {
    directory: PathBuf,
}

impl Freight {
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join("freight.ext4")
    }
}

impl Drop for Freight {
    fn drop(&mut self) {
        // Whatever stays there is overwritten by the next run.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Builds the program and the tests, and puts them onto a disk: the tests of these files.
pub(super) fn pack(root: &Path, workspace: &Workspace, wanted: &[&str]) -> Result<Freight> {
    let programs = programs::build(root, wanted)?;
    let freight = Freight { directory: workspace.target_directory.join("server") };
    let tree = freight.directory.join("tree");
    // What a run that was killed left there.
    let _ = fs::remove_dir_all(&freight.directory);
    fs::create_dir_all(tree.join("tests")).with_context(|| format!("cannot create {}", tree.display()))?;
    for program in &programs {
        let place = if program.is_test { tree.join("tests") } else { tree.clone() };
        copy(&program.executable, &place.join(&program.name))?;
    }
    copy(&find("docker")?, &tree.join("docker"))?;
    disk::run(Command::new("cp").arg("-r").arg(root.join("contrib")).arg(&tree))?;
    let run = tree.join("run");
    fs::write(&run, RUN).with_context(|| format!("cannot write {}", run.display()))?;
    disk::run(Command::new("chmod").arg("755").arg(&run))?;
    disk::format(&tree, &freight.path(), SIZE)?;
    Ok(freight)
}

fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("there is no {program} in PATH"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
