//! Takes an OCI runtime spec and a root file system, and runs it isolated.
//!
//! The work has three stages, which may happen in three processes:
//!
//! 1. [`plan`] compiles a spec into an [`InitPlan`] (or an [`ExecPlan`]): everything the new process will do, ahead of
//!    time, as plain data that can be sent to another process.
//! 2. [`spawn`] clones the process. Between clone and exec nothing allocates and nothing is looked up that was not
//!    prepared: `child.rs` reads from top to bottom in the order in which the kernel sees it.
//! 3. The parent learns from one socket how far the child has come ([`SyncEvent`]).
//!
//! [`cgroup`] limits, accounts, freezes and kills what runs, on cgroup v1, v2 and the hybrid of the two.
//! `runtime` (feature `runtime-cli`) is the OCI runtime command on top of the three.

pub mod apart;
pub mod apparmor;
pub mod cgroup;
mod child;
mod elsewhere;
pub mod memory;
pub mod plan;
mod process;
pub mod residence;
#[cfg(feature = "runtime-cli")]
pub mod runtime;
pub mod seal;
pub mod seccomp_agent;
pub mod signal;
pub mod spawn;
pub mod sync;
mod sys;
pub mod tap;

pub use elsewhere::{ElsewhereError, mount_in};
pub use plan::{CompileOptions, ExecOptions, ExecPlan, InitPlan, MountTree, PlanError, RootFs, SeccompFilter};
pub use spawn::{Fds, Home, SpawnError, Spawned, Stdio, open_trees, spawn, spawn_exec};
pub use sync::{Failure, Report, Step, SyncChannel, SyncEvent};
