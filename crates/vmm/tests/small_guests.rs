//! Small guests, written for these tests, on the host's KVM: all of it that needs no operating system.

#[allow(dead_code, reason = "others use the rest of it")]
mod small;

use small::{CODE, Code, Guest, SERIAL};
use std::fs;
use std::path::Path;
use vmm::{Contents, Disk, End, Error, Limits, Machine, Pages, Processor, State};

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
fn instructions_that_repeat_themselves_are_many_accesses() {
    // mov esi, TEXT; mov ecx, length; mov dx, SERIAL; rep outsb, then `rep insb` of what is nowhere to the same place, and out again.
    let text = b"said by one instruction";
    let place = 0x20_0000u32.to_le_bytes();
    let length = (text.len() as u32).to_le_bytes();
    let mut code = Code::default();
    for (at, byte) in text.iter().enumerate() {
        code = code.bytes(&[0xc6, 0x05]).bytes(&(0x20_0000 + at as u32).to_le_bytes()).bytes(&[*byte]);
    }
    let say = |code: Code| {
        let from = code.bytes(&[0xbe]).bytes(&place).bytes(&[0xb9]).bytes(&length);
        from.bytes(&[0x66, 0xba]).bytes(&SERIAL.to_le_bytes()).bytes(&[0xf3, 0x6e])
    };
    let hear = |code: Code| {
        let to = code.bytes(&[0xbf]).bytes(&place).bytes(&[0xb9]).bytes(&length);
        to.bytes(&[0x66, 0xba, 0x34, 0x12, 0xf3, 0x6c])
    };
    let told = Guest::code(say(hear(say(code))).power_off()).run().1;
    assert_eq!(told, [&text[..], &[0xff; 23]].concat());
}

#[test]
fn a_guest_reads_who_runs_it() {
    // mov eax, 0x40000100; cpuid; then ebx, ecx and edx into memory, and out.
    let mut code = Code::default().bytes(&[0xb8]).bytes(&0x4000_0100u32.to_le_bytes()).bytes(&[0x0f, 0xa2]);
    for (register, at) in [(0x1d, 0x20_0000u32), (0x0d, 0x20_0004), (0x15, 0x20_0008)] {
        code = code.bytes(&[0x89, register]).bytes(&at.to_le_bytes());
    }
    let code = (0..3).fold(code, |code, word| code.dump(0x20_0000 + word * 4, SERIAL));
    assert_eq!(Guest::code(code.power_off()).run(), (End::PowerOff, b"StratusVMM\0\0".to_vec()));
}

/// What a guest reads in these leaves, each with its four registers.
fn reads(processor: Processor, leaves: &[(u32, u32)]) -> vmm::Result<Vec<[u32; 4]>> {
    let code = leaves.iter().fold(Code::default(), |code, (function, index)| code.cpuid(*function, *index, SERIAL));
    let mut guest = Guest::code(code.power_off());
    guest.config.processor = processor;
    assert_eq!(Machine::new(&guest.config)?.run()?, End::PowerOff);
    let told = fs::read(guest.path("console")).unwrap();
    let words: Vec<_> = told.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
    Ok(words.chunks(4).map(|leaf| leaf.try_into().unwrap()).collect())
}

