//! `stratus info`, `stratus version`, `stratus system …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::error::Result;
use super::output::{self, Format};
use super::request::Request;
use super::table::{Cell, Table};
use super::terminal::Style;
use super::{Context, disk, human, prune};

/// The daemon as a whole.
#[derive(Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what takes space on the disk
    Df(disk::DfArgs),
    /// Show what happens, as it happens
    Events(super::events::EventsArgs),
    /// Show what the daemon and its machine are
    Info,
    /// Remove everything that nothing needs
    Prune(prune::PruneSystemArgs),
}

/// `stratus system …`
pub(super) async fn dispatch(context: &Context, command: SystemCommand) -> Result<ExitCode> {
    match command {
        SystemCommand::Df(args) => disk::df(context, args).await,
        SystemCommand::Events(args) => super::events::events(context, args).await,
        SystemCommand::Info => info(context).await,
        SystemCommand::Prune(args) => prune::system(context, args).await,
    }
}

/// `stratus info`
pub(super) async fn info(context: &Context) -> Result<ExitCode> {
    let document = context.daemon.document(Request::get("/info")).await?;
    if context.format == Format::Json {
        output::document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |name: &str| match &document[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let containers = format!(
        "{} ({} running, {} paused, {} stopped)",
        text("Containers"),
        text("ContainersRunning"),
        text("ContainersPaused"),
        text("ContainersStopped")
    );
    let memory = document["MemTotal"].as_u64().map(human::binary).unwrap_or_default();
    let security: Vec<&str> =
        document["SecurityOptions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let version = own_version(&context.daemon.document(Request::get("/version")).await?);
    let rows = [
        ("Daemon", context.daemon.address().to_string()),
        ("Version", version),
        ("Stands for", format!("Docker {}", text("ServerVersion"))),
        ("Name", text("Name")),
        ("Containers", containers),
        ("Images", text("Images")),
        ("Data directory", text("DockerRootDir")),
        ("Storage", text("Driver")),
        ("Log driver", text("LoggingDriver")),
        ("Cgroups", format!("v{} ({})", text("CgroupVersion"), text("CgroupDriver"))),
        ("MicroVMs", document["Runtimes"]["microvm"]["status"]["driver"].as_str().unwrap_or_default().to_owned()),
        ("Security", security.join(", ")),
        ("System", text("OperatingSystem")),
        ("Kernel", format!("{} {} ({})", text("OSType"), text("KernelVersion"), text("Architecture"))),
        ("Processors", text("NCPU")),
        ("Memory", memory),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let colours = super::terminal::colours(&std::io::stdout());
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let title = Style::Bold.paint(&format!("{name:width$}"), colours);
        output::line(format!("{title}   {value}"))?;
    }
    for warning in document["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        output::warning(warning.strip_prefix("WARNING: ").unwrap_or(warning));
    }
    Ok(ExitCode::SUCCESS)
}

/// The version of stratus that a daemon is, of its answer about versions; that of another daemon where it is none.
fn own_version(server: &Value) -> String {
    let components = server["Components"].as_array().into_iter().flatten();
    let own = components.filter(|component| component["Name"] == "stratus").map(|component| &component["Version"]);
    own.chain([&server["Version"]]).find_map(Value::as_str).unwrap_or_default().to_owned()
}

/// `stratus version`
pub(super) async fn version(context: &Context) -> Result<ExitCode> {
    let client = env!("CARGO_PKG_VERSION");
    let server = context.daemon.document(Request::get("/version")).await;
    // The client's own version is of use also where no daemon is.
    let (server, failure) = match server {
        Ok(server) => (server, None),
        Err(error) => (Value::Null, Some(error)),
    };
    if context.format == Format::Json {
        output::document(&json!({ "Client": { "Version": client }, "Server": server }))?;
    } else {
        let mut table = Table::new(["", "VERSION", "API", "PLATFORM"]);
        let platform = image::Platform::host();
        table.row(["client".into(), client.into(), "".into(), platform.to_string().into()]);
        if failure.is_none() {
            let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
            let api = format!("{} to {}", text("MinAPIVersion"), text("ApiVersion"));
            let platform = format!("{}/{}, kernel {}", text("Os"), text("Arch"), text("KernelVersion"));
            table.row(["daemon".into(), own_version(&server).into(), api.into(), Cell::from(platform)]);
        }
        output::table(&table)?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}
