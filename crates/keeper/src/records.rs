//! What is on disk about each sandbox.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::protocol::{Exit, Recovery, UnixNanos};

/// How a process is told from a later one with the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
}
impl Identity {
    pub(crate) fn is_alive(&self) -> bool {
        false
    }
}
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) sandbox: Option<String>,
    pub(crate) identity: Identity,
    pub(crate) created: UnixNanos,
    pub(crate) exit: Option<Exit>,
    pub(crate) recovery: Recovery,
}
pub(crate) fn is_locked(_run_dir: &Path) -> io::Result<bool> {
    Ok(false)
}
pub(crate) fn read(_run_dir: &Path) -> io::Result<Vec<Record>> {
    Ok(Vec::new())
}
