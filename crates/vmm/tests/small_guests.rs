//! Small guests, written for these tests, on the host's KVM: all of it that needs no operating system.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vmm::{Config, Console, End, Machine, MemorySize, State, VcpuCount};

/// Where a guest's code lies.
const CODE: u32 = 0x10_0000;

/// An ELF file with a PVH entry, of one segment: `code`, and zeros behind it.
fn kernel(code: &[u8]) -> Vec<u8> {
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
struct Code(Vec<u8>);

impl Code {
    /// `mov dx, port; mov al, value; out dx, al`
    fn out(mut self, port: u16, value: u8) -> Code {
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        self.0.extend([0xb0, value, 0xee]);
        self
    }

    /// `mov dx, from; in al, dx; mov dx, to; out dx, al`
    fn pass(mut self, from: u16, to: u16) -> Code {
        self.0.extend([0x66, 0xba]);
        self.0.extend(from.to_le_bytes());
        self.0.extend([0xec, 0x66, 0xba]);
        self.0.extend(to.to_le_bytes());
        self.0.push(0xee);
        self
    }

    /// Writes the four bytes at an address to a port: `mov eax, [address]`, and `out dx, al; shr eax, 8` four times.
    fn dump(mut self, address: u32, port: u16) -> Code {
        self.0.push(0xa1);
        self.0.extend(address.to_le_bytes());
        self.0.extend([0x66, 0xba]);
        self.0.extend(port.to_le_bytes());
        for _ in 0..4 {
            self.0.extend([0xee, 0xc1, 0xe8, 8]);
        }
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Code {
        self.0.extend(bytes);
        self
    }

    fn power_off(self) -> Code {
        self.out(0x600, 5 << 2 | 1 << 5).bytes(&[0xf4])
    }
}

const SERIAL: u16 = 0x3f8;

struct Guest {
    directory: TempDir,
    config: Config,
}

impl Guest {
    fn of(kernel: &[u8]) -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        let config = Config {
            vcpus: VcpuCount::new(1).unwrap(),
            memory: MemorySize::from_mib(64).unwrap(),
            kernel: path,
            initrd: None,
            command_line: "hello=world".to_owned(),
            console: Console::File(directory.path().join("console")),
            disks: Vec::new(),
            cards: Vec::new(),
            vsock: None,
        };
        Guest { directory, config }
    }

    fn code(code: Code) -> Guest {
        Guest::of(&kernel(&code.0))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self) -> (End, Vec<u8>) {
        let end = Machine::new(&self.config).unwrap().run().unwrap();
        (end, fs::read(self.path("console")).unwrap())
    }
}

#[test]
fn a_guest_speaks_and_switches_itself_off() {
    let guest = Guest::code(Code::default().out(SERIAL, b'h').out(SERIAL, b'i').power_off());
    assert_eq!(guest.run(), (End::PowerOff, b"hi".to_vec()));
}

#[test]
fn a_guest_resets_itself_by_acpi_or_by_the_keyboard_controller() {
    for (port, value) in [(0x602, 1), (0x64, 0xfe)] {
        let guest = Guest::code(Code::default().out(port, value).bytes(&[0xf4]));
        assert_eq!(guest.run().0, End::Reset, "port {port:#x}");
    }
}

#[test]
fn a_guest_that_faults_for_good_ends() {
    // An interrupt without a table of interrupts, and so a fault in the handling of the fault in its handling.
    let guest = Guest::code(Code::default().bytes(&[0x0f, 0x0b]));
    assert_eq!(guest.run().0, End::TripleFault);
}

#[test]
fn where_nothing_is_all_ones_are_read_and_writes_are_lost() {
    let code =
        Code::default().out(0x1234, 7).pass(0x1234, SERIAL).pass(0x61f, SERIAL).dump(0xc800_0000, SERIAL).power_off();
    assert_eq!(Guest::code(code).run().1, [0xff; 6]);
}

#[test]
fn a_kernel_is_told_its_memory_its_command_line_and_its_initramfs() {
    // `mov eax, [ebx + offset]` reads of what it is told; the command line's address is read, and then what is there.
    let code = Code::default()
        .dump(0x6000, SERIAL)
        .dump(0x2_0000, SERIAL)
        .dump(0x6100, SERIAL)
        .dump(64 * 1024 * 1024 - 4096, SERIAL);
    let mut guest = Guest::code(code.power_off());
    let initrd = guest.path("initrd");
    fs::write(&initrd, b"root").unwrap();
    guest.config.initrd = Some(initrd);
    let (end, told) = guest.run();
    assert_eq!(end, End::PowerOff);
    assert_eq!(told[..4], 0x336e_c578u32.to_le_bytes());
    assert_eq!(&told[4..8], b"hell");
    assert_eq!(told[8..12], (64 * 1024 * 1024 - 4096u32).to_le_bytes());
    assert_eq!(&told[12..], b"root");
}

/// A guest that writes to its serial port for ever: `mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp` back to the `out`.
fn talkative() -> Guest {
    Guest::code(Code::default().out(SERIAL, b'x').bytes(&[0xeb, 0xfd]))
}

fn console_length(guest: &Guest) -> u64 {
    fs::metadata(guest.path("console")).map_or(0, |file| file.len())
}

fn until_it_says_more(guest: &Guest, than: u64) {
    while console_length(guest) <= than {
        std::thread::yield_now();
    }
}

fn has_ended(machine: &Machine) -> bool {
    let mut waited = [rustix::event::PollFd::from_borrowed_fd(machine.ended(), rustix::event::PollFlags::IN)];
    let no_time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut waited, Some(&no_time)).unwrap() == 1
}

