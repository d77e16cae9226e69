//! The copies: each a container of its own, with a published port.

use super::image::Image;
use crate::http::{Connection, Payload, escape};
use crate::instance::Instance;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const COPIES: u16 = 20;
/// The port that the service listens on in its container.
const INNER_PORT: &str = "8080/tcp";
const LABEL: &str = "stratus.demo";

/// One that runs.
pub(super) struct Copy {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) port: u16,
    /// From the request that creates it to the answer that it is started.
    pub(super) started_in: Duration,
    /// From the same request to the service's answer over HTTP.
    pub(super) answered_in: Duration,
}

/// Removes what an earlier run left.
pub(super) fn remove(api: &mut Connection<UnixStream>) -> Result<()> {
    let filter = escape(&json!({ "label": [LABEL] }).to_string());
    let list = api.get(&format!("/containers/json?all=true&filters={filter}"))?;
    for id in list.as_array().into_iter().flatten().filter_map(|container| container["Id"].as_str()) {
        api.ask("DELETE", &format!("/containers/{id}?force=true&v=true"), Payload::Nothing)?;
    }
    Ok(())
}

/// Starts all of them, one after the other, and calls each.
pub(super) fn start(instance: &Instance, api: &mut Connection<UnixStream>, image: &Image) -> Result<Vec<Copy>> {
    let first = free_ports(COPIES)?;
    (0..COPIES).map(|number| start_one(instance, api, image, number + 1, first + number)).collect()
}

fn start_one(
    instance: &Instance,
    api: &mut Connection<UnixStream>,
    image: &Image,
    number: u16,
    port: u16,
) -> Result<Copy> {
    let name = format!("hello-{number:02}");
    let wanted = json!({
        "Image": image.name,
        "Labels": { LABEL: image.base },
        "HostConfig": { "PortBindings": { INNER_PORT: [{ "HostPort": port.to_string() }] } },
    });
    let began = Instant::now();
    let created = api.post(&format!("/containers/create?name={name}"), &wanted)?;
    let id = created["Id"].as_str().context("the daemon gave no id")?.to_owned();
    api.ask("POST", &format!("/containers/{id}/start"), Payload::Nothing)?;
    let started_in = began.elapsed();
    wait_until_it_listens(instance, &id, &name)?;
    call(port, &id).with_context(|| format!("{name} does not answer: docker logs {name} may tell why"))?;
    Ok(Copy { id, name, port, started_in, answered_in: began.elapsed() })
}

/// The service says in its log when it listens.
fn wait_until_it_listens(instance: &Instance, id: &str, name: &str) -> Result<()> {
    let path = format!("/containers/{id}/logs?follow=true&stdout=true&stderr=true&tail=all");
    // A stream that is left before its end takes its connection along.
    let mut connection = instance.connect()?;
    let mut log = connection.send("GET", &path, Payload::Nothing)?;
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = log.read(&mut buffer)?;
        text.extend(&buffer[..count]);
        if String::from_utf8_lossy(&text).contains("listening on") {
            return Ok(());
        }
        if count == 0 {
            bail!("{name} ended before it listened: {}", String::from_utf8_lossy(&text));
        }
    }
}

/// Asks the copy behind a port who it is.
fn call(port: u16, id: &str) -> Result<()> {
    let answer = Connection::to_port(port)?.call("GET", "/", Payload::Nothing)?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    // A container's host name is the beginning of its id.
    if answer.status != 200 || !text.starts_with(&format!("Hello from {}", id.get(..12).unwrap_or(id))) {
        bail!("port {port} answers {} with {text:?}", answer.status);
    }
    Ok(())
}

/// So many ports in a row that nobody listens on.
fn free_ports(count: u16) -> Result<u16> {
    let is_taken = |address: IpAddr, port: u16| matches!(TcpListener::bind((address, port)), Err(error) if error.kind() == ErrorKind::AddrInUse);
    let is_free =
        |port: u16| !is_taken(Ipv4Addr::UNSPECIFIED.into(), port) && !is_taken(Ipv6Addr::UNSPECIFIED.into(), port);
    let first = (8081..30_000).step_by(usize::from(count)).find(|first| (*first..*first + count).all(is_free));
    first.with_context(|| format!("there are no {count} free TCP ports in a row between 8081 and 30000"))
}
