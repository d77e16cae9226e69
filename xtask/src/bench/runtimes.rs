//! OCI runtimes: the same bundle, run by each of them.

use super::arena::Arena;
use super::document::{Figure, Target, Unit};
use super::{Contender, take_turns, time};
use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ROUNDS: usize = 60;
/// The part of the bench that is run in a mount namespace of its own.
pub(super) const ALONE: &str = "--runtimes";

/// What was measured of each, as it is handed over.
type Named = Vec<(String, Vec<f64>)>;

/// Runs them where crun runs as well: it refuses a v2 tree beside v1 hierarchies, so that this one is unmounted, for all of
/// them.
pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe()?).args(["bench", ALONE]);
    command.arg(&arena.program).arg(arena.bundle()?).arg(arena.path("runtimes"));
    let output = command.stderr(Stdio::inherit()).output().context("cannot run unshare")?;
    if !output.status.success() {
        bail!("the runtimes could not be measured");
    }
    let (times, calls): (Named, Named) = serde_json::from_slice(&output.stdout)?;
    let named = |list: Named| list.into_iter().map(|(name, values)| (known(&name), values)).collect();
    Ok(vec![
        Figure {
            what: "`runtime run` of `true`, all namespaces",
            unit: Unit::Milliseconds,
            measured: named(times),
            target: Target::PeerDividedBy(1.5),
            bound: "the kernel, which takes five sixths of its processor time (`perf record`): clone with all namespaces, \
                    mounts, `pivot_root`, `execve` and the end, and a directory in each of the cgroup hierarchies; a \
                    tenth is the dynamic loader, which runs twice, as the program executes itself anew from a read-only \
                    mount, where no container can write to it",
        },
        Figure {
            what: "system calls of that, all processes",
            unit: Unit::Calls,
            measured: named(calls),
            target: Target::None,
            bound: "",
        },
    ])
}

fn known(name: &str) -> &'static str {
    ["stratus", "crun", "runc"].into_iter().find(|known| *known == name).unwrap_or("another")
}

/// Measures, and prints what the caller reads: `PROGRAM BUNDLE DIRECTORY`.
pub(super) fn alone(arguments: &[String]) -> Result<()> {
    let [program, bundle, directory] = arguments else { bail!("{ALONE} PROGRAM BUNDLE DIRECTORY") };
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).exists() {
        unmount(unified, UnmountFlags::DETACH).context("cannot unmount the cgroup v2 tree")?;
    }
    let runtimes = [
        Runtime { name: "stratus", command: vec![program.clone(), "runtime".to_owned()] },
        Runtime { name: "crun", command: vec!["crun".to_owned()] },
        Runtime { name: "runc", command: vec!["runc".to_owned()] },
    ];
    let (bundle, directory) = (Path::new(bundle), PathBuf::from(directory));
    let contenders = runtimes.iter().map(|runtime| -> Contender<'_> {
        let mut run = runtime.run(bundle, &directory, Vec::new());
        (runtime.name, Box::new(move || time(&mut run)))
    });
    let times = take_turns(ROUNDS, contenders.collect())?;
    let calls = runtimes.iter().map(|runtime| Ok((runtime.name, vec![runtime.calls(bundle, &directory)?])));
    println!("{}", serde_json::to_string(&(times, calls.collect::<Result<Vec<_>>>()?))?);
    Ok(())
}

struct Runtime {
    name: &'static str,
    command: Vec<String>,
}

impl Runtime {
    /// The command that runs the bundle once, below another one.
    fn run(&self, bundle: &Path, directory: &Path, below: Vec<String>) -> Command {
        let mut words = below.into_iter().chain(self.command.iter().cloned());
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).arg("--root").arg(directory.join(self.name)).args(["run", "--bundle"]).arg(bundle);
        command.arg(format!("bench-{}", self.name));
        command
    }

    /// How many system calls that takes, by strace(1).
    fn calls(&self, bundle: &Path, directory: &Path) -> Result<f64> {
        let summary = directory.with_extension("strace");
        let below = ["strace", "-c", "-f", "-o"].map(str::to_owned).into_iter();
        let below = below.chain([summary.to_string_lossy().into_owned()]).collect();
        time(&mut self.run(bundle, directory, below))?;
        let text = std::fs::read_to_string(&summary)?;
        let total = text.lines().rev().find(|line| line.trim_end().ends_with("total"));
        // 100.00    0.012345          12       345        10 total
        let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
        calls.with_context(|| format!("strace's summary is not understood: {text}"))
    }
}