#[test]
fn a_machine_is_started_paused_resumed_and_stopped() {
    let guest = talkative();
    let mut machine = Machine::new(&guest.config).unwrap();
    assert_eq!((machine.state(), console_length(&guest)), (State::Rests, 0));
    machine.start();
    for _ in 0..20 {
        until_it_says_more(&guest, console_length(&guest));
        machine.pause();
        let before = console_length(&guest);
        (0..100).for_each(|_| std::thread::yield_now());
        assert_eq!(console_length(&guest), before);
        machine.resume();
    }
    assert_eq!((machine.end(), has_ended(&machine)), (None, false));
    machine.stop();
    assert!(has_ended(&machine));
    assert_eq!(machine.wait().unwrap(), End::Stopped);
}

#[test]
fn machines_go_away_wherever_they_are() {
    let guest = talkative();
    drop(Machine::new(&guest.config).unwrap());
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    drop(machine);
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    machine.pause();
    drop(machine);
}

#[test]
fn who_waits_for_many_things_hears_of_the_end() {
    let guest = Guest::code(Code::default().power_off());
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    let mut waited = [rustix::event::PollFd::from_borrowed_fd(machine.ended(), rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut waited, None).unwrap();
    assert_eq!(machine.end(), Some(End::PowerOff));
    // What has ended can be told to rest all the same.
    machine.pause();
    assert_eq!(machine.wait().unwrap(), End::PowerOff);
}

#[test]
fn nobody_who_does_not_read_its_console_holds_a_guest_up() {
    let (_read, out) = std::io::pipe().unwrap();
    let code = Code::default().bytes(&[0xb9]).bytes(&300_000u32.to_le_bytes()).out(SERIAL, b'x').bytes(&[0xe2, 0xfd]);
    let guest = Guest::code(code.power_off());
    let mut parts = guest.config.open().unwrap();
    parts.devices.console = Some(out.into());
    let machine = Machine::of(parts).unwrap();
    assert_eq!(machine.run().unwrap(), End::PowerOff);
}

#[test]
fn a_guest_never_writes_to_the_file_that_it_was_started_from() {
    // It writes over its own first instruction.
    let code =
        Code::default().bytes(&[0xc6, 0x05]).bytes(&CODE.to_le_bytes()).bytes(&[0xcc]).dump(CODE, SERIAL).power_off();
    let guest = Guest::code(code);
    let before = fs::read(guest.path("kernel")).unwrap();
    assert_eq!(guest.run().1[0], 0xcc);
    assert_eq!(fs::read(guest.path("kernel")).unwrap(), before);
}

#[test]
fn what_is_missing_or_too_large_is_told_with_its_name() {
    let mut guest = Guest::code(Code::default().power_off());
    let told = |guest: &Guest| Machine::new(&guest.config).unwrap_err().to_string();
    guest.config.initrd = Some(Path::new("/nowhere/initrd").to_owned());
    assert!(told(&guest).starts_with("the initramfs /nowhere/initrd: No such file"), "{}", told(&guest));
    let large = guest.path("large");
    fs::File::create(&large).unwrap().set_len(65 << 20).unwrap();
    guest.config.initrd = Some(large);
    assert!(told(&guest).contains("the initramfs takes 68157440 bytes"), "{}", told(&guest));
    // It would fit, but for where the kernel is.
    let over_the_kernel = guest.path("over-the-kernel");
    fs::File::create(&over_the_kernel).unwrap().set_len(63 << 20).unwrap();
    guest.config.initrd = Some(over_the_kernel);
    assert!(told(&guest).contains("the initramfs takes 66060288 bytes"), "{}", told(&guest));
    guest.config.initrd = None;
    guest.config.command_line = "x".repeat(3000);
    assert!(told(&guest).contains("has 3000 bytes, and may have 2047"), "{}", told(&guest));
}
