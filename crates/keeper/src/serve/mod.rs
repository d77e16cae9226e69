//! The keeper's process.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the keeper: `--run-dir DIR [--cgroup DIR]… [--detach]`. Returns when it has ended.
pub fn main(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}
