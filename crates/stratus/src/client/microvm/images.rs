//! `stratus microvm image …`: machines that were saved when their program was ready.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::build::{self, Recipe};
use crate::client::error::{Error, Result};
use crate::client::options::{Attached, ContainerArgs};
use crate::client::progress::Single;
use crate::client::request::{Request, segment};
use crate::client::table::Table;
use crate::client::{Context, human, output};

use super::given::{Given, OfBoth, OfCreate};

/// Images of microVMs
#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Build a Dockerfile, boot what comes of it, and save the machine when its program is ready
    Build(Box<BuildImageArgs>),
    /// The same with a container image that is there
    Create(Box<CreateImageArgs>),
    /// List images of microVMs
    #[command(alias = "list")]
    Ls,
    /// Remove images of microVMs
    #[command(alias = "remove")]
    Rm(RemoveArgs),
}

/// Build a Dockerfile, boot what comes of it, and save the machine when its program is ready
#[derive(Args, Debug)]
pub(crate) struct BuildImageArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Name of the container image as well, NAME[:TAG]; repeats
    #[arg(long, value_name = "NAME")]
    tag: Vec<String>,
    /// Network of the build's commands: default, host, none or a network's name
    #[arg(long, value_name = "NETWORK")]
    build_network: Option<String>,
    #[command(flatten)]
    recipe: Recipe,
}

/// Boot a container image, and save the machine when its program is ready
#[derive(Args, Debug)]
pub(crate) struct CreateImageArgs {
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    more: Given<OfCreate>,
    /// Container image
    image: String,
    /// Program and its arguments, in place of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Args, Debug)]
struct MachineArgs {
    /// Name of the image; one that is there gets another version
    #[arg(long, short = 't', value_name = "NAME")]
    name: String,
    /// Memory, as 256m
    #[arg(long, short, value_name = "SIZE")]
    memory: Option<String>,
    /// Processors, as 2
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Variable of its environment; repeats
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Publish a port at a free one of the host, for each that goes on from it: PORT; repeats
    #[arg(long, short, value_name = "PORT")]
    publish: Vec<String>,
    /// Network that each is on [default: bridge]
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    /// It is ready when it listens at this port of TCP
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ready_port: Option<u16>,
    /// How long it may take to listen, in seconds [default: 300]
    #[arg(long, value_name = "SECONDS", requires = "ready_port", value_parser = clap::value_parser!(u16).range(1..))]
    ready_timeout: Option<u16>,
    /// Where its program listens for hooks: POST /aws/lambda-microvms/runtime/v1/HOOK
    #[arg(long, value_name = "PORT", requires = "hooks", value_parser = clap::value_parser!(u16).range(1..))]
    hooks_port: Option<u16>,
    /// A hook that its program has, with how many seconds it may take: ready, validate, run, resume, suspend, terminate; repeats
    #[arg(long = "hook", value_name = "HOOK[=SECONDS]", requires = "hooks_port", id = "hooks")]
    hooks: Vec<String>,
    #[command(flatten)]
    given: Given<OfBoth>,
}

#[derive(Args, Debug)]
pub(crate) struct RemoveArgs {
    /// Images: NAME for all of its versions, or NAME:VERSION
    #[arg(required = true)]
    images: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    name: String,
    version: u32,
    created: String,
    image: String,
    size: u64,
}

impl Version {
    fn reference(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

const PATH: &str = "/stratus/microvms/images";
/// What a program can be told.
const HOOKS: [&str; 6] = ["ready", "validate", "run", "resume", "suspend", "terminate"];

/// `stratus microvm image …`
pub(super) async fn dispatch(context: &Context, command: ImageCommand) -> Result<ExitCode> {
    match command {
        ImageCommand::Build(args) => {
            let BuildImageArgs { machine, tag, build_network, recipe } = *args;
            let image = build::part(context, recipe, &tag, build_network).await?;
            let container = machine.container(&[], &image, &[])?;
            create(context, &machine, container).await
        }
        ImageCommand::Create(args) => {
            let CreateImageArgs { machine, more, image, command } = *args;
            let container = machine.container(more.words(), &image, &command)?;
            create(context, &machine, container).await
        }
        ImageCommand::Ls => {
            let all = context.daemon.document(Request::get(PATH)).await?;
            context.show(&all, |all| Ok(listed(&Vec::<Version>::deserialize(all)?)))
        }
        ImageCommand::Rm(args) => {
            let work = async |name: &str| {
                context.daemon.done(Request::delete(format!("{PATH}/{}", segment(name)))).await.map(drop)
            };
            context.each(&args.images, work).await
        }
    }
}

fn listed(all: &[Version]) -> Table {
    let mut table = Table::new(["IMAGE", "CREATED", "SIZE", "OF"]);
    for one in all {
        table.row([
            one.reference().as_str().into(),
            human::ago_rfc3339(&one.created).into(),
            human::decimal(one.size).into(),
            human::short(&one.image).into(),
        ]);
    }
    table
}

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct ContainerLine {
    #[command(flatten)]
    args: ContainerArgs,
}

async fn create(context: &Context, args: &MachineArgs, container: Value) -> Result<ExitCode> {
    let body = json!({
        "Container": container,
        "Ready": args.ready_port.map(|port| json!({ "Port": port, "Seconds": args.ready_timeout })),
        "Hooks": args.hooks()?,
    });
    let shown = Single::steps(&format!("booting {}", args.name), context.format == output::Format::Table);
    let made = context.daemon.document(Request::post(PATH).query("name", &args.name).json(&body)).await;
    shown.end();
    let made = made?;
    if context.format == output::Format::Json {
        output::document(&made)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(Version::deserialize(made)?.reference())?;
    Ok(ExitCode::SUCCESS)
}

impl MachineArgs {
    /// The request of its container, as `stratus create` makes it. `more` is what only one of both commands has.
    fn container(&self, more: &[OsString], image: &str, command: &[String]) -> Result<Value> {
        let mut line = vec![OsString::from("create"), OsString::from("--runtime=microvm")];
        let one = |name: &str, value: &String| OsString::from(format!("--{name}={value}"));
        line.extend(self.memory.iter().map(|value| one("memory", value)));
        line.extend(self.cpus.iter().map(|value| one("cpus", value)));
        line.extend(self.network.iter().map(|value| one("network", value)));
        line.extend(self.env.iter().map(|value| one("env", value)));
        line.extend(self.publish.iter().map(|value| one("publish", value)));
        line.extend(self.given.words().iter().chain(more).cloned());
        line.extend(["--", image].map(OsString::from));
        line.extend(command.iter().map(OsString::from));
        let line = ContainerLine::try_parse_from(line).map_err(|error| Error::Usage(error.to_string()))?;
        line.args.body(Attached::default())
    }

    fn hooks(&self) -> Result<Option<Value>> {
        let Some(port) = self.hooks_port else { return Ok(None) };
        let mut seconds = Map::new();
        for hook in &self.hooks {
            let (name, time) = hook.split_once('=').map_or((hook.as_str(), None), |(name, time)| (name, Some(time)));
            let wrong = |_| Error::Usage(format!("--hook {hook:?}: write how many seconds it may take, as run=5"));
            if !HOOKS.contains(&name) {
                return Err(Error::Usage(format!("--hook {hook:?}: there are {}", HOOKS.join(", "))));
            }
            let time = time.map(str::parse::<u16>).transpose().map_err(wrong)?;
            seconds.insert(name.to_owned(), json!(time));
        }
        Ok(Some(json!({ "Port": port, "Seconds": seconds })))
    }
}
