//! The daemons themselves: how soon they answer, and what they take while nothing happens.

use super::arena::Arena;
use super::document::{Figure, Target, Unit};
use super::{Contender, take_turns};
use crate::http::{Connection, Payload};
use crate::instance::Instance;
use crate::memory::{Process, pss};
use crate::peers::Dockerd;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
/// After its start a daemon is idle.
pub(super) const SETTLED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn figures(arena: &Arena) -> Result<Vec<Figure>> {
    let ours = arena.instance("daemons");
    ours.0.make_directories()?;
    let theirs = Dockerd::new(arena.path("daemons-dockerd"))?;
    let (mut idle, mut their_idle) = (Vec::new(), Vec::new());
    let contenders: Vec<Contender<'_>> = vec![
        (
            "stratus",
            Box::new(|| {
                let time = start(&ours.0)?;
                std::thread::sleep(SETTLED);
                idle.push(megabytes(&daemon_of(&ours.0)?));
                ours.0.stop()?;
                Ok(time)
            }),
        ),
        (
            "dockerd",
            Box::new(|| {
                let time = until_it_answers(&mut theirs.command()?, &theirs.socket())?;
                std::thread::sleep(SETTLED);
                their_idle.push(megabytes(&theirs.own_processes()?));
                theirs.stop()?;
                Ok(time)
            }),
        ),
    ];
    let measured = take_turns(ROUNDS, contenders)?;
    Ok(vec![
        Figure {
            what: "daemon from exec to answering, empty",
            unit: Unit::Milliseconds,
            measured,
            target: Target::AtMost(20.0),
            bound: "starting the keeper, making the bridge, and the durable commits of a new instance",
        },
        Figure {
            what: "idle daemon, PSS",
            unit: Unit::Megabytes,
            measured: vec![("stratus", idle), ("dockerd and containerd", their_idle)],
            target: Target::AtMost(12.0),
            bound: "pages of the program's own file that what goes on while nobody asks needs, and sixteen around each; what \
                    the daemon allocated is less than 3 MB (`Pss_Anon`)",
        },
    ])
}

/// A figure in megabytes once it changes no more, as memory that is not needed any more is given back a while later: three times in a row,
/// half a second apart, within a hundredth or 50 KB.
pub(super) fn settled(figure: &dyn Fn() -> Result<f64>) -> Result<f64> {
    const APART: Duration = Duration::from_millis(500);
    const TIMES: usize = 3;
    let began = Instant::now();
    let (mut last, mut same) = (figure()?, 1);
    while same < TIMES {
        if began.elapsed() > PATIENCE {
            bail!("the memory of an idle daemon does not settle: it was {last:.2} MB, and goes on changing");
        }
        std::thread::sleep(APART);
        let now = figure()?;
        same = if (now - last).abs() <= (last * 0.01).max(0.05) { same + 1 } else { 1 };
        last = now;
    }
    Ok(last)
}

/// Starts the daemon and waits until it answers.
pub(super) fn start(instance: &Instance) -> Result<Duration> {
    until_it_answers(&mut instance.daemon_command()?, &instance.socket())
}

/// The daemon's own process, without the keeper and the forwarder.
pub(super) fn daemon_of(instance: &Instance) -> Result<Vec<Process>> {
    Ok(instance.own_processes()?.into_iter().filter(|(role, _)| role == "daemon").map(|(_, process)| process).collect())
}

pub(super) fn megabytes(processes: &[Process]) -> f64 {
    processes.iter().map(|process| pss(process.pid)).sum::<u64>() as f64 / 1e6
}

fn until_it_answers(command: &mut Command, socket: &Path) -> Result<Duration> {
    let began = Instant::now();
    let mut child = command.spawn()?;
    loop {
        if let Ok(mut connection) = Connection::open(socket)
            && connection.call("GET", "/_ping", Payload::Nothing).is_ok_and(|answer| answer.status == 200)
        {
            let time = began.elapsed();
            // Its end is waited for by whoever stops it; this thread reaps it then.
            std::thread::spawn(move || child.wait());
            return Ok(time);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended ({status}) before it answered");
        }
        if began.elapsed() > PATIENCE {
            bail!("the daemon does not answer");
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}
