//! `stratus`: one program, several roles. The first argument chooses: the daemon, the keeper and the port forwarder that
//! the daemon starts, the OCI runtime that others start, or a command for the daemon.
#![forbid(unsafe_code)]

mod daemon;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Containers, images, networks and volumes on one machine.
#[derive(Parser)]
#[command(name = "stratus", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Daemon(Box<daemon::Options>),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("stratus"));
    let role = std::env::args_os().nth(1).unwrap_or_default();
    // Roles that are started often, or must stay small, read their own arguments.
    match role.to_str() {
        Some("keeper") => return keep(arguments.skip(1)),
        Some("forward") => return net::forward::main(arguments.skip(1)),
        Some("runtime") => return sandbox::runtime::main(arguments),
        _ => {}
    }
    match Cli::parse_from(std::iter::once(program).chain(arguments)).command {
        Command::Daemon(options) => daemon::main(*options),
    }
}

/// The keeper clones containers, so it runs from where no container can write to its program.
fn keep(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match sandbox::seal::ensure() {
        Ok(()) => keeper::serve::main(arguments),
        Err(error) => {
            eprintln!(
                "stratus keeper: cannot execute from a read-only mount, where no container can write to it: {error}"
            );
            ExitCode::FAILURE
        }
    }
}
