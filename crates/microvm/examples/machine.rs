//! Runs a machine, or a further process in one, as its process in a sandbox would: for trying out, and for the tests.
//!
//! `machine run PLAN` or `machine exec REQUEST`, each a file. What is reported is written to standard error: `machine: started`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;

use microvm::ExecRequest;
use sandbox::{Report, SyncEvent};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().collect();
    let (report, mut heard) = Report::pair().expect("sockets can be made");
    // Before there are threads beside those of the machine: signals are the machine's.
    let mut listener = move || {
        loop {
            match heard.wait() {
                Ok(SyncEvent::Executed) => return eprintln!("machine: started"),
                Ok(SyncEvent::Failed(failure)) => {
                    return eprintln!("machine: failed with {:?}: {failure}", failure.exit_code());
                }
                Ok(SyncEvent::Warning(warning)) => eprintln!("machine: warning: {warning}"),
                _ => return eprintln!("machine: vanished"),
            }
        }
    };
    let thread = thread::spawn(move || {
        nix::sys::signal::SigSet::all().thread_block().expect("signals can be blocked");
        listener();
    });
    let status = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "run", plan] => microvm::run(Path::new(plan), report),
        [_, "exec", request] => {
            let request = fs::read(request).map(|bytes| ExecRequest::from_bytes(&bytes));
            microvm::exec(&request.expect("the file is there").expect("it is a request"), report)
        }
        _ => panic!("machine run PLAN | machine exec REQUEST"),
    };
    let _ = thread.join();
    ExitCode::from(status)
}
