//! Small guests, written instruction by instruction, and machines for them.

use std::arch::global_asm;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use vmm::{Config, Console, End, Machine, MemorySize, VcpuCount};

/// Where a guest's code lies.
pub(crate) const CODE: u32 = 0x10_0000;

/// An ELF file with a PVH entry, of one segment: `code`, and zeros behind it.
pub(crate) fn kernel(code: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let note =
        [&4u32.to_le_bytes()[..], &4u32.to_le_bytes(), &18u32.to_le_bytes(), b"Xen\0", &CODE.to_le_bytes()].concat();
    let offset = 0x1000u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable file for x86-64, of the one version there is.
    file.extend([2u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    file.extend([u64::from(CODE), 64, 0].iter().flat_map(|long| long.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    file.extend([64u16, 56, 2, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    for (kind, at, address, length, memory, align) in [
        (1u32, offset, u64::from(CODE), code.len() as u64, code.len() as u64 + 0x1000, 0x1000u64),
        (4, HEADERS, 0, note.len() as u64, note.len() as u64, 4),
    ] {
        file.extend([kind, 5].iter().flat_map(|word| word.to_le_bytes()));
        file.extend([at, address, address, length, memory, align].iter().flat_map(|long| long.to_le_bytes()));
    }
    file.extend(note);
    file.resize(offset as usize, 0);
    file.extend(code);
    file
}

/// Code in 32-bit protected mode, which is written instruction by instruction.
#[derive(Default)]
pub(crate) struct Code(Vec<u8>);

impl Code {
    /// `mov dx, port; mov al, value; out dx, al`
    pub(crate) fn out(mut self, port: u16, value: u8) -> Code {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self.0.extend([0xb0, value, 0xee]);
        self
    }

    /// `mov dx, from; in al, dx; mov dx, to; out dx, al`
    pub(crate) fn pass(mut self, from: u16, to: u16) -> Code {
        self.0.extend([0x66, 0xba]);
        self.0.extend(from.to_le_bytes());
        self.0.extend([0xec, 0x66, 0xba]);
        self.0.extend(to.to_le_bytes());
        self.0.push(0xee);
        self
    }

    /// Writes the four bytes at an address to a port: `mov eax, [address]`, and `out dx, al; shr eax, 8` four times.
    pub(crate) fn dump(mut self, address: u32, port: u16) -> Code {
        self.0.push(0xa1);
        self.0.extend(address.to_le_bytes());
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        for _ in 0..4 {
            self.0.extend([0xee, 0xc1, 0xe8, 8]);
        }
        self
    }

    /// Writes what a processor says in a leaf to a port: `mov eax, function; mov ecx, index; cpuid`, then all four registers into memory, and out.
    pub(crate) fn cpuid(mut self, function: u32, index: u32, port: u16) -> Code {
        const PLACE: u32 = 0x20_0000;
        self.0.push(0xb8);
        self.0.extend(function.to_le_bytes());
        self.0.push(0xb9);
        self.0.extend(index.to_le_bytes());
        self.0.extend([0x0f, 0xa2]);
        for (register, at) in [(0x05, PLACE), (0x1d, PLACE + 4), (0x0d, PLACE + 8), (0x15, PLACE + 12)] {
            self.0.extend([0x89, register]);
            self.0.extend(at.to_le_bytes());
        }
        (0..4).fold(self, |code, word| code.dump(PLACE + word * 4, port))
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn power_off(self) -> Code {
        self.out(0x600, 5 << 2 | 1 << 5).bytes(&[0xf4])
    }
}

pub(crate) const SERIAL: u16 = 0x3f8;

// They are bytes to this process, which never runs them.
global_asm!(include_str!("guests.s"), options(att_syntax, raw));

/// The bytes of a guest of `guests.s`, which begin and end at these symbols.
macro_rules! assembled {
    ($start:ident, $end:ident) => {{
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }
        let (start, end) = (&raw const $start, &raw const $end);
        // SAFETY: the two are the ends of one piece of a section that is read only.
        unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
    }};
}

/// A guest that asks a virtual device for something, and is told of the answer by an interrupt, again and again.
pub(crate) fn of_a_device() -> Guest {
    Guest::of(&kernel(assembled!(guest_of_a_device, guest_of_a_device_end)))
}

/// A guest of four processors, all of which go on.
pub(crate) fn of_four() -> Guest {
    let mut guest = Guest::of(&kernel(assembled!(guest_of_four, guest_of_four_end)));
    guest.config.vcpus = VcpuCount::new(4).unwrap();
    guest
}

/// A guest that its local APIC's timer wakes, again and again.
pub(crate) fn of_a_timer() -> Guest {
    Guest::of(&kernel(assembled!(guest_of_a_timer, guest_of_a_timer_end)))
}

pub(crate) struct Guest {
    directory: TempDir,
    pub(crate) config: Config,
}

impl Guest {
    pub(crate) fn of(kernel: &[u8]) -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        let config = Config {
            vcpus: VcpuCount::new(1).unwrap(),
            processor: vmm::Processor::default(),
            memory: MemorySize::from_mib(64).unwrap(),
            most_memory: MemorySize::from_mib(64).unwrap(),
            pages: vmm::Pages::default(),
            kernel: path,
            initrd: None,
            command_line: "hello=world".to_owned(),
            console: Console::File(directory.path().join("console")),
            disks: Vec::new(),
            cards: Vec::new(),
            vsock: None,
            files: Vec::new(),
            files_place: false,
            balloon: false,
        };
        Guest { directory, config }
    }

    pub(crate) fn code(code: Code) -> Guest {
        Guest::of(&kernel(&code.0))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn run(&self) -> (End, Vec<u8>) {
        let end = Machine::new(&self.config).unwrap().run().unwrap();
        (end, fs::read(self.path("console")).unwrap())
    }
}
