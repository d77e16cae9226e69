//! QEMU, where KVM is absent or can't run ordinary kernels.
//!
//! It is a child of the machine's process, in the same sandbox, and further confined by its own seccomp filter. The agent's stream is a port of
//! virtio-serial whose other end is a socket that it inherits; so is that of its monitor ([`monitor`]).
//!
//! The guest's memory is a file of the machine's own memory ([`memory`]): QEMU then saves and reads all but that, and the process copies the file, as
//! a snapshot's may be written to by nobody, and QEMU opens no memory that it can't write to before version 8.2. So copies of a machine share none of
//! it here.

mod cards;
mod complaints;
mod files;
mod layers;
mod limits;
mod memory;
mod monitor;
mod processor;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdFlags;
use vmm::{Backing, MemorySize, SnapshotFiles};

use self::complaints::Complaints;
use self::layers::Layers;
use self::memory::Memory;
use self::monitor::Monitor;
use super::{Accelerator, Laid, command_line, snapshot};
use crate::error::{Error, Result};
use crate::plan::{Card, LAYERS, MachinePlan, UPPER};

/// The name of the agent's port.
const PORT: &str = "agent";

/// A child that is QEMU; it ends with this.
pub(crate) struct Running {
    child: Child,
    pidfd: OwnedFd,
    monitor: Monitor,
    memory: Memory,
    layers: Layers,
    complaints: Complaints,
    /// A file system came, and went.
    had_files: bool,
}

impl Running {
    /// Stops it, and saves all of it.
    pub(crate) fn save(&mut self, into: &SnapshotFiles) -> Result<()> {
        self.monitor.stop()?;
        self.layers.take_out(&mut self.monitor)?;
        let saved = self.monitor.save(&into.state);
        self.layers.put_back(&mut self.monitor)?;
        saved?;
        self.memory.save(&into.memory)
    }

    /// Asks the guest to have so much memory: what is more than at its start comes in blocks, what is less goes into the balloon.
    pub(crate) fn resize(&mut self, memory: MemorySize) -> Result<()> {
        let (more, less) = self.memory.difference(memory)?;
        self.monitor.resize(self.memory.at_start(), more, less)
    }

    pub(crate) fn plug(&mut self, place: usize, card: &Card) -> Result<()> {
        cards::plug(&mut self.monitor, place, card)
    }

    pub(crate) fn unplug(&mut self, place: usize) -> Result<()> {
        cards::unplug(&mut self.monitor, place)
    }

    pub(crate) fn plug_files(&mut self, tag: &str, server: OwnedFd) -> Result<String> {
        if self.had_files {
            // The guest would not find it (QEMU 7.2).
            let what =
                "volumes of other containers in a microVM that was saved after it had some, until it is restarted";
            return Err(Error::NotByQemu { what });
        }
        files::plug(&mut self.monitor, tag, server)
    }

    pub(crate) fn unplug_files(&mut self) -> Result<()> {
        self.had_files = true;
        files::unplug(&mut self.monitor)
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.monitor.resume()
    }

    /// The guest rests meanwhile, as its disk is made anew.
    pub(crate) fn lay(&mut self, files: Vec<(u64, Option<File>)>, rests: bool) -> Result<()> {
        self.monitor.stop()?;
        let laid = self.layers.lay(&mut self.monitor, files);
        if self.layers.are_out() {
            // Its guest would take zeros for what it reads, and keep them.
            let _ = self.child.kill();
            return laid;
        }
        if !rests {
            self.monitor.resume()?;
        }
        laid
    }

    /// Has it go on, if it is to.
    fn begin(&mut self, plan: &MachinePlan, origin: Option<SnapshotFiles>) -> Result<()> {
        processor::check(&mut self.monitor, plan.hardware.processor)?;
        let Some(origin) = origin else { return Ok(()) };
        self.monitor.go_on(origin.state, || self.memory.go_on(&origin.memory)).map_err(Error::saved)?;
        self.resume().map_err(Error::saved)
    }

