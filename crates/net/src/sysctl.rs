//! Sysctls of the calling thread's network namespace.

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::PathBuf;

/// Reads one, by its path below /proc/sys, without the line's end. `None` where the kernel has none of that name.
pub(crate) fn read(name: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(name)) {
        Ok(value) => Ok(Some(value.trim_end().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("read sysctl {name}"), e)),
    }
}

/// Writes one.
pub(crate) fn write(name: &str, value: &str) -> Result<()> {
    std::fs::write(path(name), value).map_err(|e| Error::io(format!("set sysctl {name} to {value}"), e))
}

/// Writes one, unless the kernel has none of that name, as those of IPv6 where it is built without.
pub(crate) fn write_if_there(name: &str, value: &str) -> Result<()> {
    match write(name, value) {
        Err(Error::Kernel { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes one where it has another value; gives whether it had.
pub(crate) fn ensure(name: &str, value: &str) -> Result<bool> {
    match read(name)? {
        Some(now) if now != value => write(name, value).map(|()| true),
        _ => Ok(false),
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}
