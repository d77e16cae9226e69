//! Machines that are saved and go on, on the host's KVM: small guests that notice if anything of them is not as it was.

#[allow(dead_code, reason = "others use the rest of it")]
mod small;

use small::{Code, Guest, SERIAL};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use twox_hash::XxHash3_128;
use vmm::{
    Backing, Console, End, Filter, Machine, MemorySize, Pages, Processor, Snapshot, SnapshotFiles, State, WorkingSet,
};

/// Where the guest counts, in memory.
const COUNT: u32 = 0x20_0000;

/// A guest that counts in a register and in memory, and writes the last byte of each number to its serial port. Where the two differ, or what it reads from a port
/// where nothing is was lost on its way into the register, it faults for good.
fn counting() -> Guest {
    let at = COUNT.to_le_bytes();
    let start = Code::default().bytes(&[0xb9, 0, 0, 0, 0, 0x89, 0x0d]).bytes(&at);
    // inc ecx; inc dword [COUNT]; cmp [COUNT], ecx; jne bad
    let counts = start.bytes(&[0x41, 0xff, 0x05]).bytes(&at).bytes(&[0x39, 0x0d]).bytes(&at).bytes(&[0x75, 20]);
    // mov dx, 0x1234; mov al, 0; in al, dx; cmp al, 0xff; jne bad
    let reads = counts.bytes(&[0x66, 0xba, 0x34, 0x12, 0xb0, 0, 0xec, 0x3c, 0xff, 0x75, 9]);
    // mov al, cl; mov dx, 0x3f8; out dx, al; jmp to the first `inc`; bad: ud2
    Guest::code(reads.bytes(&[0x88, 0xc8, 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xdd, 0x0f, 0x0b]))
}

/// Waits until a machine has written so many bytes to a file.
fn until(console: &Path, length: u64, machine: &Machine) {
    while fs::metadata(console).map_or(0, |file| file.len()) < length {
        assert_eq!(machine.end(), None);
        std::thread::yield_now();
    }
}

/// A machine, and where its console's file is.
fn started(guest: &Guest, name: &str, make: impl FnOnce(&vmm::Config) -> Machine) -> (Machine, std::path::PathBuf) {
    let console = guest.path(name);
    let config = vmm::Config { console: Console::File(console.clone()), ..guest.config.clone() };
    let mut machine = make(&config);
    machine.start();
    until(&console, 300, &machine);
    (machine, console)
}

fn restored(snapshot: &Snapshot) -> impl FnOnce(&vmm::Config) -> Machine {
    |config| Machine::restore(snapshot, config.open_devices().unwrap()).unwrap()
}

/// Its memory comes as it is touched.
fn faulted(snapshot: &Snapshot, ahead: Option<WorkingSet>) -> impl FnOnce(&vmm::Config) -> Machine {
    move |config| Machine::restore_by(snapshot, config.open_devices().unwrap(), &Backing::Faulted { ahead }).unwrap()
}

fn files(guest: &Guest, name: &str) -> SnapshotFiles {
    fs::create_dir(guest.path(name)).unwrap();
    SnapshotFiles::create(&guest.path(name)).unwrap()
}

fn read(guest: &Guest, name: &str) -> Snapshot {
    Snapshot::read(SnapshotFiles::open(&guest.path(name)).unwrap()).unwrap()
}

/// The bytes of consoles, each of a machine that went on from where the one before was saved, are numbers one behind the other.
fn goes_on(consoles: &[&Path]) {
    let told: Vec<u8> = consoles.iter().flat_map(|console| fs::read(console).unwrap()).collect();
    for (number, byte) in told.iter().enumerate() {
        assert_eq!(*byte, (number + 1) as u8, "at {number} of {}", told.len());
    }
}