#[test]
fn a_guest_reads_the_level_of_its_processor_or_is_told_what_the_host_lacks() {
    // Some features of each level: SSE4.2 in ecx of 1; AVX2 in ebx of 7, and BMI1; AVX512F there.
    let leaves = [(1, 0), (7, 0), (0xd, 0), (0x8000_0008, 0)];
    let has = |read: &[[u32; 4]], name: &str| match name {
        "sse4_2" => read[0][2] & 1 << 20 != 0,
        "bmi1" => read[1][1] & 1 << 3 != 0,
        "avx2" => read[1][1] & 1 << 5 != 0,
        "avx512f" => read[1][1] & 1 << 16 != 0,
        _ => panic!("{name}"),
    };
    let known = ["sse4_2", "bmi1", "avx2", "avx512f"];
    let host = reads(Processor::Host, &leaves).unwrap();
    // Of what the host has, no level is without a name.
    assert_eq!(host[0][2] >> 31, 1, "there is no hypervisor");
    for level in Processor::ALL.into_iter().filter(|level| *level != Processor::Host) {
        let features: Vec<_> = level.features().collect();
        match reads(level, &leaves) {
            Ok(read) => {
                for name in known {
                    assert_eq!(has(&read, name), features.contains(&name), "{level} {name}");
                }
                // No further indexes, nothing of ARCH_CAPABILITIES; addresses of 40 bits at most.
                assert_eq!((read[1][0], read[1][3] & 1 << 29), (0, 0), "{level}");
                assert!(read[3][0] & 0xff <= 40, "{level}");
                let states = [0, 7, 0xe7][level as usize - 1];
                assert_eq!(read[2][0], states, "{level}");
            }
            Err(Error::ProcessorLacks { processor, lacking }) => {
                assert_eq!(processor, level);
                let lacking: Vec<_> = lacking.split(", ").collect();
                assert!(!lacking.is_empty());
                for name in lacking.iter().filter(|name| !name.starts_with("the state")) {
                    assert!(features.contains(name), "{level} has no {name}");
                }
                for name in known.iter().filter(|name| features.contains(name)) {
                    // A KVM in software may have a guest read more than it says, and not less.
                    assert!(lacking.contains(name) || has(&host, name), "{level} {name}");
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn the_old_interrupt_controllers_take_nothing() {
    let code = Code::default().pass(0x21, SERIAL).pass(0xa1, SERIAL).power_off();
    assert_eq!(Guest::code(code).run().1, [0xff; 2]);
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

/// Has a guest of `guests.s` go around so often. It writes each time how often it did, and where it faults its machine has ended.
fn goes_around(guest: &Guest, times: u64) {
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    while console_length(guest) < times {
        assert_eq!(machine.end(), None, "after {} times", console_length(guest));
        std::thread::yield_now();
    }
    drop(machine);
    let told = fs::read(guest.path("console")).unwrap();
    assert!(told.iter().zip(1..=u8::MAX).all(|(told, number)| *told == number), "{told:?}");
}

#[test]
fn a_virtual_device_hears_its_doorbell_and_its_answer_interrupts_the_guest() {
    // Around its ring, of 8 entries, and around again.
    goes_around(&small::of_a_device(), 100);
}

#[test]
fn a_guest_wakes_its_other_processors() {
    goes_around(&small::of_four(), 10);
}

#[test]
fn the_timer_of_a_processor_interrupts_it() {
    goes_around(&small::of_a_timer(), 10);
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
        machine.pause().unwrap();
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
    machine.pause().unwrap();
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
    machine.pause().unwrap();
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

#[test]
fn what_a_guest_starts_from_is_the_same_in_huge_pages() {
    // From some way into a piece to the end of the memory; the guest reads its first and last bytes, writes between them, and reads that.
    let length = (3u32 << 20) + 4;
    let first = (64 << 20) - (3 << 20) - 4096;
    let code = Code::default().dump(first, SERIAL).dump(first + length - 4, SERIAL);
    let written = (first + (2 << 20)).to_le_bytes();
    let code = code.bytes(&[0xc7, 0x05]).bytes(&written).bytes(b"mine").dump(first + (2 << 20), SERIAL);
    let mut guest = Guest::code(code.dump(first + (2 << 20) + 4, SERIAL).power_off());
    let initrd = guest.path("initrd");
    let bytes = [&b"head"[..], &vec![b'.'; length as usize - 8], b"tail"].concat();
    fs::write(&initrd, &bytes).unwrap();
    guest.config.initrd = Some(initrd.clone());
    for pages in [Pages::Small, Pages::Huge] {
        guest.config.pages = pages;
        fs::write(guest.path("console"), "").unwrap();
        assert_eq!(guest.run(), (End::PowerOff, b"headtailmine....".to_vec()), "{pages:?}");
        assert!(fs::read(&initrd).unwrap() == bytes, "{pages:?}: the guest wrote into a file of the host's");
    }
}

#[test]
fn the_format_of_a_disk_is_what_its_config_says_and_not_what_it_holds() {
    let mut guest = Guest::code(Code::default().power_off());
    let path = guest.path("image");
    // Version 3, with the name of another file.
    fs::write(&path, [&b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\x01\0"[..], &[0; 1008]].concat()).unwrap();
    let disk = |contents| vec![Disk { serial: "data".to_owned(), contents, limits: Limits::default() }];
    guest.config.disks = disk(Contents::Qcow2 { path: path.clone(), read_only: true });
    let told = Machine::new(&guest.config).unwrap_err().to_string();
    assert!(told.starts_with("the qcow2 image of the disk \"data\": it names a backing file"), "{told}");
    guest.config.disks = disk(Contents::File { path, read_only: true });
    Machine::new(&guest.config).unwrap();
}
