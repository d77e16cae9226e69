//! A disk without space: an error that says so, and a store that works on. On a small tmpfs of the test's own.

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use store::{CommitError, Durability, Revision, Store, WatchError};

/// A file system of so many bytes, gone with the value.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new(bytes: usize) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let size = CString::new(format!("size={bytes}")).unwrap();
        mount("store-test", dir.path(), "tmpfs", MountFlags::empty(), size.as_c_str()).unwrap();
        SmallDisk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Fills what is left.
    fn fill(&self) -> PathBuf {
        let ballast = self.path().join("ballast");
        let mut step = 1 << 20;
        let mut size = 0;
        while step >= 4096 {
            let file = fs::OpenOptions::new().create(true).append(true).open(&ballast).unwrap();
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), size, step) {
                Ok(()) => size += step,
                Err(_) => step /= 2,
            }
        }
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

fn is_full<T>(outcome: &Result<T, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Full { .. }))
}

#[test]
fn a_full_disk_is_an_error_and_the_store_works_on() {
    let disk = SmallDisk::new(4 << 20);
    let path = disk.path().join("state.db");
    let store = Store::open(&path).unwrap();
    let mut watch = store.watch("", Revision::ZERO).unwrap();
    let mut kept = 0;
    let error = loop {
        match store.txn().put(format!("k/{kept}"), vec![b'x'; 20_000]).put(format!("n/{kept}"), "").commit() {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CommitError::Full { .. }), "{error}");
    assert!(error.to_string().contains("no space left on device"), "{error}");
    assert!(kept > 10, "only {kept} fit");

    // Nothing is lost, nothing is half, everything can be read, and the same transaction fails the same way.
    let whole = |store: &Store, kept: usize| {
        assert_eq!(store.keys("k/").unwrap().len(), kept);
        assert_eq!(store.keys("n/").unwrap().len(), kept);
        assert_eq!(store.get(&format!("k/{}", kept - 1)).unwrap().unwrap().value.len(), 20_000);
        assert_eq!(store.revision(), Revision(kept as u64));
    };
    whole(&store, kept);
    assert!(is_full(&store.txn().put("big", vec![0; 3 << 20]).commit()));
    whole(&store, kept);

    // What frees space is possible, and then there is space again.
    for n in 0..kept {
        store.txn().delete(format!("k/{n}")).put("last removed", n.to_string()).commit().unwrap();
    }
    for n in 0..kept {
        store.txn().put("again", vec![b'y'; 5_000 + n]).commit().unwrap();
    }
    while watch.try_next().unwrap().is_some() {}
    drop((store, watch));
    let store = Store::open(&path).unwrap();
    assert_eq!(store.keys("n/").unwrap().len(), kept);
    assert_eq!(store.keys("k/").unwrap().len(), 0);
}

#[test]
fn what_must_be_noted_has_room_on_a_full_disk() {
    let disk = SmallDisk::new(4 << 20);
    let store = Store::open(disk.path().join("state.db")).unwrap();
    let mut kept = 0;
    while store.txn().put(format!("k/{kept}"), vec![b'x'; 20_000]).commit().is_ok() {
        kept += 1;
    }
    // Small ones may still fit into the file's own pages.
    while store.txn().put(format!("s/{kept}"), vec![b'x'; 500]).commit().is_ok() {
        kept += 1;
    }
    assert!(is_full(&store.txn().put("k/1", vec![b'y'; 20_000]).commit()));
    assert!(is_full(&store.txn().put("big", vec![b'y'; store::RESERVED_BYTES]).from_reserve().commit()));
    // The same few records again and again, as containers that are ended one after the other.
    for n in 0..100 {
        store.txn().put(format!("k/{}", n % 4), vec![b'z'; 5_000]).from_reserve().commit().unwrap();
    }
    store.txn().put("k/2", vec![b'z'; 60_000]).from_reserve().commit().unwrap();
    store.txn().delete("k/1").commit().unwrap();
    assert_eq!(store.get("k/3").unwrap().unwrap().value, vec![b'z'; 5_000]);
}

