//! What is done with containers by name.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use super::connect::Daemon;
use super::error::{Error, Result};
use super::human::parse_bytes;
use super::output;
use super::request::{Request, segment};
use super::table::{Cell, Table};

/// A command for containers that has no flags.
#[derive(Args, Debug)]
pub(crate) struct NamesArgs {
    /// Containers, by name or id
    #[arg(required = true)]
    pub(super) containers: Vec<String>,
}

/// Stop, or restart
#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Signal that asks it to end [default: the container's]
    #[arg(long, short, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds until it is killed; -1 to wait for ever [default: the container's, else 10]
    #[arg(long, alias = "timeout", short, value_name = "SECONDS", allow_hyphen_values = true, value_parser = seconds)]
    time: Option<i64>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Send containers a signal
#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Signal, by name or number
    #[arg(long, short, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Remove containers
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Also those that run: they are killed
    #[arg(long, short)]
    force: bool,
    /// Not a container, but a link: CONTAINER/ALIAS
    #[arg(long, short)]
    link: bool,
    /// Also their anonymous volumes
    #[arg(long, short)]
    volumes: bool,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Give a container another name
#[derive(Args, Debug)]
pub(crate) struct RenameArgs {
    /// Container, by name or id
    container: String,
    /// Its new name
    name: String,
}

/// Change limits and restart policies
#[derive(Args, Debug)]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    share: super::options::Share,
    /// Share of the disks' time, beside other containers': 10 to 1000, or 0 for the default
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
    /// Number of processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = super::options::nano_cpus)]
    cpus: Option<i64>,
    /// Memory that it is pressed back to when memory is short
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory_reservation: Option<i64>,
    /// Most processes; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// When to start it again: no, on-failure[:TIMES], always or unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = super::options::restart_policy)]
    restart: Option<Value>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Show a container's published ports
#[derive(Args, Debug)]
pub(crate) struct PortArgs {
    /// Container, by name or id
    container: String,
    /// Only this one of its ports, PORT[/PROTOCOL]
    port: Option<String>,
}

/// Show a container's processes
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Container, by name or id
    container: String,
    /// Options as of ps(1), such as -eo pid,comm
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// How long to wait.
fn seconds(text: &str) -> std::result::Result<i64, String> {
    text.parse().map_err(|_| "give a whole number of seconds, such as 10, or -1 to wait for ever".to_owned())
}

/// What commands want to know of a container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Details {
    pub(super) id: String,
    pub(super) state: State,
    pub(super) config: Config,
    pub(super) host_config: HostConfig,
    network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) running: bool,
    /// Why it could not be started, or how its end came about that nobody asked for.
    #[serde(default)]
    pub(super) error: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    pub(super) tty: bool,
    pub(super) open_stdin: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct HostConfig {
    pub(super) auto_remove: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    ports: Option<BTreeMap<String, Option<Vec<Binding>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    host_ip: String,
    host_port: String,
}

/// What is to be known of a container.
pub(super) async fn details(daemon: &Daemon, name: &str) -> Result<Details> {
    daemon.read(Request::get(path(name, "json"))).await
}

/// The path of a call on a container.
pub(super) fn path(name: &str, call: &str) -> String {
    format!("/containers/{}/{call}", segment(name))
}

/// `stratus stop`, `stratus restart`
pub(super) async fn stop(context: &Context, args: StopArgs, call: &str) -> Result<ExitCode> {
    let work = async |name: &str| {
        let request = Request::post(path(name, call))
            .maybe("signal", args.signal.as_ref())
            .maybe("t", args.time.map(|seconds| seconds.to_string()));
        context.daemon.done(request).await.map(drop)
    };
    context.each(&args.containers, work).await
}

/// `stratus kill`
pub(super) async fn kill(context: &Context, args: KillArgs) -> Result<ExitCode> {
    let work = async |name: &str| {
        context.daemon.done(Request::post(path(name, "kill")).query("signal", &args.signal)).await.map(drop)
    };
    context.each(&args.containers, work).await
}

/// `stratus pause`, `stratus unpause`
pub(super) async fn post(context: &Context, args: NamesArgs, call: &str) -> Result<ExitCode> {
    let work = async |name: &str| context.daemon.done(Request::post(path(name, call))).await.map(drop);
    context.each(&args.containers, work).await
}

