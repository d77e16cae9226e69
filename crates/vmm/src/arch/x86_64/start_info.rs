//! What a PVH kernel is told: the map of its memory, its initramfs, its command line, where ACPI's tables begin.
//!
//! Xen's xen/include/public/arch-x86/hvm/start_info.h.

use super::layout;
use crate::boot::Initrd;
use crate::error::Result;
use crate::memory::Memory;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryRegion};

/// `XEN_HVM_START_MAGIC_VALUE`
const MAGIC: u32 = 0x336e_c578;
/// The first version with a map of the memory.
const VERSION: u32 = 1;

/// A stretch of physical addresses, and what it is: numbers of the BIOS's E820 call, which both protocols use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) kind: u32,
}

/// `E820_TYPE_RAM`, `E820_TYPE_ACPI`
const MEMORY: u32 = 1;
const ACPI: u32 = 3;

/// The map of the guest's memory.
pub(crate) fn memory_map(memory: &Memory) -> Vec<Stretch> {
    let mut map = vec![
        Stretch { start: 0, length: layout::LOW_END, kind: MEMORY },
        Stretch { start: layout::ACPI.0, length: layout::HIGH.0 - layout::ACPI.0, kind: ACPI },
    ];
    for region in memory.at_start() {
        let start = region.start_addr().0.max(layout::HIGH.0);
        map.push(Stretch { start, length: region.start_addr().0 + region.len() - start, kind: MEMORY });
    }
    map
}

/// Writes it. `rsdp` is where ACPI's tables begin.
pub(crate) fn write(memory: &Memory, initrd: Option<Initrd>, rsdp: GuestAddress) -> Result<()> {
    let map = memory_map(memory);
    let info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: initrd.is_some().into(),
        modlist_paddr: initrd.map_or(0, |_| layout::MODULES.0),
        cmdline_paddr: layout::COMMAND_LINE.0,
        rsdp_paddr: rsdp.0,
        memmap_paddr: layout::MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write("what the kernel is told", layout::START_INFO, info.as_slice())?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.at.0, size: initrd.length, ..Default::default() };
        memory.write("the list of modules", layout::MODULES, module.as_slice())?;
    }
    for (number, stretch) in map.into_iter().enumerate() {
        let entry =
            hvm_memmap_table_entry { addr: stretch.start, size: stretch.length, type_: stretch.kind, reserved: 0 };
        let at = layout::MEMORY_MAP.0 + (number * size_of_val(&entry)) as u64;
        memory.write("the map of the memory", GuestAddress(at), entry.as_slice())?;
    }
    Ok(())
}
