//! The project's own chores: what cargo does not do, and a shell would do worse.
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod differential;
mod figures;
mod floors;
mod http;
mod instance;
mod licences;
mod machines;
mod memory;
mod nested;
mod peers;
mod programs;
mod safety;
mod server;
mod source;
mod workspace;

use anyhow::{Context, Result, bail};
use demo::Demo;
use licences::Rules;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use workspace::Workspace;

const USAGE: &str = "\
The project's own chores.

Usage: cargo xtask CHORE

  bench     measures stratus beside dockerd, runc and crun, and writes docs/benchmarks.md; with names of parts
            (runtimes, daemons, containers, layers) it measures those and prints them
  demo      starts twenty copies of examples/hello-web and tells what they cost; demo --stop takes them down. DEMO is what
            its directories in /var/lib and /run are called (stratus-demo), PROFILE that of the build (release)
  differential
            plays tests/differential through Debian's dockerd and through stratus, and fails where they differ; with
            names of scenarios it plays those; with --show before them it prints what dockerd says, too
  floors    fails where a crate uses one of its own or a higher floor, or has `unsafe` where none may be
  licences  fails where a crate from outside has a licence or a source that deny.toml does not allow
  machines  runs some of the containers' end-to-end tests with a kernel of its own for each container, and fails where one ends otherwise
            than tests/behind_machines.toml says; --all runs all that it names, and names of files in tests/tests those
  nested    runs the tests of containers behind our own hypervisor (tests/tests/nested.rs): on the host itself where its KVM runs kernels, else
            on a server that is emulated
  server    boots a stock Debian in QEMU, installs stratus there, and runs the core of the end-to-end tests; with names
            of files in tests/tests it runs those";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let chore = arguments.next();
    match chore.as_deref() {
        Some("bench") => bench::run(&root()?, &arguments.collect::<Vec<_>>()),
        Some("demo") => match arguments.next().as_deref() {
            None => demo::run(&root()?, &Demo::of_environment()?),
            Some("--stop") => demo::stop(&root()?, &Demo::of_environment()?),
            Some(other) => bail!("demo knows no {other:?}: there is only --stop"),
        },
        Some("differential") => differential::run(&root()?, &arguments.collect::<Vec<_>>()),
        Some("floors") => check_floors(&root()?),
        Some("machines") => machines::run(&root()?, &arguments.collect::<Vec<_>>()),
        Some("nested") => nested::run(&root()?),
        Some("licences") => check_licences(&root()?),
        Some("server") => server::run(&root()?, &arguments.collect::<Vec<_>>()),
        None | Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("there is no chore {other:?}\n\n{USAGE}"),
    }
}

fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace's root")?.to_owned())
}

/// The floors and the places of `unsafe`, checked in the whole workspace.
fn check_floors(root: &Path) -> Result<()> {
    let workspace = Workspace::load(root)?;
    let mut problems: Vec<String> = floors::check(&workspace).iter().map(ToString::to_string).collect();
    problems.extend(safety::check(&workspace)?.iter().map(ToString::to_string));
    report(&problems, "the floors are told in xtask/src/floors.rs and ARCHITECTURE.md")
}

/// What everything that the program is built from may be.
fn check_licences(root: &Path) -> Result<()> {
    let workspace = Workspace::load_with_dependencies(root)?;
    let refused: Vec<String> = Rules::load(root)?.check(&workspace).iter().map(ToString::to_string).collect();
    report(&refused, "the rules are in deny.toml")
}

fn report(problems: &[String], rules: &str) -> Result<()> {
    for problem in problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("that is against the rules: {rules}"),
        many => bail!("these {many} are against the rules: {rules}"),
    }
}