#[test]
fn machines_go_on_from_where_one_was_saved() {
    let guest = counting();
    let (mut first, console) = started(&guest, "first", |config| Machine::new(config).unwrap());
    let into = files(&guest, "snapshot");
    first.save(&into).unwrap();
    into.sync().unwrap();
    assert_eq!(first.state(), State::Rests);
    drop(first);
    let snapshot = read(&guest, "snapshot");
    let before = fs::read(guest.path("snapshot").join("memory")).unwrap();
    // All at once, of the same memory.
    let clones: Vec<_> = (0..3).map(|number| started(&guest, &format!("clone{number}"), restored(&snapshot))).collect();
    for (machine, file) in clones {
        machine.stop();
        assert_eq!(machine.wait().unwrap(), End::Stopped);
        goes_on(&[&console, &file]);
    }
    assert!(fs::read(guest.path("snapshot").join("memory")).unwrap() == before, "a clone wrote into its snapshot");
}

#[test]
fn a_machine_goes_on_after_it_was_saved_and_the_memory_of_what_it_never_touched_takes_no_room() {
    let guest = counting();
    let (mut machine, console) = started(&guest, "first", |config| Machine::new(config).unwrap());
    for number in 0..10u64 {
        let into = files(&guest, &format!("snapshot{number}"));
        machine.save(&into).unwrap();
        let memory = into.memory.metadata().unwrap();
        assert_eq!(memory.len(), 64 << 20);
        assert!(memory.blocks() * 512 < 4 << 20, "{} bytes", memory.blocks() * 512);
        let mut count = [0; 4];
        into.memory.read_exact_at(&mut count, COUNT.into()).unwrap();
        assert!(u32::from_le_bytes(count) >= 300);
        machine.resume();
        until(&console, fs::metadata(&console).unwrap().len() + 10, &machine);
    }
    drop(machine);
    goes_on(&[&console]);
}

#[test]
fn what_was_never_touched_of_what_a_machine_starts_from_is_saved() {
    let mut guest = counting();
    let initrd = guest.path("initrd");
    fs::write(&initrd, vec![b'i'; 5 << 20]).unwrap();
    guest.config.initrd = Some(initrd);
    for pages in [Pages::Small, Pages::Huge] {
        guest.config.pages = pages;
        let (mut machine, console) = started(&guest, &format!("{pages:?}"), |config| Machine::new(config).unwrap());
        let into = files(&guest, &format!("snapshot-{pages:?}"));
        machine.save(&into).unwrap();
        let mut saved = vec![0; 5 << 20];
        into.memory.read_exact_at(&mut saved, 59 << 20).unwrap();
        assert!(saved.iter().all(|byte| *byte == b'i'), "{pages:?}");
        // It goes on, and so does a copy.
        machine.resume();
        until(&console, fs::metadata(&console).unwrap().len() + 10, &machine);
        drop(machine);
        goes_on(&[&console]);
        let snapshot = read(&guest, &format!("snapshot-{pages:?}"));
        let (copy, _) = started(&guest, &format!("copy-{pages:?}"), restored(&snapshot));
        drop(copy);
    }
}

/// Saves a guest of `guests.s` that has gone around so often, at whatever it is in the middle of, and has it go on from there, again and again: it would fault for good if it missed
/// anything of what it had begun, and go around no more if nothing woke it.
fn is_saved_in_the_middle(guest: &Guest, times: u64) {
    let mut consoles = Vec::new();
    let mut machine = Machine::new(&guest.config).unwrap();
    for number in 0..10 {
        let console = match number {
            0 => guest.path("console"),
            _ => guest.path(&format!("console{number}")),
        };
        machine.start();
        until(&console, times, &machine);
        let name = format!("snapshot{number}");
        machine.save(&files(guest, &name)).unwrap();
        drop(machine);
        consoles.push(console);
        let next = Console::File(guest.path(&format!("console{}", number + 1)));
        let config = vmm::Config { console: next, ..guest.config.clone() };
        machine = restored(&read(guest, &name))(&config);
    }
    goes_on(&consoles.iter().map(|console| console.as_path()).collect::<Vec<_>>());
}

#[test]
fn a_virtual_device_goes_on_with_what_it_was_asked_for_before() {
    is_saved_in_the_middle(&small::of_a_device(), 50);
}