/// `stratus wait`
pub(super) async fn wait(context: &Context, args: NamesArgs) -> Result<ExitCode> {
    let (mut outcome, mut all) = (ExitCode::SUCCESS, Vec::new());
    for name in &args.containers {
        let ended = context.daemon.document(Request::post(path(name, "wait"))).await;
        match ended {
            Ok(document) if context.format == output::Format::Json => {
                all.push(json!({ "Container": name, "StatusCode": document["StatusCode"] }));
            }
            Ok(document) => output::line(document["StatusCode"].to_string())?,
            Err(error) => {
                output::error(&error);
                outcome = error.exit_code();
            }
        }
    }
    if context.format == output::Format::Json {
        output::document(&all)?;
    }
    Ok(outcome)
}

/// `stratus rm`
pub(super) async fn remove(context: &Context, args: RmArgs) -> Result<ExitCode> {
    let work = async |name: &str| {
        let request = Request::delete(format!("/containers/{}", segment(name)))
            .flag("force", args.force)
            .flag("link", args.link)
            .flag("v", args.volumes);
        context.daemon.done(request).await.map(drop)
    };
    context.each(&args.containers, work).await
}

/// `stratus rename`
pub(super) async fn rename(context: &Context, args: RenameArgs) -> Result<ExitCode> {
    context.daemon.done(Request::post(path(&args.container, "rename")).query("name", &args.name)).await?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus update`
pub(super) async fn update(context: &Context, args: UpdateArgs) -> Result<ExitCode> {
    let body = json!({
        "BlkioWeight": args.blkio_weight,
        "CpuShares": args.share.cpu_shares,
        "CpuPeriod": args.share.cpu_period,
        "CpuQuota": args.share.cpu_quota,
        "NanoCpus": args.cpus,
        "CpusetCpus": args.share.cpuset_cpus,
        "CpusetMems": args.share.cpuset_mems,
        "Memory": args.share.memory,
        "MemoryReservation": args.memory_reservation,
        "MemorySwap": args.share.memory_swap,
        "PidsLimit": args.pids_limit,
        "RestartPolicy": args.restart,
    });
    if body.as_object().is_some_and(|fields| fields.values().all(Value::is_null)) {
        return Err(Error::Usage("nothing to change: give a limit or a restart policy (stratus update --help)".into()));
    }
    let work = async |name: &str| {
        let answer = context.daemon.document(Request::post(path(name, "update")).json(&body)).await?;
        for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            output::warning(warning);
        }
        Ok(())
    };
    context.each(&args.containers, work).await
}

/// `stratus port`
pub(super) async fn port(context: &Context, args: PortArgs) -> Result<ExitCode> {
    let details = details(&context.daemon, &args.container).await?;
    let ports = details.network_settings.ports.unwrap_or_default();
    let wanted = args.port.map(|port| if port.contains('/') { port } else { format!("{port}/tcp") });
    let mut shown = Vec::new();
    for (port, bindings) in &ports {
        if wanted.as_ref().is_some_and(|wanted| wanted != port) {
            continue;
        }
        for binding in bindings.iter().flatten() {
            let host =
                if binding.host_ip.contains(':') { format!("[{}]", binding.host_ip) } else { binding.host_ip.clone() };
            shown.push((port.clone(), format!("{host}:{}", binding.host_port)));
        }
    }
    match wanted {
        Some(wanted) if shown.is_empty() => {
            Err(Error::Failed(format!("port {wanted} of container {} is not published", args.container)))
        }
        wanted => {
            let document =
                json!(shown.iter().map(|(port, at)| json!({ "Port": port, "Address": at })).collect::<Vec<_>>());
            if context.format == output::Format::Json {
                output::document(&document)?;
            } else {
                for (port, at) in &shown {
                    output::line(if wanted.is_some() { at.clone() } else { format!("{port} -> {at}") })?;
                }
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `stratus top`
pub(super) async fn top(context: &Context, args: TopArgs) -> Result<ExitCode> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Processes {
        titles: Vec<String>,
        processes: Option<Vec<Vec<String>>>,
    }
    let options = Some(args.options.join(" ")).filter(|options| !options.is_empty());
    let document = context.daemon.document(Request::get(path(&args.container, "top")).maybe("ps_args", options)).await;
    let document = document.map_err(|error| error.naming(&args.container))?;
    context.show(&document, |document| {
        let Processes { titles, processes } = Processes::deserialize(document)?;
        let mut table = Table::new(titles);
        for process in processes.unwrap_or_default() {
            table.row(process.into_iter().map(Cell::from));
        }
        Ok(table)
    })
}
