//! `kill -9` in the middle of writing: what was acknowledged is there, what is there is whole.

use rustix::process::{Signal, getpid, kill_process};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use store::{Durability, Options, Revision, Store, WatchError};

const PATH: &str = "STORE_CRASH_PATH";
const THREADS: usize = 3;

/// Remembers little, so that forgetting is interrupted, too.
fn options() -> Options {
    Options { history_revisions: 20, history_bytes: 64 << 10, ..Options::default() }
}

/// Not a test by itself: the process that is killed. Each transaction writes a number under three keys; when it is
/// acknowledged, the number is printed.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let store = Store::open_with(path, options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || write_for_ever(store, thread));
        }
    });
}

fn write_for_ever(store: &Store, thread: usize) {
    let first = number(store, &format!("{thread}/a")) + 1;
    for n in first..=u64::MAX {
        let mut txn = store.txn();
        for key in ["a", "b", "c"] {
            let value = format!("{n} {}", "x".repeat(n as usize * 37 % 3000));
            txn = txn.put(format!("{thread}/{key}"), value);
        }
        if n % 7 == 3 {
            let relaxed = store.txn().put(format!("{thread}/relaxed"), "x").durability(Durability::Relaxed);
            println!("revision {}", relaxed.commit().unwrap());
        }
        txn.commit().unwrap();
        println!("acknowledged {thread} {n}");
    }
}

fn number(store: &Store, key: &str) -> u64 {
    let value = store.get(key).unwrap().map(|entry| String::from_utf8(entry.value).unwrap());
    value.map_or(0, |value| value.split(' ').next().unwrap().parse().unwrap())
}

/// A writing process, killed when it goes out of scope.
struct Writer {
    process: Child,
    lines: BufReader<ChildStdout>,
    /// The greatest revision that it told of.
    revision: Revision,
}

impl Writer {
    fn start(path: &Path) -> Writer {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writes_until_it_is_killed", "--nocapture"])
            .env(PATH, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Writer { process, lines, revision: Revision::ZERO }
    }

    /// Notes acknowledgements until there are `count` more.
    fn read(&mut self, count: usize, acknowledged: &mut [u64; THREADS]) {
        let mut left = count;
        while left > 0 && self.read_one(acknowledged) {
            left -= usize::from(left > 0);
        }
        assert_eq!(left, 0, "the writer ended by itself");
    }

    /// Notes one line; false at the end.
    fn read_one(&mut self, acknowledged: &mut [u64; THREADS]) -> bool {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
            return false;
        }
        // The test harness writes its own words on the same line as the first acknowledgement.
        if let Some((_, numbers)) = line.trim().split_once("acknowledged ") {
            let (thread, n) = numbers.split_once(' ').unwrap();
            acknowledged[thread.parse::<usize>().unwrap()] = n.parse().unwrap();
        }
        if let Some((_, revision)) = line.trim().split_once("revision ") {
            self.revision = self.revision.max(Revision(revision.parse().unwrap()));
        }
        true
    }

    /// Kills it, and notes what it had said by then. Tells the greatest revision of a relaxed change.
    fn kill(mut self, acknowledged: &mut [u64; THREADS]) -> Revision {
        self.process.kill().unwrap();
        while self.read_one(acknowledged) {}
        assert_eq!(self.process.wait().unwrap().signal(), Some(9));
        self.revision
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged_and_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut acknowledged = [0; THREADS];
    for round in 0..25 {
        let mut writer = Writer::start(&path);
        writer.read(10 + round * 7, &mut acknowledged);
        let told = writer.kill(&mut acknowledged);

        let store = Store::open_with(&path, options()).unwrap();
        assert!(store.revision() >= told, "{told} was told, and would be given out again after {}", store.revision());
        for (thread, acknowledged) in acknowledged.iter().enumerate() {
            let [a, b, c] = ["a", "b", "c"].map(|key| number(&store, &format!("{thread}/{key}")));
            assert!(a == b && b == c, "half a transaction: {a} {b} {c}");
            assert!(a >= *acknowledged, "{acknowledged} was acknowledged, but {a} is there");
            assert!(a <= acknowledged + 1, "{a} is there, but only {acknowledged} could be");
        }
    }
}

/// Not a test by itself: a process that makes a relaxed change and dies at once.
#[test]
fn child_relaxes_and_dies() {
    let Some(path) = std::env::var_os(PATH) else { return };
    let store = Store::open(path).unwrap();
    store.txn().put("durable", "1").commit().unwrap();
    // The first of them syncs, to reserve revisions for the others.
    for n in 0..5 {
        store.txn().put("relaxed", n.to_string()).durability(Durability::Relaxed).commit().unwrap();
    }
    kill_process(getpid(), Signal::KILL).unwrap();
}

#[test]
fn who_was_told_of_a_change_that_is_lost_is_told_to_look_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_relaxes_and_dies"])
        .env(PATH, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(child.signal(), Some(9));

    let store = Store::open(&path).unwrap();
    assert_eq!(store.get("durable").unwrap().unwrap().value, b"1");
    assert_eq!(store.get("relaxed").unwrap().unwrap().value, b"0", "the one that was synced");
    assert!(store.revision() >= Revision(6));
    assert!(matches!(store.watch("", Revision(6)), Err(WatchError::Compacted { .. })));
    let listing = store.list("").unwrap();
    let mut watch = store.watch("", listing.revision).unwrap();
    let next = store.txn().put("relaxed", "new").commit().unwrap();
    assert!(next > listing.revision);
    assert_eq!(watch.next_blocking().unwrap().revision, next);
    drop((store, watch));
    assert_eq!(Store::open(&path).unwrap().revision(), next, "it skips once");
}
