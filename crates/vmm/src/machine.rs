//! A machine: made of its parts, run to its end.

use crate::arch::current::entry::Entry;
use crate::arch::current::layout;
use crate::arch::current::{acpi, linux, start_info};
use crate::boot::{Initrd, Kernel};
use crate::config::Config;
use crate::devices::virtio::Attached;
use crate::devices::{fixed, virtual_devices};
use crate::end::{End, Ending};
use crate::error::{Error, Result};
use crate::events::{Events, Waited};
use crate::kvm::{Buses, Vcpu, VcpuThread, Vm};
use crate::memory::Memory;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A machine, ready to run.
pub struct Machine {
    // Before the rest: the threads of its processors are waited for first.
    vcpus: Vec<Vcpu>,
    buses: Arc<Buses>,
    devices: Vec<Attached>,
    ending: Arc<Ending>,
    vm: Vm,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("vcpus", &self.vcpus.len()).field("vm", &self.vm).finish_non_exhaustive()
    }
}

impl Machine {
    /// Makes it: opens its files, puts them into its memory, prepares its processors.
    pub fn new(config: &Config) -> Result<Machine> {
        let memory = Memory::new(config.memory, &layout::memory(config.memory))?;
        let entry = load(config, &memory)?;
        let vm = Vm::new(memory)?;
        let ending = Arc::new(Ending::new()?);
        let mut buses = Buses::default();
        fixed::attach(config, &vm, &ending, &mut buses.ports)?;
        let devices = virtual_devices::attach(config, &vm, &mut buses.memory)?;
        let vcpus: Vec<_> = (0..config.vcpus.get()).map(|index| vm.vcpu(index, config.vcpus)).collect::<Result<_>>()?;
        for vcpu in &vcpus {
            vcpu.prepare(entry)?;
        }
        Ok(Machine { vcpus, buses: Arc::new(buses), devices, ending, vm })
    }

    /// Runs it until it ends.
    pub fn run(self) -> Result<End> {
        let Machine { vcpus, buses, devices, ending, vm } = self;
        let mut events = Events::new()?;
        events.add(&ending, || {})?;
        for device in &devices {
            for (number, kick) in device.waited_for().iter().enumerate() {
                events.add(&Waited(kick), move || {
                    // Written to again meanwhile, it is readable again.
                    let _ = kick.read();
                    device.notified(number);
                })?;
            }
        }
        for device in &devices {
            device.waits_for(|fd| events.add(&fd, || device.ready())).transpose()?;
        }
        let start = |vcpu: Vcpu| vcpu.run(Arc::clone(&buses), Arc::clone(&ending));
        let threads: Vec<VcpuThread> = vcpus.into_iter().map(start).collect::<Result<_>>()?;
        let end = loop {
            if let Some(end) = ending.told() {
                break end;
            }
            events.wait()?;
        };
        // All of them, before the first is waited for: one may wait for a device that another one keeps busy.
        threads.iter().for_each(VcpuThread::stop);
        drop(threads);
        drop(vm);
        Ok(end)
    }
}

/// Puts into memory what the guest starts from. Returns its first instruction.
fn load(config: &Config, memory: &Memory) -> Result<Entry> {
    let kernel = Kernel::open(open("the kernel", &config.kernel)?, &config.kernel)?;
    let initrd = config.initrd.as_deref().map(|path| initrd(config, memory, path, kernel.end())).transpose()?;
    command_line(config, memory)?;
    let rsdp = acpi::write(memory, config.vcpus, &virtual_devices::windows(config)?)?;
    let entry = match &kernel {
        Kernel::Pvh(kernel) => {
            for segment in kernel.segments() {
                if !memory.has(segment.at, segment.memory) {
                    return Err(Error::DoesNotFit { what: "the kernel", at: segment.at.0, needs: segment.memory });
                }
                memory.put_file("the kernel", segment.at, kernel.file(), segment.offset, segment.length)?;
            }
            start_info::write(memory, initrd, rsdp)?;
            Entry::Pvh(kernel.entry())
        }
        Kernel::BzImage(kernel) => {
            let at = kernel.load_address();
            if !memory.has(at, kernel.end().saturating_sub(at.0)) {
                return Err(Error::DoesNotFit { what: "the kernel", at: at.0, needs: kernel.end() - at.0 });
            }
            let (offset, length) = kernel.kernel();
            memory.put_file("the kernel", at, kernel.file(), offset, length)?;
            linux::write(memory, kernel, initrd, rsdp)?;
            Entry::Linux64(kernel.entry())
        }
    };
    entry.prepare(memory)?;
    Ok(entry)
}

fn open(what: &'static str, path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::File { what, path: path.to_owned(), source })
}

/// Puts it as far up as it can, and not where the kernel is, or unpacks itself, up to `kernel_end`.
fn initrd(config: &Config, memory: &Memory, path: &Path, kernel_end: u64) -> Result<Initrd> {
    let what = "the initramfs";
    let file = open(what, path)?;
    let length = file.metadata().map_err(|source| Error::File { what, path: path.to_owned(), source })?.len();
    let end = config.memory.bytes().min(layout::DEVICES.0);
    let start = kernel_end.max(layout::HIGH.0);
    let too_long = Error::DoesNotFit { what, at: start, needs: length };
    let initrd = Initrd::below(end, length).filter(|initrd| initrd.at.0 >= start).ok_or(too_long)?;
    memory.put_file(what, initrd.at, &file, 0, length)?;
    Ok(initrd)
}

fn command_line(config: &Config, memory: &Memory) -> Result<()> {
    let line = &config.command_line;
    if line.len() >= layout::COMMAND_LINE_SIZE {
        let most = layout::COMMAND_LINE_SIZE - 1;
        return Err(Error::Size(format!("the kernel's command line has {} bytes, and may have {most}", line.len())));
    }
    if line.contains('\0') {
        return Err(Error::Size(
            "the kernel's command line has a zero in it, where the kernel would take it to end".to_owned(),
        ));
    }
    memory.write("the command line", layout::COMMAND_LINE, &[line.as_bytes(), b"\0"].concat())
}
