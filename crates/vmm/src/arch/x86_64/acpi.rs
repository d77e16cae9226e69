//! The tables by which a kernel finds its processors and devices.
//!
//! A machine of the ACPI specification's "hardware-reduced" kind (6.5, 4.1): no power management timer, no legacy interrupt controller, no
//! fixed events. A kernel that is told so asks for none of it, and each question that it does not ask is an exit less.

use super::layout::{self, ports};
use crate::config::VcpuCount;
use crate::error::Result;
use crate::memory::Memory;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use vm_memory::GuestAddress;

const OEM: [u8; 6] = *b"STRATU";
const TABLE: [u8; 8] = *b"STRATUS ";
const REVISION: u32 = 1;
/// Bytes of the header that all tables begin with.
const HEADER: u32 = 36;

/// `iapc_boot_arch` (5.2.9.3): no VGA, no message signalled interrupts, and of a keyboard controller nothing that is worth a look.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 3;
/// What the power device takes as a reset: see `fixed::power`.
pub(crate) const RESET: u8 = 1;
/// The sleep that is switching off, as `fixed::power` takes it and `_S5` says it.
pub(crate) const SLEEP_OFF: u8 = 5;

/// A virtio device in the guest's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// The first address of its registers, below 4 GiB.
    pub(crate) start: u32,
    /// How many bytes they are.
    pub(crate) length: u32,
    /// Its line of the I/O APIC.
    pub(crate) line: u32,
}

/// Writes the tables. Returns where they begin, by the root pointer.
pub(crate) fn write(memory: &Memory, count: VcpuCount, devices: &[Window]) -> Result<GuestAddress> {
    let mut writer = Writer { memory, next: layout::ACPI.0 + Rsdp::len() as u64 };
    let dsdt = writer.put(&dsdt(devices))?;
    let fadt = writer.put(&fadt(dsdt))?;
    let madt = writer.put(&madt(count))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt.0);
    xsdt.add_entry(madt.0);
    let xsdt = writer.put(&xsdt)?;
    memory.write("ACPI's tables", layout::ACPI, &bytes(&Rsdp::new(OEM, xsdt.0)))?;
    Ok(layout::ACPI)
}

/// Puts tables one behind the other.
struct Writer<'a> {
    memory: &'a Memory,
    next: u64,
}

impl Writer<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<GuestAddress> {
        let at = GuestAddress(self.next.next_multiple_of(16));
        let bytes = bytes(table);
        debug_assert!(at.0 + bytes.len() as u64 <= layout::GENERATION.0);
        self.memory.write("ACPI's tables", at, &bytes)?;
        self.next = at.0 + bytes.len() as u64;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(offset: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, (ports::POWER + offset).into())
}

fn fadt(dsdt: GuestAddress) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt.0)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.sleep_control_reg = port(0);
    fadt.sleep_status_reg = port(1);
    fadt.reset_reg = port(2);
    fadt.reset_value = RESET;
    fadt.finalize()
}

fn madt(count: VcpuCount) -> impl Aml {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(layout::LOCAL_APIC));
    for index in 0..count.get() {
        madt.add_structure(ProcessorLocalApic::new(index, index, EnabledStatus::Enabled));
    }
    // No processor has the number 255, and KVM's I/O APIC says 0.
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

fn dsdt(devices: &[Window]) -> impl Aml {
    let mut body = Vec::new();
    let off = aml::Package::new(vec![&SLEEP_OFF, &0u8, &0u8, &0u8]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);
    legacy("COM1", "PNP0501", ports::SERIAL, 8, ports::SERIAL_LINE, &mut body);
    legacy("RTC_", "PNP0B00", ports::CLOCK, 2, ports::CLOCK_LINE, &mut body);
    for (number, window) in devices.iter().enumerate() {
        virtio(number, window, &mut body);
    }
    generation(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 6, OEM, TABLE, REVISION);
    dsdt.append_slice(&body);
    dsdt
}

/// A device of a PC: its name, what it is, its first port and how many, its line.
fn legacy(name: &str, kind: &str, first: u16, count: u8, line: u32, body: &mut Vec<u8>) {
    let kind = aml::EISAName::new(kind);
    let ports = aml::IO::new(first, first, 1, count);
    let interrupt = aml::Interrupt::new(true, true, false, false, line);
    let resources = aml::ResourceTemplate::new(vec![&ports, &interrupt]);
    let device = [
        aml::Name::new("_HID".into(), &kind),
        aml::Name::new("_UID".into(), &0u8),
        aml::Name::new("_CRS".into(), &resources),
    ];
    aml::Device::new(format!("_SB_.{name}").as_str().into(), device.iter().map(|name| name as &dyn Aml).collect())
        .to_aml_bytes(body);
}

