//! What a guest starts from, put into its memory.

use crate::arch::current::entry::Entry;
use crate::arch::current::{acpi, layout};
use crate::boot::{Initrd, Kernel};
use crate::config::VcpuCount;
use crate::devices::virtual_devices;
use crate::error::{Error, Result};
use crate::machine::write_generation;
use crate::memory::Memory;
use crate::parts::{Boot, Devices};
use std::fs::File;

/// Puts into memory what the guest starts from. Returns its first instruction.
pub(crate) fn load(vcpus: VcpuCount, boot: &Boot, devices: &Devices, memory: &Memory) -> Result<Entry> {
    let file = boot.kernel.try_clone().map_err(Error::host("have the kernel's file twice"))?;
    let kernel = Kernel::open(file, &boot.kernel_name)?;
    let initrd = boot.initrd.as_ref().map(|file| initrd(memory, file, kernel.end())).transpose()?;
    command_line(&boot.command_line, memory)?;
    write_generation(memory)?;
    let rsdp = acpi::write(memory, vcpus, &virtual_devices::windows(devices, memory)?)?;
    kernel.put(initrd, rsdp, memory)
}

/// Puts it as far up as it can, and not where the kernel is, or unpacks itself, up to `kernel_end`.
fn initrd(memory: &Memory, file: &File, kernel_end: u64) -> Result<Initrd> {
    let what = "the initramfs";
    let length = file.metadata().map_err(Error::host("ask how long the initramfs is"))?.len();
    let end = memory.size().bytes().min(layout::DEVICES.0);
    let start = kernel_end.max(layout::HIGH.0);
    let too_long = Error::DoesNotFit { what, at: start, needs: length };
    let initrd = Initrd::below(end, length).filter(|initrd| initrd.at.0 >= start).ok_or(too_long)?;
    memory.put_file(what, initrd.at, file, 0, length)?;
    Ok(initrd)
}

fn command_line(line: &str, memory: &Memory) -> Result<()> {
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
