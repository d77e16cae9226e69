//! What one does with a store: put, get, list, delete, compare and swap, all at once or not at all.

use store::{CommitError, Conflict, Durability, Expect, Options, Revision, Store};

fn keys(store: &Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn what_is_put_is_there_after_the_store_was_closed_and_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");

    let store = Store::open(&path).unwrap();
    assert_eq!(store.revision(), Revision::ZERO);
    let first = store.txn().put("container/a", "one").put("container/b", "two").commit().unwrap();
    let second = store.txn().put("container/a", "three").commit().unwrap();
    assert_eq!((first, second), (Revision(1), Revision(2)));
    drop(store);

    let store = Store::open(&path).unwrap();
    assert_eq!(store.revision(), second);
    let entry = store.get("container/a").unwrap().unwrap();
    assert_eq!(entry.value, b"three");
    assert_eq!((entry.created, entry.revision, entry.version), (first, second, 2));
    let entry = store.get("container/b").unwrap().unwrap();
    assert_eq!((entry.created, entry.revision, entry.version), (first, first, 1));
    assert_eq!(store.get("container/c").unwrap(), None);
}

#[test]
fn a_listing_is_what_begins_with_the_prefix_in_order_and_tells_its_revision() {
    let store = Store::in_memory().unwrap();
    for key in ["image/b", "image/a", "imag", "image0", "net/x", "image/", "image/ü"] {
        store.txn().put(key, key).commit().unwrap();
    }
    let listing = store.list("image/").unwrap();
    assert_eq!(listing.revision, store.revision());
    let found: Vec<_> = listing.into_iter().map(|(key, entry)| (key, entry.value)).collect();
    let expected = ["image/", "image/a", "image/b", "image/ü"].map(|key| (key.to_owned(), key.as_bytes().to_vec()));
    assert_eq!(found, expected);
    assert_eq!(keys(&store, "").len(), 7);
    assert_eq!(keys(&store, "none"), Vec::<String>::new());
    assert_eq!(store.keys("net/").unwrap(), [("net/x".to_owned(), Revision(5))]);
}

#[test]
fn a_transaction_that_finds_something_unexpected_changes_nothing() {
    let store = Store::in_memory().unwrap();
    let made = store.txn().expect("lock", Expect::Absent).put("lock", "mine").commit().unwrap();

    let again = store.txn().expect("lock", Expect::Absent).put("lock", "theirs").put("other", "x").commit();
    let error = again.unwrap_err();
    let conflict = Conflict { key: "lock".to_owned(), expected: Expect::Absent, found: Some(made) };
    assert_eq!(error.conflict(), Some(&conflict));
    assert_eq!(error.to_string(), "lock was expected absent, but is at revision 1");
    assert_eq!(store.get("other").unwrap(), None);
    assert_eq!(store.revision(), made);

    store.txn().expect("lock", Expect::Revision(made)).put("lock", "still mine").commit().unwrap();
    assert!(store.txn().expect("lock", Expect::Revision(made)).delete("lock").commit().is_err());
    assert!(store.txn().expect("ghost", Expect::Present).put("ghost", "").commit().is_err());
    assert!(store.txn().expect("ghost", Expect::Revision(made)).put("ghost", "").commit().is_err());
    store.txn().expect("ghost", Expect::Any).expect("lock", Expect::Present).delete("lock").commit().unwrap();
    assert_eq!(keys(&store, ""), Vec::<String>::new());
}

#[test]
fn a_key_that_comes_back_begins_anew() {
    let store = Store::in_memory().unwrap();
    store.txn().put("a", "1").commit().unwrap();
    store.txn().delete("a").commit().unwrap();
    let back = store.txn().put("a", "2").commit().unwrap();
    let entry = store.get("a").unwrap().unwrap();
    assert_eq!((entry.created, entry.revision, entry.version), (back, back, 1));
}

#[test]
fn changes_apply_in_order_within_a_transaction() {
    let store = Store::in_memory().unwrap();
    store.txn().put("a/1", "").put("a/2", "").put("b", "").commit().unwrap();
    let revision = store.txn().put("a/3", "").delete_prefix("a/").put("a/1", "new").delete("b").commit().unwrap();
    assert_eq!(keys(&store, ""), ["a/1"]);
    let entry = store.get("a/1").unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.created, entry.version), (b"new".as_slice(), revision, 1));
}

#[test]
fn a_transaction_that_changes_nothing_takes_no_revision() {
    let store = Store::in_memory().unwrap();
    let made = store.txn().put("a", "").commit().unwrap();
    assert_eq!(store.txn().delete("ghost").commit().unwrap(), made);
    assert_eq!(store.txn().delete_prefix("ghost/").commit().unwrap(), made);
    assert_eq!(store.txn().expect("a", Expect::Present).commit().unwrap(), made);
    assert_eq!(store.txn().commit().unwrap(), made);
    assert!(store.txn().expect("a", Expect::Absent).commit().is_err());
    assert_eq!(store.revision(), made);
}

