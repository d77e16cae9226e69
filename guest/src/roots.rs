//! Containers' root file systems, what is mounted into them, and their control groups.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use guest_protocol::configuration::{File, Lower, Root, Upper};
use guest_protocol::message::{ContainerId, Failure};
use guest_protocol::place;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};

use crate::files::Trees;
use crate::layers::{LAYERS, Layers};
use crate::{disks, failed, failed_io, plain, refused, sys, volumes};

/// `mount(2)` takes its options in one page.
const OPTIONS_MAX: usize = 4095;
/// How long processes may take to be stopped.
const FREEZES: Duration = Duration::from_secs(10);
/// How long what is killed may take to end. Nothing else is done meanwhile; what is left after that is asked for again.
const ENDS: Duration = Duration::from_secs(2);
/// What a container may be limited by.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// What was made.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    made: BTreeMap<ContainerId, Root>,
    /// Of these something is there, which could neither be made whole nor taken away.
    half: BTreeMap<ContainerId, Root>,
    layers: Layers,
}

impl Roots {
    /// Makes a container's root, unless it is made. Those of its volumes that come and go are there.
    pub(crate) fn make(&mut self, root: &Root) -> Result<(), Failure> {
        if self.is_made(root)? {
            return Ok(());
        }
        let made = self.make_anew(root);
        match &made {
            Ok(()) => {
                self.made.insert(root.container, root.clone());
            }
            // Letting go of its volumes may take long: that has to be asked for.
            Err(_) if volumes::come(root) => self.keep_half(root),
            // What is there of it would stand in the way of another try.
            Err(_) => {
                if self.end(root).and_then(|()| self.undo(root)).is_err() {
                    self.keep_half(root);
                }
            }
        }
        made
    }

    /// Whether a container's root is made.
    ///
    /// # Errors
    /// It can't be: another one is, or a part of one is there.
    pub(crate) fn is_made(&self, root: &Root) -> Result<bool, Failure> {
        if self.half.contains_key(&root.container) {
            return Err(refused(format!("what there is of a root of container {} has to go first", root.container)));
        }
        match self.made.get(&root.container) {
            Some(made) if made == root => Ok(true),
            Some(_) => Err(refused(format!("container {} has another root already", root.container))),
            None => Ok(false),
        }
    }

    /// Something is there of a root that could not be made.
    pub(crate) fn keep_half(&mut self, root: &Root) {
        self.half.insert(root.container, root.clone());
    }

    /// What is there of a container's root, whole or not.
    fn of(&self, container: ContainerId) -> Option<&Root> {
        self.made.get(&container).or_else(|| self.half.get(&container))
    }

    /// Whether a container has something of volumes that come and go.
    pub(crate) fn have_volumes_that_come(&self, container: ContainerId) -> bool {
        self.of(container).is_some_and(volumes::come)
    }

    /// Those of all other containers.
    pub(crate) fn others(&self, container: ContainerId) -> impl Iterator<Item = &Root> {
        self.made.values().chain(self.half.values()).filter(move |other| other.container != container)
    }

    fn make_anew(&mut self, root: &Root) -> Result<(), Failure> {
        make_cgroup(root)?;
        write_files(&root.files)?;
        volumes::make_those_that_stay(root)?;
        let target = place::root(root.container);
        fs::create_dir_all(&target).map_err(failed_io("make", &target))?;
        let (directory, lower) = match &root.lower {
            Lower::Layers { disk, layers } => (LAYERS.to_owned(), self.layers.mount(root.container, disk, layers)?),
            Lower::Directory(path) => (path.clone(), vec![".".to_owned()]),
            Lower::Nothing => (String::new(), Vec::new()),
        };
        let upper = make_upper(root)?;
        match (lower.is_empty(), upper) {
            (true, None) => Err(refused("a root file system of nothing")),
            (true, Some(upper)) => bind(&format!("{upper}/upper"), &target),
            // Nothing lies upon it.
            (false, None) if lower.len() == 1 => {
                bind(&format!("{directory}/{}", lower[0]), &target)?;
                let readonly = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(target.as_str(), readonly, "").map_err(failed("make read-only", &target))
            }
            (false, upper) => mount_overlay(&directory, &lower, upper.as_deref(), &target),
        }
    }