    /// Says what QEMU complains about, where it is gone.
    fn explain(&mut self, error: Error) -> Error {
        // It ends of what it complained about, or is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        match error {
            Error::Saved(error) => Error::saved(self.complaints.explain(*error)),
            error => self.complaints.explain(error),
        }
    }

    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn end(&mut self) -> String {
        match self.child.wait() {
            Ok(status) if status.success() => "the guest switched it off or reset it".to_owned(),
            Ok(status) => match self.complaints.last() {
                said if said.is_empty() => format!("QEMU ended with {status}"),
                said => format!("QEMU ended with {status}: {said}"),
            },
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

pub(super) fn start(
    plan: &MachinePlan,
    layers: Vec<Laid>,
    program: &Path,
    accelerator: Accelerator,
) -> Result<(Running, OwnedFd)> {
    limits::check(&plan.hardware.cards)?;
    if plan.backing != Backing::Mapped {
        return Err(Error::NotByQemu { what: "memory that comes as it is touched (stratus.microvm.memory=faulted)" });
    }
    let (ours, theirs) = inherited("a socket for the machine's agent")?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(Error::system("set up", "a socket for the machine's agent"))?;
    let (monitor, monitored) = inherited("a socket for QEMU's monitor")?;
    let memory = Memory::new(&plan.hardware, &plan.scratch);
    let origin = snapshot(plan).map_err(Error::saved)?;

    let mut command = Command::new(program);
    // What holds for this process is not for QEMU, which has many threads that allocate.
    command.env_remove(crate::container::FRUGAL.0);
    machine(&mut command, plan, accelerator, &memory);
    let layers = disks(&mut command, plan, layers)?;
    volumes(&mut command, plan);
    cards::arguments(&mut command, &plan.hardware.cards);
    if plan.hardware.files_place {
        files::place(&mut command, plan.hardware.cards.len());
    }
    command.args(["-chardev", &format!("socket,id={PORT},fd={}", theirs.as_raw_fd())]);
    command.args(["-device", "virtio-serial-pci"]);
    command.args(["-device", &format!("virtserialport,chardev={PORT},name={PORT}")]);
    command.args(["-device", "virtio-rng-pci"]);
    // What the guest does not need it gives back, as holes in the file of its memory.
    command.args(["-device", "virtio-balloon-pci,id=balloon,deflate-on-oom=on,free-page-reporting=on"]);
    command.args(["-chardev", &format!("socket,id=monitor,fd={}", monitored.as_raw_fd())]);
    command.args(["-mon", "chardev=monitor,mode=control"]);
    if origin.is_some() {
        command.args(["-incoming", "defer"]);
    }

    command.stdin(Stdio::null());
    // Its guest's console, where that is wanted.
    let console = std::io::stderr().as_fd().try_clone_to_owned();
    command.stdout(console.map_or_else(|_| Stdio::null(), Stdio::from));
    let (complaints, written) = Complaints::new(&plan.scratch)?;
    command.stderr(written);
    let spawned = command.spawn();
    let child = spawned.map_err(|source| Error::Qemu { program: program.to_owned(), source })?;
    let pid = rustix::process::Pid::from_child(&child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    let pidfd = pidfd.map_err(Error::system("open", "the process of QEMU"))?;
    // Whoever has the other ends as well would never see QEMU's end.
    drop((theirs, monitored));
    let mut running =
        Running { child, pidfd, monitor: Monitor::new(monitor)?, memory, layers, complaints, had_files: false };
    match running.begin(plan, origin) {
        Ok(()) => Ok((running, ours)),
        Err(error) => Err(running.explain(error)),
    }
}

/// A pair of connected sockets, of which the second one is for the child: nothing else is executed by this process.
fn inherited(what: &'static str) -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Error::system("make", what))?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(Error::system("set up", what))?;
    Ok((ours, theirs))
}

fn machine(command: &mut Command, plan: &MachinePlan, accelerator: Accelerator, memory: &Memory) {
    let hardware = &plan.hardware;
    let accelerator = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Emulation => "tcg,thread=multi",
    };
    command.args(["-accel", accelerator, "-cpu", &processor::model(hardware.processor)]);
    // Not `microvm`: under load, emulated, its only clock (the PIT) is one that a kernel can't measure by, and then it waits for ever.
    command.args(["-smp", &hardware.vcpus.get().to_string()]);
    memory.arguments(command);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-serial", if hardware.console { "stdio" } else { "none" }]);
    command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
    command.arg("-kernel").arg(&hardware.kernel).arg("-initrd").arg(&hardware.initramfs);
    command.args(["-append", &command_line(plan, &format!("port:{PORT}"))]);
}

fn disks(command: &mut Command, plan: &MachinePlan, layers: Vec<Laid>) -> Result<Layers> {
    let hardware = &plan.hardware;
    let layers = Layers::new(layers, &plan.scratch)?;
    for node in layers.nodes() {
        command.args(["-blockdev", &node.to_string()]);
    }
    let drive = limits::over(command, LAYERS, true, hardware.limits.layers);
    command.args(["-device", &disk(&drive, LAYERS)]);
    if let Some(upper) = &hardware.upper {
        let file = format!("file.driver=file,file.filename={},discard=unmap", upper.display());
        command.args(["-blockdev", &format!("driver=raw,node-name={UPPER},{file}")]);
        let drive = limits::over(command, UPPER, false, hardware.limits.upper);
        command.args(["-device", &disk(&drive, UPPER)]);
    }
    Ok(layers)
}

/// A disk whose errors are the guest's: where the host's disk is full, QEMU would have the machine rest until somebody comes, who never does.
fn disk(drive: &str, serial: &str) -> String {
    format!("virtio-blk-pci,drive={drive},serial={serial},werror=report,rerror=report")
}

/// The server of volumes reads and writes the guest's memory itself.
fn volumes(command: &mut Command, plan: &MachinePlan) {
    if plan.hardware.volumes.is_none() {
        return;
    }
    let socket = plan.scratch.join(crate::files::SOCKET);
    command.args(["-chardev", &format!("socket,id=files,path={}", socket.display())]);
    command.args(["-device", &format!("vhost-user-fs-pci,chardev=files,tag={},queue-size=512", crate::volumes::TAG)]);
}
