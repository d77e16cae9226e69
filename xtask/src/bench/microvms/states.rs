//! A web service in a microVM that is saved, brought back, suspended and copied, as its user waits for it: by the daemon's API, with the driver that the daemon has chosen.

use super::super::document::{Figure, Target, Unit};
use super::super::settle;
use super::service::{Form, Service, until_it_answers};
use crate::figures::milliseconds;
use crate::http::{Connection, Payload};
use crate::instance::Running;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::time::Instant;

const ROUNDS: usize = 5;
const PORT: u16 = 8070;
const TEN: usize = 10;

/// What was seen, in milliseconds.
#[derive(Debug, Default)]
struct Seen {
    snapshots: Vec<f64>,
    rollbacks: Vec<f64>,
    suspensions: Vec<f64>,
    resumptions: Vec<f64>,
    forks: Vec<f64>,
    tens: Vec<f64>,
}

pub(super) fn figures(daemon: &Running) -> Result<Vec<Figure>> {
    let mut api = daemon.0.connect()?;
    let service = Service::in_container(&mut api, Form::MicroVm, PORT, &daemon.0.data_dir)?;
    let id = service.container().context("a microVM is a container")?.to_owned();
    let mut seen = Seen::default();
    for _ in 0..ROUNDS {
        round(&mut api, &id, &mut seen)?;
    }
    service.end(&mut api)?;
    Ok(rows(seen))
}

fn round(api: &mut Connection<UnixStream>, id: &str, seen: &mut Seen) -> Result<()> {
    let call = |name: &str| format!("/stratus/containers/{id}/{name}");
    settle()?;
    let began = Instant::now();
    api.ask("POST", &call("snapshots"), Payload::Nothing)?;
    seen.snapshots.push(milliseconds(began.elapsed()));

    let began = Instant::now();
    api.ask("POST", &call("rollback"), Payload::Nothing)?;
    seen.rollbacks.push(milliseconds(until_it_answers(PORT, began)?));

    let began = Instant::now();
    api.ask("POST", &call("suspend"), Payload::Nothing)?;
    seen.suspensions.push(milliseconds(began.elapsed()));

    let began = Instant::now();
    api.ask("POST", &call("resume"), Payload::Nothing)?;
    seen.resumptions.push(milliseconds(until_it_answers(PORT, began)?));

    for (count, times) in [(1, &mut seen.forks), (TEN, &mut seen.tens)] {
        settle()?;
        let began = Instant::now();
        let copies = api.post(&call("fork"), &json!({ "Count": count }))?;
        times.push(milliseconds(began.elapsed()));
        for copy in copies.as_array().into_iter().flatten() {
            let copy = copy["Id"].as_str().context("a copy has no id")?;
            api.ask("DELETE", &format!("/containers/{copy}?force=true"), Payload::Nothing).map(drop::<Value>)?;
        }
    }
    Ok(())
}

fn rows(seen: Seen) -> Vec<Figure> {
    let row = |what, times, bound| Figure {
        what,
        unit: Unit::Milliseconds,
        measured: vec![("stratus", times)],
        target: Target::None,
        bound,
    };
    vec![
        row("the service in a microVM is saved while it runs (`stratus snapshot`)", seen.snapshots, DRIVER),
        row("it goes on from there (`stratus rollback`), until it answers", seen.rollbacks, ""),
        row("it is suspended (`stratus suspend`)", seen.suspensions, ""),
        row("it goes on (`stratus resume`), until it answers", seen.resumptions, ""),
        row("a copy of it runs (`stratus fork`)", seen.forks, ""),
        row("ten copies of it run (`stratus fork --count 10`)", seen.tens, ""),
    ]
}

const DRIVER: &str = "and the five below: the driver that the daemon chose. Where the host's KVM can't run kernels, that is QEMU without it, which writes and reads a machine's whole memory; what our own \
    hypervisor takes for it is above, for as long as it stands still, and from the start of its process to the guest's first instruction";