#[test]
fn a_disk_filled_by_others_fails_writes_not_reads_and_recovers_with_space() {
    let disk = SmallDisk::new(8 << 20);
    let path = disk.path().join("state.db");
    let store = Store::open(&path).unwrap();
    store.txn().put("a", "before").commit().unwrap();
    let ballast = disk.fill();

    let outcomes: Vec<_> = (0..40).map(|n| store.txn().put(format!("b/{n}"), vec![b'x'; 50_000]).commit()).collect();
    assert!(outcomes.iter().any(is_full), "40 values of 50 kB fitted on a full disk");
    assert!(outcomes.iter().all(|outcome| outcome.is_ok() || is_full(outcome)));
    assert_eq!(store.get("a").unwrap().unwrap().value, b"before");
    let there = store.keys("b/").unwrap().len();
    assert_eq!(there, outcomes.iter().filter(|outcome| outcome.is_ok()).count());
    let relaxed = store.txn().put("c", vec![b'x'; 500_000]).durability(Durability::Relaxed).commit();
    assert!(relaxed.is_ok() || is_full(&relaxed));

    fs::remove_file(ballast).unwrap();
    store.txn().put("a", vec![b'y'; 100_000]).commit().unwrap();
    assert_eq!(store.get("a").unwrap().unwrap().value.len(), 100_000);
    drop(store);
    assert_eq!(Store::open(&path).unwrap().get("a").unwrap().unwrap().value.len(), 100_000);
}

#[test]
fn a_relaxed_change_that_a_full_disk_takes_back_is_not_kept_quiet() {
    let disk = SmallDisk::new(4 << 20);
    let store = Store::open(disk.path().join("state.db")).unwrap();
    let mut watch = store.watch("", Revision::ZERO).unwrap();
    for n in 1..=2 {
        store.txn().put("a", n.to_string()).durability(Durability::Relaxed).commit().unwrap();
        assert_eq!(watch.next_blocking().unwrap().revision, Revision(n));
    }
    assert!(is_full(&store.txn().put("big", vec![0; 6 << 20]).commit()));

    // If a second went by before, it was on the disk already.
    if store.get("a").unwrap().unwrap().value == b"2" {
        assert!(watch.try_next().unwrap().is_none());
        return;
    }
    assert!(matches!(watch.next_blocking(), Err(WatchError::Compacted { .. })));
    let mut anew = store.watch("", store.list("").unwrap().revision).unwrap();
    let next = store.txn().put("a", "3").commit().unwrap();
    assert!(next > Revision(2), "no revision is given out twice");
    assert_eq!(anew.next_blocking().unwrap().revision, next);
}

#[test]
fn a_transaction_too_large_for_the_disk_does_not_fail_the_small_ones_beside_it() {
    let disk = SmallDisk::new(4 << 20);
    let store = Store::open(disk.path().join("state.db")).unwrap();
    let large: Vec<_> =
        (0..8).map(|n| store.txn().put(format!("large/{n}"), vec![0; 6 << 20]).commit_async()).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..10 {
                    store.txn().put(format!("small/{thread}/{n}"), "x").commit().unwrap();
                }
            });
        }
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(large.into_iter().all(|commit| is_full(&runtime.block_on(commit))));
    assert_eq!(store.keys("small/").unwrap().len(), 40);
    assert_eq!(store.keys("large/").unwrap().len(), 0);
}

#[test]
fn a_backup_that_does_not_fit_leaves_the_one_before() {
    let disk = SmallDisk::new(4 << 20);
    let path = disk.path().join("state.db");
    let store = Store::open(&path).unwrap();
    store.txn().put("a", "1").commit().unwrap();
    store.backup().unwrap();
    let before = fs::read(disk.path().join("state.db.backup")).unwrap();
    store.txn().put("a", vec![b'x'; 300_000]).commit().unwrap();
    disk.fill();
    let error = store.backup().unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(fs::read(disk.path().join("state.db.backup")).unwrap(), before);
    assert!(!disk.path().join("state.db.backup.new").exists());
}

#[test]
fn a_store_cannot_be_made_on_a_full_disk_and_leaves_nothing() {
    let disk = SmallDisk::new(1 << 20);
    let ballast = disk.fill();
    let path = disk.path().join("state.db");
    let error = Store::open(&path).unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
    fs::remove_file(ballast).unwrap();
    Store::open(&path).unwrap().txn().put("a", "b").commit().unwrap();
}
