//! A context of a gigabyte: what it takes where nothing of it changed, and where one file did.

use super::super::arena::Arena;
use super::super::document::Figure;
use super::super::{Contender, take_turns, time};
use crate::instance::Instance;
use crate::peers::{Buildah, Dockerd};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const FILES: usize = 50_000;
/// Files in one directory.
const TOGETHER: usize = 100;
const SIZE: usize = 20 << 10;
const ROUNDS: usize = 5;
/// How long files are written for that a build knows again: of those that were changed less than two seconds before they were sent, the next build
/// asks once more, as a further change may have had the same time.
const YOUNG: Duration = Duration::from_secs(3);
/// Of those who take ten seconds and more each time.
const PEERS_ROUNDS: usize = 1;

pub(super) fn figures(arena: &Arena, ours: &Instance, theirs: &Dockerd, buildah: &Buildah) -> Result<Vec<Figure>> {
    let directory = arena.path("context");
    make(&directory)?;
    // Nobody's sources are all of this moment.
    std::thread::sleep(YOUNG);
    let measure = |change: bool| -> Result<Vec<(&'static str, Vec<f64>)>> {
        let mut own = take_turns(ROUNDS, vec![contender("stratus", &directory, change, || stratus(ours, &directory))])?;
        let docker = || super::build(&theirs.socket(), &directory, &[]);
        let peers = vec![
            contender("dockerd", &directory, change, docker),
            contender("buildah", &directory, change, || time(&mut buildah.build("built", &directory, &[]))),
        ];
        own.extend(take_turns(PEERS_ROUNDS, peers)?);
        Ok(own)
    };
    let figures = vec![
        Figure::time(
            "`stratus build` of a context of 1 GB in 50,000 files, unchanged",
            measure(false)?,
            500.0,
            "looking at each file, which the client does: opening 500 directories, and 50,000 calls of statx. The daemon looks at none (less than a thousand calls of all kinds, by `strace -c`)",
        ),
        Figure::time(
            "the same, one file changed",
            measure(true)?,
            600.0,
            "the digest of the layer's archive, which is one sum over all of it: it goes on from before the changed file, which is in the middle here, so over half a gigabyte: half of the daemon's processor time (`perf record`). Reading that half, six calls a file, is three tenths of it, and goes on beside it",
        ),
    ];
    fs::remove_dir_all(&directory).context("cannot remove the context")?;
    Ok(figures)
}

fn make(directory: &Path) -> Result<()> {
    for n in 0..FILES {
        let parent = directory.join(format!("{:03}", n / TOGETHER));
        if n % TOGETHER == 0 {
            fs::create_dir_all(&parent).context("cannot make a context")?;
        }
        let mut contents = vec![b'.'; SIZE];
        contents[..8].copy_from_slice(format!("{n:08}").as_bytes());
        fs::write(parent.join(format!("{n}")), contents)?;
    }
    fs::write(directory.join("Dockerfile"), "FROM bench\nWORKDIR /srv\nCOPY . .\n").context("cannot make a context")
}

fn contender<'a>(
    name: &'static str,
    directory: &'a Path,
    change: bool,
    build: impl Fn() -> Result<Duration> + 'a,
) -> Contender<'a> {
    let mut round = 0;
    let changed: PathBuf = directory.join("250/25050");
    let once = move || {
        if change {
            round += 1;
            fs::write(&changed, format!("{name} {round}"))?;
        }
        build()
    };
    (name, Box::new(once))
}

fn stratus(ours: &Instance, directory: &Path) -> Result<Duration> {
    let mut command = Command::new(&ours.program);
    command.arg("--host").arg(format!("unix://{}", ours.socket().display()));
    time(command.args(["build", "--quiet", "--tag", "built"]).arg(directory))
}
