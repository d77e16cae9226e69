//! From exec to a guest's first instruction, and what the process takes then.

use super::super::arena::Arena;
use super::super::document::{Figure, Target, Unit};
use super::super::{Contender, take_turns};
use super::guests::{self, FIRST};
use super::process::{self, Boots, Process};
use crate::figures::milliseconds;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
const MIB: u64 = 128;
/// From so much memory on a machine that boots has it in huge pages.
const HUGE_MIB: u64 = 256;
/// In so many of them memory is looked at.
const OF_MEMORY: usize = 5;
/// By then a shell waits for its word.
const SETTLED: Duration = Duration::from_millis(50);
/// By then a machine's process to which nothing comes has given back what it does not need.
pub(super) const RESTS: Duration = Duration::from_secs(3);

pub(super) fn figures(arena: &Arena, boots: &Boots) -> Result<Vec<Figure>> {
    let kernel = arena.path("first-instruction");
    guests::first_instruction(&boots.kernel, &kernel)?;
    let boots = Boots { kernel, ..boots.clone() };
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let (mut their_times, mut their_memory) = (Vec::new(), Vec::new());
    let contenders: Vec<Contender<'_>> = vec![
        (
            "stratus",
            Box::new(|| {
                let (process, time, of_processors) = start(&boots, MIB)?;
                times.push(milliseconds(of_processors));
                if memory.len() < OF_MEMORY {
                    std::thread::sleep(RESTS);
                    memory.push(process.memory()? as f64 / 1e6);
                }
                Ok(time)
            }),
        ),
        (
            QEMU,
            Box::new(|| {
                let mut qemu = Qemu::start(&boots)?;
                let time = qemu.first()?;
                their_times.push(milliseconds(process::processor_time(qemu.0.id())?));
                if their_memory.len() < OF_MEMORY {
                    std::thread::sleep(RESTS);
                    their_memory.push(process::memory(qemu.0.id())? as f64 / 1e6);
                }
                Ok(time)
            }),
        ),
    ];
    let walls = take_turns(ROUNDS, contenders)?;
    let mut huge_times = Vec::new();
    let huge = || {
        let (_process, time, of_processors) = start(&boots, HUGE_MIB)?;
        huge_times.push(milliseconds(of_processors));
        Ok(time)
    };
    let huge_walls = take_turns(ROUNDS, vec![("stratus", Box::new(huge))])?;
    let counted = |values: Vec<f64>| values.into_iter().skip(1).collect();
    Ok(vec![
        Figure {
            what: "a machine's process beyond its guest's memory, 1 processor, 128 MiB, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", memory), (QEMU, their_memory)],
            target: Target::AtMost(2.0 * MEBIBYTE),
            bound: MEMORY,
        },
        Figure::time(
            "a machine's process from exec to its guest's first instruction, Debian's kernel of 53 MB",
            walls,
            5.0,
            START,
        ),
        Figure::time(
            "processor time of that",
            vec![("stratus", counted(times)), (QEMU, counted(their_times))],
            4.0,
            "",
        ),
        Figure::time(
            "the same in a machine of 256 MiB, whose kernel is put into huge pages as it is touched",
            huge_walls,
            5.0,
            HUGE,
        ),
        Figure::time("processor time of that", vec![("stratus", counted(huge_times))], 4.0, ""),
    ])
}

/// A machine whose guest has written its byte, how long that took from exec on, and of processors.
fn start(boots: &Boots, mib: u64) -> Result<(Process, Duration, Duration)> {
    let mut process = Process::prepare(boots, mib, None, boots.place.join("machine"))?;
    std::thread::sleep(SETTLED);
    let began = process.go()?;
    let [byte] = process.first()?;
    let (time, of_processors) = (began.elapsed(), process.processor_time()?);
    if byte != FIRST {
        bail!("a guest wrote {byte:#x}");
    }
    Ok((process, time, of_processors))
}

/// A mebibyte, in megabytes.
pub(super) const MEBIBYTE: f64 = 1.048_576;
const QEMU: &str = "QEMU's microvm, emulation";
const MEMORY: &str = "what is the process's alone: constants of the program that have addresses in them, heap and stacks; and, four fifths of it, \
    pages of the program's file, which all of its processes share, and which one alone is charged with as a whole. Firecracker, built \
    and measured on this kind of machine: 2.9 MB";
const START: &str = "until the byte that the guest's first instructions, put at the kernel's entry, write to its serial port is read from the process: an exit and a thread \
    more than the instruction itself. The kernel's file is mapped, and not copied. Firecracker, which copies it, on this kind of machine: 34 to 38 ms, 27 ms of processor \
    time, besides 1.3 to 1.7 ms until its socket is there. The host's KVM, an emulation in software, makes a machine and a processor as fast as any, and \
    carries out each of the guest's instructions in half a microsecond";
const HUGE: &str = "as before, and the first 2 MiB that the guest touches of its kernel: a page of zeros, a copy into it, and a thread that does so";

/// QEMU's smallest machine, without the host's KVM. It ends when it is dropped.
struct Qemu(Child, Instant);

impl Qemu {
    fn start(boots: &Boots) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-M", "microvm,dump-guest-core=off", "-accel", "tcg", "-m", &MIB.to_string(), "-smp", "1"]);
        command.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio"]);
        command.arg("-kernel").arg(&boots.kernel).arg("-initrd").arg(&boots.initramfs);
        let began = Instant::now();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot run QEMU")?, began))
    }

    /// Until its guest has written what is expected. Its firmware may write before.
    fn first(&mut self) -> Result<Duration> {
        let out = self.0.stdout.as_mut().context("QEMU has no output")?;
        let mut byte = [0];
        while byte[0] != FIRST {
            out.read_exact(&mut byte).context("QEMU's guest ended before its first instruction")?;
        }
        Ok(self.1.elapsed())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