#[test]
fn processors_that_a_guest_has_woken_go_on() {
    is_saved_in_the_middle(&small::of_four(), 2);
}

#[test]
fn the_timer_of_a_processor_goes_on() {
    is_saved_in_the_middle(&small::of_a_timer(), 5);
}

#[test]
fn differences_are_small_and_go_over_what_they_differ_from() {
    let guest = counting();
    let (mut first, one) = started(&guest, "one", |config| Machine::new(config).unwrap());
    let none = first.save_difference(&files(&guest, "none")).unwrap_err().to_string();
    assert!(none.contains("went on from no snapshot"), "{none}");
    first.save(&files(&guest, "whole")).unwrap();
    drop(first);
    let whole = Arc::new(read(&guest, "whole"));
    let (mut second, two) = started(&guest, "two", restored(&whole));
    let into = files(&guest, "difference");
    second.save_difference(&into).unwrap();
    drop(second);
    // Its page of counting, and the generation's.
    let blocks = into.memory.metadata().unwrap().blocks() * 512;
    assert!((4096..1 << 20).contains(&blocks), "{blocks} bytes");
    let open = |name: &str| SnapshotFiles::open(&guest.path(name)).unwrap();
    let alone = Snapshot::read(open("difference")).unwrap_err().to_string();
    assert!(alone.contains("is a difference to another one"), "{alone}");
    let difference = Arc::new(Snapshot::read_over(Arc::clone(&whole), open("difference")).unwrap());
    let wrong = Snapshot::read_over(Arc::clone(&difference), open("difference")).unwrap_err().to_string();
    assert!(wrong.contains("to another one than was given"), "{wrong}");
    assert!(Snapshot::read_over(whole, open("whole")).is_err());
    let (mut third, three) = started(&guest, "three", restored(&difference));
    // And a difference to a difference.
    third.save_difference(&files(&guest, "further")).unwrap();
    drop(third);
    let further = Snapshot::read_over(difference, open("further")).unwrap();
    let (fourth, four) = started(&guest, "four", restored(&further));
    drop(fourth);
    goes_on(&[&one, &two, &three, &four]);
}

#[test]
fn each_copy_has_a_generation_of_its_own() {
    // It waits for a byte of its generation to be another one than it first was: `mov al, [G]; mov bl, al`, then `mov al, [G]; cmp al, bl; je` back, and off.
    let at = 0xf_f000u32.to_le_bytes();
    let code = Code::default().out(SERIAL, b'x').bytes(&[0xa1]).bytes(&at).bytes(&[0x89, 0xc3]);
    let waits = code.bytes(&[0xa1]).bytes(&at).bytes(&[0x39, 0xd8, 0x74, 0xf7]).out(SERIAL, b'y').power_off();
    let guest = Guest::code(waits);
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    until(&guest.path("console"), 1, &machine);
    machine.save(&files(&guest, "snapshot")).unwrap();
    drop(machine);
    let snapshot = read(&guest, "snapshot");
    for _ in 0..2 {
        let copy = Machine::restore(&snapshot, guest.config.open_devices().unwrap()).unwrap();
        assert_eq!(copy.run().unwrap(), End::PowerOff);
    }
}

