//! `cargo xtask machines`: the containers' end-to-end tests, each container of theirs with a kernel of its own.
//!
//! tests/behind_machines.toml says which, and which of them can't pass, how they fail, and why: one of these that passes is an error, or that fails in
//! another way, as one of the others that fails.

use crate::instance;
use crate::programs;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::Instant;

/// Asks for all of them, and not for those alone that take no more than some minutes.
const ALL: &str = "--all";
/// So many tests at once: they wait for their machines more than they compute.
const AT_ONCE: usize = 3;
/// In seconds. A test that takes longer hangs.
const PATIENCE: &str = "600";
/// What timeout(1) ends with then.
const TIMED_OUT: i32 = 124;

/// tests/behind_machines.toml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Files of tests/tests that are played whenever no others are named.
    usual: Vec<String>,
    /// What can be played besides.
    more: Vec<String>,
    #[serde(rename = "fails")]
    failures: Vec<Failing>,
}

/// A test that can't pass.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failing {
    /// `FILE::TEST`.
    test: String,
    /// A part of what it then says.
    says: String,
    reason: String,
    /// It passes where nothing comes in between: either end is as it has to be.
    #[serde(default)]
    sometimes: bool,
}

struct Test {
    name: String,
    file: String,
    function: String,
    program: PathBuf,
}

impl List {
    fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let list: Self = toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
        let is_empty = |failing: &&Failing| failing.reason.trim().is_empty() || failing.says.trim().is_empty();
        match list.failures.iter().find(is_empty) {
            Some(failing) => bail!("{}: it is not said how or why {} fails", path.display(), failing.test),
            None => Ok(list),
        }
    }

    fn by_name(&self) -> BTreeMap<&str, &Failing> {
        self.failures.iter().map(|failing| (failing.test.as_str(), failing)).collect()
    }
}

/// Plays the usual tests, or all, or those of the files that are named, and fails where one does not end as the list says.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if !instance::is_root() {
        bail!("containers need root: try again with sudo");
    }
    let began = Instant::now();
    let path = root.join("tests/behind_machines.toml");
    let list = List::load(&path)?;
    let files: Vec<&str> = match arguments {
        [] => list.usual.iter().map(String::as_str).collect(),
        [all] if all == ALL => list.usual.iter().chain(&list.more).map(String::as_str).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let programs = programs::build(root, &files)?;
    let found = |name: &str, is_test| {
        let program = programs.iter().find(|program| program.name == name && program.is_test == is_test);
        program.with_context(|| format!("there is no program {name}"))
    };
    let mut tests = Vec::new();
    for file in &files {
        tests.extend(tests_of(file, &found(file, true)?.executable)?);
    }
    let failures = list.by_name();
    let is_there = |test: &str| tests.iter().any(|known: &Test| known.name == test);
    let is_played = |test: &str| files.iter().any(|file| test.starts_with(&format!("{file}::")));
    if let Some(gone) = failures.keys().find(|test| is_played(test) && !is_there(test)) {
        bail!("{} names a test that is not there: {gone}", path.display());
    }
    let place = Place::new()?;
    let kernel = prepare(&found("stratus", false)?.executable, &place.0)?;
    let outcomes = play(root, &kernel, &tests)?;
    let wrong = judge(&outcomes, &failures);
    println!("\n{} tests behind machines; {:.0} s", tests.len(), began.elapsed().as_secs_f64());
    match wrong {
        0 => Ok(()),
        wrong => bail!("{wrong} did not end as {} says: mend them, or say there why they can't pass", path.display()),
    }
}

fn tests_of(file: &str, program: &Path) -> Result<Vec<Test>> {
    let output = Command::new(program).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let functions = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let test = |function: &str| Test {
        name: format!("{file}::{function}"),
        file: file.to_owned(),
        function: function.to_owned(),
        program: program.to_owned(),
    };
    Ok(functions.map(test).collect())
}

