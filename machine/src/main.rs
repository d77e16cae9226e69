//! The process of a microVM on the host, in its sandbox; and the small ones that stand for something inside. The first argument says which
//! ([`role`]), the only other one names the file that says what is wanted.
//!
//! It is a program of its own so that it is small: what a process of it has for itself, each machine takes.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use microvm::{ExecRequest, role};
use sandbox::{Report, Step};

fn main() -> ExitCode {
    // A machine's threads seldom allocate, and never many at once.
    sandbox::residence::limit_heaps(1);
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next().unwrap_or_default();
    let (Some(file), Ok(report)) = (arguments.next(), Report::inherited()) else { return misused() };
    match role.to_str() {
        Some(role::RUN) => ExitCode::from(microvm::run(Path::new(&file), report)),
        Some(role::JOIN) => ExitCode::from(microvm::join(Path::new(&file), report)),
        Some(role::EXEC) => exec(file, report),
        _ => misused(),
    }
}

/// Stands for a further process. The file goes with it.
#[inline(never)]
fn exec(file: OsString, report: Report) -> ExitCode {
    let bytes = fs::read(&file);
    let _ = fs::remove_file(&file);
    match bytes.map(|bytes| ExecRequest::from_bytes(&bytes)) {
        Ok(Ok(request)) => ExitCode::from(microvm::exec(&request, report)),
        _ => {
            report.failed(Step::Machine, 0, "what is wanted of it can't be read");
            ExitCode::FAILURE
        }
    }
}

fn misused() -> ExitCode {
    eprintln!("machine: it is started by the daemon's keeper, and does nothing by itself");
    ExitCode::FAILURE
}