#[test]
fn what_is_damaged_or_of_another_machine_is_told() {
    let guest = counting();
    let (mut machine, _) = started(&guest, "first", |config| Machine::new(config).unwrap());
    machine.save(&files(&guest, "snapshot")).unwrap();
    drop(machine);
    let state = fs::read(guest.path("snapshot").join("state")).unwrap();
    let told = |state: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("state"), state).unwrap();
        File::create(directory.path().join("memory")).unwrap();
        Snapshot::read(SnapshotFiles::open(directory.path()).unwrap()).map(drop).map_err(|error| error.to_string())
    };
    told(&state).unwrap();
    assert!(told(&state[..20]).unwrap_err().contains("too short"));
    assert!(told(&state[..state.len() - 1]).unwrap_err().contains("damaged"));
    for at in [24, 40, state.len() / 2, state.len() - 1] {
        let mut other = state.clone();
        other[at] ^= 1;
        assert!(told(&other).unwrap_err().contains("damaged"), "at {at}");
    }
    let mut other = state.clone();
    other[8] = 99;
    assert!(told(&other).unwrap_err().contains("version 99"));
    other[0] = 0;
    assert!(told(&other).unwrap_err().contains("does not begin as one"));
    // Memory that was cut, and another count of devices.
    let mut cut = SnapshotFiles::open(&guest.path("snapshot")).unwrap();
    cut.memory = tempfile::tempfile().unwrap();
    let cut = Snapshot::read(cut).unwrap();
    let error = Machine::restore(&cut, guest.config.open_devices().unwrap()).unwrap_err().to_string();
    assert!(error.contains("has 0 bytes"), "{error}");
    let snapshot = read(&guest, "snapshot");
    let mut devices = guest.config.open_devices().unwrap();
    let contents = vmm::DiskContents::Concatenated(vec![tempfile::tempfile().unwrap()]);
    devices.disks.push(vmm::DiskParts { serial: String::new(), contents, limits: vmm::Limits::default() });
    let error = Machine::restore(&snapshot, devices).unwrap_err().to_string();
    assert!(error.contains("it has 1, and 2 are given"), "{error}");
}

#[test]
fn a_snapshot_of_before_there_was_a_choice_of_processors_goes_on() {
    let guest = counting();
    let (mut first, one) = started(&guest, "one", |config| Machine::new(config).unwrap());
    first.save(&files(&guest, "snapshot")).unwrap();
    drop(first);
    assert_eq!(read(&guest, "snapshot").processor(), Processor::Host);
    // Version 2: without the last byte.
    let path = guest.path("snapshot").join("state");
    let mut state = fs::read(&path).unwrap();
    assert_eq!((state[8], state.pop()), (3, Some(0)));
    let body = &state[40..];
    let (length, sum) = ((body.len() as u64).to_le_bytes(), XxHash3_128::oneshot(body).to_le_bytes());
    state[8] = 2;
    state[16..24].copy_from_slice(&length);
    state[24..40].copy_from_slice(&sum);
    fs::write(&path, state).unwrap();
    let snapshot = read(&guest, "snapshot");
    assert_eq!(snapshot.processor(), Processor::Host);
    let (second, two) = started(&guest, "two", restored(&snapshot));
    drop(second);
    goes_on(&[&one, &two]);
}

#[test]
fn a_machine_that_has_ended_is_not_saved() {
    let guest = Guest::code(Code::default().power_off());
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.start();
    while machine.end().is_none() {
        std::thread::yield_now();
    }
    let error = machine.save(&files(&guest, "snapshot")).unwrap_err().to_string();
    assert!(error.contains("has ended: PowerOff"), "{error}");
}

#[test]
fn machines_go_on_with_memory_that_comes_as_it_is_touched() {
    let guest = counting();
    let (mut first, one) = started(&guest, "one", |config| Machine::new(config).unwrap());
    first.save(&files(&guest, "whole")).unwrap();
    drop(first);
    let whole = Arc::new(read(&guest, "whole"));
    let (mut second, two) = started(&guest, "two", faulted(&whole, None));
    let set = second.working_set().unwrap();
    assert!((1..4096).contains(&set.pages()), "{set:?}");
    // A difference has what was written, and not what was only brought.
    let into = files(&guest, "difference");
    second.save_difference(&into).unwrap();
    let blocks = into.memory.metadata().unwrap().blocks() * 512;
    assert!((4096..=16 << 10).contains(&blocks), "{blocks} bytes");
    drop(second);
    let difference = Snapshot::read_over(whole, SnapshotFiles::open(&guest.path("difference")).unwrap()).unwrap();
    // Of two files now, ahead of need; and mapped, as nothing of it depends on how it came.
    let (mut third, three) = started(&guest, "three", faulted(&difference, Some(set)));
    third.save(&files(&guest, "again")).unwrap();
    third.resume();
    third.stop();
    assert_eq!(third.wait().unwrap(), End::Stopped);
    goes_on(&[&one, &two, &three]);
    let (fourth, _) = started(&guest, "four", restored(&read(&guest, "again")));
    drop(fourth);
}

