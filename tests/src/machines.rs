//! The containers' tests behind a hypervisor: `E2E_MACHINES` names the directory of a prepared kernel (`microvm/kernel` of a data directory), and
//! every container of every daemon then has a kernel of its own. `cargo xtask machines` plays them so.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

fn kernel() -> Option<OsString> {
    std::env::var_os("E2E_MACHINES")
}

/// The daemon's flags for that, if it is so.
pub(crate) fn flags() -> &'static [&'static str] {
    if kernel().is_some() { &["--default-runtime", "microvm"] } else { &[] }
}

/// Gives a daemon that has not begun the kernel, if it is so.
pub(crate) fn prepare(data: &Path) {
    let Some(kernel) = kernel() else { return };
    let place = data.join("microvm");
    fs::create_dir_all(&place).expect("a directory for the kernel");
    let copied = Command::new("cp").args(["-r", "--reflink=auto"]).arg(kernel).arg(place.join("kernel")).status();
    assert!(copied.expect("run cp").success(), "the kernel for microVMs could not be copied");
}
