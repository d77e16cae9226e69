//! Whatever one does to a store, it is what a map would be; and its history replays to the same.

use proptest::prelude::*;
use std::collections::BTreeMap;
use store::{ChangeKind, CommitError, Durability, Expect, Options, Revision, Store};

#[derive(Clone, Debug)]
enum Step {
    Txn { expects: Vec<(String, Wish)>, ops: Vec<Op>, relaxed: bool },
    Reopen,
    Replay,
}

/// An expectation, told without knowing revisions.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Absent,
    Present,
    Unchanged,
    Stale,
}

#[derive(Clone, Debug)]
enum Op {
    Put(String, Vec<u8>),
    Delete(String),
    DeletePrefix(String),
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof!["[abc]/[0-3]", "[abc]", "[abc]/", "a/[0-3]/x"]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), prop_oneof![prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 5000)])
            .prop_map(|(key, value)| Op::Put(key, value)),
        2 => key().prop_map(Op::Delete),
        1 => "[abc]?/?".prop_map(Op::DeletePrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let wish = prop_oneof![Just(Wish::Absent), Just(Wish::Present), Just(Wish::Unchanged), Just(Wish::Stale)];
    let expects = prop::collection::vec((key(), wish), 0..2);
    let txn = (expects, prop::collection::vec(op(), 0..5), any::<bool>());
    prop_oneof![
        12 => txn.prop_map(|(expects, ops, relaxed)| Step::Txn { expects, ops, relaxed }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Replay),
    ]
}

/// A value with what the store tells about it: value, revision, created, version.
type Known = (Vec<u8>, u64, u64, u64);

#[derive(Default)]
struct Model {
    map: BTreeMap<String, Known>,
    /// The state after each revision.
    past: Vec<BTreeMap<String, Known>>,
    revision: u64,
}

impl Model {
    fn expect(&self, key: &str, wish: Wish) -> (Expect, bool) {
        let known = self.map.get(key);
        match (wish, known) {
            (Wish::Absent, _) => (Expect::Absent, known.is_none()),
            (Wish::Present, _) => (Expect::Present, known.is_some()),
            (Wish::Unchanged, Some(known)) => (Expect::Revision(Revision(known.1)), true),
            (Wish::Unchanged, None) => (Expect::Any, true),
            (Wish::Stale, _) => (Expect::Revision(Revision(self.revision + 5)), false),
        }
    }

    fn apply(&mut self, ops: &[Op]) {
        let next = self.revision + 1;
        let mut changed = false;
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let (created, version) = self.map.get(key).map_or((next, 1), |known| (known.2, known.3 + 1));
                    self.map.insert(key.clone(), (value.clone(), next, created, version));
                    changed = true;
                }
                Op::Delete(key) => changed |= self.map.remove(key).is_some(),
                Op::DeletePrefix(prefix) => {
                    let before = self.map.len();
                    self.map.retain(|key, _| !key.starts_with(prefix));
                    changed |= self.map.len() != before;
                }
            }
        }
        if changed {
            self.revision = next;
            self.past.push(self.map.clone());
        }
    }
}

fn contents(store: &Store) -> BTreeMap<String, Known> {
    let entries = store.list("").unwrap();
    entries.into_iter().map(|(key, e)| (key, (e.value, e.revision.0, e.created.0, e.version))).collect()
}

/// Replays what is remembered, from the oldest state that allows it, and compares the state after each revision.
fn replay(store: &Store, model: &Model) {
    let Some((start, mut watch)) =
        (0..=model.revision).find_map(|after| Some((after, store.watch("", Revision(after)).ok()?)))
    else {
        panic!("no watch can start anywhere");
    };
    let state_at = |revision: u64| match revision {
        0 => BTreeMap::new(),
        _ => model.past[revision as usize - 1].clone(),
    };
    let mut state = state_at(start);
    let mut last = start;
    while let Some(change) = watch.try_next().unwrap() {
        if change.revision.0 != last {
            assert_eq!(state, state_at(last), "after revision {last}");
            last = change.revision.0;
        }
        match change.kind {
            ChangeKind::Put { value, created, version } => {
                state.insert(change.key, (value, last, created.0, version));
            }
            ChangeKind::Delete => assert!(state.remove(&change.key).is_some()),
        }
    }
    assert_eq!((last, state), (model.revision, model.map.clone()));
}

fn run(steps: Vec<Step>, options: Options) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let mut store = Store::open_with(&path, options.clone()).unwrap();
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Txn { expects, ops, relaxed } => {
                let mut txn = store.txn();
                let mut met = true;
                for (key, wish) in expects {
                    let (expect, holds) = model.expect(&key, wish);
                    txn = txn.expect(key, expect);
                    met &= holds;
                }
                for op in &ops {
                    txn = match op.clone() {
                        Op::Put(key, value) => txn.put(key, value),
                        Op::Delete(key) => txn.delete(key),
                        Op::DeletePrefix(prefix) => txn.delete_prefix(prefix),
                    };
                }
                let durability = if relaxed { Durability::Relaxed } else { Durability::Durable };
                match txn.durability(durability).commit() {
                    Ok(revision) => {
                        assert!(met, "committed against an expectation");
                        model.apply(&ops);
                        assert_eq!(revision.0, model.revision);
                    }
                    Err(CommitError::Conflict(_)) => assert!(!met, "a conflict where all was as expected"),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Reopen => {
                drop(store);
                store = Store::open_with(&path, options.clone()).unwrap();
            }
            Step::Replay => replay(&store, &model),
        }
        assert_eq!(store.revision().0, model.revision);
        assert_eq!(contents(&store), model.map);
    }
    replay(&store, &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map_with_a_memory(steps in prop::collection::vec(step(), 1..40)) {
        run(steps, Options::default());
    }

    #[test]
    fn a_store_that_forgets_quickly_forgets_nothing_that_is_present(steps in prop::collection::vec(step(), 1..60)) {
        run(steps, Options { history_revisions: 3, history_bytes: 20_000, ..Options::default() });
    }
}
