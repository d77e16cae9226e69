//! `stratus snapshot`, `rollback`, `suspend`, `resume` and `fork`: what only a container with a kernel of its own can do.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::containers::NamesArgs;
use super::error::Result;
use super::request::{Request, segment};
use super::table::Table;
use super::{Context, human, output};

/// Snapshots of containers in microVMs
#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Save a running container as it is at this moment; it runs on
    Create(CreateArgs),
    /// List a container's snapshots, the oldest first
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove a container's snapshots
    #[command(alias = "remove")]
    Rm(RemoveArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Container, by name or id
    container: String,
    /// Name of the snapshot [default: the time]
    name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Container, by name or id
    container: String,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Container, by name or id
    container: String,
    /// Snapshots, by name or id
    #[arg(required = true)]
    names: Vec<String>,
}

/// Have a container go on from one of its snapshots, whatever it does now
#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    /// Container, by name or id
    container: String,
    /// Snapshot, by name or id [default: the newest]
    name: Option<String>,
}

/// Make copies of a running container in a microVM that go on from where it is
#[derive(Args, Debug)]
pub(crate) struct ForkArgs {
    /// How many
    #[arg(long, short = 'n', value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Name of a copy; may be given again [default: the container's, with a number]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Print their identifiers instead of their names
    #[arg(long, short)]
    quiet: bool,
    /// Container, by name or id
    container: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Snapshot {
    name: String,
    created: String,
    size: u64,
    #[serde(default)]
    parent: String,
}

fn path(name: &str, call: &str) -> String {
    format!("/stratus/containers/{}/{call}", segment(name))
}

/// `stratus snapshot …`
pub(super) async fn dispatch(context: &Context, command: SnapshotCommand) -> Result<ExitCode> {
    match command {
        SnapshotCommand::Create(args) => {
            let request = Request::post(path(&args.container, "snapshots")).maybe("name", args.name.as_ref());
            let made = context.daemon.document(request).await?;
            match context.format {
                output::Format::Json => output::document(&made)?,
                _ => output::line(made["Name"].as_str().unwrap_or_default())?,
            }
            Ok(ExitCode::SUCCESS)
        }
        SnapshotCommand::Ls(args) => {
            let all = context.daemon.document(Request::get(path(&args.container, "snapshots"))).await?;
            context.show(&all, |all| Ok(listed(&Vec::<Snapshot>::deserialize(all)?)))
        }
        SnapshotCommand::Rm(args) => {
            let container = &args.container;
            let work = async |name: &str| {
                context.daemon.done(Request::delete(path(container, "snapshots")).query("name", name)).await.map(drop)
            };
            context.each(&args.names, work).await
        }
    }
}

/// The size is that of its own files: a difference needs what it is one to besides.
fn listed(all: &[Snapshot]) -> Table {
    let mut table = Table::new(["NAME", "CREATED", "SIZE", "DIFFERENCE TO"]);
    for one in all {
        table.row([
            one.name.as_str().into(),
            human::ago_rfc3339(&one.created).into(),
            human::decimal(one.size).into(),
            human::short(&one.parent).into(),
        ]);
    }
    table
}

/// `stratus rollback`
pub(super) async fn rollback(context: &Context, args: RollbackArgs) -> Result<ExitCode> {
    let request = Request::post(path(&args.container, "rollback")).maybe("name", args.name.as_ref());
    context.daemon.done(request).await?;
    Ok(ExitCode::SUCCESS)
}

/// `stratus suspend`, `stratus resume`
pub(super) async fn each(context: &Context, args: NamesArgs, call: &str) -> Result<ExitCode> {
    let work = async |name: &str| context.daemon.done(Request::post(path(name, call))).await.map(drop);
    context.each(&args.containers, work).await
}

/// `stratus fork`
pub(super) async fn fork(context: &Context, args: ForkArgs) -> Result<ExitCode> {
    let body = json!({ "Count": args.count.unwrap_or(0), "Names": args.names });
    let copies = context.daemon.document(Request::post(path(&args.container, "fork")).json(&body)).await?;
    for copy in copies.as_array().into_iter().flatten() {
        for warning in copy["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            output::warning(warning);
        }
    }
    if context.format == output::Format::Json {
        output::document(&copies)?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = if args.quiet { "Id" } else { "Name" };
    for text in copies.as_array().into_iter().flatten().filter_map(|copy| copy[shown].as_str()) {
        output::line(text)?;
    }
    Ok(ExitCode::SUCCESS)
}
