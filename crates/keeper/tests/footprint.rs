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
