//! `stratus run`, `stratus create`, `stratus start`

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::attach::{DetachKeys, Session};
use super::connect::Daemon;
use super::error::{Error, Result};
use super::id_file::IdFile;
use super::options::{Attached, ContainerArgs, Pull};
use super::output::{self, Format};
use super::progress::Show;
use super::request::{Request, segment};
use super::{Context, containers, images};

/// Create a container of an image and run it
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct RunArgs {
    /// Leave it running in the background, and print its id
    #[arg(long, short, conflicts_with = "attach")]
    detach: bool,
    /// Keys that leave it running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
    /// Pass signals on to it
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[command(flatten)]
    container: ContainerArgs,
}

/// Create a container of an image, and don't start it
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    container: ContainerArgs,
}

/// Start containers that are there
#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Show its output, and end with its exit status
    #[arg(long, short)]
    attach: bool,
    /// Send it what is typed
    #[arg(long, short)]
    interactive: bool,
    /// Keys that leave it running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
    /// Containers, by name or id
    #[arg(required = true)]
    containers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    warnings: Option<Vec<String>>,
}

/// `stratus run`
pub(super) async fn run(context: &Context, args: RunArgs) -> Result<ExitCode> {
    let container = &args.container;
    let attached = if args.detach { Attached::default() } else { container.attached() };
    if attached.stdin && container.tty && !std::io::stdin().is_terminal() {
        return Err(Error::Usage("standard input is no terminal. Leave out -t, or run this on one".into()));
    }
    let daemon = &context.daemon;
    let created = make(context, container, attached).await?;
    if args.detach {
        // Before it is started: where that fails, it is there all the same.
        created.print(context)?;
        daemon.done(start_request(&created.id)).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let keys = args.detach_keys.unwrap_or_default();
    let session = Session { id: &created.id, tty: container.tty, attached, keys: &keys, sig_proxy: args.sig_proxy };
    // Everything that must not be missed is asked for before it can happen.
    let stream = session.streams(daemon).await?;
    let ended = session.wait(daemon, if container.rm { "removed" } else { "next-exit" }).await?;
    daemon.done(start_request(&created.id)).await?;
    session.run(daemon, stream, ended).await
}

/// `stratus create`
pub(super) async fn create(context: &Context, args: CreateArgs) -> Result<ExitCode> {
    make(context, &args.container, args.container.attached()).await?.print(context)?;
    Ok(ExitCode::SUCCESS)
}

impl Created {
    fn print(&self, context: &Context) -> Result<()> {
        match context.format {
            Format::Table => output::line(&self.id),
            Format::Json => output::document(&serde_json::json!({ "Id": self.id })),
        }
    }
}

/// Creates a container, with its image pulled where that is needed and wanted.
async fn make(context: &Context, container: &ContainerArgs, attached: Attached) -> Result<Created> {
    let daemon = &context.daemon;
    let body = container.body(attached)?;
    let id_file = container.cidfile.as_deref().map(IdFile::new).transpose()?;
    let request = || {
        Request::post("/containers/create")
            .maybe("name", container.name.as_ref())
            .maybe("platform", container.platform.as_ref())
            .json(&body)
    };
    let pull = async || {
        let show = if container.quiet { Show::Nothing } else { Show::Steps };
        images::pull_one(daemon, &container.image, container.platform.as_deref(), show).await
    };
    let explained = |failure| images::explain_pull(failure, &container.image);
    if container.pull == Pull::Always {
        pull().await.map_err(explained)?;
    }
    let created: Created = match daemon.read(request()).await {
        Err(error) if error.is_not_found() && container.pull == Pull::Missing && names_image(&error) => {
            if !container.quiet {
                eprintln!("Image {} is not here yet: pulling it", container.image);
            }
            pull().await.map_err(explained)?;
            daemon.read(request()).await?
        }
        created => created?,
    };
    if let Some(file) = id_file {
        file.write(&created.id)?;
    }
    for warning in created.warnings.iter().flatten() {
        output::warning(warning);
    }
    Ok(created)
}

/// Whether what was not found is the image, and not a network or another container.
fn names_image(error: &Error) -> bool {
    error.to_string().to_lowercase().contains("no such image")
}

fn start_request(container: &str) -> Request {
    Request::post(format!("/containers/{}/start", segment(container)))
}

/// `stratus start`
pub(super) async fn start(context: &Context, args: StartArgs) -> Result<ExitCode> {
    let daemon = &context.daemon;
    if !args.attach && !args.interactive {
        return context.each(&args.containers, async |name| daemon.done(start_request(name)).await.map(drop)).await;
    }
    let [container] = &args.containers[..] else {
        return Err(Error::Usage("only one container at a time can be attached to".into()));
    };
    start_attached(daemon, container, &args).await
}

async fn start_attached(daemon: &Daemon, container: &str, args: &StartArgs) -> Result<ExitCode> {
    let details = containers::details(daemon, container).await?;
    let keys = args.detach_keys.clone().unwrap_or_default();
    let stdin = args.interactive && details.config.open_stdin;
    let attached = Attached { stdin, ..Attached::OUTPUT };
    let session = Session { id: &details.id, tty: details.config.tty, attached, keys: &keys, sig_proxy: true };
    let stream = session.streams(daemon).await?;
    let condition = if details.host_config.auto_remove { "removed" } else { "next-exit" };
    let ended = session.wait(daemon, condition).await?;
    daemon.done(start_request(container)).await?;
    session.run(daemon, stream, ended).await
}
