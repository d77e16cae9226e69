//! The keeper by itself: `keeper --run-dir DIR`. In `stratus` it is a subcommand; the tests run this one.

use std::process::ExitCode;

fn main() -> ExitCode {
    keeper::serve::main(std::env::args_os().skip(1))
}
