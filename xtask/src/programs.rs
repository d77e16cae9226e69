//! The programs that chores run: `stratus`, and the end-to-end tests.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One line of what cargo tells of a build.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Built>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Built {
    name: String,
    kind: Vec<String>,
}

/// A program that cargo built.
pub(crate) struct Program {
    /// Of a test, its file's name.
    pub(crate) name: String,
    pub(crate) is_test: bool,
    pub(crate) executable: PathBuf,
}

/// Builds stratus and the end-to-end tests, or those of these files.
///
/// # Errors
/// Something does not compile.
pub(crate) fn build(root: &Path, files: &[&str]) -> Result<Vec<Program>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut programs = Vec::new();
    let mut tests = vec!["test", "--package=e2e", "--no-run"];
    tests.extend(files.iter().flat_map(|file| ["--test", file]));
    for arguments in [["build", "--package=stratus"].as_slice(), &tests] {
        let mut command = Command::new(&cargo);
        command.args(arguments).args(["--quiet", "--message-format=json-render-diagnostics"]);
        let output = command.current_dir(root).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cargo {} failed ({})", arguments.join(" "), output.status);
        }
        programs.extend(String::from_utf8_lossy(&output.stdout).lines().filter_map(program));
    }
    Ok(programs)
}

/// The executable that a line of cargo's tells of, if it is one that is needed.
fn program(line: &str) -> Option<Program> {
    let message: Message =
        serde_json::from_str(line).ok().filter(|message: &Message| message.reason == "compiler-artifact")?;
    let built = message.target?;
    let is_test = built.kind.iter().any(|kind| kind == "test");
    let is_needed = is_test || built.kind.iter().any(|kind| kind == "bin");
    Some(Program { name: built.name, is_test, executable: message.executable.filter(|_| is_needed)? })
}
