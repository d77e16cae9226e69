//! Watches: whoever looks sees everything, once, in order.

use std::collections::BTreeMap;
use store::{Change, ChangeKind, Options, Revision, Store, Watch, WatchError};

fn put(store: &Store, key: &str, value: &str) -> Revision {
    store.txn().put(key, value).commit().unwrap()
}

/// The changes that are there already, as `revision key=value` or `revision key!`.
fn seen(watch: &mut Watch) -> Vec<String> {
    std::iter::from_fn(|| watch.try_next().unwrap()).map(|change| text(&change)).collect()
}

fn text(change: &Change) -> String {
    match &change.kind {
        ChangeKind::Put { value, .. } => {
            format!("{} {}={}", change.revision, change.key, String::from_utf8_lossy(value))
        }
        ChangeKind::Delete => format!("{} {}!", change.revision, change.key),
    }
}

#[test]
fn a_watch_tells_the_past_and_then_what_comes() {
    let store = Store::in_memory().unwrap();
    put(&store, "a/1", "x");
    put(&store, "b/1", "x");
    store.txn().put("a/2", "y").delete("a/1").commit().unwrap();

    let mut all = store.watch("a/", Revision::ZERO).unwrap();
    let mut late = store.watch("a/", Revision(2)).unwrap();
    assert_eq!(seen(&mut all), ["1 a/1=x", "3 a/2=y", "3 a/1!"]);
    assert_eq!(seen(&mut late), ["3 a/2=y", "3 a/1!"]);
    assert_eq!(seen(&mut all), [""; 0]);

    put(&store, "a/2", "z");
    assert_eq!(seen(&mut all), ["4 a/2=z"]);
    assert_eq!(text(&late.next_blocking().unwrap()), "4 a/2=z");
}

#[test]
fn a_put_tells_whether_it_made_the_key() {
    let store = Store::in_memory().unwrap();
    let mut watch = store.watch("", Revision::ZERO).unwrap();
    let made = put(&store, "a", "1");
    put(&store, "a", "2");
    let kinds: Vec<_> = [(); 2].map(|()| watch.next_blocking().unwrap().kind).into();
    assert_eq!(kinds[0], ChangeKind::Put { value: b"1".to_vec(), created: made, version: 1 });
    assert_eq!(kinds[1], ChangeKind::Put { value: b"2".to_vec(), created: made, version: 2 });
}

#[test]
fn a_listing_and_a_watch_after_it_have_no_gap_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("state.db")).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..200 {
                    let key = format!("c/{}", (writer * 7 + round) % 20);
                    match round % 5 {
                        4 => store.txn().delete(key).commit().unwrap(),
                        _ => put(store, &key, &format!("{writer}.{round}")),
                    };
                }
                put(store, &format!("done/{writer}"), "");
            });
        }
        for _ in 0..4 {
            let store = &store;
            scope.spawn(move || follow_until_done(store, 3));
        }
    });
}

/// Keeps a copy by list and watch, until all writers are done; it must be the same as the store then.
fn follow_until_done(store: &Store, writers: usize) {
    let listing = store.list("").unwrap();
    let mut watch = store.watch("", listing.revision).unwrap();
    let mut copy: BTreeMap<_, _> = listing.into_iter().map(|(key, entry)| (key, entry.value)).collect();
    let mut last = Revision::ZERO;
    while copy.keys().filter(|key| key.starts_with("done/")).count() < writers {
        let change = watch.next_blocking().unwrap();
        assert!(change.revision >= last, "{} after {last}", change.revision);
        last = change.revision;
        match change.kind {
            ChangeKind::Put { value, .. } => copy.insert(change.key, value),
            ChangeKind::Delete => copy.remove(&change.key),
        };
    }
    assert_eq!(seen(&mut watch), [""; 0], "after everybody was done");
    let present: BTreeMap<_, _> = store.list("").unwrap().into_iter().map(|(key, entry)| (key, entry.value)).collect();
    assert_eq!(copy, present);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_wait_for_changes_and_lose_none_when_they_stop_waiting() {
    let store = Store::in_memory().unwrap();
    let mut watch = store.watch("a/", Revision::ZERO).unwrap();
    let writer = store.clone();
    let writing = tokio::spawn(async move {
        for n in 0..300 {
            writer.txn().put(format!("a/{n}"), "").put(format!("b/{n}"), "").commit_async().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut count = 0;
    while count < 300 {
        tokio::select! {
            biased;
            () = tokio::task::yield_now() => {}
            change = watch.next() => {
                assert_eq!(change.unwrap().key, format!("a/{count}"));
                count += 1;
            }
        }
    }
    writing.await.unwrap();
    assert!(watch.try_next().unwrap().is_none());
}

#[test]
fn who_comes_too_late_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { history_revisions: 10, ..Options::default() };
    let store = Store::open_with(dir.path().join("state.db"), options).unwrap();
    let mut lazy = store.watch("", Revision::ZERO).unwrap();
    let mut quiet = store.watch("quiet/", Revision::ZERO).unwrap();
    for n in 0..50 {
        put(&store, "a", &n.to_string());
    }
    let error = lazy.next_blocking().unwrap_err();
    assert!(matches!(error, WatchError::Compacted { oldest: Revision(41) }), "{error}");
    assert!(lazy.try_next().is_err(), "it stays so");
    assert!(matches!(store.watch("", Revision(39)), Err(WatchError::Compacted { .. })));
    assert_eq!(seen(&mut store.watch("", Revision(40)).unwrap()).len(), 10);

    // Nothing that this one looks for was forgotten, however much else was.
    put(&store, "quiet/x", "1");
    assert_eq!(seen(&mut quiet), ["51 quiet/x=1"]);

    let error = store.watch("", Revision(52)).unwrap_err();
    assert!(matches!(error, WatchError::Ahead { current: Revision(51), .. }), "{error}");
}

#[test]
fn history_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let store = Store::open(&path).unwrap();
    put(&store, "a", "1");
    put(&store, "a", "2");
    store.txn().delete("a").commit().unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(seen(&mut store.watch("", Revision(1)).unwrap()), ["2 a=2", "3 a!"]);
}

#[test]
fn history_is_bounded_by_bytes_too() {
    let options = Options { history_bytes: 1 << 20, ..Options::default() };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_with(dir.path().join("state.db"), options).unwrap();
    for n in 0..800 {
        store.txn().put(format!("k/{}", n % 3), vec![b'x'; 4096]).commit().unwrap();
    }
    let Err(WatchError::Compacted { oldest }) = store.watch("", Revision::ZERO) else { panic!("nothing forgotten") };
    let remembered = 801 - oldest.0;
    assert!((200..=300).contains(&remembered), "{remembered} revisions of 4 KiB in 1 MiB");
    assert_eq!(store.list("").unwrap().entries.len(), 3, "what is present is never forgotten");
}

#[test]
fn a_watch_can_start_after_any_listing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("state.db")).unwrap();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            // A listing may show what was committed a moment before the writer says so.
            for _ in 0..3000 {
                let listing = store.list("").unwrap();
                store.watch("", listing.revision).unwrap();
            }
        });
        while !watching.is_finished() {
            put(&store, "a", "x");
        }
    });
}
