//! The process that serves a container's volumes to its machine: virtio-fs, by vhost-user, by the library of virtiofsd.
//!
//! What a guest writes into a volume belongs to any user, and only root can make such files; but what a guest may break out into is to be nobody, who
//! sees none of them. So there are two processes. That of the machine begins as root with the capabilities of [`CAPABILITIES`], has the server begin
//! ([`Server::start`]), and then gives up all that and its view of the volumes; all of this before anything of a guest's is read. The server ([`serve`])
//! takes a mount namespace of its own in which there is nothing but the volumes, keeps what serving files takes, and may make few system calls.
//! It is in the machine's PID namespace and cgroup, and ends with it.
//!
//! virtiofsd looks names up from directories that it holds, without following a link at their end, and opens nothing but regular files and directories. It does
//! not look whether a name is one (`../x` is none): what a guest can reach by such is what the server's root has, which is the container's own volumes, each
//! in its mode; the kernel resolves `..` and links within that.

#[cfg(feature = "file-server")]
mod confine;
#[cfg(feature = "file-server")]
mod handles;
#[cfg(feature = "file-server")]
mod server;
mod start;

use rustix::thread::CapabilitySet;

#[cfg(feature = "file-server")]
pub use server::{serve, serve_shared};
pub(crate) use start::Server;

/// The role in which `stratus` is the server.
pub const ROLE: &str = "machine-files";
/// The role in which it is that of containers which came into a machine: nobody's child but the keeper's, who hears its report, in a sandbox of its own.
pub const SHARED_ROLE: &str = "machine-shared-files";
/// What the server says once it serves. What follows are the types of the file systems whose files have no handles, each with a space before it.
const READY: &str = "ready";
/// The name of the server's socket in the machine's directory for such.
pub const SOCKET: &str = "files";

/// What serving files of several users takes (capabilities(7)).
pub(crate) const CAPABILITIES: [(&str, CapabilitySet); 8] = [
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    ("CAP_FSETID", CapabilitySet::FSETID),
    ("CAP_MKNOD", CapabilitySet::MKNOD),
    ("CAP_SETFCAP", CapabilitySet::SETFCAP),
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETUID", CapabilitySet::SETUID),
];
/// What making the server's mount namespace takes, and giving up capabilities.
pub(crate) const FOR_THE_START: [&str; 2] = ["CAP_SETPCAP", "CAP_SYS_ADMIN"];
