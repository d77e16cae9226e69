//! `stratus exec`

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::attach::{Conversation, DetachKeys, End, asked_to_end, follow_size};
use super::error::{Error, Result};
use super::options::environment_variable;
use super::request::{Request, segment};
use super::{Context, containers, output, terminal};

/// Run another command in a container
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// Leave it running in the background
    #[arg(long, short)]
    detach: bool,
    /// Keys that leave it running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
    /// Environment variable, NAME=VALUE, or NAME for the value it has here; repeats
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File with one variable a line; repeats
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Send it what is typed
    #[arg(long, short)]
    interactive: bool,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// User it runs as, USER[:GROUP]
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Directory it starts in
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    /// Container, by name or id
    container: String,
    /// Command and arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

/// `stratus exec`
pub(super) async fn exec(context: &Context, args: ExecArgs) -> Result<ExitCode> {
    if args.interactive && args.tty && !args.detach && !std::io::stdin().is_terminal() {
        return Err(Error::Usage("standard input is no terminal. Leave out -t, or run this on one".into()));
    }
    let daemon = &context.daemon;
    let keys = args.detach_keys.clone().unwrap_or_default();
    let stdin = args.interactive && !args.detach;
    let size = terminal::size().filter(|_| args.tty).map(|(rows, columns)| [rows, columns]);
    let mut variables = Vec::new();
    for path in &args.env_file {
        variables.extend(super::options::lines(path)?);
    }
    variables.extend(args.env);
    let variables: Vec<String> =
        variables.into_iter().filter_map(|one| environment_variable(one).transpose()).collect::<Result<_>>()?;
    let create = Request::post(format!("/containers/{}/exec", segment(&args.container))).json(&json!({
        "AttachStdin": stdin,
        "AttachStdout": !args.detach,
        "AttachStderr": !args.detach,
        "Cmd": args.command,
        "ConsoleSize": size,
        "DetachKeys": keys.text(),
        "Env": variables,
        "Privileged": args.privileged,
        "Tty": args.tty,
        "User": args.user,
        "WorkingDir": args.workdir,
    }));
    let created = daemon.document(create).await.map_err(|error| error.naming(&args.container))?;
    let id = created["Id"].as_str().ok_or_else(|| Error::Answer("it has no id".into()))?;
    let start = Request::post(format!("/exec/{id}/start"))
        .json(&json!({ "Detach": args.detach, "Tty": args.tty, "ConsoleSize": size }));
    if args.detach {
        daemon.done(start).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let stream = daemon.hijack(start).await?;
    let end = {
        let raw = stdin && args.tty;
        let _raw = if raw { terminal::Raw::enter().map_err(Error::io("setting up the terminal"))? } else { None };
        let _size = if args.tty { Some(follow_size(daemon, format!("/exec/{id}/resize"))?) } else { None };
        let conversation = Conversation { tty: args.tty, stdin, keys: &keys };
        tokio::select! {
            end = conversation.hold(stream) => end?,
            signal = asked_to_end() => return Err(Error::Signal(signal?)),
        }
    };
    if end == End::Detached {
        return Ok(ExitCode::SUCCESS);
    }
    let ended = daemon.document(Request::get(format!("/exec/{id}/json"))).await;
    let ended = ended.map_err(|error| match error {
        // Somebody answered before: what was executed may run on.
        Error::NotRunning(..) => Error::Broken(format!("how {:?} ends is not known", args.command.join(" "))),
        error => error,
    })?;
    let code = ended["ExitCode"].as_i64().ok_or_else(|| Error::Failed("its exit status is not known".into()))?;
    if code == KILLED {
        say_why_it_ended(context, &args.container).await;
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// The exit status of what SIGKILL ended, as shells have it.
const KILLED: i64 = 137;

/// A command that was killed with its container may have been so by something that its user does not know of.
async fn say_why_it_ended(context: &Context, container: &str) {
    let Ok(details) = containers::details(&context.daemon, container).await else { return };
    if !details.state.running && !details.state.error.is_empty() {
        output::error(&Error::Failed(details.state.error));
    }
}
