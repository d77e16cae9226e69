//! `stratus microvm …`: containers with a kernel of their own: what that boots, images of machines whose program is up, and what goes on from them.

mod given;
mod images;
mod instances;
mod kernel;

use std::process::ExitCode;

use clap::Subcommand;

use super::Context;
use super::containers::NamesArgs;
use super::error::Result;

/// Containers with a kernel of their own.
#[derive(Subcommand)]
pub(crate) enum MicrovmCommand {
    /// Show or choose the kernel that microVMs boot
    Kernel(kernel::KernelArgs),
    /// Images of microVMs: machines that were saved when their program was ready
    #[command(subcommand)]
    Image(images::ImageCommand),
    /// Run a microVM of an image: its program goes on where it was saved
    Run(instances::RunArgs),
    /// List the microVMs that went on from an image
    #[command(alias = "list", alias = "ps")]
    Ls,
    /// Show all that is known of a microVM, as JSON
    Inspect(instances::InspectArgs),
    /// Print a token, with which a microVM is asked something through the endpoint
    Token(instances::TokenArgs),
    /// Suspend microVMs, once their programs are ready for that
    Suspend(NamesArgs),
    /// Have suspended microVMs go on
    Resume(NamesArgs),
    /// End microVMs, once their programs were told, and remove them
    #[command(alias = "rm")]
    Terminate(NamesArgs),
}

/// `stratus microvm …`
pub(super) async fn dispatch(context: &Context, command: MicrovmCommand) -> Result<ExitCode> {
    match command {
        MicrovmCommand::Kernel(args) => kernel::kernel(context, &args),
        MicrovmCommand::Image(command) => images::dispatch(context, command).await,
        MicrovmCommand::Run(args) => instances::run(context, args).await,
        MicrovmCommand::Ls => instances::list(context).await,
        MicrovmCommand::Inspect(args) => instances::inspect(context, args).await,
        MicrovmCommand::Token(args) => instances::token(context, args).await,
        MicrovmCommand::Suspend(args) => instances::each(context, args, "suspend").await,
        MicrovmCommand::Resume(args) => instances::each(context, args, "resume").await,
        MicrovmCommand::Terminate(args) => instances::terminate(context, args).await,
    }
}
