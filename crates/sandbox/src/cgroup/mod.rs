//! Control groups: version 1, version 2, and the hybrid of the two.
//!
//! A [`Cgroup`] is a path; creating the value touches nothing. On version 1 the same path stands in every hierarchy.

mod devices;
mod kill;
mod layout;
#[cfg(feature = "runtime-cli")]
mod processors;
mod stats;
mod v1;
mod v2;

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub use kill::kill_all;
#[cfg(feature = "runtime-cli")]
pub(crate) use layout::unescape;
pub use layout::{Hierarchy, Layout};
#[cfg(feature = "runtime-cli")]
pub(crate) use processors::{Cpuset, Processors};
pub use stats::{CpuStats, HugetlbStats, IoEntry, MemoryStats, PidsStats, Stats, Usage};
#[cfg(feature = "runtime-cli")]
pub(crate) use v2::weight_of_shares;

/// Why a cgroup could not be made, changed, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup file system is mounted, or none is usable.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NotMounted,
    /// A path that is none.
    #[error("cgroup path {0:?}: {1}")]
    Path(String, &'static str),
    /// A limit was asked for whose controller this machine does not have.
    #[error("{field} needs the cgroup controller {controller}, which is not available here")]
    NoController {
        /// The controller.
        controller: &'static str,
        /// The field of the resources.
        field: &'static str,
    },
    /// A value that has no meaning.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the resources.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel refused.
    #[error("{action} {}: {}", path.display(), crate::sync::errno_text(source.raw_os_error().unwrap_or(0)))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A value was refused.
    #[error("write {value:?} to {}: {}", path.display(), crate::sync::errno_text(source.raw_os_error().unwrap_or(0)))]
    Write {
        /// The value.
        value: String,
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The device filter was refused.
    #[error("{0} the device filter: {1}")]
    DeviceFilter(&'static str, rustix::io::Errno),
    /// Processes did not freeze, or did not go, within the time given to them.
    #[error("cgroup {}: {what}", path.display())]
    Stuck {
        /// Which cgroup.
        path: PathBuf,
        /// What did not happen.
        what: &'static str,
    },
}

/// Why processes are stuck that were to stop, or to go on.
const DO_NOT_FREEZE: &str = "its processes do not freeze, and go on: one of them waits for the kernel, as for a file system that does not answer";
const DO_NOT_THAW: &str = "its processes do not thaw";

impl CgroupError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

type Result<T> = std::result::Result<T, CgroupError>;

/// Where a new process is placed: plain data, for the process that clones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    v2: Option<CString>,
    v1: Vec<V1Place>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct V1Place {
    name: String,
    directory: CString,
    /// `tasks`, not `cgroup.procs`: a thread that moves itself alone needs no lock on all processes of the machine (since
    /// Linux 5.16), which a writer gets only after an RCU grace period of 7 ms. The new process has but one thread.
    tasks: CString,
}

impl Placement {
    /// A place in the unified hierarchy of another machine, of which nothing can be looked up here: the directory's path there.
    ///
    /// # Errors
    /// A path with a NUL byte.
    pub fn unified_at(directory: &Path) -> Result<Self> {
        let path = CString::new(directory.as_os_str().as_bytes());
        let path = path.map_err(|_| CgroupError::Path(directory.display().to_string(), "contains a NUL byte"))?;
        Ok(Self { v2: Some(path), v1: Vec::new() })
    }

    /// Whether it is a place in the unified hierarchy and in no other.
    pub(crate) fn is_unified(&self) -> bool {
        self.v2.is_some() && self.v1.is_empty()
    }

    /// The directory for `CLONE_INTO_CGROUP`.
    pub(crate) fn unified(&self) -> Option<&CStr> {
        self.v2.as_deref()
    }

    pub(crate) fn v1_directory(&self, hierarchy: &str) -> Option<&CStr> {
        self.v1.iter().find(|place| place.name == hierarchy).map(|place| place.directory.as_c_str())
    }

    pub(crate) fn v1_tasks(&self) -> impl Iterator<Item = &CStr> {
        self.v1.iter().map(|place| place.tasks.as_c_str())
    }
}

/// One cgroup, in all hierarchies.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: &'static Layout,
    /// Absolute within each hierarchy, without `.` and `..`.
    path: String,
}

impl Cgroup {
    /// The cgroup at `path` below the mount points, in the form of cgroupfs (`/group/name`) or of systemd
    /// (`parent.slice:prefix:name`, which stands for `/parent.slice/prefix-name.scope`).
    pub fn new(path: &str) -> Result<Self> {
        Ok(Self { layout: Layout::detect()?, path: normal(path)? })
    }

    /// The path within each hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Creates it (and its parents) and sets its limits. Where it exists already, only the limits are set.
    ///
    /// On failure what was created is removed again.
    pub fn create(&self, resources: &LinuxResources) -> Result<()> {
        let made = self.make(resources).and_then(|()| self.apply(resources, true));
        if made.is_err() {
            // The first error says what is wrong; a second one would not add to it.
            let _ = self.delete();
        }
        made
    }

    fn make(&self, resources: &LinuxResources) -> Result<()> {
        match self.layout.v2() {
            Some(mount) if self.layout.is_unified() || has_unified(resources) => v2::make(mount, &self.path)?,
            // In the hybrid layout the controllers are in the v1 hierarchies. The v2 tree has `cgroup.kill`, and a cgroup
            // namespace its root; where it can't be written to, all else works without.
            Some(mount) => _ = v2::make_without_controllers(mount, &self.path),
            None => {}
        }
        for hierarchy in self.layout.v1() {
            v1::make(hierarchy, &self.path)?;
        }
        Ok(())
    }

    /// Changes limits while processes run. What `resources` leaves out stays as it is.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.apply(resources, false)
    }

    fn apply(&self, resources: &LinuxResources, new: bool) -> Result<()> {
        if self.layout.is_unified() {
            let mount = self.layout.v2().ok_or(CgroupError::NotMounted)?;
            return v2::apply(&below(mount, &self.path), resources, new);
        }
        v1::apply(self.layout, &self.path, resources, new)?;
        if let Some(mount) = self.layout.v2().filter(|_| has_unified(resources)) {
            v2::apply_unified(&below(mount, &self.path), resources)?;
        }
        Ok(())
    }

    /// What the process that clones needs to know.
    pub fn placement(&self) -> Result<Placement> {
        let text = |path: PathBuf| {
            CString::new(path.as_os_str().as_bytes())
                .map_err(|_| CgroupError::Path(self.path.clone(), "contains a NUL byte"))
        };
        let v2 = match self.layout.v2().map(|mount| below(mount, &self.path)) {
            Some(directory) if self.layout.is_unified() || directory.is_dir() => Some(text(directory)?),
            _ => None,
        };
        let mut v1 = Vec::new();
        for hierarchy in self.layout.v1() {
            let directory = below(hierarchy.mount_point(), &self.path);
            v1.push(V1Place {
                name: hierarchy.name().to_owned(),
                tasks: text(directory.join("tasks"))?,
                directory: text(directory)?,
            });
        }
        Ok(Placement { v2, v1 })
    }

    /// The directory in the v2 tree or in the hierarchy of a v1 controller.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        if self.layout.is_unified() {
            return self.layout.v2().map(|mount| below(mount, &self.path));
        }
        self.layout.hierarchy(controller).map(|hierarchy| below(hierarchy.mount_point(), &self.path))
    }

    /// Every directory that this cgroup has, by hierarchy; the v2 tree under the empty name.
    pub fn directories(&self) -> Vec<(String, PathBuf)> {
        let v1 = self.layout.v1().iter().flat_map(|hierarchy| {
            let directory = below(hierarchy.mount_point(), &self.path);
            hierarchy.controllers().iter().map(move |controller| (controller.clone(), directory.clone()))
        });
        let v2 = self.layout.v2().map(|mount| (String::new(), below(mount, &self.path)));
        v1.chain(v2).filter(|(_, directory)| directory.is_dir()).collect()
    }

    /// Whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.roots().iter().any(|root| below(root, &self.path).is_dir())
    }

    fn roots(&self) -> Vec<&Path> {
        self.layout.v1().iter().map(Hierarchy::mount_point).chain(self.layout.v2()).collect()
    }

    /// What it has used and may use.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(self.layout, &self.path)
    }

    /// Which processors it may use, and what it used of each.
    #[cfg(feature = "runtime-cli")]
    pub(crate) fn processors(&self) -> Processors {
        Processors::read(self.layout, &self.path)
    }

    /// What a bill says of it.
    pub fn usage(&self) -> Result<Usage> {
        stats::usage(self.layout, &self.path)
    }

    /// How many processes the kernel has killed here for want of memory.
    pub fn oom_kills(&self) -> Result<u64> {
        stats::oom_kills(self.layout, &self.path)
    }

    /// A descriptor that becomes readable (v1: an eventfd; v2: an inotify watch of `memory.events`) when memory runs
    /// out; [`oom_kills`](Self::oom_kills) then tells whether something was killed. `None` without memory controller.
    pub fn oom_watch(&self) -> Result<Option<OwnedFd>> {
        match self.directory("memory") {
            None => Ok(None),
            Some(directory) if self.layout.is_unified() => v2::oom_watch(&directory).map(Some),
            Some(directory) => v1::oom_watch(&directory).map(Some),
        }
    }

    /// Stops every process until [`thaw`](Self::thaw). Returns when all have stopped. Where one does not within some seconds, all go on.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets frozen processes run on.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        let directory = self.directory("freezer").ok_or(CgroupError::NoController {
            controller: "freezer",
            field: if frozen { "pause" } else { "resume" },
        })?;
        match self.layout.v2() {
            Some(mount) if self.layout.is_unified() => v2::set_frozen(mount, &directory, frozen),
            _ => v1::set_frozen(&directory, frozen),
        }
    }

    /// Whether it is frozen. False where there is no freezer, or no such cgroup.
    pub fn is_frozen(&self) -> bool {
        let Some(directory) = self.directory("freezer") else { return false };
        if self.layout.is_unified() { v2::is_frozen(&directory) } else { v1::is_frozen(&directory) }
    }

    /// The processes in it and below it, as seen from the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let known = self.roots().into_iter().map(|root| below(root, &self.path)).find(|directory| directory.is_dir());
        known.map_or(Ok(Vec::new()), |directory| kill::members(&directory))
    }

    /// Sends a signal to every process in it. With `SIGKILL`, processes that fork meanwhile are found again: nothing survives
    /// the call, though the last ones may still be ending when it returns, and what is frozen thaws on version 1, where it
    /// would not end otherwise.
    pub fn kill(&self, signal: i32) -> Result<()> {
        for directory in self.kill_directories() {
            match signal {
                libc::SIGKILL => kill_all(&directory)?,
                _ => return kill::signal_each(&directory, signal, |_| {}),
            }
        }
        Ok(())
    }

    /// Those of its directories that are enough to kill everything in it by [`kill_all`]: the v2 tree's, where all end at once, and of the
    /// v1 hierarchies the freezer's, where what is frozen has to thaw. Both, as a process may have been moved within one hierarchy.
    pub fn kill_directories(&self) -> Vec<PathBuf> {
        let v1 = self.layout.hierarchy("freezer").or(self.layout.v1().first()).map(Hierarchy::mount_point);
        let both = self.layout.v2().into_iter().chain(v1).map(|mount| below(mount, &self.path));
        both.filter(|directory| directory.is_dir()).collect()
    }

    /// Removes it and every cgroup below it, in all hierarchies. Its processes must have ended, or be ending: those
    /// are waited for a little. A cgroup that is not there is removed already.
    pub fn delete(&self) -> Result<()> {
        self.roots().into_iter().try_for_each(|root| remove_tree(&below(root, &self.path)))
    }
}

