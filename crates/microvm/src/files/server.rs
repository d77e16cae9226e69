//! The server itself.

use std::error::Error as Cause;
use std::fs;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};
use rustix::thread::CapabilitySet;
use sandbox::{Report, Step};
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::xattrmap::XattrMap;
use virtiofsd::passthrough::{CachePolicy, Config, MigrationOnError, NegotiationMode, PassthroughFs};
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};
use vm_memory_of_virtiofsd::{GuestMemoryAtomic, GuestMemoryMmap};

use super::{CAPABILITIES, READY, confine, handles};
use crate::container::USER;

/// How many requests are worked on at once: one that waits for the disk holds up no other.
const THREADS: usize = 4;
/// Descriptors that are none of the guest's.
const OWN_DESCRIPTORS: u64 = 64;
/// How long a guest may rely on what it knows of names and attributes: as long it does not see what the host changes.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Extended attributes that a guest has: its own, capabilities of files, access lists. Labels (`security.selinux`) and what is trusted (`trusted.overlay`)
/// are the host's matter, and mean something else in another kernel.
const ATTRIBUTES: &str = "
    :ok:all:user.:user.:
    :ok:all:security.capability:security.capability:
    :ok:all:system.posix_acl_:system.posix_acl_:
    :unsupported:all:::
";

type Result<T, E = Box<dyn Cause>> = std::result::Result<T, E>;

/// Serves the directory at the socket, for one client, until that is gone. On standard output it says `ready`, and which types of file systems have no handles of files, or why it does not serve.
///
/// It needs a process of one thread that is root.
pub fn serve(directory: &Path, socket: &Path) -> u8 {
    let mut stdout = std::io::stdout();
    match begin(directory, socket) {
        Ok((begun, lacking)) => {
            let ready: String = [READY].into_iter().chain(lacking.iter().flat_map(|kind| [" ", kind])).collect();
            let told = stdout.write_all(ready.as_bytes()).and_then(|()| stdout.flush());
            // Whoever reads it waits for its end.
            let closed = told.is_ok() && rustix::stdio::dup2_stdout(std::io::stderr()).is_ok();
            if closed { serve_one(begun) } else { 1 }
        }
        Err(error) => {
            let _ = stdout.write_all(error.to_string().as_bytes());
            1
        }
    }
}

/// As [`serve`], for whoever waits for its report.
pub fn serve_shared(directory: &Path, socket: &Path, report: Report) -> u8 {
    match begin(directory, socket) {
        // Such volumes are not saved, so that nobody asks for handles.
        Ok((begun, _)) => {
            report.executing();
            serve_one(begun)
        }
        Err(error) => {
            report.failed(Step::Machine, 0, &format!("serve the container's volumes: {error}"));
            1
        }
    }
}

fn serve_one((mut daemon, mut listener): (Daemon, Listener)) -> u8 {
    let served = daemon.start(&mut listener).is_ok() && is_over(daemon.wait());
    u8::from(!served)
}

/// Its client is gone, as a machine that has ended is.
fn is_over(waited: Result<(), vhost_user_backend::Error>) -> bool {
    matches!(waited, Ok(()) | Err(vhost_user_backend::Error::HandleRequest(vhost::vhost_user::Error::Disconnected)))
}

type Daemon = VhostUserDaemon<Arc<VhostUserFsBackend<PassthroughFs>>>;

fn begin(directory: &Path, socket: &Path) -> Result<((Daemon, Listener), Vec<String>)> {
    let listener = UnixListener::bind(socket).map_err(|error| format!("listen at {}: {error}", socket.display()))?;
    chown(socket, Some(USER), Some(USER)).map_err(|error| format!("give away {}: {error}", socket.display()))?;
    let lacking = fs::read_to_string("/proc/self/mountinfo").and_then(|mounts| handles::lacking(directory, &mounts));
    let lacking = lacking.map_err(|error| format!("look for handles of files in {}: {error}", directory.display()))?;
    let own = enter(directory).map_err(|error| format!("see nothing but {}: {error}", directory.display()))?;
    let limit = descriptors().map_err(|error| format!("set the limit of descriptors: {error}"))?;
    let kept = CAPABILITIES.iter().fold(CapabilitySet::empty(), |all, (_, one)| all | *one);
    confine::keep(kept).map_err(|errno| format!("give up capabilities: {errno}"))?;
    seccompiler::apply_filter(&confine::filter()?)?;

    let files = PassthroughFs::new(Config {
        cache_policy: CachePolicy::Auto,
        entry_timeout: KNOWN_FOR,
        attr_timeout: KNOWN_FOR,
        proc_sfd_rawfd: Some(own.into()),
        xattr: true,
        xattrmap: Some(XattrMap::try_from(ATTRIBUTES).map_err(|error| error.to_string())?),
        posix_acl: NegotiationMode::Auto,
        // Each volume is a device of its own to programs, as it is on the host.
        announce_submounts: true,
        // Else the guest would ask for a file's capabilities at each write.
        killpriv_v2: true,
        // Of what is gone when a guest goes on that knew it, that guest alone gets errors. Files are found by their paths, as the filter refuses to open
        // one by a handle, and are held against the handles that they had: one that took another one's place is not taken for it.
        migration_on_error: MigrationOnError::GuestError,
        migration_verify_handles: true,
        guest_fd_limit: limit.saturating_sub(OWN_DESCRIPTORS),
        ..Config::default()
    })?;
    let backend = VhostUserFsBackendBuilder::default().set_thread_pool_size(THREADS).build(files)?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let daemon = VhostUserDaemon::new("files".to_owned(), Arc::new(backend), memory);
    Ok(((daemon.map_err(|error| error.to_string())?, Listener::from(listener)), lacking))
}

/// From here on the directory is all that this process can name, and nothing can be made in it beside what is mounted there. Returns the directory of its own
/// descriptors, by which virtiofsd opens again what it holds.
fn enter(directory: &Path) -> Result<rustix::fd::OwnedFd> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    // As the root of a mount it has no directory above it.
    rustix::mount::mount_bind("/proc/self/fd", "/proc")?;
    let own = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::chdir(directory)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount_remount("/", flags, "")?;
    Ok(own)
}

/// Each file that the guest knows of takes one: as many as this process may have.
fn descriptors() -> Result<u64> {
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?;
    Ok(hard.unwrap_or(u64::MAX))
}