#[test]
fn a_machine_whose_memory_is_cut_ends_with_the_reason() {
    // It reads a word of each page from 2 MiB to 32 MiB, and writes a byte of that to its serial port, again and again: `mov esi, 0x200000; mov dx, 0x3f8`,
    let begins = Code::default().bytes(&[0xbe]).bytes(&0x20_0000u32.to_le_bytes()).bytes(&[0x66, 0xba, 0xf8, 3]);
    // `lodsd; out dx, al; add esi, 4092; cmp esi, 32 MiB; jb` to `lodsd`, `jmp` to the first
    let reads = begins.bytes(&[0xad, 0xee, 0x81, 0xc6]).bytes(&4092u32.to_le_bytes()).bytes(&[0x81, 0xfe]);
    let reads = reads.bytes(&(32u32 << 20).to_le_bytes()).bytes(&[0x72, 0xf0, 0xeb, 0xe5]);
    let guest = Guest::code(reads);
    let mut machine = Machine::new(&guest.config).unwrap();
    machine.save(&files(&guest, "snapshot")).unwrap();
    drop(machine);
    // Something to be read, of which the beginning stays.
    let memory = File::options().write(true).open(guest.path("snapshot").join("memory")).unwrap();
    for page in 0x200..0x1000u64 {
        memory.write_all_at(&[7; 4096], page * 4096).unwrap();
    }
    let snapshot = read(&guest, "snapshot");
    let backing = Backing::Faulted { ahead: None };
    let mut machine = Machine::restore_by(&snapshot, guest.config.open_devices().unwrap(), &backing).unwrap();
    memory.set_len(8 << 20).unwrap();
    machine.start();
    let End::Failed(why) = machine.wait().unwrap() else { panic!("it ended otherwise") };
    assert!(why.contains("bring the memory of a snapshot into the machine"), "{why}");
    // It is told when a machine is made, too.
    let error = Machine::restore_by(&snapshot, guest.config.open_devices().unwrap(), &backing).unwrap_err();
    assert!(error.to_string().contains("or was cut"), "{error}");
}

/// Who does otherwise than the filter says is killed, and this test with it.
#[test]
fn a_machine_is_saved_resized_and_ended_within_the_filter_of_whoever_has_it() {
    let guest = counting();
    let confined = |mut machine: Machine, into: SnapshotFiles, is_difference: bool| {
        let thread = std::thread::spawn(move || {
            Filter::default().of_machine().apply().unwrap();
            match is_difference {
                true => machine.save_difference(&into).unwrap(),
                false => machine.save(&into).unwrap(),
            }
            machine.resume();
            let more = machine.resize(MemorySize::from_mib(4096).unwrap());
            assert!(more.unwrap_err().to_string().contains("can have"));
            assert!(machine.memory() > 0 && machine.memory_statistics().is_none());
            machine.pause().unwrap();
            machine.resume();
            machine.stop();
            assert_eq!(machine.wait().unwrap(), End::Stopped);
        });
        thread.join().unwrap();
    };
    let (first, _) = started(&guest, "first", |config| Machine::new(config).unwrap());
    confined(first, files(&guest, "snapshot"), false);
    let snapshot = read(&guest, "snapshot");
    let (mapped, _) = started(&guest, "mapped", restored(&snapshot));
    confined(mapped, files(&guest, "difference"), true);
    if Path::new("/dev/userfaultfd").exists() {
        for (number, is_difference) in [false, true].into_iter().enumerate() {
            let (brought, _) = started(&guest, &format!("brought{number}"), faulted(&snapshot, None));
            confined(brought, files(&guest, &format!("of brought {number}")), is_difference);
        }
    }
}
