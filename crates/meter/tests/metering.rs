//! From samples to totals.

use jiff::Timestamp;
use meter::{Accumulator, Ledger, Query, Record, Retention, Run, Sample, Subject, Totals, Usage};
use proptest::prelude::*;
use std::time::Duration;
use store::Store;

const GIB: u64 = 1 << 30;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn container(id: &str) -> Subject {
    Subject::new("container", id).unwrap()
}

fn at(seconds: u64) -> Sample {
    Sample { at: Duration::from_secs(seconds), ..Sample::default() }
}

fn record(id: &str, started: i64, ended: i64, cpu_seconds: u64) -> Record {
    let mut count = Accumulator::new(Run::new(container(id), time(started)), at(started as u64));
    count.add(&Sample { cpu_ns: cpu_seconds * 1_000_000_000, ..at(ended as u64) });
    count.finish(time(ended))
}

/// The records that are meant, in the order in which they come.
fn records(ledger: &Ledger, query: &Query) -> Vec<Record> {
    let mut records = Vec::new();
    ledger.visit(query, |record| records.push(record)).unwrap();
    records
}

/// How many runs they are, and the seconds on processors of all.
fn totals(ledger: &Ledger, query: &Query) -> (u64, f64) {
    let mut totals = Totals::default();
    ledger.visit(query, |record| totals.add(&record.usage)).unwrap();
    (totals.runs, totals.usage.cpu_seconds())
}

#[test]
fn memory_is_added_up_over_time_and_counters_by_their_growth() {
    let mut count =
        Accumulator::new(Run::new(container("c"), time(0)), Sample { cpu_ns: 5, net_rx_bytes: 100, ..at(50) });
    count.add(&Sample { cpu_ns: 10, memory_bytes: GIB, net_rx_bytes: 150, io_write_bytes: 7, ..at(60) });
    count.add(&Sample { cpu_ns: 10, memory_bytes: 3 * GIB, net_rx_bytes: 20, io_write_bytes: 9, ..at(62) });
    let usage = count.usage();
    assert_eq!(usage.memory_gib_seconds(), 5.0 + 4.0);
    assert_eq!((usage.cpu_ns, usage.wall_ns), (5, 12_000_000_000));
    assert_eq!(usage.net_rx_bytes, 50 + 20, "the interface was replaced, and its counter began anew");
    assert_eq!(usage.io_write_bytes, 9);
    assert_eq!(usage.mean_memory_bytes(), 9 * GIB / 12);

    let before = count.clone();
    count.add(&at(61));
    assert_eq!(count, before, "a sample from before the last says nothing");
}

#[test]
fn a_run_is_counted_on_by_the_next_daemon_and_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let run = Run::new(container("c"), time(0)).label("name", "web").label("image", "web:1");

    let store = Store::open(&path).unwrap();
    let ledger = Ledger::new(&store);
    let mut count = Accumulator::new(run.clone(), at(0));
    count.add(&Sample { cpu_ns: 1_000_000_000, memory_bytes: GIB, ..at(10) });
    runtime.block_on(ledger.save(std::slice::from_ref(&count))).unwrap();
    runtime.block_on(ledger.save(&[])).unwrap();
    drop((ledger, store));

    let store = Store::open(&path).unwrap();
    let ledger = Ledger::new(&store);
    let mut open = ledger.open_runs("container").unwrap();
    assert_eq!(open, [count]);
    let mut count = open.pop().unwrap();
    count.add(&Sample { cpu_ns: 4_000_000_000, memory_bytes: GIB, ..at(30) });
    let record = count.finish(time(30));
    ledger.close(&record).unwrap();
    assert_eq!(ledger.open_runs("container").unwrap(), []);

    ledger.close(&record).unwrap();
    let records = records(&ledger, &Query::all());
    assert_eq!(records, std::slice::from_ref(&record));
    assert_eq!(records[0].run, run);
    let usage = records[0].usage;
    assert_eq!((usage.cpu_seconds(), usage.memory_gib_seconds(), usage.wall_seconds()), (4.0, 25.0, 30.0));
    assert_eq!(usage.to_string(), "4.0 vCPU-s, 25.0 GiB-s, 0 B read, 0 B written, 0 B received, 0 B sent in 30.0 s");
}

