//! `stratus builder …`: what builds keep for the next one.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::error::{Error, Result};
use super::output::{self, Format};
use super::prune::Asking;
use super::request::{Filter, Request};
use super::table::Table;
use super::{Context, human};

/// What builds keep for the next one.
#[derive(Subcommand)]
pub(crate) enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Box<super::build::BuildArgs>),
    /// Show what builds keep, and what it takes on the disk
    Du(DuArgs),
    /// Remove what builds keep
    Prune(PruneBuildsArgs),
}

/// Shows what builds keep, and what it takes on the disk
#[derive(Args, Debug)]
pub(crate) struct DuArgs {
    /// All that is known of each
    #[arg(long)]
    verbose: bool,
}

/// Removes what builds keep. What a build needs in this moment stays
#[derive(Args, Debug)]
pub(crate) struct PruneBuildsArgs {
    /// Also what images have, which frees nothing
    #[arg(long, short)]
    all: bool,
    /// Bytes that stay in any case, of what was used last, as 10g
    #[arg(long, visible_alias = "reserved-space", value_name = "SIZE", value_parser = human::parse_bytes)]
    keep_storage: Option<i64>,
    /// The most bytes that stay, of what was used last
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    max_used_space: Option<i64>,
    /// Bytes that the disk is to have free: no more goes than that takes
    #[arg(long, value_name = "SIZE", value_parser = human::parse_bytes)]
    min_free_space: Option<i64>,
    /// Only what fits: until=24h, type=regular|exec.cachemount|source.local|source.http, id=…, parent=…, description=…, inuse=, shared= or
    /// private=true|false; repeats
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    #[command(flatten)]
    asking: Asking,
}

/// Something that builds keep.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Kept {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    parents: Vec<String>,
    r#type: String,
    description: String,
    in_use: bool,
    shared: bool,
    size: u64,
    created_at: String,
    last_used_at: String,
    usage_count: u64,
}

impl Kept {
    fn state(&self) -> &'static str {
        match (self.in_use, self.shared) {
            (true, _) => "in use",
            (false, true) => "shared",
            (false, false) => "",
        }
    }
}

/// `stratus builder …`
pub(super) async fn dispatch(context: &Context, command: BuilderCommand) -> Result<ExitCode> {
    match command {
        BuilderCommand::Build(args) => super::build::build(context, &args).await,
        BuilderCommand::Du(args) => du(context, &args).await,
        BuilderCommand::Prune(args) => prune(context, args).await,
    }
}

async fn du(context: &Context, args: &DuArgs) -> Result<ExitCode> {
    let document = context.daemon.document(Request::get("/system/df").query("type", "build-cache")).await?;
    let all = &document["BuildCache"];
    if context.format == Format::Json {
        output::document(all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<Kept> = Option::deserialize(all)?.unwrap_or_default();
    match args.verbose {
        true => all.iter().try_for_each(one)?,
        false => output::table(&table(&all))?,
    }
    let own = |of: &dyn Fn(&Kept) -> bool| all.iter().filter(|one| of(one)).map(|one| one.size).sum::<u64>();
    output::line("")?;
    output::line(format!("Shared:      {}", human::decimal(own(&|one| one.shared))))?;
    output::line(format!("Reclaimable: {}", human::decimal(own(&|one| !one.shared && !one.in_use))))?;
    output::line(format!("Total:       {}", human::decimal(own(&|one| !one.shared))))?;
    Ok(ExitCode::SUCCESS)
}

fn table(all: &[Kept]) -> Table {
    let mut table = Table::new(["ID", "KIND", "SIZE", "", "LAST USED", "USES", "WHAT"]);
    for one in all {
        table.row([
            human::short(&one.id).into(),
            one.r#type.as_str().into(),
            human::decimal(one.size).into(),
            one.state().into(),
            human::ago_rfc3339(&one.last_used_at).into(),
            one.usage_count.to_string().into(),
            human::cut(&one.description, 60).into(),
        ]);
    }
    table
}

fn one(one: &Kept) -> Result<()> {
    let parents = one.parents.join(", ");
    let (size, uses) = (human::decimal(one.size), one.usage_count.to_string());
    let rows: [(&str, &str); 9] = [
        ("ID", &one.id),
        ("Parents", &parents),
        ("Kind", &one.r#type),
        ("What", &one.description),
        ("Size", &size),
        ("State", one.state()),
        ("Created", &one.created_at),
        ("Last used", &one.last_used_at),
        ("Uses", &uses),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        output::line(format!("{name:<11}{value}"))?;
    }
    output::line("")
}

async fn prune(context: &Context, args: PruneBuildsArgs) -> Result<ExitCode> {
    let what = if args.all { "all that builds keep" } else { "what builds keep and no image has" };
    if let Some(label) = args.filter.iter().find(|filter| filter.name().starts_with("label")) {
        // The daemon takes it, as "docker system prune" says it to everybody.
        return Err(Error::Usage(format!("--filter {}: nothing that builds keep has a label", label.name())));
    }
    if !args.asking.confirm(what)? {
        return Ok(ExitCode::FAILURE);
    }
    let bytes = |bytes: Option<i64>| bytes.map(|bytes| bytes.max(0).to_string());
    let request = Request::post("/build/prune")
        .flag("all", args.all)
        .maybe("keep-storage", bytes(args.keep_storage))
        .maybe("reserved-space", bytes(args.keep_storage))
        .maybe("max-used-space", bytes(args.max_used_space))
        .maybe("min-free-space", bytes(args.min_free_space))
        .filters(&args.filter);
    let report = context.daemon.document(request).await?;
    if context.format == Format::Json {
        output::document(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    let removed = report["CachesDeleted"].as_array().map_or(&[][..], Vec::as_slice);
    if !removed.is_empty() {
        output::line("Deleted build cache objects:")?;
        removed.iter().filter_map(Value::as_str).try_for_each(output::line)?;
        output::line("")?;
    }
    output::line(format!("Total reclaimed space: {}", human::decimal(report["SpaceReclaimed"].as_u64().unwrap_or(0))))?;
    Ok(ExitCode::SUCCESS)
}
