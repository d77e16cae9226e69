//! Where things lie in the guest's physical address space.
//!
//! | from | what |
//! |---|---|
//! | `0x500` | descriptors of the segments |
//! | `0x6000` | what a PVH kernel is told: [`START_INFO`], its modules and memory map |
//! | `0x7000` | what a bzImage is told: [`BOOT_PARAMS`] |
//! | `0x9000` | page tables of a bzImage's entry |
//! | `0x2_0000` | the kernel's command line |
//! | `0xe_0000` | ACPI's tables |
//! | `0xf_f000` | the machine's generation |
//! | `0x10_0000` | kernel, initramfs, memory, up to 3 GiB |
//! | `0xc000_0000` | devices |
//! | `0xfec0_0000` | I/O APIC, local APICs, KVM's own pages |
//! | `0x1_0000_0000` | the rest of the memory |
//! | behind all that | what comes while it runs ([`more`]) |

use crate::config::MemorySize;
use vm_memory::GuestAddress;

/// The segments' descriptors.
pub(crate) const GDT: GuestAddress = GuestAddress(0x500);
/// `hvm_start_info`.
pub(crate) const START_INFO: GuestAddress = GuestAddress(0x6000);
/// Its list of modules: the initramfs.
pub(crate) const MODULES: GuestAddress = GuestAddress(0x6100);
/// Its map of the memory.
pub(crate) const MEMORY_MAP: GuestAddress = GuestAddress(0x6200);
/// `boot_params`, a page.
pub(crate) const BOOT_PARAMS: GuestAddress = GuestAddress(0x7000);
/// The page tables of a 64-bit entry: one page, one page, and one for each of [`TABLES_GIB`] GiB.
pub(crate) const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// How much these tables map.
pub(crate) const TABLES_GIB: u64 = 4;
/// The command line.
pub(crate) const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Bytes of it, the zero at its end included: `COMMAND_LINE_SIZE`.
pub(crate) const COMMAND_LINE_SIZE: usize = 2048;
/// Where what a kernel may use below 1 MiB ends.
pub(crate) const LOW_END: u64 = 0x9_fc00;
/// ACPI's tables, where a kernel looks for them too if nobody tells it.
pub(crate) const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// The machine's generation: 16 bytes in a page of their own behind the tables, which are others in each copy of a machine.
pub(crate) const GENERATION: GuestAddress = GuestAddress(0xf_f000);
/// The line of the I/O APIC by which the guest hears that they changed.
pub(crate) const GENERATION_LINE: u32 = 23;
/// Where that, and all that is not ordinary memory below it, ends.
pub(crate) const HIGH: GuestAddress = GuestAddress(0x10_0000);
/// Where memory below 4 GiB ends, and devices begin.
pub(crate) const DEVICES: GuestAddress = GuestAddress(0xc000_0000);
/// The I/O APIC.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Each processor's local APIC, to itself.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// A page that Intel's KVM wants for its identity map, and three behind it for a task state segment.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
/// Where memory goes on.
pub(crate) const ABOVE_4_GIB: GuestAddress = GuestAddress(1 << 32);

/// Ports, and interrupt lines (of the I/O APIC), of what a PC has at fixed places.
pub(crate) mod ports {
    /// COM1: 8 ports.
    pub(crate) const SERIAL: u16 = 0x3f8;
    pub(crate) const SERIAL_LINE: u32 = 4;
    /// The keyboard controller's data port.
    pub(crate) const KEYBOARD: u16 = 0x60;
    /// The clock's index and data ports.
    pub(crate) const CLOCK: u16 = 0x70;
    pub(crate) const CLOCK_LINE: u32 = 8;
    /// Sleep control, sleep status, reset: ours, named by ACPI.
    pub(crate) const POWER: u16 = 0x600;
}

/// Lines of the I/O APIC that are nobody's else, for devices that ACPI names: of 24, all but those of the ports above, and the first, which firmware
/// gives to a timer.
pub(crate) const LINES: [u32; 16] = [5, 6, 7, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22];

/// Where memory of that size lies.
pub(crate) fn memory(size: MemorySize) -> Vec<(GuestAddress, u64)> {
    let bytes = size.bytes();
    match bytes.checked_sub(DEVICES.0) {
        None | Some(0) => vec![(GuestAddress(0), bytes)],
        Some(rest) => vec![(GuestAddress(0), DEVICES.0), (ABOVE_4_GIB, rest)],
    }
}

/// Where memory begins that comes while the machine runs, behind memory of that size. Kernels add memory in blocks of 128 MiB, and of up to 2 GiB where there is much.
pub(crate) fn more(size: MemorySize) -> GuestAddress {
    let end = memory(size).last().map_or(0, |(start, length)| start.0 + length);
    GuestAddress(end.max(ABOVE_4_GIB.0).next_multiple_of(2 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_around_the_devices() {
        let of = |mib| memory(MemorySize::from_mib(mib).unwrap());
        assert_eq!(of(128), [(GuestAddress(0), 128 << 20)]);
        assert_eq!(of(3072), [(GuestAddress(0), 3 << 30)]);
        let more = |mib| more(MemorySize::from_mib(mib).unwrap()).0 >> 30;
        assert_eq!((more(128), more(3073), more(5 << 10), more((5 << 10) + 1)), (4, 6, 6, 8));
        assert_eq!(of(3073), [(GuestAddress(0), 3 << 30), (ABOVE_4_GIB, 1 << 20)]);
    }
}
