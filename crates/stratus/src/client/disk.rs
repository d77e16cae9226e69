//! `stratus system df`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::error::Result;
use super::output::{self, Format};
use super::request::Request;
use super::table::Table;
use super::{Context, human};

/// Show what takes space on the disk
#[derive(Args, Debug)]
pub(crate) struct DfArgs {
    /// One by one
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    #[serde(default)]
    layers_size: u64,
    images: Option<Vec<Image>>,
    containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    id: String,
    repo_tags: Option<Vec<String>>,
    size: u64,
    shared_size: i64,
    containers: i64,
}

impl Image {
    /// Bytes that are this image's alone.
    fn own(&self) -> u64 {
        self.size.saturating_sub(u64::try_from(self.shared_size).unwrap_or(0))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    names: Vec<String>,
    state: String,
    #[serde(default)]
    size_rw: i64,
}

impl Container {
    fn runs(&self) -> bool {
        matches!(self.state.as_str(), "running" | "paused" | "restarting")
    }

    /// Below zero stands for what could not be told.
    fn size(&self) -> u64 {
        u64::try_from(self.size_rw).unwrap_or(0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    usage_data: Option<VolumeUsage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeUsage {
    ref_count: i64,
    size: i64,
}

impl Volume {
    fn size(&self) -> u64 {
        self.usage_data.as_ref().and_then(|usage| u64::try_from(usage.size).ok()).unwrap_or(0)
    }

    fn users(&self) -> i64 {
        self.usage_data.as_ref().map_or(0, |usage| usage.ref_count)
    }
}

/// `stratus system df`
pub(super) async fn df(context: &Context, args: DfArgs) -> Result<ExitCode> {
    let document = context.daemon.document(Request::get("/system/df")).await?;
    if context.format == Format::Table && args.verbose {
        return one_by_one(&Usage::deserialize(&document)?);
    }
    context.show(&document, sums)
}

fn sums(document: &Value) -> Result<Table> {
    let usage = Usage::deserialize(document)?;
    let images = usage.images.unwrap_or_default();
    let containers = usage.containers.unwrap_or_default();
    let volumes = usage.volumes.unwrap_or_default();
    let unused: u64 = images.iter().filter(|image| image.containers <= 0).map(Image::own).sum();
    let stopped: u64 = containers.iter().filter(|container| !container.runs()).map(Container::size).sum();
    let dangling: u64 = volumes.iter().filter(|volume| volume.users() <= 0).map(Volume::size).sum();
    let mut table = Table::new(["KIND", "TOTAL", "IN USE", "SIZE", "CAN BE FREED"]);
    let mut row = |kind: &str, total: usize, used: usize, size: u64, free: u64| {
        let (size, free) = (human::decimal(size), human::decimal(free));
        table.row([kind.into(), total.to_string().into(), used.to_string().into(), size.into(), free.into()]);
    };
    let used = images.iter().filter(|image| image.containers > 0).count();
    row("images", images.len(), used, usage.layers_size, unused.min(usage.layers_size));
    let used = containers.iter().filter(|container| container.runs()).count();
    row("containers", containers.len(), used, containers.iter().map(Container::size).sum(), stopped);
    let used = volumes.iter().filter(|volume| volume.users() > 0).count();
    row("volumes", volumes.len(), used, volumes.iter().map(Volume::size).sum(), dangling);
    Ok(table)
}

fn one_by_one(usage: &Usage) -> Result<ExitCode> {
    let mut images = Table::new(["IMAGE", "ID", "SIZE", "SHARED", "OWN", "CONTAINERS"]);
    for image in usage.images.iter().flatten() {
        let names = match image.repo_tags.as_deref().unwrap_or_default() {
            [] => "<none>".to_owned(),
            names => names.join(", "),
        };
        let shared = human::decimal(u64::try_from(image.shared_size).unwrap_or(0));
        let (size, own) = (human::decimal(image.size), human::decimal(image.own()));
        let used = image.containers.max(0).to_string();
        images.row([names.into(), human::short(&image.id).into(), size.into(), shared.into(), own.into(), used.into()]);
    }
    let mut containers = Table::new(["CONTAINER", "ID", "STATE", "SIZE"]);
    for container in usage.containers.iter().flatten() {
        let names: Vec<&str> = container.names.iter().map(|name| name.trim_start_matches('/')).collect();
        let (id, size) = (human::short(&container.id), human::decimal(container.size()));
        containers.row([names.join(", ").into(), id.into(), container.state.as_str().into(), size.into()]);
    }
    let mut volumes = Table::new(["VOLUME", "CONTAINERS", "SIZE"]);
    for volume in usage.volumes.iter().flatten() {
        let users = volume.users().max(0).to_string();
        volumes.row([volume.name.as_str().into(), users.into(), human::decimal(volume.size()).into()]);
    }
    output::table(&images)?;
    output::line("")?;
    output::table(&containers)?;
    output::line("")?;
    output::table(&volumes)?;
    Ok(ExitCode::SUCCESS)
}
