//! `stratus ps`

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::request::{Filter, Request};
use super::table::{Cell, Table};
use super::terminal::Style;
use super::{Context, human};

/// List containers
#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(long, short)]
    all: bool,
    /// Only those that fit: status=…, name=…, label=…, ancestor=…, network=… and others; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// The newest so many, running or not
    #[arg(long, short = 'n', value_name = "NUMBER")]
    last: Option<u32>,
    /// The newest one, running or not
    #[arg(long, short, conflicts_with = "last")]
    latest: bool,
    /// Don't cut long fields
    #[arg(long)]
    no_trunc: bool,
    /// Only ids
    #[arg(long, short)]
    quiet: bool,
    /// Also what each takes on the disk
    #[arg(long, short)]
    size: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    image: String,
    command: String,
    created: i64,
    #[serde(default)]
    ports: Vec<Port>,
    state: String,
    status: String,
    #[serde(default)]
    size_rw: i64,
    #[serde(default)]
    size_root_fs: i64,
}

/// A port in a list.
#[derive(Clone, Debug, Deserialize)]
struct Port {
    #[serde(rename = "IP", default)]
    ip: String,
    #[serde(rename = "PrivatePort")]
    private: u16,
    #[serde(rename = "PublicPort")]
    public: Option<u16>,
    #[serde(rename = "Type")]
    protocol: String,
}

/// `stratus ps`
pub(super) async fn ps(context: &Context, args: PsArgs) -> Result<ExitCode> {
    let limit = if args.latest { Some(1) } else { args.last };
    let request = Request::get("/containers/json")
        .flag("all", args.all || limit.is_some())
        .maybe("limit", limit.map(|limit| limit.to_string()))
        .flag("size", args.size)
        .filters(&args.filter);
    let document = context.daemon.document(request).await.map_err(explain)?;
    if args.quiet {
        let listed = Vec::<Listed>::deserialize(&document)?.into_iter();
        let id = |one: Listed| if args.no_trunc { one.id } else { human::short(&one.id).to_owned() };
        return context.names(&listed.map(id).collect::<Vec<_>>());
    }
    context.show(&document, |document| table(document, &args))
}

/// Says what there is to filter by, where something else was given.
fn explain(error: Error) -> Error {
    let text = error.to_string();
    match text.starts_with("invalid filter 'status=") {
        true => Error::Usage(format!("{text}: there are {}", engine::CONTAINER_STATES.join(", "))),
        false => error.with_filters(&engine::CONTAINER_FILTERS),
    }
}

fn table(document: &Value, args: &PsArgs) -> Result<Table> {
    let titles = ["ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"];
    let mut table = Table::new(titles.into_iter().chain(args.size.then_some("SIZE")));
    for one in Vec::<Listed>::deserialize(document)? {
        let (id, command) = match args.no_trunc {
            true => (one.id.clone(), one.command),
            false => (human::short(&one.id).to_owned(), human::cut(&one.command, 24)),
        };
        // Below zero: it could not be told.
        let bytes = |size: i64| u64::try_from(size).map_or_else(|_| "?".to_owned(), human::decimal);
        let size = || format!("{} (with its image {})", bytes(one.size_rw), bytes(one.size_root_fs));
        let image = if one.image.starts_with("sha256:") { human::short(&one.image) } else { &one.image };
        let cells: [Cell; 7] = [
            id.into(),
            image.into(),
            command.into(),
            human::ago(one.created).into(),
            Cell::styled(&one.status, style(&one.state, &one.status)),
            ports(&one.ports).into(),
            one.names.iter().map(|name| name.trim_start_matches('/')).collect::<Vec<_>>().join(", ").into(),
        ];
        table.row(cells.into_iter().chain(args.size.then(|| size().into())));
    }
    // The whole of the rest says what it is, or that it is well.
    Ok(if args.no_trunc { table } else { table.fitting(&[&[1, 2, 5], &[3, 4]], 2) })
}

fn style(state: &str, status: &str) -> Style {
    match state {
        "running" if status.contains("(unhealthy)") => Style::Bad,
        "running" if status.contains("(health: starting)") => Style::Careful,
        "running" => Style::Good,
        "paused" | "restarting" | "removing" => Style::Careful,
        "exited" if status.starts_with("Exited (0)") => Style::Dim,
        "exited" | "dead" => Style::Bad,
        _ => Style::Plain,
    }
}

/// Ports as `docker ps` shows them, those in a row as a range.
fn ports(ports: &[Port]) -> String {
    let mut groups = BTreeMap::<(String, String, Option<i32>), Vec<u16>>::new();
    for port in ports {
        // Ports of one address are a range where the distance of the two numbers stays the same.
        let distance = port.public.map(|public| i32::from(public) - i32::from(port.private));
        groups.entry((port.protocol.clone(), port.ip.clone(), distance)).or_default().push(port.private);
    }
    let mut shown = Vec::new();
    for ((protocol, ip, distance), mut privates) in groups {
        privates.sort_unstable();
        privates.dedup();
        for range in privates.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let [first, .., last] = range else {
                shown.push(one(&ip, range[0], range[0], distance, &protocol));
                continue;
            };
            shown.push(one(&ip, *first, *last, distance, &protocol));
        }
    }
    shown.join(", ")
}

fn one(ip: &str, first: u16, last: u16, distance: Option<i32>, protocol: &str) -> String {
    let range = |first: i32, last: i32| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let (first, last) = (i32::from(first), i32::from(last));
    let inside = format!("{}/{protocol}", range(first, last));
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    match distance {
        Some(distance) => format!("{host}:{}->{inside}", range(first + distance, last + distance)),
        None => inside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_a_row_are_a_range() {
        let port = |ip: &str, private, public| Port { ip: ip.into(), private, public, protocol: "tcp".into() };
        let all = [
            port("0.0.0.0", 80, Some(8080)),
            port("0.0.0.0", 81, Some(8081)),
            port("0.0.0.0", 90, Some(9000)),
            port("::", 80, Some(8080)),
            port("", 443, None),
        ];
        assert_eq!(ports(&all), "443/tcp, 0.0.0.0:8080-8081->80-81/tcp, 0.0.0.0:9000->90/tcp, [::]:8080->80/tcp");
    }
}
