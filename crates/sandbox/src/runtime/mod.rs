//! The OCI runtime command: `create`, `start`, `run`, `exec`, `state`, `kill`, `delete` and the rest, with runc's flags
//! and formats.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command. `args` start with the program's name, as `std::env::args_os` gives them.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let _ = args.count();
    ExitCode::FAILURE
}
