//! Block devices: found, and mounted.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::configuration::Disk;
use guest_protocol::message::Failure;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};

use crate::{failed, failed_io, refused};

/// How long a device may take to be there: the kernel looks for devices beside everything else.
const APPEARS: Duration = Duration::from_secs(5);

/// Tries until something is there.
pub(crate) fn wait_for<T>(what: impl Fn() -> String, mut find: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    let end = Instant::now() + APPEARS;
    loop {
        if let Some(found) = find() {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(Failure::Unknown { what: what() });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The device's name, as in `/dev` and `/sys/block`.
pub(crate) fn find(disk: &Disk) -> Result<String, Failure> {
    let is_it = |name: &str| match disk {
        Disk::Name(wanted) => name == wanted,
        Disk::Serial(wanted) => {
            fs::read_to_string(format!("/sys/block/{name}/serial")).is_ok_and(|serial| serial.trim_end() == wanted)
        }
    };
    let look = || {
        let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        names.filter_map(|entry| entry.file_name().into_string().ok()).find(|name| is_it(name))
    };
    wait_for(|| format!("disk {disk:?}"), look)
}

/// Mounts a device on a directory that is made.
pub(crate) fn mount_device(
    source: &str,
    target: &str,
    kind: &str,
    flags: MountFlags,
    options: &str,
) -> Result<(), Failure> {
    fs::create_dir_all(target).map_err(failed_io("make", target))?;
    let options = CString::new(options).map_err(|_| refused(format!("options of {target} with a NUL byte")))?;
    mount(source, target, kind, flags, options.as_c_str())
        .map_err(failed("mount", format!("{source} as {kind} on {target}")))
}

/// Whether something is mounted there: its device is another one than its parent's.
pub(crate) fn is_mounted(path: &str) -> bool {
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
    let path = Path::new(path);
    let above = path.parent().unwrap_or(path);
    matches!((device(path), device(above)), (Ok(here), Ok(there)) if here != there)
}

/// Everything of one file system is where it belongs when this returns, as far as it can be.
pub(crate) fn sync_one(directory: &str) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let _ = rustix::fs::open(directory, flags, Mode::empty()).and_then(rustix::fs::syncfs);
}

/// Everything is on the disks when this returns.
pub(crate) fn sync() {
    rustix::fs::sync();
}
