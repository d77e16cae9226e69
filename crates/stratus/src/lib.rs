//! `stratus`: one program, several roles. The first argument chooses: the daemon, the keeper and the port forwarder that
//! the daemon starts, the OCI runtime that others start, or a command for the daemon.
//! `main.rs` only calls it, so that others can look at its parts.
#![forbid(unsafe_code)]

mod client;
mod complaint;
mod daemon;
mod kernel;
mod tls;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

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
    /// Be an OCI runtime, under containerd, podman or dockerd (see stratus runtime --help)
    #[command(disable_help_flag = true)]
    Runtime {
        /// Arguments, as runc has them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
    #[command(flatten)]
    Client(Box<client::Command>),
}

/// The program: takes its arguments from the process.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| OsString::from("stratus"));
    let role = std::env::args_os().nth(1).unwrap_or_default();
    // Roles that are started often, or must stay small, read their own arguments.
    match role.to_str() {
        Some("keeper") => return keep(arguments.skip(1)),
        Some("forward") => return net::forward::main(arguments.skip(1)),
        Some("runtime") => return sandbox::runtime::main(arguments),
        Some(role @ (microvm::files::ROLE | microvm::files::SHARED_ROLE)) => {
            return machine_files(role, arguments.nth(1), arguments.next());
        }
        _ => {}
    }
    let cli = client::with_connection(Cli::command());
    let arguments: Vec<OsString> = std::iter::once(program).chain(arguments).collect();
    let matches = match cli.clone().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => return complaint::complain(&error, &cli, &arguments),
    };
    match Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command {
        Command::Daemon(options) => daemon::main(*options),
        Command::Runtime { arguments } => {
            sandbox::runtime::main(std::iter::once(OsString::from("runtime")).chain(arguments))
        }
        Command::Client(command) => client::main(*command, &matches, cli),
    }
}

/// Whether `text` is a configuration that the daemon takes; why not, where it isn't. Touches no file.
pub fn check_configuration(text: &str) -> Result<(), String> {
    daemon::check_configuration(text)
}

/// The process that serves a microVM's volumes, beside its process: of which directory, at which socket.
fn machine_files(role: &str, directory: Option<OsString>, socket: Option<OsString>) -> ExitCode {
    let shared = role == microvm::files::SHARED_ROLE;
    let report = if shared { sandbox::Report::inherited().ok() } else { None };
    match (directory, socket, report) {
        (Some(directory), Some(socket), Some(report)) => {
            ExitCode::from(microvm::files::serve_shared(directory.as_ref(), socket.as_ref(), report))
        }
        (Some(directory), Some(socket), None) if !shared => {
            ExitCode::from(microvm::files::serve(directory.as_ref(), socket.as_ref()))
        }
        _ => {
            eprintln!("stratus {role}: it is started for a microVM, and does nothing by itself");
            ExitCode::FAILURE
        }
    }
}

/// The keeper clones containers, so it runs from where no container can write to its program.
///
/// Which data directory knows what it holds is there for others to read; an upgrade repeats what stands before its own
/// arguments.
fn keep(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.peekable();
    if arguments.next_if(|argument| argument == daemon::KEEPER_ARGUMENT).is_some() {
        arguments.next();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        client::with_connection(Cli::command()).debug_assert();
    }

    #[test]
    fn what_fails_before_a_container_is_told_from_its_exit_status() {
        let cli = client::with_connection(Cli::command());
        let code = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            complaint::complain(
                &cli.clone().try_get_matches_from(&arguments).map(drop).expect_err(line),
                &cli,
                &arguments,
            )
        };
        for line in [
            "stratus run --nosuch busybox",
            "stratus run -m lots busybox",
            "stratus -H unix:///s run -p 99999:80 busybox",
            "stratus container run --restart sometimes busybox",
            "stratus run",
            "stratus exec --nosuch box true",
        ] {
            assert_eq!(code(line), ExitCode::from(125), "{line}");
        }
        for line in ["stratus ps --nosuch", "stratus nonsense run", "stratus logs --tail x run"] {
            assert_eq!(code(line), ExitCode::from(2), "{line}");
        }
        assert_eq!(code("stratus run --help"), ExitCode::SUCCESS);
    }
}
