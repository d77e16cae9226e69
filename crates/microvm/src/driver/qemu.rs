//! QEMU, where KVM is absent or can't run ordinary kernels.
//!
//! It is a child of the machine's process, in the same sandbox, and further confined by its own seccomp filter. The agent's stream is a port of
//! virtio-serial whose other end is a socket that it inherits.

use std::fmt::Write;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdFlags;
use vmm::CONCATENATED_ALIGN;

use super::{Accelerator, command_line};
use crate::error::{Error, Result};
use crate::plan::{LAYERS, MachinePlan, UPPER};

/// The name of the agent's port.
const PORT: &str = "agent";
/// Bytes of a sector.
const SECTOR: u64 = 512;

/// A child that is QEMU; it ends with this.
pub(crate) struct Running {
    child: Child,
    pidfd: OwnedFd,
}

impl Running {
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn end(&mut self) -> String {
        match self.child.wait() {
            Ok(status) if status.success() => "the guest switched it off or reset it".to_owned(),
            Ok(status) => format!("QEMU ended with {status}"),
            Err(error) => format!("QEMU is gone: {error}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn start(plan: &MachinePlan, program: &Path, accelerator: Accelerator) -> Result<(Running, OwnedFd)> {
    let failed = |tried| Error::system(tried, "a socket for the machine's agent");
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(failed("make"))?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(failed("set up"))?;
    // For the child alone: nothing else is executed by this process.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(failed("set up"))?;

    let mut command = Command::new(program);
    machine(&mut command, plan, accelerator);
    disks(&mut command, plan)?;
    for (number, card) in plan.hardware.cards.iter().enumerate() {
        let mac: Vec<_> = card.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        command.args(["-netdev", &format!("tap,id=net{number},ifname={},script=no,downscript=no", card.tap)]);
        let device = format!("virtio-net-pci,netdev=net{number},mac={},host_mtu={},romfile=", mac.join(":"), card.mtu);
        command.args(["-device", &device]);
    }
    command.args(["-chardev", &format!("socket,id={PORT},fd={}", theirs.as_raw_fd())]);
    command.args(["-device", "virtio-serial-pci"]);
    command.args(["-device", &format!("virtserialport,chardev={PORT},name={PORT}")]);
    command.args(["-device", "virtio-rng-pci"]);

    command.stdin(Stdio::null());
    // What it has to complain about, and its guest's console.
    let console = std::io::stderr().as_fd().try_clone_to_owned();
    command.stdout(console.map_or_else(|_| Stdio::null(), Stdio::from));
    let spawned = command.spawn();
    let child = spawned.map_err(|source| Error::Qemu { program: program.to_owned(), source })?;
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    let pidfd = pidfd.map_err(Error::system("open", "the process of QEMU"))?;
    Ok((Running { child, pidfd }, ours))
}

fn machine(command: &mut Command, plan: &MachinePlan, accelerator: Accelerator) {
    let hardware = &plan.hardware;
    let accelerator = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Emulation => "tcg,thread=multi",
    };
    command.args(["-accel", accelerator, "-cpu", "max"]);
    // Not `microvm`: under load, emulated, its only clock (the PIT) is one that a kernel can't measure by, and then it waits for ever.
    command.args(["-M", "q35"]);
    command.args(["-smp", &hardware.vcpus.get().to_string(), "-m", &format!("{}M", hardware.memory.mib())]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-serial", if hardware.console { "stdio" } else { "none" }]);
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.arg("-kernel").arg(&hardware.kernel).arg("-initrd").arg(&hardware.initramfs);
    command.args(["-append", &command_line(plan, &format!("port:{PORT}"))]);
}

fn disks(command: &mut Command, plan: &MachinePlan) -> Result<()> {
    let hardware = &plan.hardware;
    if !hardware.layers.is_empty() {
        let list = concatenated(&hardware.layers, &plan.scratch)?;
        let node =
            format!("driver=vmdk,node-name={LAYERS},read-only=on,file.driver=file,file.filename={}", list.display());
        command.args(["-blockdev", &node]);
        command.args(["-device", &format!("virtio-blk-pci,drive={LAYERS},serial={LAYERS}")]);
    }
    if let Some(upper) = &hardware.upper {
        let file = format!("file.driver=file,file.filename={},discard=unmap", upper.display());
        command.args(["-blockdev", &format!("driver=raw,node-name={UPPER},{file}")]);
        command.args(["-device", &format!("virtio-blk-pci,drive={UPPER},serial={UPPER}")]);
    }
    Ok(())
}

/// Makes one disk of several files, each from a multiple of [`CONCATENATED_ALIGN`] bytes on: the one form of a disk that QEMU knows and that is
/// a list of files is VMware's (Virtual Disk Format 5.0, "Extent Descriptions").
fn concatenated(layers: &[PathBuf], scratch: &Path) -> Result<PathBuf> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what: "a layer's disk", path, source }
    };
    let gap = scratch.join("gap");
    File::create(&gap).and_then(|file| file.set_len(CONCATENATED_ALIGN)).map_err(failed(&gap))?;
    let mut list =
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
            .to_owned();
    for layer in layers {
        let length = fs::metadata(layer).map_err(failed(layer))?.len();
        let rest = length.next_multiple_of(CONCATENATED_ALIGN) - length;
        // Writing to text that is in memory can't fail.
        let _ = writeln!(list, "RW {} FLAT \"{}\" 0", length / SECTOR, layer.display());
        if rest > 0 {
            let _ = writeln!(list, "RW {} FLAT \"{}\" 0", rest / SECTOR, gap.display());
        }
    }
    let path = scratch.join("layers.vmdk");
    fs::write(&path, list).map_err(failed(&path))?;
    Ok(path)
}
