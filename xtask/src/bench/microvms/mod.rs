//! Machines: what our own hypervisor takes, by its process and by what its guests do.
//!
//! The process is the one that runs microVMs, of the program that stratus carries (`machine/`), started as a keeper starts it. Its guests are of two kinds: some of few instructions, on the KVM that the
//! host has, whatever that is; and a distribution's kernel, in a machine whose processor QEMU emulates with its virtualization, where times say nothing and counts do.

mod copies;
mod guests;
mod nested;
#[path = "../../../../crates/machine-program/placeable.rs"]
mod placeable;
mod process;
mod saves;
mod service;
mod starts;
mod states;
#[path = "../../../../crates/machine-program/words.rs"]
mod words;

use super::arena::Arena;
use super::document::Figure;
use anyhow::{Context, Result, bail};
use placeable::Placeable;
use process::Boots;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let place = InMemory::mount(arena.path("machines"))?;
    let (boots, modules) = prepare(arena, &place)?;
    let mut figures = starts::figures(arena, &boots)?;
    figures.extend(copies::figures(arena, &boots)?);
    figures.extend(nested::figures(arena, &boots, &modules)?);
    let daemon = arena.instance("microvms");
    daemon.0.start()?;
    figures.extend(service::figures(arena, &daemon)?);
    figures.extend(states::figures(&daemon)?);
    Ok(figures)
}

/// What machines boot: the distribution's kernel, as `stratus microvm kernel` prepares it; and the directory with its modules.
fn prepare(arena: &Arena, place: &InMemory) -> Result<(Boots, PathBuf)> {
    let (vmlinuz, modules) = e2e::kernel_as_packaged();
    let data = arena.path("microvms/data");
    let mut command = Command::new(&arena.program);
    command.args(["microvm", "kernel", "--use"]).arg(vmlinuz).arg("--modules").arg(&modules);
    let output = command.arg("--data-dir").arg(&data).output().context("cannot run stratus")?;
    if !output.status.success() {
        bail!("the kernel could not be prepared: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let prepared = data.join("microvm/kernel");
    let program = machine_program(arena)?;
    let (kernel, initramfs) = (prepared.join("vmlinux"), prepared.join("initramfs"));
    Ok((Boots { program, kernel, initramfs, place: place.0.clone() }, modules))
}

/// A directory in memory, as a machine's own files are in its sandbox. It is empty when it is dropped, and goes then.
struct InMemory(PathBuf);

impl InMemory {
    fn mount(directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let status = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&directory).status();
        if !status.context("cannot run mount")?.success() {
            bail!("no tmpfs could be mounted at {}", directory.display());
        }
        Ok(Self(directory))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        // The mount namespace is the bench's own: with it, it goes in any case.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// The program that `stratus` carries, where its build has left it, beside the profile's directory, put at an address as the daemon does.
fn machine_program(arena: &Arena) -> Result<PathBuf> {
    // `R_X86_64_RELATIVE`; one of the addresses that are chosen from.
    const RELATIVE: u64 = 8;
    const ADDRESS: u64 = 0x5a3b_1c2d_0000;
    let target = arena.program.ancestors().nth(2).context("stratus is in no target directory")?;
    let architecture = std::env::consts::ARCH;
    let built = target.join(format!("guest/{architecture}-unknown-linux-gnu/guest/machine"));
    let built = fs::read(&built).with_context(|| format!("{}: cargo build --release", built.display()))?;
    let Placeable { mut image, words } = Placeable::new(built, RELATIVE).map_err(anyhow::Error::msg)?;
    words::add(&mut image, words, ADDRESS);
    let program = arena.path("machine-program");
    fs::write(&program, image)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(program)
}
