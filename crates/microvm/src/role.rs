//! What a process of the program `machine` is there for: its first argument.

/// Runs a machine ([`run`](crate::run)); the other argument is its [plan](crate::MachinePlan)'s file.
pub const RUN: &str = "run";
/// Stands for a container in the machine of another one ([`join`](crate::join)); the other argument is its [plan](crate::MemberPlan)'s file.
pub const JOIN: &str = "join";
/// Stands for a further process in a machine ([`exec`](crate::exec)); the other argument is the file of its [request](crate::ExecRequest), which it removes.
pub const EXEC: &str = "exec";
