//! `make server`: a stock Debian with systemd, cgroup v2 and its own kernel, in QEMU. stratus is installed there as README
//! says, and the end-to-end tests run there.

mod disk;
mod freight;
mod machine;

use crate::instance::is_root;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Instant;

/// What depends most on the kernel, on cgroups and on systemd: an emulated machine is too slow for all of it.
const CORE: [&str; 5] = ["exec", "life", "networks", "server", "survival"];
/// A boot of the server, and the tests that take it.
struct Boot {
    tests: &'static [&'static str],
    processors: u8,
    /// What the kernel and systemd are told besides.
    arguments: &'static str,
    /// Whether they are taken where none are named.
    usual: bool,
}

/// All tests that take another boot than the others.
const SPECIAL: [Boot; 2] = [
    // What has control groups of version 1 alone.
    Boot {
        tests: &["version1"],
        processors: 2,
        arguments: "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=yes",
        usual: true,
    },
    // What boots machines of its own on the server's KVM. That server has one processor: of two, the emulation now and then interrupts a guest that
    // forbids it (crates/vmm/tests/nested.rs). They are `cargo xtask nested`'s, and so a part of make test.
    Boot { tests: &["nested"], processors: 1, arguments: "", usual: false },
];

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
    let disk = disk::find_or_make().context(
        "the disk of the server that the tests take could not be made of the distribution's packages: it takes mmdebstrap, a mirror that apt reaches, \
         and 2 GB in ~/.cache, once",
    )?;
    let usual = SPECIAL.iter().filter(|boot| boot.usual).flat_map(|boot| boot.tests);
    let all: Vec<&str> = match names.is_empty() {
        true => CORE.into_iter().chain(usual.copied()).collect(),
        false => names.iter().map(String::as_str).collect(),
    };
    let special = |name: &&str| SPECIAL.iter().any(|boot| boot.tests.contains(name));
    let ordinary = all.iter().copied().filter(|name| !special(name)).collect();
    let mut boots: Vec<(Vec<&str>, u8, &str)> = vec![(ordinary, 2, "")];
    for boot in &SPECIAL {
        let wanted = all.iter().copied().filter(|name| boot.tests.contains(name)).collect();
        boots.push((wanted, boot.processors, boot.arguments));
    }
    for (wanted, processors, arguments) in boots.into_iter().filter(|(wanted, ..)| !wanted.is_empty()) {
        let freight = freight::pack(root, &workspace, &wanted)?;
        println!("{} boots, with {processors} processors {arguments}", disk.name());
        machine::run(&disk, &freight.path(), processors, arguments)?;
    }
    println!("All of this took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}
