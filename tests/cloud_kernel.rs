//! The distribution's kernel for clouds, for tests of several crates that boot machines.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory with the kernel and its modules (`cloud-kernel.sh` says which), which are fetched once.
pub(crate) fn directory() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| Path::new(&env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    let directory = cache.join("stratus/cloud-kernel");
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("tests/cloud-kernel.sh"));
    let script = above.into_iter().find(|script| script.exists()).expect("the script is in the workspace");
    let fetched = Command::new(script).arg(&directory).stdin(Stdio::null()).status().unwrap();
    assert!(fetched.success(), "the kernel could not be fetched");
    directory
}