    /// Takes a container's root away, with all that it changed, after the end of what is left in it; none is as good.
    pub(crate) fn remove(&mut self, container: ContainerId) -> Result<(), Failure> {
        self.clear(container)?;
        self.finish(container)
    }

    /// Begins with that: nobody has anything of its volumes any more. Gives what there is of the root.
    pub(crate) fn clear(&self, container: ContainerId) -> Result<Option<Root>, Failure> {
        self.of(container).map(|root| self.end(root).map(|()| root.clone())).transpose()
    }

    /// Ends it, once its volumes were let go of.
    pub(crate) fn finish(&mut self, container: ContainerId) -> Result<(), Failure> {
        let Some(root) = self.of(container).cloned() else { return Ok(()) };
        self.undo(&root)?;
        self.made.remove(&container);
        self.half.remove(&container);
        Ok(())
    }

    /// Ends what is left in a root, and unmounts it.
    fn end(&self, root: &Root) -> Result<(), Failure> {
        let container = root.container;
        end_all(container)?;
        for path in [place::root(container), changes(container)] {
            match unmount(path.as_str(), UnmountFlags::empty()) {
                // It is no mount, or was unmounted by an earlier try.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(failed("unmount", path)(errno)),
            }
        }
        Ok(())
    }

    /// Takes away what there is of a root that is unmounted, as far as it was made.
    fn undo(&mut self, root: &Root) -> Result<(), Failure> {
        let container = root.container;
        let directory = format!("{}/{container}", place::CONTAINERS);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed_io("remove", directory)(error));
            }
            _ => {}
        }
        for file in &root.files {
            // Nobody has it any more.
            let _ = fs::remove_file(place::file(plain(&file.name)?));
        }
        match self.layers.release(container) {
            true => Ok(()),
            false => Err(refused(format!("something has a layer of container {container} open"))),
        }
    }

    /// A container's trees; `init`: its first process, if it runs.
    pub(crate) fn trees(&self, container: ContainerId, init: Option<i32>) -> Result<Trees, Failure> {
        let made =
            self.made.get(&container).ok_or_else(|| Failure::Unknown { what: format!("container {container}") })?;
        let open = |path: &str| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(failed("open", path))
        };
        let root = match init {
            Some(pid) => open(&format!("/proc/{pid}/root"))?,
            None => open(&place::root(container))?,
        };
        let changes: Option<OwnedFd> = match made.upper {
            Upper::Nothing => None,
            Upper::Memory { .. } | Upper::Disk(_) => Some(open(&format!("{}/upper", changes(container)))?),
        };
        Ok(Trees { root, changes })
    }

    /// Unmounts what is on disks, so that nothing of it is left to be repaired.
    pub(crate) fn unmount(&mut self) {
        for container in std::mem::take(&mut self.made).into_keys() {
            let _ = unmount(place::root(container).as_str(), UnmountFlags::DETACH);
            let _ = unmount(changes(container).as_str(), UnmountFlags::empty());
        }
    }
}

/// The directory with a container's upper and work directories.
fn changes(container: ContainerId) -> String {
    format!("{}/{container}/changes", place::CONTAINERS)
}

fn bind(source: &str, target: &str) -> Result<(), Failure> {
    mount_bind_recursive(source, target).map_err(failed("mount", format!("{source} on {target}")))?;
    mount_change(target, MountPropagationFlags::PRIVATE).map_err(failed("set the propagation of", target))
}

/// The file system with what the container changes, ready to be an overlay's.
fn make_upper(root: &Root) -> Result<Option<String>, Failure> {
    let target = changes(root.container);
    match &root.upper {
        Upper::Nothing => return Ok(None),
        Upper::Memory { size } => {
            let options = if *size == 0 { "mode=755".to_owned() } else { format!("mode=755,size={size}") };
            disks::mount_device("changes", &target, "tmpfs", MountFlags::empty(), &options)?;
        }
        Upper::Disk(disk) => {
            let device = format!("/dev/{}", disks::find(disk)?);
            // The host has the blocks of what is deleted back with the journal's next commit.
            disks::mount_device(&device, &target, "ext4", MountFlags::NOATIME, "discard")?;
        }
    }
    for name in ["upper", "work"] {
        let path = format!("{target}/{name}");
        fs::create_dir_all(&path).map_err(failed_io("make", path))?;
    }
    Ok(Some(target))
}

