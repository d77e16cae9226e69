//! `stratus … prune`: removes what nothing needs, after asking.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

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
    #[command(flatten)]
    asking: Asking,
}

/// Whether somebody is asked
#[derive(Args, Clone, Debug)]
pub(crate) struct Asking {
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

impl Asking {
    /// Asks, unless that is not wanted.
    pub(super) fn confirm(&self, what: &str) -> Result<bool> {
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
}

impl PruneArgs {
    fn confirm(&self, what: &str) -> Result<bool> {
        self.asking.confirm(what)
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
    let unnamed = args.prune.filter.clone();
    // Containers first: what only they need goes with them.
    let mut removed = vec![
        Removed::now(context, Kind::Containers, &unnamed).await?,
        Removed::now(context, Kind::Networks, &unnamed).await?,
    ];
    if args.volumes {
        removed.push(Removed::now(context, Kind::Volumes, &unnamed).await?);
    }
    let of_images = if args.all { args.prune.with("dangling", "false")? } else { unnamed };
    removed.push(Removed::now(context, Kind::Images, &of_images).await?);
    print(context, &removed)
}

/// `stratus container prune`
pub(super) async fn containers(context: &Context, args: PruneArgs) -> Result<ExitCode> {
    if !args.confirm("all containers that do not run")? {
        return Ok(ExitCode::FAILURE);
    }
    print(context, &[Removed::now(context, Kind::Containers, &args.filter).await?])
}

/// `stratus network prune`
pub(super) async fn networks(context: &Context, args: PruneArgs) -> Result<ExitCode> {
    if !args.confirm("all networks that no container is in")? {
        return Ok(ExitCode::FAILURE);
    }
    print(context, &[Removed::now(context, Kind::Networks, &args.filter).await?])
}

/// `stratus volume prune`
pub(super) async fn volumes(context: &Context, args: PruneVolumesArgs) -> Result<ExitCode> {
    let what =
        if args.all { "all volumes that no container uses" } else { "all anonymous volumes that no container uses" };
    if !args.prune.confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let filters = if args.all { args.prune.with("all", "true")? } else { args.prune.filter };
    print(context, &[Removed::now(context, Kind::Volumes, &filters).await?])
}

/// `stratus image prune`
pub(super) async fn images(context: &Context, args: PruneImagesArgs) -> Result<ExitCode> {
    let what =
        if args.all { "all images that no container uses" } else { "all images without a name that no container uses" };
    if !args.prune.confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let filters = if args.all { args.prune.with("dangling", "false")? } else { args.prune.filter };
    print(context, &[Removed::now(context, Kind::Images, &filters).await?])
}

/// What there can be too much of.
#[derive(Clone, Copy)]
enum Kind {
    Containers,
    Networks,
    Volumes,
    Images,
}

impl Kind {
    /// As docker writes it, in the path, the report and the heading.
    fn name(self) -> &'static str {
        match self {
            Kind::Containers => "Containers",
            Kind::Networks => "Networks",
            Kind::Volumes => "Volumes",
            Kind::Images => "Images",
        }
    }
}

/// What was removed of one kind, as the daemon tells it.
struct Removed {
    kind: Kind,
    report: Value,
}

impl Removed {
    async fn now(context: &Context, kind: Kind, filters: &[Filter]) -> Result<Removed> {
        let path = format!("/{}/prune", kind.name().to_lowercase());
        Ok(Removed { kind, report: context.daemon.document(Request::post(path).filters(filters)).await? })
    }

    fn list(&self) -> &[Value] {
        self.report[format!("{}Deleted", self.kind.name())].as_array().map_or(&[], Vec::as_slice)
    }

    fn freed(&self) -> Option<u64> {
        self.report["SpaceReclaimed"].as_u64()
    }

    fn print(&self, context: &Context) -> Result<()> {
        if self.list().is_empty() {
            return Ok(());
        }
        output::line(format!("Deleted {}:", self.kind.name()))?;
        match self.kind {
            Kind::Images => images::print_removed(context, self.list())?,
            _ => self.list().iter().filter_map(Value::as_str).try_for_each(output::line)?,
        }
        output::line("")
    }
}

/// Each kind under a heading, and what is free now; for programs, one document.
fn print(context: &Context, removed: &[Removed]) -> Result<ExitCode> {
    let freed = removed.iter().filter_map(Removed::freed).reduce(u64::saturating_add);
    if context.format == Format::Json {
        let reports = removed.iter().filter_map(|one| one.report.as_object()).flatten();
        let mut all: Map<String, Value> = reports.map(|(name, value)| (name.clone(), value.clone())).collect();
        if let Some(freed) = freed {
            all.insert("SpaceReclaimed".to_owned(), freed.into());
        }
        output::document(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    removed.iter().try_for_each(|one| one.print(context))?;
    if let Some(freed) = freed {
        output::line(format!("Total reclaimed space: {}", human::decimal(freed)))?;
    }
    Ok(ExitCode::SUCCESS)
}
