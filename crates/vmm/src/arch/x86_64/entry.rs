//! How a processor stands at a kernel's first instruction.

use super::layout;
use crate::error::Result;
use crate::memory::Memory;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::GuestAddress;

/// Protected mode, and the bit that has been one since the 486.
const CR0_PE: u64 = 1 | 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
/// Long mode, asked for and there.
const EFER_LONG: u64 = 1 << 8 | 1 << 10;
/// The bit of the flags that is always set: interrupts are off.
const FLAGS: u64 = 2;

/// A first instruction, and what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 32-bit protected mode without paging, `hvm_start_info` in `ebx` (Xen's docs/misc/pvh.pandoc).
    Pvh(GuestAddress),
    /// 64-bit mode with all memory at its own address, `boot_params` in `rsi` (the kernel's Documentation/arch/x86/boot.rst).
    Linux64(GuestAddress),
}

impl Entry {
    /// Writes into memory what the processor's registers will point at.
    pub(crate) fn prepare(self, memory: &Memory) -> Result<()> {
        let segments: Vec<u8> = self.segments().iter().flat_map(|segment| descriptor(segment).to_le_bytes()).collect();
        memory.write("the segments' descriptors", layout::GDT, &[&[0; 8], &segments[..]].concat())?;
        match self {
            Entry::Pvh(_) => Ok(()),
            Entry::Linux64(_) => memory.write("the first page tables", layout::PAGE_TABLES, &identity()),
        }
    }

    /// The general registers.
    pub(crate) fn registers(self) -> kvm_regs {
        match self {
            Entry::Pvh(entry) => {
                kvm_regs { rip: entry.0, rbx: layout::START_INFO.0, rflags: FLAGS, ..Default::default() }
            }
            Entry::Linux64(entry) => {
                kvm_regs { rip: entry.0, rsi: layout::BOOT_PARAMS.0, rflags: FLAGS, ..Default::default() }
            }
        }
    }

    /// Changes the special registers of a processor that was just made.
    pub(crate) fn adapt(self, special: &mut kvm_sregs) {
        let [code, data, task] = self.segments();
        special.cs = code;
        (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
        special.tr = task;
        special.gdt.base = layout::GDT.0;
        special.gdt.limit = 4 * 8 - 1;
        special.idt.limit = 0;
        (special.cr0, special.cr4, special.efer) = (CR0_PE, 0, 0);
        if let Entry::Linux64(_) = self {
            special.cr3 = layout::PAGE_TABLES.0;
            (special.cr0, special.cr4, special.efer) = (CR0_PE | CR0_PG, CR4_PAE, EFER_LONG);
        }
    }

    /// Code, data, and the task's state: each over all of the address space. The Linux protocol wants the first two at 0x10 and 0x18.
    fn segments(self) -> [kvm_segment; 3] {
        let flat = |index: u16, type_: u8| kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector: index * 8,
            type_,
            present: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        let long = matches!(self, Entry::Linux64(_));
        let code = kvm_segment { db: u8::from(!long), l: u8::from(long), ..flat(2, 0xb) };
        let data = kvm_segment { db: 1, ..flat(3, 0x3) };
        let task = kvm_segment { limit: 0x67, s: 0, g: 0, ..flat(1, 0xb) };
        [code, data, task]
    }
}

/// A segment as it stands in the table (Intel's SDM volume 3A, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

/// Page tables that map each of the first GiB to itself, by pages of 2 MiB: one table of the fourth level, one of the third, and one of the
/// second for each GiB.
fn identity() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table = |number: u64| layout::PAGE_TABLES.0 + number * 4096;
    let mut entries = vec![0u64; 512 * (2 + layout::TABLES_GIB as usize)];
    entries[0] = table(1) | PRESENT_WRITABLE;
    for gib in 0..layout::TABLES_GIB {
        entries[512 + gib as usize] = table(2 + gib) | PRESENT_WRITABLE;
        for page in 0..512 {
            entries[(1024 + gib * 512 + page) as usize] = gib << 30 | page << 21 | LARGE | PRESENT_WRITABLE;
        }
    }
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_that_linux_has() {
        // arch/x86/include/asm/desc_defs.h: GDT_ENTRY_INIT(0xc09b, 0, 0xfffff), (0xa09b, …), (0xc093, …), of accessed segments.
        let [code, data, _] = Entry::Pvh(GuestAddress(0)).segments();
        assert_eq!(descriptor(&code), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&data), 0x00cf_9300_0000_ffff);
        let [code, _, task] = Entry::Linux64(GuestAddress(0)).segments();
        assert_eq!(descriptor(&code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&task), 0x0000_8b00_0000_0067);
    }

    #[test]
    fn the_page_tables_end_before_the_command_line() {
        assert!(layout::PAGE_TABLES.0 + identity().len() as u64 <= layout::COMMAND_LINE.0);
    }
}
