//! Machines that come and go, many times over: nothing of them stays.

#[path = "../microvm_kernel.rs"]
mod microvm_kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use e2e::{Daemon, Waiting, is_template};
use microvm_kernel::host;

/// As many are made in all: a hundred from their creation to their removal, and fifty that are killed on the way, which is where most can be left behind.
const CYCLES: u32 = 150;
/// As many at once.
const AT_ONCE: u32 = 4;
/// One of so many is killed.
const KILLED: u32 = 3;

#[test]
fn a_hundred_machines_leave_nothing() {
    let host = host();
    // What the daemon keeps from the first ones on.
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let host = &host;
            scope.spawn(move || cycle(host, &format!("first{worker}"), None));
        }
    });
    let before = settled(&host);
    let kept = rests(&host);
    thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let host = &host;
            scope.spawn(move || {
                for number in (worker..CYCLES).step_by(AT_ONCE as usize) {
                    // Spread over the time that a boot takes, on whatever machine this is.
                    let wait = Duration::from_millis(u64::from(number * 37 % 100) * 10);
                    cycle(host, &format!("m{number}"), (number % KILLED == 0).then_some(wait));
                }
            });
        }
    });
    host.sh("docker ps -aq").says("");
    let mut waiting = Waiting::for_what("everything else to go");
    loop {
        let left: Vec<_> = host.holdings().into_iter().filter(|line| !before.contains(line)).collect();
        if left.is_empty() {
            break;
        }
        waiting.look_again_at(|| format!("left: {left:#?}"));
    }
    // Nor does the daemon or its keeper keep anything open, or a thread.
    let mut waiting = Waiting::for_what("descriptors and threads to go");
    loop {
        let now = processes_of(&host).map(held);
        if now.iter().zip(&kept).all(|(now, kept)| now.len() <= kept.len() + SLACK) {
            break;
        }
        waiting.look_again_at(|| format!("before: {kept:#?}\nnow: {now:#?}"));
    }
}

/// So many descriptors and threads more are none that a machine leaves: of a hundred, each would leave one.
const SLACK: usize = 8;

/// The daemon and the keeper; nothing is published here that a third one would be for.
fn processes_of(host: &Daemon) -> [u32; 2] {
    [host.pid(), host.keeper()]
}

/// A line for each descriptor and each thread that a process has, by what they are.
fn held(process: u32) -> Vec<String> {
    let below = |name: &str| fs::read_dir(format!("/proc/{process}/{name}")).expect("it runs").flatten();
    // They may be gone meanwhile.
    let descriptors = below("fd").filter_map(|entry| fs::read_link(entry.path()).ok());
    let threads = below("task").filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    let descriptors = descriptors.map(|target| target.display().to_string());
    let mut held: Vec<String> = descriptors.chain(threads.map(|name| format!("thread {}", name.trim()))).collect();
    held.sort();
    held
}

/// What its processes have once none of them has less than it had a moment ago: threads that wait for work end by themselves.
fn rests(host: &Daemon) -> [Vec<String>; 2] {
    let mut waiting = Waiting::for_what("its processes to rest");
    let (mut before, mut same) = (processes_of(host).map(held), 0);
    while same < 100 {
        waiting.look_again();
        let now = processes_of(host).map(held);
        same = if now.iter().zip(&before).all(|(now, before)| now.len() >= before.len()) { same + 1 } else { 0 };
        before = now;
    }
    before
}

/// Makes a machine, starts it, and removes it; `killed`: so long after its start was asked for.
fn cycle(host: &Daemon, name: &str, killed: Option<Duration>) {
    let made = host.sh(&format!("docker create --name {name} --cpus 1 --runtime microvm busybox sleep 1000"));
    let id = made.text().to_owned();
    match killed {
        None => {
            host.slowly(&format!("docker start {name}")).ok();
            host.slowly(&format!("docker exec {name} true")).ok();
        }
        Some(wait) => thread::scope(|scope| {
            let start = scope.spawn(|| host.slowly(&format!("docker start {name}")).code());
            let mut waiting = Waiting::for_what("its process");
            while processes(&id).is_empty() && !start.is_finished() {
                waiting.look_again();
            }
            thread::sleep(wait);
            for process in processes(&id) {
                host.sh(&format!("kill -9 {process} || true")).ok();
            }
            // It may have been there by then.
            start.join().expect("the start");
        }),
    }
    host.slowly(&format!("docker rm -f {name}")).ok();
}

/// What runs in a container's control groups, of any hierarchy.
fn processes(id: &str) -> Vec<String> {
    let mut found: Vec<String> = groups(Path::new("/sys/fs/cgroup"), id, 4)
        .iter()
        .filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn groups(below: &Path, id: &str, depth: u8) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().contains(id) {
            found.push(entry.path());
        } else if depth > 1 {
            found.extend(groups(&entry.path(), id, depth - 1));
        }
    }
    found
}

/// What the daemon has once it has done what it does in its own time.
fn settled(host: &Daemon) -> Vec<String> {
    let mut waiting = Waiting::for_what("the daemon to settle");
    let mut before = Vec::new();
    loop {
        let now = host.holdings();
        let goes = |line: &String| line.contains("/trash/") || line.contains("/.removed-");
        // Of the template that all go on from, the first machine of the kind has one made.
        if now == before && !now.iter().any(goes) && now.iter().any(|line| is_template(line)) {
            return now;
        }
        before = now;
        waiting.look_again();
    }
}
