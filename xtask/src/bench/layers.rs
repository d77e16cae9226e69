//! A layer of 180 MB of real files: imported, pushed to a registry on loopback, and pulled from there.

use super::arena::Arena;
use super::document::{Figure, Target, Unit};
use super::time;
use crate::figures::milliseconds;
use crate::peers::{Dockerd, REGISTRY, Registry};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROUNDS: usize = 5;
/// Bytes of files in the layer.
const SIZE: u64 = 180_000_000;
/// A single file does not make the layer.
const LARGEST: u64 = 4_000_000;

/// One who does all three.
struct Contender {
    name: &'static str,
    host: String,
    imports: Vec<f64>,
    pushes: Vec<f64>,
    pulls: Vec<f64>,
}

pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let archive = arena.path("layer.tar");
    write_layer(&archive)?;
    let ours = arena.instance("layers");
    ours.0.start()?;
    let theirs = Dockerd::new(arena.path("layers-dockerd"))?;
    theirs.start()?;
    let mut contenders = [Contender::new("stratus", &ours.0.socket()), Contender::new("dockerd", &theirs.socket())];
    for round in 0..ROUNDS {
        let registry = Registry::start(arena.path("registry"))?;
        for contender in &mut contenders {
            contender.import_and_push(&archive, round)?;
        }
        // Everybody pulls the same blob: the one that dockerd compressed.
        for contender in &mut contenders {
            contender.pull(&image("dockerd", round))?;
        }
        drop(registry);
    }
    let [ours, theirs] = contenders;
    let figure = |what, ours, theirs, most, bound| Figure {
        what,
        unit: Unit::Milliseconds,
        measured: vec![("stratus", ours), ("dockerd", theirs)],
        target: Target::AtMost(most),
        bound,
    };
    Ok(vec![
        figure(
            "`docker pull` of a layer of 180 MB from loopback",
            ours.pulls,
            theirs.pulls,
            1200.0,
            "decompression of one gzip stream, which no second core can help with; hashing and writing go on beside it",
        ),
        figure(
            "`docker push` of that layer",
            ours.pushes,
            theirs.pushes,
            2500.0,
            "compression, on all cores, and the registry's own hashing and writing beside it",
        ),
        figure(
            "`docker import` of that layer",
            ours.imports,
            theirs.imports,
            600.0,
            "copying 180 MB three times: to the daemon, to the blob and to the files, of which the last two go to pages that nobody had before; half the daemon's processor time is in these two copies (`copy_folio_from_iter_atomic`), a tenth in hashing (`perf record`). Touching as much fresh memory, and doing nothing with it, takes 74 to 211 ms on this machine, as its own host has the pages ready or not",
        ),
    ])
}

/// A name of its own in each round, so that nobody finds a layer where another one left it.
fn image(name: &str, round: usize) -> String {
    format!("{REGISTRY}/{name}-{round}:latest")
}

impl Contender {
    fn new(name: &'static str, socket: &Path) -> Self {
        let host = format!("unix://{}", socket.display());
        Self { name, host, imports: Vec::new(), pushes: Vec::new(), pulls: Vec::new() }
    }

    /// Begins with nothing left to write: what the one before wrote, or the archive's maker, is not this one's to wait for.
    fn docker(&self, arguments: &[&str]) -> Result<f64> {
        rustix::fs::sync();
        time(Command::new("docker").arg("--host").arg(&self.host).args(arguments)).map(milliseconds)
    }

    fn import_and_push(&mut self, archive: &Path, round: usize) -> Result<()> {
        let (name, archive) = (image(self.name, round), archive.to_string_lossy());
        self.imports.push(self.docker(&["import", &archive, &name])?);
        self.pushes.push(self.docker(&["push", "--quiet", &name])?);
        self.docker(&["rmi", &name]).map(drop)
    }

    fn pull(&mut self, name: &str) -> Result<()> {
        self.pulls.push(self.docker(&["pull", "--quiet", name])?);
        self.docker(&["rmi", name]).map(drop)
    }
}

/// Files of this system, in the order of their names, until there are enough.
fn write_layer(archive: &Path) -> Result<()> {
    let file = File::create(archive).with_context(|| format!("cannot create {}", archive.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    archive.follow_symlinks(false);
    let mut left = SIZE;
    let mut pending = vec![PathBuf::from("/usr/share"), PathBuf::from("/usr/lib"), PathBuf::from("/usr/bin")];
    while let Some(directory) = pending.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&directory)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_dir() {
                pending.push(path);
            } else if meta.is_file() && meta.len() <= LARGEST {
                archive.append_path_with_name(&path, path.strip_prefix("/").unwrap_or(&path))?;
                left = left.saturating_sub(meta.len());
            }
            if left == 0 {
                return archive.into_inner()?.into_inner().map(drop).context("cannot write the layer");
            }
        }
    }
    archive.into_inner()?.into_inner().map(drop).context("cannot write the layer")
}
