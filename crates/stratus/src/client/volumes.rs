//! `stratus volume …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Result;
use super::inspect::{self, Kind};
use super::options::{named, pairs};
use super::output::{self, Format};
use super::request::{Filter, Request, segment};
use super::table::Table;
use super::{Context, human, prune};

/// Volumes.
#[derive(Subcommand)]
pub(crate) enum VolumeCommand {
    /// Create a volume
    Create(CreateArgs),
    /// Show everything about volumes
    Inspect(inspect::NamesArgs),
    /// List volumes
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove volumes that no container uses
    Prune(prune::PruneVolumesArgs),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm(RmArgs),
}

/// Create a volume
#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    /// Driver
    #[arg(long, short, value_name = "DRIVER", default_value = "local")]
    driver: String,
    /// Label; repeats
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// Option of the driver; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Name of the volume [default: one that nothing else has]
    name: Option<String>,
}

/// List volumes
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those that fit: name=…, driver=…, label=…, dangling=…; repeats
    #[arg(long, short, value_name = "NAME=VALUE")]
    filter: Vec<Filter>,
    /// Only names
    #[arg(long, short)]
    quiet: bool,
}

/// Remove volumes
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Say nothing of those that are not there
    #[arg(long, short)]
    force: bool,
    /// Volumes
    #[arg(required = true)]
    volumes: Vec<String>,
}

/// `stratus volume …`
pub(super) async fn dispatch(context: &Context, command: VolumeCommand) -> Result<ExitCode> {
    match command {
        VolumeCommand::Create(args) => create(context, args).await,
        VolumeCommand::Inspect(args) => inspect::of_kind(context, args, Kind::Volume).await,
        VolumeCommand::Ls(args) => list(context, args).await,
        VolumeCommand::Prune(args) => prune::volumes(context, args).await,
        VolumeCommand::Rm(args) => remove(context, args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode> {
    let labels = named(&args.label)?;
    let options = pairs(&args.opt, "--opt")?;
    let body = json!({ "Name": args.name, "Driver": args.driver, "DriverOpts": options, "Labels": labels });
    let created = context.daemon.document(Request::post("/volumes/create").json(&body)).await?;
    match context.format {
        Format::Json => output::document(&created)?,
        Format::Table => output::line(created["Name"].as_str().unwrap_or_default())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(context: &Context, args: ListArgs) -> Result<ExitCode> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Listed {
        name: String,
        driver: String,
        created_at: Option<String>,
    }
    let answer = context.daemon.document(Request::get("/volumes").filters(&args.filter)).await;
    let answer = answer.map_err(|error| error.with_filters(&engine::VOLUME_FILTERS))?;
    let document = match &answer["Volumes"] {
        Value::Null => json!([]),
        volumes => volumes.clone(),
    };
    if args.quiet {
        let listed = Vec::<Listed>::deserialize(&document)?.into_iter();
        return context.names(&listed.map(|volume| volume.name).collect::<Vec<_>>());
    }
    context.show(&document, |document| {
        let mut table = Table::new(["NAME", "DRIVER", "CREATED"]);
        for volume in Vec::<Listed>::deserialize(document)? {
            let created = volume.created_at.as_deref().map(human::ago_rfc3339).unwrap_or_default();
            table.row([volume.name.into(), volume.driver.into(), created.into()]);
        }
        Ok(table)
    })
}

async fn remove(context: &Context, args: RmArgs) -> Result<ExitCode> {
    let work = async |name: &str| {
        let request = Request::delete(format!("/volumes/{}", segment(name))).flag("force", args.force);
        context.daemon.done(request).await.map(drop)
    };
    context.each(&args.volumes, work).await
}
