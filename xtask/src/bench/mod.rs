//! `make bench`: stratus beside Debian's dockerd, runc and crun, in one run, on one machine. Contenders take turns, so
//! that what else the machine does meets all of them.
//!
//! Everything happens in a network namespace and a mount namespace of the bench's own: bridges, rules and mounts of the
//! machine neither slow it down nor change.

mod arena;
mod builds;
mod containers;
mod daemons;
mod document;
mod layers;
mod microvms;
mod runtimes;

use crate::instance::{self, release_program};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use arena::Arena;
use document::{Document, Figure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Above this many processes that want to run, times say more about them than about what is measured.
const QUIET: f64 = 1.5;
/// Tells the bench that it is in its namespaces already.
const INSIDE: &str = "--inside";

/// One who is measured: its name, and what does it once and tells how long that took.
type Contender<'a> = (&'static str, Box<dyn FnMut() -> Result<Duration> + 'a>);

/// Measures, and writes docs/benchmarks.md; or prints it, where only some parts are asked for.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !instance::is_root() {
        bail!("containers need root: try again with sudo");
    }
    match arguments.first().map(String::as_str) {
        Some(INSIDE) => measure(root, &arguments[1..]),
        // In a mount namespace of their own: what they print is read by the bench.
        Some(runtimes::ALONE) => runtimes::alone(&arguments[1..]),
        _ => {
            // From within there is no network to fetch it by.
            if arguments.is_empty() || arguments.iter().any(|part| part == "microvms") {
                e2e::fetch_kernel();
            }
            let mut command = Command::new("unshare");
            command.args(["--net", "--mount", "--propagation", "private"]);
            command.arg(std::env::current_exe()?).args(["bench", INSIDE]).args(arguments);
            match command.status().context("cannot run unshare")? {
                status if status.success() => Ok(()),
                _ => bail!("the bench failed"),
            }
        }
    }
}

fn measure(root: &Path, only: &[String]) -> Result<()> {
    const PARTS: [&str; 6] = ["runtimes", "daemons", "containers", "layers", "builds", "microvms"];
    if let Some(unknown) = only.iter().find(|name| !PARTS.contains(&name.as_str())) {
        bail!("the bench has no part {unknown:?}: there are {}", PARTS.join(", "));
    }
    let load = load()?;
    if load > QUIET {
        eprintln!("The load is {load}: times of this run are worth little. Try again when the machine is quiet.");
    }
    let began = Instant::now();
    let program = release_program(&Workspace::load(root)?.target_directory)?;
    let arena = Arena::new(program)?;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|part| part == name);
    let mut document = Document::new(load, &arena)?;
    if wanted("runtimes") {
        document.add(progress("runtimes", || runtimes::figures(&arena))?);
    }
    if wanted("daemons") {
        document.add(progress("daemons", || daemons::figures(&arena))?);
    }
    if wanted("containers") {
        document.add(progress("containers", || containers::figures(&arena))?);
    }
    if wanted("layers") {
        document.add(progress("layers", || layers::figures(&arena))?);
    }
    if wanted("builds") {
        document.add(progress("builds", || builds::figures(&arena))?);
    }
    if wanted("microvms") {
        document.add(progress("microvms", || microvms::figures(&arena))?);
    }
    let text = document.text(began.elapsed());
    if only.is_empty() {
        let path = root.join("docs/benchmarks.md");
        std::fs::create_dir_all(root.join("docs")).context("cannot make docs")?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("Written to {} after {:.0} s.", path.display(), began.elapsed().as_secs_f64());
    } else {
        print!("{text}");
    }
    Ok(())
}

fn progress(name: &str, part: impl FnOnce() -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
    eprintln!("Measuring {name}...");
    let began = Instant::now();
    let figures = part().with_context(|| format!("measuring {name}"))?;
    eprintln!("Measured {name} in {:.1} s.", began.elapsed().as_secs_f64());
    Ok(figures)
}

fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    text.split(' ').next().and_then(|load| load.parse().ok()).context("/proc/loadavg is not understood")
}

/// Lets everybody have so many turns, one after the other, after one that does not count. A turn begins when what the one before it
/// left to be done in the background (shims that end, namespaces that are taken down) is over.
fn take_turns(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let mut times: Vec<(&'static str, Vec<f64>)> = contenders.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for round in 0..=rounds {
        for ((name, contender), (_, times)) in contenders.iter_mut().zip(&mut times) {
            settle()?;
            let time = contender().with_context(|| format!("{name}, round {round}"))?;
            if round > 0 {
                times.push(crate::figures::milliseconds(time));
            }
        }
    }
    Ok(times)
}

/// Waits until the machine has nothing to do, for a second at most: one that always has something gives no quiet figures anyhow,
/// which the load in the document's head tells.
fn settle() -> Result<()> {
    let mut before = busy()?;
    for _ in 0..25 {
        std::thread::sleep(Duration::from_millis(40));
        let now = busy()?;
        if now - before <= 1 {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

/// What all processors were busy with since they began, in hundredths of a second (proc_stat(5): all of the first line's first
/// eight figures but `idle` and `iowait`).
fn busy() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let times = line.split_ascii_whitespace().skip(1).take(8).map(str::parse).collect::<Result<Vec<u64>, _>>();
    let times = times.context("/proc/stat is not understood")?;
    Ok(times.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, time)| time).sum())
}

/// Runs a command that must succeed, and tells how long it took.
fn time(command: &mut Command) -> Result<Duration> {
    command.stdin(std::process::Stdio::null());
    let began = Instant::now();
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    let time = began.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(time)
}
