//! `make server`: a stock Debian with systemd, cgroup v2 and its own kernel, in QEMU. stratus is installed there as README
//! says, and the end-to-end tests run there.

mod disk;
mod freight;
mod machine;

use crate::instance::is_root;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Instant;

/// What depends most on the kernel, on cgroups and on systemd: an emulated machine is too slow for all of it.
const CORE: [&str; 5] = ["exec", "life", "networks", "server", "survival"];

/// Makes the server's disk, where it is not there yet, brings the program and the tests there, and runs them: those of
/// tests/tests that are named, or the core.
pub(crate) fn run(root: &Path, names: &[String]) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the server is an x86_64 machine, whose programs this one does not build");
    }
    if !is_root() {
        bail!("the server's disk holds root's files: try again with sudo");
    }
    let began = Instant::now();
    let workspace = Workspace::load(root)?;
    let disk = disk::find_or_make()?;
    let is_wanted =
        |name: &str| if names.is_empty() { CORE.contains(&name) } else { names.iter().any(|wanted| wanted == name) };
    let freight = freight::pack(root, &workspace, is_wanted)?;
    println!("{} boots.", disk.name());
    machine::run(&disk, &freight.path())?;
    println!("All of this took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}
