//! `stratus container …`, and the same commands on their own.

use std::process::ExitCode;

use clap::Subcommand;

use super::error::Result;
use super::inspect::{self, Kind};
use super::{Context, archives, attach, changes, containers, copy, exec, logs, prune, ps, run, snapshots, stats};

/// What is done with containers.
#[derive(Subcommand)]
pub(crate) enum ContainerCommand {
    /// Create a container of an image and run it
    Run(Box<run::RunArgs>),
    /// Create a container of an image, and don't start it
    Create(Box<run::CreateArgs>),
    /// Show a container's output
    Logs(logs::LogsArgs),
    /// Run another command in a container
    Exec(exec::ExecArgs),
    /// Talk with a running container's first process
    Attach(attach::AttachArgs),
    /// Start containers that are there
    Start(run::StartArgs),
    /// Ask containers to end, and end them after a while
    Stop(containers::StopArgs),
    /// Stop containers and start them again
    Restart(containers::StopArgs),
    /// Send containers a signal
    Kill(containers::KillArgs),
    /// Freeze containers
    Pause(containers::NamesArgs),
    /// Let frozen containers go on
    Unpause(containers::NamesArgs),
    /// Save containers in microVMs as they are, and end them; resume or start has them go on
    Suspend(containers::NamesArgs),
    /// Have suspended containers go on
    Resume(containers::NamesArgs),
    /// Have a container in a microVM go on from one of its snapshots
    Rollback(snapshots::RollbackArgs),
    /// Make copies of a running container in a microVM that go on from where it is
    Fork(snapshots::ForkArgs),
    /// Save containers in microVMs as they are at a moment, while they run on
    #[command(subcommand)]
    Snapshot(snapshots::SnapshotCommand),
    /// Wait until containers end, and print their exit statuses
    Wait(containers::NamesArgs),
    /// Remove containers
    Rm(containers::RmArgs),
    /// Give a container another name
    Rename(containers::RenameArgs),
    /// Change limits and restart policies
    Update(containers::UpdateArgs),
    /// Show a container's published ports
    Port(containers::PortArgs),
    /// Show a container's processes
    Top(containers::TopArgs),
    /// Show what containers use, as it changes
    Stats(stats::StatsArgs),
    /// Copy files between a container and this machine
    Cp(copy::CpArgs),
    /// Make an image of a container's files
    Commit(changes::CommitArgs),
    /// Show which files a container added, changed and removed
    Diff(changes::DiffArgs),
    /// Write a container's files into an archive
    Export(archives::ExportArgs),
}

/// Containers.
#[derive(Subcommand)]
pub(crate) enum ContainerGroup {
    #[command(flatten)]
    Alone(ContainerCommand),
    /// Show everything about containers
    Inspect(inspect::NamesArgs),
    /// List containers
    #[command(alias = "list", alias = "ps")]
    Ls(ps::PsArgs),
    /// Remove containers that do not run
    Prune(prune::PruneArgs),
}

impl ContainerCommand {
    /// Whether the exit status is a container's, or tells what kept it from having one.
    pub(super) fn is_run(&self) -> bool {
        matches!(self, ContainerCommand::Run(_) | ContainerCommand::Exec(_))
    }
}

/// `stratus container …`
pub(super) async fn dispatch(context: &Context, command: ContainerGroup) -> Result<ExitCode> {
    match command {
        ContainerGroup::Alone(command) => alone(context, command).await,
        ContainerGroup::Inspect(args) => inspect::of_kind(context, args, Kind::Container).await,
        ContainerGroup::Ls(args) => ps::ps(context, args).await,
        ContainerGroup::Prune(args) => prune::containers(context, args).await,
    }
}

/// What is done with containers.
pub(super) async fn alone(context: &Context, command: ContainerCommand) -> Result<ExitCode> {
    match command {
        ContainerCommand::Run(args) => run::run(context, *args).await,
        ContainerCommand::Create(args) => run::create(context, *args).await,
        ContainerCommand::Logs(args) => logs::logs(context, args).await,
        ContainerCommand::Exec(args) => exec::exec(context, args).await,
        ContainerCommand::Attach(args) => attach::attach(context, args).await,
        ContainerCommand::Start(args) => run::start(context, args).await,
        ContainerCommand::Stop(args) => containers::stop(context, args, "stop").await,
        ContainerCommand::Restart(args) => containers::stop(context, args, "restart").await,
        ContainerCommand::Kill(args) => containers::kill(context, args).await,
        ContainerCommand::Pause(args) => containers::post(context, args, "pause").await,
        ContainerCommand::Unpause(args) => containers::post(context, args, "unpause").await,
        ContainerCommand::Suspend(args) => snapshots::each(context, args, "suspend").await,
        ContainerCommand::Resume(args) => snapshots::each(context, args, "resume").await,
        ContainerCommand::Rollback(args) => snapshots::rollback(context, args).await,
        ContainerCommand::Fork(args) => snapshots::fork(context, args).await,
        ContainerCommand::Snapshot(command) => snapshots::dispatch(context, command).await,
        ContainerCommand::Wait(args) => containers::wait(context, args).await,
        ContainerCommand::Rm(args) => containers::remove(context, args).await,
        ContainerCommand::Rename(args) => containers::rename(context, args).await,
        ContainerCommand::Update(args) => containers::update(context, args).await,
        ContainerCommand::Port(args) => containers::port(context, args).await,
        ContainerCommand::Top(args) => containers::top(context, args).await,
        ContainerCommand::Stats(args) => stats::stats(context, args).await,
        ContainerCommand::Cp(args) => copy::copy(context, args).await,
        ContainerCommand::Commit(args) => changes::commit(context, args).await,
        ContainerCommand::Diff(args) => changes::diff(context, args).await,
        ContainerCommand::Export(args) => archives::export(context, args).await,
    }
}