/// The machine's generation (Microsoft's "Virtual Machine Generation ID"; Linux's drivers/virt/vmgenid.c), and the device of a machine without fixed events that tells
/// of its change (5.6.9: ACPI0013).
fn generation(body: &mut Vec<u8>) {
    let (address, high) = (layout::GENERATION.0 as u32, 0u32);
    let place = aml::Package::new(vec![&address, &high]);
    let device = [
        aml::Name::new("_HID".into(), &"VMGENCTR"),
        aml::Name::new("_CID".into(), &"VM_Gen_Counter"),
        aml::Name::new("_DDN".into(), &"VM_Gen_Counter"),
        aml::Name::new("ADDR".into(), &place),
    ];
    aml::Device::new("_SB_.VGEN".into(), device.iter().map(|name| name as &dyn Aml).collect()).to_aml_bytes(body);
    let interrupt = aml::Interrupt::new(true, true, false, false, layout::GENERATION_LINE);
    let resources = aml::ResourceTemplate::new(vec![&interrupt]);
    let kind = aml::Name::new("_HID".into(), &"ACPI0013");
    let number = aml::Name::new("_UID".into(), &0u8);
    let lines = aml::Name::new("_CRS".into(), &resources);
    let (line, changed, generation) = (layout::GENERATION_LINE, 0x80u8, aml::Path::new("\\_SB_.VGEN"));
    let notify = aml::Notify::new(&generation, &changed);
    let is_it = aml::Equal::new(&aml::Arg(0), &line);
    let tell = aml::If::new(&is_it, vec![&notify]);
    let event = aml::Method::new("_EVT".into(), 1, true, vec![&tell]);
    aml::Device::new("_SB_.GED_".into(), vec![&kind, &number, &lines, &event]).to_aml_bytes(body);
}

/// A virtio device, by the identifier that Linux's driver has been given (drivers/virtio/virtio_mmio.c).
fn virtio(number: usize, window: &Window, body: &mut Vec<u8>) {
    let registers = aml::Memory32Fixed::new(true, window.start, window.length);
    let interrupt = aml::Interrupt::new(true, true, false, false, window.line);
    let resources = aml::ResourceTemplate::new(vec![&registers, &interrupt]);
    let number = number as u16;
    let device = [
        aml::Name::new("_HID".into(), &"LNRO0005"),
        aml::Name::new("_UID".into(), &number),
        // What the device reads of memory is what the processor wrote.
        aml::Name::new("_CCA".into(), &1u8),
        aml::Name::new("_CRS".into(), &resources),
    ];
    let name = format!("_SB_.V{number:03}");
    aml::Device::new(name.as_str().into(), device.iter().map(|name| name as &dyn Aml).collect()).to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemorySize;
    use vm_memory::Bytes;

    /// The table at an address, of which the sum of all bytes must be 0.
    fn table(memory: &Memory, at: u64) -> Vec<u8> {
        let length: u32 = memory.regions().read_obj(GuestAddress(at + 4)).unwrap();
        let mut bytes = vec![0; length as usize];
        memory.regions().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{:?}", &bytes[..4]);
        bytes
    }

    #[test]
    fn the_tables_lead_to_each_other_and_fit() {
        let size = MemorySize::from_mib(32).unwrap();
        let memory = Memory::new(size, &layout::memory(size)).unwrap();
        let devices: Vec<_> = (0..17)
            .map(|number| Window { start: 0xc000_0000 + number * 4096, length: 4096, line: 5 + number })
            .collect();
        let root = write(&memory, VcpuCount::new(VcpuCount::MAX).unwrap(), &devices).unwrap();
        let mut signature = [0; 8];
        memory.regions().read_slice(&mut signature, root).unwrap();
        assert_eq!(&signature, b"RSD PTR ");
        let xsdt = table(&memory, memory.regions().read_obj(GuestAddress(root.0 + 24)).unwrap());
        let address = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let fadt = table(&memory, address(&xsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        let madt = table(&memory, address(&xsdt, 44));
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(madt.len(), 44 + 64 * 8 + 12);
        let dsdt = table(&memory, address(&fadt, 140));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert!(dsdt.windows(4).any(|name| name == b"V016"));
    }
}
