//! Machines that are saved while they run: how long they stand still for it.

use super::super::arena::Arena;
use super::super::document::{Figure, Target, Unit};
use super::copies::{config, says, waits};
use super::guests::ANSWER;
use super::process::Boots;
use crate::figures::milliseconds;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vmm::{Machine, Snapshot, SnapshotFiles};

const ROUNDS: usize = 11;
/// Memory of the machine, in MiB: its guest has written to 16 of them.
const SIZE: u64 = 256;

pub(super) fn figures(arena: &Arena, boots: &Boots) -> Result<Vec<Figure>> {
    let place = arena.path("saved");
    let directory = place.join("machine");
    let mut machine = waits(boots, SIZE, &directory)?;
    let whole = rounds(&mut machine, &place, |machine, files| Ok(machine.save(files)?))?;
    let first = SnapshotFiles::create(&kept(&place)?)?;
    machine.save(&first)?;
    drop(machine);

    let directory = place.join("copy");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let snapshot = Snapshot::read(SnapshotFiles::open(&kept(&place)?)?)?;
    let mut machine = Machine::restore(&snapshot, config(boots, SIZE, &directory)?.open_devices()?)?;
    machine.start();
    says(&machine, &directory, |bytes| bytes.len() == ANSWER)?;
    let difference = rounds(&mut machine, &place, |machine, files| Ok(machine.save_difference(files)?))?;

    let [stands, synced] = whole;
    let [stands_again, synced_again] = difference;
    Ok(vec![
        time(
            "a machine of 256 MiB, of which its guest has written to 16, is saved while it runs: for how long it stands still",
            stands,
            WHOLE,
        ),
        time("the same, until what was written outlives a loss of power", synced, SYNCED),
        time(
            "the same of one that went on from a snapshot: it stands still for what has changed since",
            stands_again,
            DIFFERENCE,
        ),
        time("the same, until that outlives a loss of power", synced_again, SYNCED),
    ])
}

const WHOLE: &str = "copying what the guest has written to a file; pages that it never touched are holes there";
const SYNCED: &str = "the disk; meanwhile the machine runs again";
const DIFFERENCE: &str = "asking the kernel which pages are not the snapshot's any more (`/proc/self/pagemap`), and the state of the processor and devices from KVM";

fn time(what: &'static str, times: Vec<f64>, bound: &'static str) -> Figure {
    Figure { what, unit: Unit::Milliseconds, measured: vec![("stratus", times)], target: Target::None, bound }
}

/// The directory of the snapshot that another machine goes on from.
fn kept(place: &Path) -> Result<PathBuf> {
    let directory = place.join("kept");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// How long a machine stands still for each of some snapshots, and how long it takes until they are on the disk, in milliseconds.
fn rounds(
    machine: &mut Machine,
    place: &Path,
    save: impl Fn(&mut Machine, &SnapshotFiles) -> Result<()>,
) -> Result<[Vec<f64>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        let directory = place.join(format!("round-{round}"));
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let files = SnapshotFiles::create(&directory)?;
        let began = Instant::now();
        save(machine, &files)?;
        machine.resume();
        let stood = began.elapsed();
        files.sync().context("a snapshot does not get to the disk")?;
        let safe: Duration = began.elapsed();
        // The first warms up.
        if round > 0 {
            times[0].push(milliseconds(stood));
            times[1].push(milliseconds(safe));
        }
        drop(files);
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(times)
}