/// By relative names from within the layers' directory: a hundred of them fit into the page that the kernel takes.
fn mount_overlay(directory: &str, lower: &[String], upper: Option<&str>, target: &str) -> Result<(), Failure> {
    // As the host mounts layers, whatever the kernel's defaults are: what is copied of an upper directory is in no form that only the kernel which wrote it understands.
    let mut options = format!("redirect_dir=off,metacopy=off,index=off,lowerdir={}", lower.join(":"));
    if let Some(upper) = upper {
        options += &format!(",upperdir={upper}/upper,workdir={upper}/work");
    }
    if options.len() > OPTIONS_MAX {
        return Err(refused(format!("{} layers: their names don't fit into a page", lower.len())));
    }
    let options = std::ffi::CString::new(options).map_err(|_| refused("a layer's name with a NUL byte"))?;
    rustix::process::chdir(directory).map_err(failed("go to", directory))?;
    let mounted = mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str());
    let back = rustix::process::chdir("/");
    mounted.and(back).map_err(failed("mount the overlay", target))
}

/// Writes files that the host gives, in their place where they are there: whoever has one mounted sees what is new.
pub(crate) fn write_files(files: &[File]) -> Result<(), Failure> {
    fs::create_dir_all(place::FILES).map_err(failed_io("make", place::FILES))?;
    for file in files {
        let path = place::file(plain(&file.name)?);
        fs::write(&path, &file.contents.0).map_err(failed_io("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
            .map_err(failed_io("set the mode of", &path))?;
    }
    Ok(())
}

fn make_cgroup(root: &Root) -> Result<(), Failure> {
    let path = place::cgroup(root.container);
    let parent = Path::new(&path).parent().unwrap_or(Path::new(place::CGROUPS));
    fs::create_dir_all(parent).map_err(failed_io("make", parent.display().to_string()))?;
    for directory in [Path::new(place::CGROUPS), parent] {
        for controller in CONTROLLERS {
            // What the kernel does not have is told when a limit needs it.
            let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    fs::create_dir_all(&path).map_err(failed_io("make", &path))?;
    limit(root.container, &root.limits)
}

/// Writes to files of a container's control group.
pub(crate) fn limit(container: ContainerId, limits: &[(String, String)]) -> Result<(), Failure> {
    let path = place::cgroup(container);
    for (name, value) in limits {
        let file = format!("{path}/{}", plain(name)?);
        fs::write(&file, value).map_err(failed_io("write", format!("{value:?} to {file}")))?;
    }
    Ok(())
}

/// Sends a signal to every process of a container.
pub(crate) fn kill(container: ContainerId, signal: i32) -> Result<(), Failure> {
    let path = place::cgroup(container);
    if signal == libc::SIGKILL && fs::write(format!("{path}/cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    for pid in crate::observe::pids(container)? {
        let _ = sys::kill(pid, signal);
    }
    Ok(())
}

/// Kills all that is left in a container, waits for its end, and takes its control group away.
fn end_all(container: ContainerId) -> Result<(), Failure> {
    let path = place::cgroup(container);
    let end = Instant::now() + ENDS;
    loop {
        match remove_cgroups(Path::new(&path)) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > end => return Err(failed_io("remove", path)(error)),
            Err(_) => {
                let _ = kill(container, libc::SIGKILL);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Removes a control group with those that processes in it made below, as deep as they are.
fn remove_cgroups(path: &Path) -> std::io::Result<()> {
    let (mut found, mut next) = (vec![path.to_owned()], 0);
    while let Some(parent) = found.get(next).cloned() {
        next += 1;
        let below = fs::read_dir(&parent)?.flatten();
        found.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    found.iter().rev().try_for_each(fs::remove_dir)
}

/// Stops a container's processes, or lets them go on; all of them are when it returns.
pub(crate) fn freeze(container: ContainerId, frozen: bool) -> Result<(), Failure> {
    let path = place::cgroup(container);
    let file = format!("{path}/cgroup.freeze");
    fs::write(&file, if frozen { "1" } else { "0" }).map_err(failed_io("write", &file))?;
    let events = format!("{path}/cgroup.events");
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    let end = Instant::now() + FREEZES;
    while !fs::read_to_string(&events).map_err(failed_io("read", &events))?.contains(wanted) {
        if Instant::now() > end {
            return Err(refused(format!("processes of container {container} don't stop: they wait in the kernel")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
