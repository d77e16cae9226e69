//! What comes before the first word: file systems of the kernel, its modules, and where the host is.
//!
//! The initramfs is made by the host. It holds this program as `/init`, the node `/dev/null` (character device 1, 3: a program without
//! standard streams would not start where the machine has no console), and in `/modules` what the kernel needs, with `/modules/list`:
//! names in the order in which they are loaded, a line each, with their parameters behind a space.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use guest_protocol::VSOCK_PORT;
use guest_protocol::message::{End, Failure};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::link::Address;
use crate::{failed, failed_io, refused, sys};

/// What the agent is told from outside.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Where the host is.
    pub(crate) address: Address,
    /// The agent is its first process, and its end the machine's.
    pub(crate) is_own: bool,
}

/// The parameter of the kernel's command line that says where the host is: `stratus.host=vsock:1024`, `stratus.host=port:NAME`.
const HOST: &str = "stratus.host=";
/// Where the later root is made.
const ROOT: &str = "/.root";

/// Whether this is a machine's first process, and not one in namespaces of its own.
pub(crate) fn is_machine() -> bool {
    let is_test = std::env::args().nth(1).is_some_and(|argument| argument.starts_with("unix:"));
    std::process::id() == 1 && !is_test
}

/// Makes of an initramfs a system in which things can run.
pub(crate) fn boot() -> Result<Machine, Failure> {
    if !is_machine() {
        return Err(refused("give the address of a host, or boot a machine with it"));
    }
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_on(kind, target, MountFlags::empty(), "")?;
    }
    let command_line = fs::read_to_string("/proc/cmdline").map_err(failed_io("read", "/proc/cmdline"))?;
    let host = command_line.split_whitespace().find_map(|word| word.strip_prefix(HOST));
    let address = host.map_or(Ok(Address::Vsock(VSOCK_PORT)), Address::parse)?;
    load_modules()?;
    leave_initramfs()?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount_on("tmpfs", "/run", safe, "mode=755")?;
    mount_on("tmpfs", "/tmp", safe, "mode=1777")?;
    mount_on("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, "gid=5,mode=620,ptmxmode=666")?;
    mount_on("tmpfs", "/dev/shm", safe, "mode=1777")?;
    mount_on("mqueue", "/dev/mqueue", safe | MountFlags::NOEXEC, "")?;
    mount_on("cgroup2", guest_protocol::place::CGROUPS, safe | MountFlags::NOEXEC, "")?;
    Ok(Machine { address, is_own: true })
}

/// Mounts a file system of the kernel's own, on a directory that is made if need be.
pub(crate) fn mount_on(kind: &str, target: &str, flags: MountFlags, options: &str) -> Result<(), Failure> {
    fs::create_dir_all(target).map_err(failed_io("make", target))?;
    let options = CString::new(options).map_err(|_| refused(format!("options of {target} with a NUL byte")))?;
    match mount(kind, target, kind, flags, options.as_c_str()) {
        Ok(()) => Ok(()),
        // mqueue may not be there; nothing of ours needs it.
        Err(Errno::NODEV) if kind == "mqueue" => Ok(()),
        Err(errno) => Err(failed("mount", target)(errno)),
    }
}

/// Loads the modules in the order of the list. What is in the initramfs is memory: it goes when it is loaded.
fn load_modules() -> Result<(), Failure> {
    let list = match fs::read_to_string("/modules/list") {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed_io("read", "/modules/list")(error)),
    };
    for line in list.lines().filter(|line| !line.is_empty()) {
        let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let path = Path::new("/modules").join(name);
        let shown = path.display().to_string();
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let parameters = CString::new(parameters).map_err(|_| refused("a module's parameters with a NUL byte"))?;
        file.and_then(|file| sys::load_module(file.as_fd(), &parameters)).map_err(failed("load", shown))?;
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Goes on in a file system that lies upon the initramfs, whose root can't be pivoted away from (pivot_root(2)).
fn leave_initramfs() -> Result<(), Failure> {
    mount_on("tmpfs", ROOT, MountFlags::empty(), "mode=755,size=16m")?;
    for directory in ["/proc", "/sys", "/dev"] {
        let target = format!("{ROOT}{directory}");
        fs::create_dir_all(&target).map_err(failed_io("make", &target))?;
        mount_move(directory, target.as_str()).map_err(failed("move", directory))?;
    }
    let go = || {
        rustix::process::chdir(ROOT)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    go().map_err(failed("change the root to", ROOT))
}

/// Ends the machine. Returns only where that was refused.
pub(crate) fn end(how: End) -> Result<(), Failure> {
    sys::reboot(how).map_err(failed("end", "the machine"))?;
    loop {
        std::thread::park();
    }
}