#[test]
fn a_count_that_nobody_can_read_is_set_aside_and_keeps_nobody_from_the_others() {
    let store = Store::in_memory().unwrap();
    let ledger = Ledger::new(&store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let count = |kind: &str, id: &str| Accumulator::new(Run::new(Subject::new(kind, id).unwrap(), time(0)), at(0));
    let counts = [count("container", "a"), count("container", "b"), count("function", "a"), count("containers", "x")];
    runtime.block_on(ledger.save(&counts)).unwrap();
    // One that was damaged, one that another program wrote, and a copy of another.
    let copy = store.get("meter/open/container/a").unwrap().unwrap().value;
    let bad = [("c", b"{".to_vec()), ("d", br#"{"run":7}"#.to_vec()), ("e", copy), ("f/g", b"\xff".to_vec())];
    for (id, value) in bad.clone() {
        store.txn().put(format!("meter/open/container/{id}"), value).commit().unwrap();
    }
    for _ in 0..2 {
        assert_eq!(ledger.open_runs("container").unwrap(), counts[..2]);
        assert_eq!(ledger.open_runs("function").unwrap(), counts[2..3], "those of others are theirs");
        for (id, value) in &bad {
            assert_eq!(store.get(&format!("meter/aside/container/{id}")).unwrap().unwrap().value, *value);
        }
    }
    assert_eq!(store.keys("meter/open/").unwrap().len(), 4);
}

#[test]
fn the_end_of_a_run_is_counted_with_whatever_else_is_recorded_of_it_or_not_at_all() {
    let store = Store::in_memory().unwrap();
    let ledger = Ledger::new(&store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let count = Accumulator::new(Run::new(container("c"), time(0)), at(0));
    runtime.block_on(ledger.save(std::slice::from_ref(&count))).unwrap();
    let end = |expect| {
        let txn = store.txn().expect("state/c", expect).put("state/c", "ended");
        ledger.close_in(txn, &record("c", 0, 10, 1)).unwrap().commit()
    };
    assert!(end(store::Expect::Present).is_err());
    assert_eq!((ledger.open_runs("container").unwrap(), totals(&ledger, &Query::all()).0), (vec![count.clone()], 0));
    let saved = ledger.save(std::slice::from_ref(&count));
    end(store::Expect::Absent).unwrap();
    // It was handed over before.
    runtime.block_on(saved).unwrap();
    assert_eq!((ledger.open_runs("container").unwrap(), totals(&ledger, &Query::all()).0), (vec![], 1));

    // A count of it that came back, as a disk failed, or another version wrote it, is none of another run.
    runtime.block_on(ledger.save(std::slice::from_ref(&count))).unwrap();
    ledger.close_lost(&[count.finish(time(7)), record("d", 0, 9, 1)]).unwrap();
    assert_eq!(ledger.open_runs("container").unwrap(), []);
    let ids =
        records(&ledger, &Query::all()).into_iter().map(|record| (record.run.subject.id().to_owned(), record.ended));
    assert_eq!(ids.collect::<Vec<_>>(), [("d".to_owned(), time(9)), ("c".to_owned(), time(10))]);
}

#[test]
fn records_are_found_by_time() {
    let store = Store::in_memory().unwrap();
    let ledger = Ledger::new(&store);
    for record in [record("a", 0, 10, 1), record("a", 10, 20, 2), record("ab", 5, 15, 4)] {
        ledger.close(&record).unwrap();
    }
    ledger.close(&record("b", 12, 18, 8)).unwrap();
    let mut other = record("a", 0, 11, 16);
    other.run.subject = Subject::new("function", "a").unwrap();
    ledger.close(&other).unwrap();

    let cpu = |query: Query| {
        let (runs, seconds) = totals(&ledger, &query);
        (runs, seconds as u64)
    };
    assert_eq!(cpu(Query::all()), (5, 31));
    assert_eq!(cpu(Query::all().until(time(15))), (2, 17));
    assert_eq!(cpu(Query::all().since(time(15))), (3, 14), "adjacent ranges share nothing");
    assert_eq!(cpu(Query::all().since(time(10)).until(time(12))), (2, 17));
    assert!(records(&ledger, &Query::all()).is_sorted_by_key(|record| record.ended));

    let keep = Retention { age: Some(Duration::from_secs(5)), runs: None };
    assert_eq!(ledger.retain(&keep, time(20)).unwrap(), 2);
    assert_eq!(cpu(Query::all()), (3, 14));
    assert_eq!(ledger.retain(&keep, time(20)).unwrap(), 0);
}

#[test]
fn the_oldest_records_go_by_age_and_by_number() {
    let store = Store::in_memory().unwrap();
    let ledger = Ledger::new(&store);
    let write = |seconds: std::ops::Range<i64>| {
        for second in seconds {
            ledger.close(&record("c", second, second + 1, 1)).unwrap();
        }
    };
    let ended = || -> Vec<i64> {
        let records = records(&ledger, &Query::all());
        records.iter().map(|record| record.ended.as_second() - time(0).as_second()).collect()
    };
    let retain = |age: Option<u64>, runs, now| {
        ledger.retain(&Retention { age: age.map(Duration::from_secs), runs }, time(now)).unwrap()
    };
    write(0..10);
    assert_eq!(retain(None, None, 1_000_000), 0);
    assert_eq!(retain(None, Some(10), 10), 0);
    assert_eq!(retain(None, Some(7), 10), 3);
    assert_eq!(ended(), [4, 5, 6, 7, 8, 9, 10]);
    // What came since counts, and what went by age does not.
    write(10..14);
    assert_eq!(retain(Some(8), Some(8), 14), 3);
    assert_eq!(ended(), [7, 8, 9, 10, 11, 12, 13, 14]);
    assert_eq!(retain(Some(u64::MAX / 2), Some(8), 14), 0);
    assert_eq!(retain(Some(0), None, 14), 7, "a run that ended in this moment is not older than nothing");
    assert_eq!(retain(None, Some(0), 14), 1);
    write(20..23);
    assert_eq!((retain(None, Some(1), 30), ended()), (2, vec![23]));
    // A run that ended while no daemon ran is written down after others that ended later.
    write(5..7);
    assert_eq!((retain(None, Some(2), 30), ended()), (1, vec![7, 23]));
}

#[test]
fn what_an_earlier_version_has_written_is_found() {
    let store = Store::in_memory().unwrap();
    let former = |id: &str, started: i64, ended: i64| {
        let text = format!(
            r#"{{"subject":{{"kind":"container","id":"{id}"}},"started":"{}","labels":{{"image":"web","name":"w"}},
            "ended":"{}","usage":{{"wall_ns":5000000000,"cpu_ns":7,"memory_byte_seconds":1.5,"io_read_bytes":0,
            "io_write_bytes":0,"net_rx_bytes":1,"net_tx_bytes":2}}}}"#,
            time(started),
            time(ended)
        );
        let key = format!("meter/ended/container/{id}/{:020}", time(started).as_nanosecond());
        store.txn().put(key, text).commit().unwrap();
    };
    let (ids, every) = (["b", "a"], Query::all());
    for id in ids {
        (0..1_200).for_each(|n| former(id, n, n + 1));
    }
    let ledger = Ledger::new(&store);
    ledger.close(&record("c", 0, 600, 1)).unwrap();
    assert_eq!(totals(&ledger, &every.until(time(1_000))).0, 2 * 999 + 1);
    let records = records(&ledger, &every);
    let cpu: u64 = records.iter().map(|record| record.usage.cpu_ns).sum();
    assert_eq!((records.len(), cpu), (2_401, 2_400 * 7 + 1_000_000_000));
    assert!(records.is_sorted_by_key(|record| record.ended));
    assert_eq!(store.keys("meter/ended/").unwrap(), []);
    // One that was written by a program that was put back in its place for a while.
    assert_eq!(ledger.retain(&Retention { age: None, runs: Some(2_401) }, time(0)).unwrap(), 0);
    former("d", 1, 2);
    assert_eq!(ledger.retain(&Retention { age: None, runs: Some(2_401) }, time(0)).unwrap(), 1);
    assert_eq!(totals(&ledger, &every).0, 2_401);
}

#[test]
fn neither_a_damaged_record_nor_one_that_cannot_be_brought_hides_the_others() {
    let store = Store::in_memory().unwrap();
    let ledger = Ledger::new(&store);
    let put = |key: String, value: Vec<u8>| store.txn().put(key, value).commit().unwrap();
    let former = |id: &str, ended: i64| {
        let value = serde_json::to_vec(&record(id, 0, ended, 1)).unwrap();
        put(format!("meter/ended/container/{id}/{:020}", time(0).as_nanosecond()), value);
    };
    put("meter/ended/container/a/0".to_owned(), b"{".to_vec());
    put("meter/run/0/container/a/0".to_owned(), b"{".to_vec());
    former("b", 3);
    ledger.close(&record("c", 0, 2, 1)).unwrap();
    let ids = |query: Query| -> Vec<String> {
        records(&ledger, &query).iter().map(|record| record.run.subject.id()[..1].to_owned()).collect()
    };
    assert_eq!(ids(Query::all()), ["c", "b"]);
    assert_eq!(store.keys("meter/ended/").unwrap().len(), 1, "the other one was brought");

    // As on a full disk: nothing of it can be brought, as one of the new keys is too long.
    former(&"d".repeat(4_040), 5);
    former("e", 1);
    assert_eq!(ids(Query::all()), ["d", "e", "c", "b"]);
    assert_eq!(ids(Query::all().since(time(2)).until(time(5))), ["c", "b"]);
    // One that was brought meanwhile is there twice, and counts once.
    ledger.close(&record("e", 0, 1, 1)).unwrap();
    assert_eq!(ids(Query::all()), ["d", "e", "c", "b"]);
    // And what has its place goes when its time comes, what is damaged with it.
    assert_eq!(ledger.retain(&Retention { age: None, runs: Some(1) }, time(9)).unwrap(), 3);
    assert_eq!(ids(Query::all()), ["d", "e", "b"]);
}

#[test]
fn what_cannot_be_a_key_is_no_subject() {
    for (kind, id) in [("", "a"), ("a", ""), ("a/b", "c"), ("a", "b/c"), ("a", "b\0")] {
        assert!(Subject::new(kind, id).is_err(), "{kind:?} {id:?}");
    }
    assert!(serde_json::from_str::<Subject>(r#"{"kind":"a/b","id":"c"}"#).is_err());
}

#[test]
fn records_of_other_versions_are_understood() {
    let older = r#"{"subject":{"kind":"container","id":"c"},"started":"2026-01-01T00:00:00Z",
        "ended":"2026-01-01T00:01:00Z","usage":{"cpu_ns":7}}"#;
    let record: Record = serde_json::from_str(older).unwrap();
    assert_eq!(record.usage, Usage { cpu_ns: 7, ..Usage::default() });
    let newer = older.replace("\"cpu_ns\":7", "\"cpu_ns\":7,\"requests\":3");
    assert_eq!(serde_json::from_str::<Record>(&newer).unwrap(), record);
}

prop_compose! {
    fn samples()(steps in prop::collection::vec((0u64..5_000, 0u64..1000, 0u64..8 * GIB), 1..20)) -> Vec<Sample> {
        let mut last = Sample::default();
        steps.into_iter().map(|(milliseconds, counted, memory_bytes)| {
            last.at += Duration::from_millis(milliseconds);
            last.cpu_ns += counted;
            last.io_read_bytes += counted / 2;
            last.memory_bytes = memory_bytes;
            last
        }).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counting_is_the_same_through_a_restart_at_any_point(samples in samples(), stop in 0usize..20) {
        let begin = || Accumulator::new(Run::new(container("c"), time(0)), at(0));
        let (mut straight, mut restarted) = (begin(), begin());
        for (n, sample) in samples.iter().enumerate() {
            straight.add(sample);
            if n == stop {
                restarted = serde_json::from_slice(&serde_json::to_vec(&restarted).unwrap()).unwrap();
            }
            restarted.add(sample);
        }
        prop_assert_eq!(&straight, &restarted);
        let last = samples.last().unwrap();
        prop_assert_eq!(straight.usage().cpu_ns, last.cpu_ns);
        prop_assert_eq!(straight.usage().io_read_bytes, last.io_read_bytes);
        prop_assert_eq!(u128::from(straight.usage().wall_ns), last.at.as_nanos());
    }

    #[test]
    fn one_more_look_on_the_way_changes_nothing(samples in samples(), from in 0u64..GIB, to in 0u64..GIB) {
        let line = |seconds| Sample { memory_bytes: from + (to - from.min(to)) * seconds / 10, ..at(seconds) };
        let mut coarse = Accumulator::new(Run::new(container("c"), time(0)), line(0));
        let mut fine = coarse.clone();
        (1..=10).for_each(|seconds| fine.add(&line(seconds)));
        coarse.add(&line(10));
        let (coarse, fine) = (coarse.usage().memory_byte_seconds, fine.usage().memory_byte_seconds);
        prop_assert!((coarse - fine).abs() <= 20.0, "{coarse} and {fine}");

        // And what is used never shrinks.
        let mut count = Accumulator::new(Run::new(container("c"), time(0)), at(0));
        let mut before = *count.usage();
        for sample in samples {
            count.add(&sample);
            prop_assert!(count.usage().memory_byte_seconds >= before.memory_byte_seconds);
            before = *count.usage();
        }
    }
}
