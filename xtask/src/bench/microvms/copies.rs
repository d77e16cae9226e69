//! Machines that go on from a snapshot: one by one, and a hundred at once.

use super::super::arena::Arena;
use super::super::document::{Figure, Target, Unit};
use super::super::settle;
use super::guests::{self, ANSWER, ANSWERED, WAITS};
use super::process::{Boots, Process};
use super::saves;
use super::starts::{MEBIBYTE, RESTS};
use crate::figures::milliseconds;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmm::{Config, Console, Contents, Disk, Limits, Machine, MemorySize, Pages, SnapshotFiles, VcpuCount, Vsock};

const ROUNDS: usize = 11;
const HUNDRED: usize = 100;
const HUNDREDS: usize = 3;
/// A guest that is not ready by then never is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where in a machine's directory its guest's words go.
const CONSOLE: &str = "console";
/// By then a shell waits for its word.
const SETTLED: Duration = Duration::from_millis(50);

/// Sizes of memory, in MiB.
const SIZES: [(u64, &str); 4] = [
    (64, "a snapshot from exec to the first instruction of the machine that goes on, 64 MiB"),
    (256, "the same, 256 MiB"),
    (1024, "the same, 1 GiB"),
    (4096, "the same, 4 GiB"),
];

pub(super) fn figures(arena: &Arena, boots: &Boots) -> Result<Vec<Figure>> {
    let kernel = arena.path("waiting-kernel");
    fs::write(&kernel, guests::waiting()).context("cannot write a kernel")?;
    let boots = Boots { kernel, ..boots.clone() };
    let mut figures = saves::figures(arena, &boots)?;
    figures.extend(copied(arena, &boots)?);
    Ok(figures)
}

fn copied(arena: &Arena, boots: &Boots) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (mib, what) in SIZES {
        let snapshot = save(arena, boots, mib)?;
        let times = (0..=ROUNDS).map(|_| goes_on(boots, mib, &snapshot)).collect::<Result<Vec<_>>>()?;
        let times = times.into_iter().skip(1).map(milliseconds).collect();
        let bound = match mib {
            64 => GOES_ON,
            4096 => LARGE,
            _ => "",
        };
        figures.push(Figure::time(what, vec![("stratus", times)], 5.0, bound));
    }
    let snapshot = arena.path(&format!("snapshot-{}", SIZES[1].0));
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for round in 0..=HUNDREDS {
        let time = hundred(boots, SIZES[1].0, &snapshot)?;
        let each = memory_of_a_hundred(boots, SIZES[1].0, &snapshot)?;
        if round > 0 {
            times.push(milliseconds(time));
            memory.extend(each);
        }
    }
    figures.push(Figure::time(
        "a hundred machines that go on from one snapshot of 256 MiB, until all have answered",
        vec![("stratus", times)],
        1000.0,
        HUNDRED_AT_ONCE,
    ));
    figures.push(Figure {
        what: "each of a hundred, with no console as microVMs of containers are, beyond its guest's memory, PSS",
        unit: Unit::Megabytes,
        measured: vec![("stratus", memory)],
        target: Target::AtMost(0.12 * MEBIBYTE),
        bound: "constants of the program that have addresses in them, heap and stacks: the program's code is charged to all hundred. The guests' memory is the \
                snapshot's file, once, and what each has written to",
    });
    Ok(figures)
}

const GOES_ON: &str = "until the guest's answer is read from the process: it has seen that it is a copy, by its generation, and written the first four bytes of that. The memory is mapped, \
    whatever its size; 16 MiB of it had been written to. The guest is one of some instructions, as the host's KVM carries them out one by one";
const LARGE: &str = "as before, and what KVM makes for so much memory where it has no two-dimensional paging, as the host's: some ten bytes for each page of a slot, 10 MiB of the kernel's \
    memory. That takes 0.6 ms where the kernel has such pages at hand, and 1 to 3 ms where it has to find them; nothing else grows. With EPT or NPT there is no such table. Several slots are no faster, and beside a \
    slot that is being made there is 0.3 ms of other work at most";
const HUNDRED_AT_ONCE: &str = "the two cores: from the word by which shells that wait become machines' processes until the last of all answers, which differ from each other, is read. forkd, \
    on Firecracker, says of itself: 101 ms on 20 cores, 0.12 MiB each";

