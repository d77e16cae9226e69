//! What the agent in a microVM and its host say to each other, over one stream of bytes.
//!
//! The stream is a vsock connection, a port of virtio-serial or a socket: [`frame`] cuts it into frames. A frame is a message
//! ([`message`]), or a piece of a process's standard stream, of which each has a window of its own ([`flow`]): a reader that is slow holds
//! back its stream and no other. [`host`] is the host's side, without any input or output of its own.
//!
//! **The stream may break at any time**: the host's end is killed, or the machine goes on from a snapshot. That is never the end of
//! anything. The guest keeps its processes, and of what they wrote all that the host has not taken; it connects again and says where
//! it stands ([`message::Hello`]); the host says from which offset on it goes on. Answers belong to the connection that asked: what was
//! not answered when it broke is asked again, and every request may be.
//!
//! **Trust.** The guest believes the host. The host believes nothing: a guest that breaks a rule is cut off ([`host::Nonsense`]). No memory
//! is taken by what a length claims, only for what has come.
//!
//! **Stability.** [`PROTOCOL`] grows by one with every change of a type here, but for new variants at the end of an enum. A guest of a
//! snapshot may be older than its host: [`message::Hello`] and [`message::Greeting`] never change.
#![forbid(unsafe_code)]

pub mod configuration;
pub mod files;
pub mod flow;
pub mod frame;
pub mod host;
pub mod message;
pub mod observe;
pub mod plain;

/// The version of the messages that this build speaks.
pub const PROTOCOL: u32 = 5;

/// The port of vsock on which a host listens unless the kernel's command line says another.
pub const VSOCK_PORT: u32 = 1024;

/// Where things are in the guest, for whoever writes runtime specifications for it.
pub mod place {
    use crate::message::ContainerId;

    /// The directory with the root file systems of containers.
    pub const CONTAINERS: &str = "/run/containers";
    /// The directory with volumes, by their names.
    pub const VOLUMES: &str = "/run/volumes";
    /// The directory with files that the host gave, by their names.
    pub const FILES: &str = "/run/files";
    /// The directory with the namespaces of containers that run.
    pub const NAMESPACES: &str = "/run/namespaces";
    /// The mount point of the unified hierarchy of control groups.
    pub const CGROUPS: &str = "/sys/fs/cgroup";

    /// A container's root file system.
    pub fn root(container: ContainerId) -> String {
        format!("{CONTAINERS}/{container}/root")
    }

    /// A container's control group.
    pub fn cgroup(container: ContainerId) -> String {
        format!("{CGROUPS}/workload/{container}")
    }

    /// The PID namespace of a container that runs, for others in its machine that share it.
    pub fn pid_namespace(container: ContainerId) -> String {
        format!("{NAMESPACES}/{container}.pid")
    }

    /// A volume, or a file in [`FILES`].
    pub fn volume(name: &str) -> String {
        format!("{VOLUMES}/{name}")
    }

    /// A file that the host gave.
    pub fn file(name: &str) -> String {
        format!("{FILES}/{name}")
    }
}

/// The reader of a host, for fuzzers: whatever comes, it neither panics nor keeps more than it may.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    host::fuzz(data);
    frame::fuzz(data);
}
