//! `cargo xtask nested`: containers in microVMs by our own hypervisor, on the host itself where its KVM runs kernels, else on a server that QEMU
//! emulates with all of its KVM.

use crate::{instance, programs, server};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use vmm::Virtualization;

/// The file of tests/tests.
const FILE: &str = "nested";
/// So many machines' tests at once.
const AT_ONCE: &str = "2";

pub(crate) fn run(root: &Path) -> Result<()> {
    if !instance::is_root() {
        bail!("containers need root: try again with sudo");
    }
    match vmm::probe() {
        Ok(Virtualization::Hardware) => {
            println!("The host's KVM runs kernels: these tests are on the host itself.");
            on_the_host(root)
        }
        Ok(Virtualization::Software) => {
            println!("The host's KVM runs no kernels: these tests are on a server that QEMU emulates.");
            server::run(root, &[FILE.to_owned()])
        }
        Err(error) => {
            println!("{error}: these tests are on a server that QEMU emulates.");
            server::run(root, &[FILE.to_owned()])
        }
    }
}

fn on_the_host(root: &Path) -> Result<()> {
    let programs = programs::build(root, &[FILE])?;
    let tests = programs.iter().find(|program| program.is_test).context("cargo built no test")?;
    let mut command = Command::new(&tests.executable);
    command.args(["--ignored", "--test-threads", AT_ONCE]).current_dir(root.join("tests"));
    let status = command.status().with_context(|| format!("cannot run {}", tests.executable.display()))?;
    if !status.success() {
        bail!("the tests of our own hypervisor failed ({status})");
    }
    Ok(())
}
