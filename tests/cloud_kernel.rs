//! The distribution's kernel for clouds, for tests of several crates that boot machines.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whose kernel it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "not every crate boots the others")]
pub(crate) enum Of {
    /// The newest that this machine's apt knows.
    Here,
    /// Debian 11: Linux 5.10.
    Bullseye,
    /// Debian 13: Linux 6.12.
    Trixie,
}

/// The directory with the kernel and its modules (`cloud-kernel.sh` says which), which are fetched once.
pub(crate) fn directory(of: Of) -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let suite = match of {
        Of::Here => None,
        Of::Bullseye => Some("bullseye"),
        Of::Trixie => Some("trixie"),
    };
    let name = suite.map_or("cloud-kernel".to_owned(), |suite| format!("cloud-kernel-{suite}"));
    let directory = cache.join("stratus").join(name);
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/cloud-kernel.sh"));
    let script = above.into_iter().find(|script| script.exists()).expect("the script is in the workspace");
    let fetched = Command::new(script).arg(&directory).args(suite).stdin(Stdio::null()).status().unwrap();
    assert!(fetched.success(), "the kernel could not be fetched");
    directory
}

/// What the kernel's package has: the path of the kernel, and that of its modules, a directory with the name of its version.
#[allow(dead_code, reason = "not every crate prepares it")]
pub(crate) fn packaged(of: Of) -> (PathBuf, PathBuf) {
    let directory = directory(of);
    let modules = fs::read_dir(directory.join("modules")).unwrap().next().unwrap().unwrap().path();
    (directory.join("vmlinuz"), modules)
}
