//! `stratus` as a command: what a person at a terminal, or a script, asks of the daemon over its API.
//!
//! Every command is a struct of its flags and a function that does it. The function's `Ok` is the exit status, as some
//! commands end with a container's; its `Err` says what to do next.

mod address;
mod archives;
mod attach;
mod attestations;
mod bootstrap;
mod build;
mod builder;
mod changes;
mod connect;
mod container;
mod containers;
mod copy;
mod credentials;
mod disk;
mod elsewhere;
mod error;
mod events;
mod exec;
mod human;
mod id_file;
mod images;
mod inspect;
mod login;
mod logs;
mod microvm;
mod mounts;
mod networking;
mod networks;
mod options;
mod output;
mod progress;
mod prune;
mod ps;
mod request;
mod run;
mod search;
mod shell;
mod snapshots;
mod stats;
mod streams;
mod system;
mod table;
mod terminal;
mod transfer;
mod usage;
mod volumes;

use std::process::ExitCode;

use clap::{Arg, ArgMatches, Subcommand};
use serde_json::Value;

use address::Address;
use connect::Daemon;
use error::{Error, Result};
use output::Format;
use table::Table;

pub(crate) use elsewhere::hint;
pub(crate) use human::parse_bytes;

/// Commands for the daemon.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    OfContainers(container::ContainerCommand),
    /// List containers
    Ps(ps::PsArgs),
    /// Show everything about containers, images, networks and volumes
    Inspect(inspect::InspectArgs),
    /// List images
    Images(images::ListArgs),
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Bring an image from a registry
    Pull(images::PullArgs),
    /// Bring an image to a registry
    Push(images::PushArgs),
    /// Remove images
    Rmi(images::RmArgs),
    /// Give an image another name
    Tag(images::TagArgs),
    /// Show what an image was made by
    History(images::HistoryArgs),
    /// Write images into an archive
    Save(archives::SaveArgs),
    /// Take images out of an archive
    Load(archives::LoadArgs),
    /// Make an image of a root file system's archive
    Import(archives::ImportArgs),
    /// Search a registry for images
    Search(search::SearchArgs),
    /// Have a registry let this user in, and remember that
    Login(login::LoginArgs),
    /// Forget what a registry lets this user in for
    Logout(login::LogoutArgs),
    /// Containers
    #[command(subcommand)]
    Container(container::ContainerGroup),
    /// Images
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// Networks
    #[command(subcommand)]
    Network(networks::NetworkCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(volumes::VolumeCommand),
    /// Containers with a kernel of their own
    #[command(subcommand)]
    Microvm(microvm::MicrovmCommand),
    /// What builds keep for the next one
    #[command(subcommand, alias = "buildx")]
    Builder(builder::BuilderCommand),
    /// Show what happens, as it happens
    Events(events::EventsArgs),
    /// Show what ran, for how long, and what it used
    Usage(usage::UsageArgs),
    /// Show what the daemon and its machine are
    Info,
    /// Show this command's and the daemon's versions
    Version,
    /// The daemon as a whole
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Print the completions of a shell
    Completions(shell::CompletionsArgs),
    /// Write the manual pages
    Man(shell::ManArgs),
}

impl Command {
    /// Whether the exit status is a container's, or tells what kept it from having one.
    fn is_run(&self) -> bool {
        match self {
            Command::OfContainers(command) | Command::Container(container::ContainerGroup::Alone(command)) => {
                command.is_run()
            }
            _ => false,
        }
    }
}

const HOST: &str = "host";
const OUTPUT: &str = "output";

/// Adds the flags that every command for the daemon has, wherever on the line they stand, to a command line.
pub(crate) fn with_connection(mut cli: clap::Command) -> clap::Command {
    let flags = |global: bool| {
        let host = Arg::new(HOST)
            .long("host")
            .short('H')
            .value_name("URL")
            .help("Where the daemon is [default: DOCKER_HOST, else unix:///run/stratus/docker.sock]")
            .help_heading("Connection");
        let output = Arg::new(OUTPUT)
            .long("output")
            .value_name("FORMAT")
            .alias("format")
            .value_parser(output::FormatParser)
            .help("For whom to print: tables for people, documents for programs")
            .help_heading("Connection");
        [host.global(global).display_order(1000), output.global(global).display_order(1000)]
    };
    let names: Vec<String> = cli.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    // The daemon's `--host` is where it listens.
    for name in names.iter().filter(|name| *name != "daemon") {
        // Where a build's image goes is named with the same word, and so is for whom a build prints.
        let own = |flag: &Arg| name == "build" && flag.get_id() == OUTPUT;
        cli = cli.mut_subcommand(name, |command| command.args(flags(true).into_iter().filter(|flag| !own(flag))));
    }
    cli.args(flags(false))
}

