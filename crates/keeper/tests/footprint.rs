//! How much the keeper takes. Prints figures; asserts only what is promised.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio as Stream};
use std::time::{Duration, Instant};

use keeper::client::{Create, List, Stats};
use keeper::protocol::{Framing, Request};
use support::*;

#[test]
fn a_keeper_of_a_hundred_sandboxes_is_small() {
    let (keeper, mut client) = Keeper::start();
    let empty = keeper.pss();
    let mut attachments = Vec::new();
    for number in 0..100 {
        let id = format!("job{number}");
        let create = Create { log: keeper.log(&id), ..program_of(&id, &["/bin/sleep", "1000"]) };
        let (create, stream) = attached(create, false, Framing::Framed);
        client.call(create).unwrap();
        attachments.push(stream);
    }
    let held = keeper.pss();
    // A while of ordinary work leaves it as it was.
    for number in 0..1000 {
        run(&mut client, shell("short", &format!("echo {number}")));
    }
    let worked = keeper.pss();
    println!(
        "keeper: {empty} KiB when empty, {held} KiB with 100 sandboxes, {worked} KiB after 1,000 more have come and gone"
    );
    assert_eq!(client.call(List).unwrap().len(), 100);
    assert!(worked <= 3 * 1024, "{worked} KiB");
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid)).unwrap().count();
    // For each: process, two streams, log, attachment. Beside them: a dozen.
    assert!(open <= 100 * 5 + 16, "{open} descriptors");
    for number in 0..100 {
        client.call(Request::Signal { id: format!("job{number}"), signal: 9 }).unwrap();
        wait_exit(&mut client, &format!("job{number}"));
        client.call(Request::Forget { id: format!("job{number}") }).unwrap();
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", keeper.pid)).unwrap().count();
    assert!(open <= 16, "{open} descriptors are left");
    assert_eq!(client.call(Stats).unwrap().attachments, 0);
}

#[test]
fn a_keeper_that_nobody_asks_gives_its_pages_back() {
    let (keeper, mut client) = Keeper::start();
    let traced = keeper.dir.path().join("traced");
    let mut strace = Command::new("strace")
        .args(["-p", &keeper.pid.to_string(), "-e", "trace=madvise", "-o"])
        .arg(&traced)
        .stderr(Stream::piped())
        .spawn()
        .unwrap();
    let mut attached = String::new();
    BufReader::new(strace.stderr.take().unwrap()).read_line(&mut attached).unwrap();
    assert!(attached.contains("attached"), "strace says {attached:?}");
    // Twice: what it needed for the second is given back as well.
    for round in 1..=2 {
        run(&mut client, shell("short", "true"));
        let given = || std::fs::read_to_string(&traced).unwrap_or_default().matches("MADV_DONTNEED").count();
        let (before, until) = (given(), Instant::now() + PATIENCE);
        while given() <= before {
            assert!(Instant::now() < until, "nothing is given back, round {round}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    strace.kill().unwrap();
    strace.wait().unwrap();
}
