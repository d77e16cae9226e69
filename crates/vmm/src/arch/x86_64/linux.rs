//! What a bzImage is told: the kernel's Documentation/arch/x86/boot.rst and zero-page.rst.

use super::{layout, start_info};
use crate::boot::{BzImage, Initrd};
use crate::error::Result;
use crate::memory::Memory;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, GuestAddress};

/// A loader that has no number of its own.
const LOADER: u8 = 0xff;
/// `boot_params.acpi_rsdp_addr`, which the older layout of the structure has as padding.
const RSDP: u64 = 0x70;

/// Writes it. `rsdp` is where ACPI's tables begin.
pub(crate) fn write(memory: &Memory, kernel: &BzImage, initrd: Option<Initrd>, rsdp: GuestAddress) -> Result<()> {
    let mut params = boot_params { hdr: kernel.header(), ..Default::default() };
    params.hdr.type_of_loader = LOADER;
    params.hdr.cmd_line_ptr = layout::COMMAND_LINE.0 as u32;
    if let Some(initrd) = initrd {
        // Both lie below 4 GiB: see `load::initrd`.
        params.hdr.ramdisk_image = initrd.at.0 as u32;
        params.hdr.ramdisk_size = initrd.length as u32;
    }
    let map = start_info::memory_map(memory);
    params.e820_entries = map.len() as u8;
    for (entry, stretch) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: stretch.start, size: stretch.length, r#type: stretch.kind };
    }
    memory.write("what the kernel is told", layout::BOOT_PARAMS, params.as_slice())?;
    memory.write("what the kernel is told", GuestAddress(layout::BOOT_PARAMS.0 + RSDP), &rsdp.0.to_le_bytes())
}
