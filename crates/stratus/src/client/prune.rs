//! `stratus … prune`: removes what nothing needs, after asking.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::error::{Error, Result};
use super::output::{self, Format};
use super::request::{Filter, Request};
use super::{Context, human, images};

/// Removes what nothing needs
#[derive(Args, Clone, Debug)]
pub(crate) struct PruneArgs {
    /// Only what fits: label=…, until=…; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Don't ask
    #[arg(long, short)]
    force: bool,
}

/// Removes images that nothing needs
#[derive(Args, Debug)]
pub(crate) struct PruneImagesArgs {
    /// All that no container uses, not only those without a name
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    prune: PruneArgs,
}

/// Removes volumes that no container uses
#[derive(Args, Debug)]
pub(crate) struct PruneVolumesArgs {
    /// Also those that have a name
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    prune: PruneArgs,
}

impl PruneArgs {
    /// Asks, unless that is not wanted.
    fn confirm(&self, what: &str) -> Result<bool> {
        if self.force {
            return Ok(true);
        }
        if !io::stdin().is_terminal() {
            return Err(Error::Usage(format!("this removes {what}, and there is no terminal to ask at: give --force")));
        }
        let mut answer = String::new();
        write!(io::stderr(), "This removes {what}. Go on? [y/N] ").map_err(output::written)?;
        io::stdin().lock().read_line(&mut answer).map_err(Error::io("reading the answer"))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    fn with(&self, name: &str, value: &str) -> Result<Vec<Filter>> {
        let mut filters = self.filter.clone();
        filters.push(format!("{name}={value}").parse().map_err(Error::Usage)?);
        Ok(filters)
    }
}

/// Removes everything that nothing needs
#[derive(Args, Debug)]
pub(crate) struct PruneSystemArgs {
    /// All images that no container uses, not only those without a name
    #[arg(long, short)]
    all: bool,
    /// Also anonymous volumes that no container uses
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    prune: PruneArgs,
}

/// `stratus system prune`
pub(super) async fn system(context: &Context, args: PruneSystemArgs) -> Result<ExitCode> {
    let images_too =
        if args.all { "all images that no container uses" } else { "all images without a name that no container uses" };
    let volumes_too = if args.volumes { ", all anonymous volumes that no container uses" } else { "" };
    let what =
        format!("all containers that do not run, all networks that no container is in{volumes_too} and {images_too}");
    if !args.prune.confirm(&what)? {
        return Ok(ExitCode::FAILURE);
    }
    let prune = PruneArgs { filter: args.prune.filter, force: true };
    // Containers first: what only they need goes with them.
    containers(context, prune.clone()).await?;
    networks(context, prune.clone()).await?;
    if args.volumes {
        volumes(context, PruneVolumesArgs { all: false, prune: prune.clone() }).await?;
    }
    images(context, PruneImagesArgs { all: args.all, prune }).await
}

/// `stratus container prune`
pub(super) async fn containers(context: &Context, args: PruneArgs) -> Result<ExitCode> {
    if !args.confirm("all containers that do not run")? {
        return Ok(ExitCode::FAILURE);
    }
    let report = context.daemon.document(Request::post("/containers/prune").filters(&args.filter)).await?;
    told(context, &report, "ContainersDeleted")
}

/// `stratus network prune`
pub(super) async fn networks(context: &Context, args: PruneArgs) -> Result<ExitCode> {
    if !args.confirm("all networks that no container is in")? {
        return Ok(ExitCode::FAILURE);
    }
    let report = context.daemon.document(Request::post("/networks/prune").filters(&args.filter)).await?;
    told(context, &report, "NetworksDeleted")
}

/// `stratus volume prune`
pub(super) async fn volumes(context: &Context, args: PruneVolumesArgs) -> Result<ExitCode> {
    let what =
        if args.all { "all volumes that no container uses" } else { "all anonymous volumes that no container uses" };
    if !args.prune.confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let filters = if args.all { args.prune.with("all", "true")? } else { args.prune.filter };
    let report = context.daemon.document(Request::post("/volumes/prune").filters(&filters)).await?;
    told(context, &report, "VolumesDeleted")
}

/// `stratus image prune`
pub(super) async fn images(context: &Context, args: PruneImagesArgs) -> Result<ExitCode> {
    let what =
        if args.all { "all images that no container uses" } else { "all images without a name that no container uses" };
    if !args.prune.confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let filters = if args.all { args.prune.with("dangling", "false")? } else { args.prune.filter };
    let report = context.daemon.document(Request::post("/images/prune").filters(&filters)).await?;
    if context.format == Format::Json {
        output::document(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(removed) = report["ImagesDeleted"].as_array() {
        images::print_removed(context, removed)?;
    }
    reclaimed(&report)?;
    Ok(ExitCode::SUCCESS)
}

fn told(context: &Context, report: &Value, list: &str) -> Result<ExitCode> {
    if context.format == Format::Json {
        output::document(report)?;
        return Ok(ExitCode::SUCCESS);
    }
    for name in report[list].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::line(name)?;
    }
    reclaimed(report)?;
    Ok(ExitCode::SUCCESS)
}

fn reclaimed(report: &Value) -> Result<()> {
    match report["SpaceReclaimed"].as_u64() {
        Some(bytes) => output::line(format!("Freed: {}", human::decimal(bytes))),
        None => Ok(()),
    }
}