/// Removes every cgroup below `parent` (an instance's own, such as `/stratus-xyz`) with all that runs in them, and
/// `parent` itself.
pub fn clean(parent: &str) -> Result<()> {
    let group = Cgroup::new(parent)?;
    if group.path == "/" {
        return Err(CgroupError::Path(parent.to_owned(), "the root cgroup can't be cleaned"));
    }
    if !group.exists() {
        return Ok(());
    }
    let until = Instant::now() + CLEANED_WITHIN;
    loop {
        group.kill(libc::SIGKILL)?;
        match group.delete() {
            Err(CgroupError::Io { source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {}
            other => return other,
        }
    }
}

/// What is killed ends by itself. A machine's process has much memory to give back before, and a busy host other things to do.
const CLEANED_WITHIN: Duration = Duration::from_secs(30);

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn remove_tree(directory: &Path) -> Result<()> {
    // Most often it is a leaf without processes: one call.
    const ATTEMPTS: u32 = 100;
    for attempt in 0..ATTEMPTS {
        match fs::remove_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempt + 1 < ATTEMPTS => {
                for child in children(directory) {
                    remove_tree(&child)?;
                }
                // A process that has been reaped may hold its cgroup for a moment; there is no event for it on v1.
                if attempt > 0 {
                    std::thread::sleep(Duration::from_millis(u64::from(attempt.min(20))));
                }
            }
            Err(error) => return Err(CgroupError::io("remove cgroup", directory)(error)),
        }
    }
    Ok(())
}

/// Whether there are settings for files of the v2 tree.
fn has_unified(resources: &LinuxResources) -> bool {
    resources.unified().as_ref().is_some_and(|settings| !settings.is_empty())
}

/// `mount` + an absolute path within it.
fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn normal(path: &str) -> Result<String> {
    if path.contains('\0') {
        return Err(CgroupError::Path(path.to_owned(), "contains a NUL byte"));
    }
    let expanded = match path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] if !path.contains('/') => systemd(path, slice, prefix, name)?,
        _ => path.to_owned(),
    };
    let mut parts = Vec::new();
    for part in expanded.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(CgroupError::Path(path.to_owned(), "must not contain .."));
        }
        parts.push(part);
    }
    Ok(format!("/{}", parts.join("/")))
}

