//! How much the keeper takes. Prints figures; asserts only what is promised.

mod support;

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

/// Kilobytes of what a process's own program never writes that are mapped.
fn mapped(pid: u32) -> u64 {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut inside, mut sum) = (false, 0);
    for line in maps.lines() {
        if line.split_whitespace().next().is_some_and(|first| !first.ends_with(':')) {
            let read_only = line.contains(" r--p 00000000 ") || line.contains(" r-xp ");
            inside = read_only && line.ends_with(program.to_str().unwrap());
        } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| inside) {
            sum += size.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
        }
    }
    sum
}

#[test]
fn a_keeper_that_nobody_asks_gives_its_pages_back() {
    let (keeper, mut client) = Keeper::start();
    let mut most = 0;
    for _ in 0..30 {
        run(&mut client, shell("short", "true"));
        // What it needed is mapped until nobody has asked for a while.
        for _ in 0..30 {
            let now = mapped(keeper.pid);
            // The kernel maps sixteen pages around each that is needed to wait, so much of a small program comes back.
            if now < most * 3 / 4 {
                return;
            }
            most = most.max(now);
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
    panic!("{most} KiB stay");
}
