//! The daemon's side of a keeper.
//!
//! ```no_run
//! use keeper::client::{Attach, Client, StartOptions, start_or_connect};
//! # fn main() -> Result<(), keeper::client::ClientError> {
//! let options = StartOptions::new("/usr/bin/stratus".into(), "/run/stratus".into());
//! let mut keeper: Client = start_or_connect(&options)?;
//! for entry in keeper.call(keeper::client::List)? {
//!     println!("{} {}", entry.id, entry.state);
//! }
//! # Ok(()) }
//! ```
//!
//! [`Client`] is synchronous, for one task at a time. `AsyncClient` (feature `async`) carries the requests of many tasks at once.
//! Neither reconnects by itself: after [`ClientError::Disconnected`] connect again and ask for [`List`]; exits that happened meanwhile
//! are in it.

mod calls;
mod connection;
mod orphans;
mod outq;
mod start;
#[cfg(feature = "async")]
mod tokio;

pub use calls::{Attach, Attached, Call, Create, Created, Exec, Inspect, List, Start, Started, Stats};
pub use connection::{Client, Welcome, kill, process, upgrade};
pub use orphans::{OrphanRecord, recover_orphans};
pub use outq::unread;
pub use start::{StartOptions, bring_up_to_date, ensure_running, start_or_connect};

#[cfg(feature = "async")]
pub use self::tokio::{AsyncClient, Events};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::protocol::Failure;
use crate::wire::WireError;

/// Why something asked of a keeper was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens.
    #[error("no keeper listens on {}; it is not running, or was killed", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something of the system failed.
    #[error("{tried} {}: {source}", on.display())]
    System {
        /// What was tried.
        tried: &'static str,
        /// On what.
        on: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The keeper does not speak this build's protocol, or refused an upgrade. See [`upgrade`].
    #[error("the keeper refused (it speaks version {protocol} of the protocol): {reason}")]
    Refused {
        /// Its reason, for people.
        reason: String,
        /// What it speaks.
        protocol: u32,
    },
    /// An upgrade is not answered: the keeper is of a release that waits without a limit for what hangs in its set-up.
    #[error(
        "the keeper (process {pid}) has not gone on as another program within {} s: a process that it started may hang, as \
         on a file system that does not answer; end what `ps --ppid {pid}` shows to hang by `kill -9`, or everything by \
         `stratus daemon --clean`, and try again",
        within.as_secs()
    )]
    NotUpgraded {
        /// The keeper's process id.
        pid: u32,
        /// How long it was waited for.
        within: Duration,
    },
    /// It does not answer. What it holds runs on.
    #[error(
        "the keeper (process {pid}) does not answer: nothing came from it within {} s. It is stopped (then `kill -CONT {pid}` lets it \
         go on), or hangs, as on a disk that does not answer. What it holds runs on; `stratus daemon --clean` ends it, with all of that",
        within.as_secs()
    )]
    Silent {
        /// The keeper's process id.
        pid: u32,
        /// How long it was waited for.
        within: Duration,
    },
    /// It was killed, and goes on.
    #[error(
        "the keeper (process {pid}) was killed, and has not ended within {} s: it hangs in the kernel, as on a disk that does not answer",
        within.as_secs()
    )]
    NotKilled {
        /// The keeper's process id.
        pid: u32,
        /// How long it was waited for.
        within: Duration,
    },
    /// What a sandbox has left in its cgroup could not be killed.
    #[error("kill what is left of a sandbox: {0}")]
    Remains(#[from] sandbox::cgroup::CgroupError),
    /// The keeper answered that it could not.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The message could not be sent or understood.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The connection has ended. Whether a request under way was done is not known: connect again and look.
    #[error("the connection to the keeper has ended")]
    Disconnected,
    /// The keeper answered something that does not fit the request.
    #[error("the keeper's answer does not fit the request: {0}")]
    Unexpected(String),
    /// The keeper did not start.
    #[error("the keeper did not start: {0}")]
    DidNotStart(String),
}

impl ClientError {
    fn system(tried: &'static str, on: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ClientError {
        let on = on.into();
        move |source| ClientError::System { tried, on, source }
    }
}
