//! A step again and again, and the daemon killed in the middle of each.

use std::collections::BTreeSet;
use std::time::Instant;

use e2e::{Daemon, Waiting, is_template};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::point::{Point, Trail, kill_at};

/// How often a step is cut short that says nothing else.
const KILLS: u32 = 20;

/// Something that a client has the daemon do, in one or more requests.
pub(crate) trait Step: Sync {
    /// Makes what the step needs: once.
    fn begin(&mut self, _host: &Daemon) {}

    /// Makes what the step changes: for every round.
    fn prepare(&mut self, _host: &Daemon) {}

    /// Does it. How many of its requests the client was told to be done, in their order.
    fn act(&self, host: &Daemon) -> usize;

    /// What else happens before the daemon comes back.
    fn meanwhile(&self, _host: &Daemon) {}

    /// Looks at what there is after the daemon came back; `told` is what [`act`](Self::act) gave.
    fn check(&self, host: &Daemon, told: usize);

    /// Takes away what is there, as a user would.
    fn clear(&self, host: &Daemon);
}

/// Cuts `step` short at many points.
pub(crate) fn run(step: impl Step) {
    run_on(Daemon::start(), KILLS, step);
}

/// The same on `host`, as often as `kills` says where `STRATUS_KILLS` says nothing else.
pub(crate) fn run_on(mut host: Daemon, kills: u32, step: impl Step) {
    let seed = number("STRATUS_SEED").unwrap_or_else(|| rand::rng().random());
    let kills = number("STRATUS_KILLS").map_or(kills, |kills| u32::try_from(kills).unwrap_or(u32::MAX));
    let mut random = StdRng::seed_from_u64(seed);
    let keys = keys(&mut host);
    // What it started goes before the daemon does.
    let mut step = step;
    crate::steps::warm_up(&host);
    step.begin(&host);
    // Nobody disturbs the first two: they show how things are when all goes well. What is still going then has another
    // name in each.
    let mut undisturbed = || {
        step.prepare(&host);
        let told = step.act(&host);
        step.check(&host, told);
        step.clear(&host);
        settled(&host)
    };
    let (first, second) = (undisturbed(), undisturbed());
    let nothing: Vec<String> = second.into_iter().filter(|line| first.contains(line)).collect();
    comes_to(&host, &nothing);
    let trail = trail(&mut step, &host, &nothing);
    for number in 1..=kills {
        let mut round = Round { seed, number, point: trail.any(&mut random), told: None };
        step.prepare(&host);
        let told = kill_at(&mut host, &round.point, |host| step.act(host));
        round.told = Some(told);
        step.meanwhile(&host);
        host.restart();
        step.check(&host, told);
        step.clear(&host);
        comes_to(&host, &nothing);
    }
    let _last = Round { seed, number: kills, point: Point::Time(Default::default()), told: None };
    let left: Vec<_> = self::keys(&mut host).difference(&keys).cloned().collect();
    assert!(left.is_empty(), "the store still knows {left:#?}");
}

fn trail(step: &mut impl Step, host: &Daemon, nothing: &[String]) -> Trail {
    step.prepare(host);
    let began = Instant::now();
    let told = step.act(host);
    let time = began.elapsed();
    step.check(host, told);
    step.clear(host);
    comes_to(host, nothing);
    step.prepare(host);
    let trail = Trail::of(host, time, || {
        step.act(host);
    });
    step.check(host, told);
    step.clear(host);
    comes_to(host, nothing);
    trail
}

/// Waits until the daemon has nothing beyond `wanted`.
#[track_caller]
pub(crate) fn comes_to(host: &Daemon, wanted: &[String]) {
    let mut waiting = Waiting::for_what("everything else to go");
    loop {
        let is_left = |line: &String| !wanted.contains(line) && !is_template(line);
        let left: Vec<_> = host.holdings().into_iter().filter(is_left).collect();
        if left.is_empty() {
            return;
        }
        waiting.look_again_at(|| format!("left: {left:#?}"));
    }
}

/// What the daemon has once it has done what it does in its own time.
pub(crate) fn settled(host: &Daemon) -> Vec<String> {
    let mut waiting = Waiting::for_what("the daemon to settle");
    let mut before = Vec::new();
    loop {
        let now = host.holdings();
        let is_going = |line: &String| line.contains("/trash/") || line.contains("/.removed-");
        if now == before && !now.iter().any(is_going) {
            return now;
        }
        before = now;
        waiting.look_again();
    }
}

/// The keys of the store, but for records of what was used, which stay.
fn keys(host: &mut Daemon) -> BTreeSet<String> {
    host.stop();
    let store = store::Store::open(host.data().join("stratus.db")).expect("open the store");
    let keys = store.list("").expect("list the store").entries.into_iter().map(|(key, _)| key);
    let keys = keys.filter(|key| !key.starts_with("meter/")).collect();
    drop(store);
    host.restart();
    keys
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// Says what it was when the test fails.
struct Round {
    seed: u64,
    number: u32,
    point: Point,
    told: Option<usize>,
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, number, point, told } = self;
            eprintln!("--- STRATUS_SEED={seed}, round {number}: killed {point}; requests told done: {told:?}");
        }
    }
}
