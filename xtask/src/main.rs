//! The project's own chores: what cargo does not do, and a shell would do worse.
#![forbid(unsafe_code)]

mod floors;
mod safety;
mod source;
mod workspace;

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::ExitCode;
use workspace::Workspace;

const USAGE: &str = "\
The project's own chores.

Usage: cargo xtask CHORE

  floors   fails where a crate uses one of its own or a higher floor, or has `unsafe` where none may be";

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
        Some("floors") => check_floors(),
        None | Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        Some(other) => bail!("there is no chore {other:?}\n\n{USAGE}"),
    }
}

/// The floors and the places of `unsafe`, checked in the whole workspace.
fn check_floors() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace's root")?;
    let workspace = Workspace::load(root)?;
    let mut problems: Vec<String> = floors::check(&workspace).iter().map(ToString::to_string).collect();
    problems.extend(safety::check(&workspace)?.iter().map(ToString::to_string));
    for problem in &problems {
        eprintln!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        1 => bail!("one crate is not where it belongs (the floors: xtask/src/floors.rs and ARCHITECTURE.md)"),
        many => bail!("{many} things are not where they belong (the floors: xtask/src/floors.rs and ARCHITECTURE.md)"),
    }
}