/// `a-b.slice:prefix:name` is `/a.slice/a-b.slice/prefix-name.scope`, as systemd nests slices by their names.
fn systemd(path: &str, slice: &str, prefix: &str, name: &str) -> Result<String> {
    let mut expanded = String::new();
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let Some(stem) = slice.strip_suffix(".slice") else {
        return Err(CgroupError::Path(path.to_owned(), "the part before the first colon must end in .slice"));
    };
    if stem != "-" {
        if stem.split('-').any(str::is_empty) {
            return Err(CgroupError::Path(path.to_owned(), "is not the name of a slice"));
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        for end in ends {
            expanded += &format!("/{}.slice", &stem[..end]);
        }
    }
    let unit = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}-{name}") };
    let suffix = if unit.ends_with(".slice") { "" } else { ".scope" };
    Ok(format!("{expanded}/{unit}{suffix}"))
}

/// Writes one value to one file of a cgroup.
fn write(directory: &Path, file: &str, value: &str) -> Result<()> {
    write_each(directory, file, [value])
}

/// Writes values one after the other, as the kernel takes one at a time, into a file that is opened once.
fn write_each<'v>(directory: &Path, file: &str, values: impl IntoIterator<Item = &'v str>) -> Result<()> {
    let path = directory.join(file);
    let failed = |value: &str| {
        let (value, path) = (value.to_owned(), path.clone());
        move |source| CgroupError::Write { value, path, source }
    };
    let mut values = values.into_iter().peekable();
    let Some(first) = values.peek() else { return Ok(()) };
    // No O_CREAT: a file that is not there is a controller that is not there.
    let mut file = fs::OpenOptions::new().write(true).open(&path).map_err(failed(first))?;
    values.try_for_each(|value| file.write_all(value.as_bytes()).map_err(failed(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_of_both_styles() {
        assert_eq!(normal("/stratus/a").unwrap(), "/stratus/a");
        assert_eq!(normal("a//b/./c").unwrap(), "/a/b/c");
        assert_eq!(normal("a-b.slice:stratus:x").unwrap(), "/a.slice/a-b.slice/stratus-x.scope");
        assert_eq!(normal(":stratus:x").unwrap(), "/system.slice/stratus-x.scope");
        assert!(normal("/a/../b").is_err());
        assert!(normal("a:b:c").is_err());
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_tree(path in "[a-z./:\\-]{0,24}") {
            if let Ok(path) = normal(&path) {
                prop_assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."));
            }
        }
    }
}
