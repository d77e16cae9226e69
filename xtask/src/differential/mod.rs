//! `make differential`: the same commands through Debian's dockerd and through stratus, and what comes of them compared.
//!
//! The commands are in tests/differential/scenarios, what may differ, and why, in tests/differential/accepted.toml.

mod accepted;
mod compare;
mod image;
mod normalise;
mod report;
mod script;
mod side;

use crate::instance;
use crate::workspace::Workspace;
use accepted::{Accepted, Unneeded};
use anyhow::{Context, Result, bail};
use normalise::Normaliser;
use side::{Side, Transcript};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Instant;

/// On the disk that daemons use, not on a tmpfs that /tmp may be.
const PLACE: &str = "/var/lib";
const PREFIX: &str = "stratus-differential-";
/// Asks for everything that dockerd answers, also where stratus answers the same: for who writes a scenario.
const SHOW: &str = "--show";
/// Asks for every difference that is accepted, with the reason: for who makes the list narrower.
const ACCEPTED: &str = "--accepted";
/// Asks for containers beside containers with a kernel of their own, both of stratus, in place of dockerd beside stratus.
const MICROVMS: &str = "--microvms";
/// What is played so: whatever is about containers that run. The rest is the same code for both.
const OF_MICROVMS: [&str; 11] =
    ["config", "events", "exec", "files", "inspect", "limits", "logs", "networks", "run", "system", "volumes"];
/// Tells that this is one of the two sides, in namespaces of its own.
const INSIDE: &str = "--inside";

/// The scenario whose images are not made of busybox, and what its Dockerfiles begin with: names of files, and of images or their stand-ins.
const PROJECTS: &str = "projects";
const BASES: [(&str, &str); 6] = [
    ("debian", "debian:bookworm-slim"),
    ("debian-packages", "debian-packages"),
    ("gcc", "gcc:12-bookworm"),
    ("golang", "golang:1.19-bookworm"),
    ("node", "node-packages"),
    ("python", "python-packages"),
];

/// Plays all scenarios, or those that are named, through both, and fails where they differ.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !instance::is_root() {
        bail!("containers need root: try again with sudo");
    }
    let (arguments, pair) = match arguments {
        [microvms, rest @ ..] if microvms == MICROVMS => (rest, Pair::MICROVMS),
        arguments => (arguments, Pair::DOCKERD),
    };
    match arguments {
        [inside, side, place, only @ ..] if inside == INSIDE => play(root, side.parse()?, Path::new(place), only),
        [show, only @ ..] if show == SHOW => judge(root, &pair, only, Some(Also::Scenarios)),
        [show, only @ ..] if show == ACCEPTED => judge(root, &pair, only, Some(Also::Accepted)),
        only => judge(root, &pair, only, None),
    }
}

/// What is compared: how it should be, and how it is.
struct Pair {
    sides: [Side; 2],
    /// Below tests/differential: what may differ.
    accepted: &'static str,
    /// Without names, these scenarios are played, or all.
    usual: &'static [&'static str],
}

impl Pair {
    const DOCKERD: Self = Self { sides: [Side::Dockerd, Side::Stratus], accepted: "accepted.toml", usual: &[] };
    const MICROVMS: Self =
        Self { sides: [Side::Stratus, Side::Machines], accepted: "accepted_microvms.toml", usual: &OF_MICROVMS };
}

/// What is printed beside what differs and is not accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Also {
    Scenarios,
    Accepted,
}

/// One side's part, in its namespaces.
fn play(root: &Path, side: Side, place: &Path, only: &[String]) -> Result<()> {
    let files = root.join("tests/differential");
    let scenarios = script::scenarios(&files.join("scenarios"), only)?;
    let transcripts = side.play(place, &program(root)?, &files, &scenarios)?;
    let path = transcript(place, side);
    fs::write(&path, serde_json::to_vec(&transcripts)?).with_context(|| format!("cannot write {}", path.display()))
}