/// A directory that goes when it is dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("stratus-machines-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Prepares the kernel that all daemons take. Gives its directory.
fn prepare(stratus: &Path, place: &Path) -> Result<PathBuf> {
    let (vmlinuz, modules) = e2e::kernel_as_packaged();
    let data = place.join("data");
    let mut command = Command::new(stratus);
    command.args(["microvm", "kernel", "--use"]).arg(vmlinuz).arg("--modules").arg(modules);
    let output = command.arg("--data-dir").arg(&data).output().context("cannot run stratus")?;
    if !output.status.success() {
        bail!("the kernel for microVMs could not be prepared: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(data.join("microvm/kernel"))
}

/// What came of each test, in their order.
fn play<'t>(root: &Path, kernel: &Path, tests: &'t [Test]) -> Result<Vec<(&'t Test, Output)>> {
    let left = Mutex::new(tests.iter().enumerate());
    let outcomes = Mutex::new(BTreeMap::new());
    let next = || left.lock().ok().and_then(|mut left| left.next());
    let worker = || -> Result<()> {
        while let Some((number, test)) = next() {
            let began = Instant::now();
            let mut command = Command::new("timeout");
            command.args(["-k", "5", PATIENCE]).arg(&test.program).args(["--exact", &test.function]);
            command.env("E2E_MACHINES", kernel).current_dir(root.join("tests"));
            let output = command.output().context("cannot run timeout")?;
            let word = if output.status.success() { "passes" } else { "fails" };
            println!("{word:6} {:5.1} s  {}", began.elapsed().as_secs_f64(), test.name);
            outcomes.lock().expect("no thread panics with it").insert(number, (test, output));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    Ok(outcomes.into_inner().expect("no thread panics with it").into_values().collect())
}

/// Tells what did not end as it has to, and counts it.
fn judge(outcomes: &[(&Test, Output)], failures: &BTreeMap<&str, &Failing>) -> usize {
    let mut wrong = 0;
    for (test, output) in outcomes {
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let Some(problem) = problem(output, &said, failures.get(test.name.as_str()).copied()) else { continue };
        println!("\n{} of tests/tests/{}.rs {problem}", test.function, test.file);
        if !output.status.success() {
            println!("{said}");
        }
        wrong += 1;
    }
    wrong
}

/// In which way a test did not end as it has to; nothing: it did.
fn problem(output: &Output, said: &str, failing: Option<&Failing>) -> Option<String> {
    let status = output.status;
    match (status.success(), failing) {
        (true, None) => None,
        (true, Some(failing)) if failing.sometimes => None,
        (true, Some(failing)) => Some(format!("passes, and was not to: {}", failing.reason)),
        // One that hangs fails in no way that a list could tell.
        (false, Some(failing)) if status.code() != Some(TIMED_OUT) && said.contains(&failing.says) => None,
        (false, failing) => {
            let how = status
                .code()
                .map_or_else(|| format!("signal {}", status.signal().unwrap_or(0)), |code| format!("status {code}"));
            let otherwise = failing.map(|failing| format!(", and does not say {:?}", failing.says));
            Some(format!("fails ({how}){}:", otherwise.unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    fn judged(code: i32, said: &str, failing: Option<&Failing>) -> Option<String> {
        let output = Output { status: ExitStatus::from_raw(code << 8), stdout: Vec::new(), stderr: Vec::new() };
        problem(&output, said, failing)
    }

    #[test]
    fn a_listed_test_fails_as_the_list_says_and_in_no_other_way() {
        let listed = |sometimes| Failing {
            test: "run::all".to_owned(),
            says: "can't be had".to_owned(),
            reason: "It can't.".to_owned(),
            sometimes,
        };
        let (always, sometimes) = (listed(false), listed(true));
        assert_eq!(judged(0, "", None), None);
        assert_eq!(judged(101, "a device can't be had", Some(&always)), None);
        assert_eq!(judged(0, "", Some(&sometimes)), None);
        assert!(judged(0, "", Some(&always)).is_some_and(|told| told.starts_with("passes, and was not to")));
        for failing in [&always, &sometimes] {
            let told = judged(101, "something else", Some(failing)).unwrap();
            assert_eq!(told, "fails (status 101), and does not say \"can't be had\":");
        }
        assert!(judged(TIMED_OUT, "can't be had", Some(&always)).is_some());
        assert_eq!(judged(101, "", None).as_deref(), Some("fails (status 101):"));
    }
}