/// What a command works with.
struct Context {
    daemon: Daemon,
    format: Format,
}

impl Context {
    /// Reads what [`with_connection`] added, from the innermost command that was given it.
    fn new(matches: &ArgMatches) -> Result<Context> {
        let (mut host, mut format, mut level) = (None, None, Some(matches));
        while let Some(matches) = level {
            host = matches.get_one::<String>(HOST).or(host);
            format = matches.try_get_one::<Format>(OUTPUT).ok().flatten().or(format);
            level = matches.subcommand().map(|(_, inner)| inner);
        }
        let address = Address::choose(host.map(String::as_str))?;
        Ok(Context { daemon: Daemon::new(address), format: format.copied().unwrap_or_default() })
    }

    /// Does something with each of several things, and prints the name of each that it worked for. One that fails
    /// does not keep it from the others. For programs, the names are one list.
    async fn each(&self, names: &[String], work: impl AsyncFn(&str) -> Result<()>) -> Result<ExitCode> {
        let (mut outcome, mut done) = (ExitCode::SUCCESS, Vec::new());
        for name in names {
            match (work(name).await, self.format) {
                (Ok(()), Format::Table) => output::line(name)?,
                (Ok(()), Format::Json) => done.push(name),
                (Err(error), _) => {
                    let error = error.naming(name);
                    output::error(&error);
                    outcome = error.exit_code();
                }
            }
        }
        if self.format == Format::Json {
            output::document(&done)?;
        }
        Ok(outcome)
    }

    /// Prints names alone: a line each, or one list for programs.
    fn names(&self, names: &[String]) -> Result<ExitCode> {
        match self.format {
            Format::Json => output::document(&names)?,
            Format::Table => names.iter().try_for_each(output::line)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a document, or what a person wants to know of it.
    fn show(&self, document: &Value, table: impl FnOnce(&Value) -> Result<Table>) -> Result<ExitCode> {
        match self.format {
            Format::Json => output::document(document)?,
            Format::Table => output::table(&table(document)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a command; `matches` are those it was made of, and `cli` is the whole command line.
pub(crate) fn main(command: Command, matches: &ArgMatches, cli: clap::Command) -> ExitCode {
    let is_run = command.is_run();
    let outcome = match command {
        Command::Completions(args) => shell::completions(&args, cli),
        Command::Man(args) => shell::man(&args, cli),
        command => Context::new(matches).and_then(|context| in_runtime(&context, command)),
    };
    outcome.unwrap_or_else(|error| {
        output::error(&error);
        if is_run { error.run_exit_code() } else { error.exit_code() }
    })
}

fn in_runtime(context: &Context, command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting the asynchronous runtime"))?;
    let outcome = runtime.block_on(dispatch(context, command));
    // A thread may still be reading a pipe that nobody writes to.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(context: &Context, command: Command) -> Result<ExitCode> {
    match command {
        Command::OfContainers(command) => container::alone(context, command).await,
        Command::Ps(args) => ps::ps(context, args).await,
        Command::Container(command) => container::dispatch(context, command).await,
        Command::Inspect(args) => inspect::inspect(context, args).await,
        Command::Images(args) => images::list(context, args).await,
        Command::Build(args) => build::build(context, &args).await,
        Command::Pull(args) => images::pull(context, args).await,
        Command::Push(args) => images::push(context, args).await,
        Command::Rmi(args) => images::remove(context, args).await,
        Command::Tag(args) => images::tag(context, args).await,
        Command::History(args) => images::history(context, args).await,
        Command::Save(args) => archives::save(context, args).await,
        Command::Load(args) => archives::load(context, args).await,
        Command::Import(args) => archives::import(context, args).await,
        Command::Search(args) => search::search(context, args).await,
        Command::Login(args) => login::login(context, args).await,
        Command::Logout(args) => login::logout(context, &args),
        Command::Image(command) => images::dispatch(context, command).await,
        Command::Network(command) => networks::dispatch(context, command).await,
        Command::Volume(command) => volumes::dispatch(context, command).await,
        Command::Microvm(command) => microvm::dispatch(context, command).await,
        Command::Builder(command) => builder::dispatch(context, command).await,
        Command::Events(args) => events::events(context, args).await,
        Command::Usage(args) => usage::usage(context, args).await,
        Command::Info => system::info(context).await,
        Command::Version => system::version(context).await,
        Command::System(command) => system::dispatch(context, command).await,
        // These speak with no daemon, and were done before.
        Command::Completions(_) | Command::Man(_) => Ok(ExitCode::SUCCESS),
    }
}