fn judge(root: &Path, pair: &Pair, only: &[String], also: Option<Also>) -> Result<()> {
    let began = Instant::now();
    let is_whole = only.is_empty();
    let usual: Vec<String> = pair.usual.iter().map(|name| (*name).to_owned()).collect();
    let only = if is_whole { &usual } else { only };
    let program = program(root)?;
    take_down_interrupted(&program);
    let files = root.join("tests/differential");
    let accepted = Accepted::load(&files.join(pair.accepted))?;
    let scenarios = script::scenarios(&files.join("scenarios"), only)?;
    let place = Place::new(&program)?;
    if scenarios.iter().any(|scenario| scenario.name == PROJECTS) {
        have_bases(&place.path)?;
    }
    let image = image::busybox()?;
    fs::write(place.path.join(side::ARCHIVE), &image.archive).context("cannot write the image")?;
    let sides = pair.sides;
    if sides.contains(&Side::Machines) {
        e2e::fetch_kernel();
    }
    // Both at the same time: there are two processors at least.
    let running = sides.map(|side| start(&place.path, side, only));
    let [theirs, ours] = running.map(|child| child.and_then(|mut child| child.wait().context("cannot wait")));
    for (side, status) in sides.iter().zip([theirs?, ours?]) {
        if !status.success() {
            bail!("the scenarios could not be played through {side} ({status})");
        }
    }
    let [theirs, ours] = sides.map(|side| read(&place.path, side));
    let (theirs, ours) = (theirs?, ours?);
    if also == Some(Also::Scenarios) {
        report::show(&theirs);
    }
    let [their_words, our_words] = sides.map(|side| Normaliser::new(&side.directory(&place.path), &image));
    let (theirs, ours) = ((&theirs[..], &their_words), (&ours[..], &our_words));
    let totals = report::compare(theirs, ours, &accepted, also == Some(Also::Accepted))?;
    println!("\n{totals}; {:.0} s", began.elapsed().as_secs_f64());
    // Parts of the list are for scenarios that were not played.
    let mut needless = false;
    for Unneeded { entry, host } in accepted.unneeded().filter(|_| is_whole) {
        match host {
            Some(why) => eprintln!("{} accepts what does not differ here ({why}): {entry}", pair.accepted),
            None => eprintln!("{} accepts what does not differ any more: {entry}", pair.accepted),
        }
        needless |= host.is_none();
    }
    if totals.refused > 0 || needless {
        bail!("mend what differs, or say in {} why it has to", files.join(pair.accepted).display());
    }
    Ok(())
}

/// Puts what Dockerfiles begin with where both sides look for it. The first time it takes minutes, and the network, which the sides have none of.
fn have_bases(place: &Path) -> Result<()> {
    let directory = place.join(side::BASES);
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for (file, image) in BASES {
        let link = directory.join(file);
        symlink(e2e::base_archive(image), &link).with_context(|| format!("cannot make {}", link.display()))?;
    }
    Ok(())
}

fn start(place: &Path, side: Side, only: &[String]) -> Result<Child> {
    let place = place.to_string_lossy();
    let side = side.to_string();
    let mut arguments = vec!["differential", INSIDE, &side, &place];
    arguments.extend(only.iter().map(String::as_str));
    Side::command(&arguments)?.spawn().context("cannot run setpriv")
}

fn transcript(place: &Path, side: Side) -> PathBuf {
    place.join(format!("{side}.json"))
}

fn read(place: &Path, side: Side) -> Result<Vec<Transcript>> {
    let path = transcript(place, side);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))
}

/// What `cargo build -p stratus` made, or what `STRATUS_BIN` names, as for the end-to-end tests.
fn program(root: &Path) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("STRATUS_BIN") {
        return Ok(path.into());
    }
    let program = Workspace::load(root)?.target_directory.join("debug/stratus");
    if !program.is_file() {
        bail!("{} is not there: build it with: cargo build -p stratus", program.display());
    }
    Ok(program)
}

/// The directory of both sides. It is removed, with what the sides left, when it is dropped.
struct Place {
    path: PathBuf,
    program: PathBuf,
}

impl Place {
    fn new(program: &Path) -> Result<Self> {
        let path = Path::new(PLACE).join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, program: program.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for side in [Side::Dockerd, Side::Stratus, Side::Machines] {
            if !side.directory(&self.path).exists() {
                continue;
            }
            if let Err(error) = side.sweep(&self.path, &self.program) {
                eprintln!("{side} could not be taken down: {error:#}");
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Takes down what a run left that was killed.
fn take_down_interrupted(program: &Path) {
    for entry in fs::read_dir(PLACE).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            eprintln!("Taking down what an interrupted run left in {}.", entry.path().display());
            drop(Place { path: entry.path(), program: program.to_owned() });
        }
    }
}