/// A machine of that size, saved by this process as one of its kind, with the devices that it would have.
fn save(arena: &Arena, boots: &Boots, mib: u64) -> Result<PathBuf> {
    let directory = arena.path(&format!("snapshot-{mib}"));
    waits(boots, mib, &directory)?.save(&SnapshotFiles::create(&directory)?)?;
    Ok(directory)
}

/// A machine of that size, with a place for its console and sockets, which is made: whose guest waits.
pub(super) fn waits(boots: &Boots, mib: u64, directory: &Path) -> Result<Machine> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut machine = Machine::new(&config(boots, mib, directory)?)?;
    machine.start();
    says(&machine, directory, |bytes| bytes == [WAITS])?;
    Ok(machine)
}

/// Waits until the guest of a machine has said something that is `awaited`.
pub(super) fn says(machine: &Machine, directory: &Path, awaited: impl Fn(&[u8]) -> bool) -> Result<()> {
    let console = directory.join(CONSOLE);
    let began = Instant::now();
    while !awaited(&fs::read(&console).unwrap_or_default()) {
        if let Some(end) = machine.end() {
            bail!("a guest that waits ended: {end:?}");
        }
        if began.elapsed() > PATIENCE {
            bail!("a guest does not say what it is to say after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The machine, with the devices that one of its kind would have.
pub(super) fn config(boots: &Boots, mib: u64, directory: &Path) -> Result<Config> {
    let memory = MemorySize::from_mib(mib)?;
    let layers = Contents::Concatenated(vec![boots.initramfs.clone()]);
    Ok(Config {
        vcpus: VcpuCount::new(1)?,
        processor: vmm::Processor::Host,
        memory,
        most_memory: memory,
        pages: Pages::Small,
        kernel: boots.kernel.clone(),
        initrd: None,
        command_line: String::new(),
        console: Console::File(directory.join(CONSOLE)),
        disks: vec![Disk { serial: "layers".to_owned(), contents: layers, limits: Limits::default() }],
        cards: Vec::new(),
        vsock: Some(Vsock { cid: 3, path: directory.join("vsock") }),
        files: Vec::new(),
        files_place: true,
        balloon: true,
    })
}

fn goes_on(boots: &Boots, mib: u64, snapshot: &Path) -> Result<Duration> {
    let mut process = Process::prepare(boots, mib, Some(snapshot), boots.place.join("machine"))?;
    std::thread::sleep(SETTLED);
    settle()?;
    let began = process.go()?;
    process.first::<ANSWER>()?;
    Ok(began.elapsed())
}

/// How long it takes until a hundred have answered.
fn hundred(boots: &Boots, mib: u64, snapshot: &Path) -> Result<Duration> {
    let prepared = (0..HUNDRED).map(|number| {
        let directory = boots.place.join(format!("machine-{number}"));
        Process::prepare(boots, mib, Some(snapshot), directory)
    });
    let mut processes = prepared.collect::<Result<Vec<_>>>()?;
    std::thread::sleep(SETTLED);
    settle()?;
    let began = Instant::now();
    processes.iter_mut().try_for_each(|process| process.go().map(drop))?;
    let answers = processes.iter_mut().map(Process::first::<ANSWER>).collect::<Result<BTreeSet<_>>>()?;
    let time = began.elapsed();
    if answers.len() != HUNDRED {
        bail!("{HUNDRED} machines gave {} answers", answers.len());
    }
    Ok(time)
}

/// The memory of each of a hundred that have answered, whose consoles go nowhere.
fn memory_of_a_hundred(boots: &Boots, mib: u64, snapshot: &Path) -> Result<Vec<f64>> {
    let prepared = (0..HUNDRED).map(|number| {
        let directory = boots.place.join(format!("machine-{number}"));
        Process::prepare_silent(boots, mib, snapshot, directory)
    });
    let mut processes = prepared.collect::<Result<Vec<_>>>()?;
    processes.iter_mut().try_for_each(|process| process.go().map(drop))?;
    let began = Instant::now();
    loop {
        let told = processes.iter().map(|process| process.peek::<ANSWER>(snapshot, ANSWERED));
        let told = told.collect::<Result<Vec<_>>>()?;
        let answers: BTreeSet<_> = told.into_iter().flatten().filter(|answer| *answer != [0; ANSWER]).collect();
        if answers.len() == HUNDRED {
            break;
        }
        if began.elapsed() > PATIENCE {
            bail!("{HUNDRED} machines gave {} answers within {PATIENCE:?}", answers.len());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(RESTS);
    let memory = processes.iter().map(|process| process.memory().map(|bytes| bytes as f64 / 1e6));
    memory.collect()
}