#[test]
fn keys_and_values_that_cannot_be_are_refused() {
    let store = Store::in_memory().unwrap();
    for key in ["", "a\0b", &"x".repeat(4097)] {
        let error = store.txn().put(key, "").commit().unwrap_err();
        assert!(matches!(error, CommitError::InvalidKey { .. }), "{error}");
    }
    let error = store.txn().put("big", vec![0; (64 << 20) + 1]).commit().unwrap_err();
    assert!(matches!(error, CommitError::TooLarge { .. }), "{error}");
    store.txn().put("x".repeat(4096), vec![7; 1 << 20]).commit().unwrap();
    assert_eq!(store.get(&"x".repeat(4096)).unwrap().unwrap().value.len(), 1 << 20);
}

#[test]
fn many_threads_count_to_the_same_number() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("state.db")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for _ in 0..50 {
                    increment(store, "counter");
                    store.txn().put(format!("by/{thread}"), "").commit().unwrap();
                }
            });
        }
    });
    let counter = store.get("counter").unwrap().unwrap();
    assert_eq!(String::from_utf8(counter.value).unwrap(), "200");
    assert_eq!(counter.version, 200);
    assert_eq!(store.revision(), Revision(400));
}

/// Adds one by compare and swap.
fn increment(store: &Store, key: &str) {
    loop {
        let entry = store.get(key).unwrap();
        let count: u64 = entry.as_ref().map_or(0, |entry| String::from_utf8_lossy(&entry.value).parse().unwrap());
        let expect = entry.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        match store.txn().expect(key, expect).put(key, (count + 1).to_string()).commit() {
            Ok(_) => return,
            Err(CommitError::Conflict(_)) => continue,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_relaxed_change_is_seen_at_once_and_on_the_disk_when_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = Store::open(&path).unwrap();
    store.txn().put("sample", "1").durability(Durability::Relaxed).commit().unwrap();
    assert_eq!(store.get("sample").unwrap().unwrap().value, b"1");
    drop(store);
    assert_eq!(Store::open(&path).unwrap().get("sample").unwrap().unwrap().value, b"1");
}

#[tokio::test]
async fn tasks_commit_without_blocking_and_also_when_they_lose_interest() {
    let store = Store::in_memory().unwrap();
    let commits: Vec<_> = (0..20).map(|n| store.txn().put(format!("k/{n:02}"), "").commit_async()).collect();
    for (n, commit) in commits.into_iter().enumerate() {
        assert_eq!(commit.await.unwrap(), Revision(n as u64 + 1));
    }
    drop(store.txn().put("dropped", "").commit_async());
    store.txn().put("after", "").commit_async().await.unwrap();
    assert!(store.get("dropped").unwrap().is_some());
    assert!(store.txn().put("", "").commit_async().await.is_err());
}

#[test]
fn the_file_does_not_grow_with_what_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let options = Options { history_revisions: 100, history_bytes: 1 << 20, ..Options::default() };
    let store = Store::open_with(&path, options.clone()).unwrap();
    let size = || std::fs::metadata(&path).unwrap().len();
    let write = |rounds: usize| {
        for round in 0..rounds {
            store.txn().put(format!("container/{}", round % 10), vec![b'x'; 4096]).commit().unwrap();
        }
    };
    write(300);
    let settled = size();
    write(900);
    assert!(size() <= settled, "{} after {settled}", size());
}

#[test]
fn keys_are_read_in_steps_and_counted() {
    let store = Store::in_memory().unwrap();
    for key in ["a/1", "a/2", "a/20", "a/3", "b/1"] {
        store.txn().put(key, key).commit().unwrap();
    }
    store.txn().delete("a/3").put("a/2", "again").commit().unwrap();
    let keys = |from: &str, until: &str, limit| -> Vec<String> {
        store.range(from, until, limit).unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys("a/", "a0", 2), ["a/1", "a/2"]);
    assert_eq!(keys(&Store::after("a/2"), "a0", 2), ["a/20"]);
    assert_eq!(keys("a/2", "b/1", 9), ["a/2", "a/20"]);
    assert_eq!(store.range("a/2", "a/20", 9).unwrap()[0].1.value, b"again");
    assert_eq!(keys("b", "a", 9), Vec::<String>::new());
    assert_eq!(store.count("a/", "a0").unwrap(), 3);
    assert_eq!(store.count(&Store::after("a/20"), "a0").unwrap(), 0);
    assert_eq!(store.count("b", "a").unwrap(), 0);
}
