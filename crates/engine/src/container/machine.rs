//! Containers in microVMs: what the keeper holds is the machine's process, and what was the container's own is done in the machine.
//!
//! Everything about a run that is not said here is as for any container.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guest_protocol::configuration::{
    Disk, Found, Identity as MachineIdentity, Interface, Lower, Machine, Root, Route, Upper,
};
use guest_protocol::message::{Blob, ContainerId as GuestContainer, Failure, Request};
use guest_protocol::place;
use image::{Digest, ErofsLayer};
use microvm::container::{CONTAINER, Host, OwnFiles, USER, at};
use microvm::control::{Connection, ConnectionError};
use microvm::driver::{Driver, Lack};
use microvm::{Backing, Card, Contained, Hardware, MachinePlan, Origin, Processor, Volumes, Workload};
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use sandbox::cgroup::Placement;
use sandbox::plan::NamespaceKind;
use sandbox::{CompileOptions, InitPlan, MountTree, RootFs};

use super::Container;
use super::machine_limits::{self, NetworkLimits};
use super::machine_network::{Seats, networks};
use super::member::Inside;
use super::placement::Placed;
use super::template::{self, Templates, Wanted};
use crate::model::{ContainerId, ContainerRecord, Phase, SnapshotRecord, Timestamp, Within};
use crate::snapshots::Held;
use crate::templates::{Shape, Template};
use crate::{Engine, Error, Result};

/// The annotation that has a machine's kernel write what it has to say to the container's standard error.
pub(super) const CONSOLE: &str = "stratus.microvm.console";
/// The annotation that says how the memory of a snapshot gets into a machine: `mapped` or `faulted`.
pub(super) const BACKING: &str = "stratus.microvm.memory";

/// What a machine is booted from.
pub(super) struct Booted {
    pub(super) kernel: guest_image::Prepared,
    /// The lowest first. Held until the machine's process has them.
    pub(super) layers: Vec<BootedLayer>,
    /// The snapshot that it goes on from instead. Held likewise.
    pub(super) origin: Option<Held>,
    /// Its directories, the first one of those that it is a difference to first.
    pub(super) snapshots: Vec<PathBuf>,
    /// Whether it may go on from a template.
    pub(super) templates: Templates,
}

/// A layer, as an EROFS file.
pub(super) struct BootedLayer {
    path: PathBuf,
    /// One of an image, which stays meanwhile.
    _held: Option<ErofsLayer>,
}

impl BootedLayer {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where a machine begins.
pub(super) enum Beginning<'b> {
    /// It boots; the template that others like it could go on from.
    Boot(Option<Box<Wanted>>),
    /// It goes on from a template of its shape.
    Template(Arc<Template>),
    /// It goes on from a snapshot of its container, or of one that it is a copy of.
    Snapshot(&'b SnapshotRecord),
}

impl Beginning<'_> {
    /// The directories of what it goes on from, the first one of those that it is a difference to first.
    pub(super) fn directories(&self, booted: &Booted) -> Vec<PathBuf> {
        match self {
            Self::Boot(_) => Vec::new(),
            Self::Template(template) => vec![template.directory.clone()],
            Self::Snapshot(_) => booted.snapshots.clone(),
        }
    }
}

/// The annotation that says what kind of processors a machine has.
pub(super) const PROCESSOR: &str = "stratus.microvm.processor";

/// The name of the control socket in its directory ([`at::SOCKET`]).
const SOCKET: &str = "socket";

/// Bytes of a control directory at most: the socket, and requests of further processes until they are read, of some KB each.
const CONTROL_SIZE: u64 = 4 << 20;
/// Files in it at most.
const CONTROL_FILES: u32 = 512;

/// A plan for the keeper, and what goes with it.
pub(super) struct MachineStart {
    pub(super) plan: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
    pub(super) directories: Vec<PathBuf>,
    /// What it goes on from, if that is a template.
    pub(super) template: Option<Arc<Template>>,
    /// The template to be made once it runs, if there is one to be made.
    pub(super) wanted: Option<Box<Wanted>>,
    /// The machine of another container that it comes into, if it has none of its own.
    pub(super) within: Option<Within>,
    /// Where what it touches of what it goes on from is to be kept, if that is not known yet.
    pub(super) untold: Option<PathBuf>,
    /// What keeps its volumes served in the machine that it comes into, until it is there.
    pub(super) keeps: Option<Connection>,
}

impl MachineStart {
    /// With what comes of where the machine begins.
    pub(super) fn begun_by(self, beginning: Beginning<'_>) -> Self {
        match beginning {
            Beginning::Boot(wanted) => Self { wanted, ..self },
            Beginning::Template(template) => Self { template: Some(template), ..self },
            Beginning::Snapshot(_) => self,
        }
    }
}

impl Engine {
    /// What a container's machine is booted from; `None`: it is no machine. Layers that no machine has had yet are written as EROFS files.
    pub(super) async fn booted(&self, record: &ContainerRecord, templates: Templates) -> Result<Option<Booted>> {
        if !record.is_machine() {
            return Ok(None);
        }
        let (directory, engine) = (self.0.config.machines.directory.clone(), self.clone());
        let kernel = crate::blocking(move || {
            // Who has nothing to run a machine by needs no kernel either.
            engine.machine_driver()?;
            guest_image::prepared(&directory).map_err(|error| Error::system(error.to_string()))
        });
        let kernel = kernel.await?.ok_or_else(|| {
            Error::not_implemented(format!(
                "there is no kernel for microVMs yet: have one made by `stratus microvm kernel --fetch --data-dir {}`",
                self.0.config.data_dir.display()
            ))
        })?;
        let id = record.image_id.parse().map_err(|_| Error::system("the container has no image"))?;
        let mut layers = Vec::new();
        for diff_id in once(self.0.images.layers(&id).map_err(crate::images::error)?.into_iter().map(|it| it.diff_id)) {
            let layer = self.0.images.erofs(&diff_id).await.map_err(crate::images::error)?;
            layers.push(BootedLayer { path: layer.path().to_owned(), _held: Some(layer) });
        }
        let origin = record.state.suspended.as_ref().map(|id| self.0.snapshots.hold(id)).transpose()?;
        let copied = match &origin {
            Some(origin) => self.saved_layer(origin.record()),
            None => {
                let (engine, record) = (self.clone(), record.clone());
                crate::blocking(move || engine.copied_layer(&record)).await?
            }
        };
        layers.extend(copied.map(|path| BootedLayer { path, _held: None }));
        let snapshots = origin.as_ref().map(|held| self.0.snapshots.directories(&held.record().id)).unwrap_or_default();
        Ok(Some(Booted { kernel, layers, origin, snapshots, templates }))
    }

    /// Makes the plan of a machine's process of a container's specification. Blocks.
    pub(super) fn machine_start(
        &self,
        record: &ContainerRecord,
        spec: &Spec,
        trees: BTreeMap<PathBuf, MountTree>,
        booted: &Booted,
        network: Option<(net::NetNs, &net::Sandbox)>,
    ) -> Result<MachineStart> {
        let not_behind = |what: &str| Err(refused(microvm::Error::NotBehind { what: what.to_owned() }));
        if !record.host.resources.device_cgroup_rules.is_empty() {
            return not_behind("a rule for devices of the host");
        }
        let own = self.container_dir(&record.id);
        let files = OwnFiles { own: &own, first: None, container: CONTAINER };
        let inside = microvm::container::inside(spec.clone(), files, &trees);
        let inside = inside.map_err(refused)?;
        let trees = inside.volumes.moved(trees);
        let origin = booted.origin.as_ref().map(Held::record);
        let (vcpus, wanted) = microvm::container::size(spec).map_err(refused)?;
        let (vcpus, memory, most_memory) = match origin {
            Some(origin) => (origin.vcpus, origin.memory, origin.most_memory.unwrap_or(origin.memory)),
            None => (vcpus, wanted, microvm::container::most(wanted, crate::system::total_memory())),
        };
        let (namespace, sandbox) = network.unzip();
        let interfaces = sandbox.map(net::Sandbox::guest_interfaces).unwrap_or_default();
        let driver = self.machine_driver()?;
        if let Some(origin) = origin {
            fits(origin, &driver, &interfaces)?;
        }
        let seats = Seats::of(origin.map(|origin| &**origin), &networks(sandbox));
        if let Some(origin) = origin {
            self.bring_back(record, origin)?;
        }
        let disk = self.disk(record)?;
        let limits = NetworkLimits::of(&record.host.annotations)?;
        let hardware = Hardware {
            vcpus,
            processor: match origin {
                Some(origin) => origin.processor,
                None => self.processor(record)?,
            },
            memory,
            most_memory,
            kernel: at::KERNEL.into(),
            initramfs: at::INITRAMFS.into(),
            layers: (0..booted.layers.len()).map(at::layer).collect(),
            upper: disk.as_ref().map(|_| at::UPPER.into()),
            limits: machine_limits::of_disks(&record.host.annotations)?,
            cards: match origin {
                Some(origin) => seats.seated(origin, &interfaces, limits),
                None => microvm::places(interfaces.iter().map(|interface| card(interface, limits))),
            },
            volumes: (!inside.volumes.is_empty()).then(|| at::VOLUMES.into()),
            files_place: origin.is_none_or(|origin| origin.files_place),
            console: record.host.annotations.get(CONSOLE).is_some_and(|value| value == "true"),
        };
        let beginning = match origin {
            Some(origin) => Beginning::Snapshot(origin),
            None => self.beginning(&driver, &hardware, super::disk::size(&record.host)?, booted)?,
        };
        let origin = origin_of(&beginning, booted);
        let plan = MachinePlan {
            driver: driver.clone(),
            backing: if origin.is_some() { backing(record)? } else { Backing::Mapped },
            origin,
            container: Some(Contained {
                configuration: configuration(record, &inside, &interfaces, &beginning, &seats),
                root: root(&inside, CONTAINER, disk.is_some()),
                workload: Some(Workload {
                    plan: Blob(workload(
                        record,
                        &inside.spec,
                        record.host.init.unwrap_or(self.0.config.init),
                        CONTAINER,
                    )?),
                    terminal: record.config.tty,
                    stdin: record.config.open_stdin,
                }),
                memory: wanted,
            }),
            hardware,
            start_timeout: self.0.config.machines.start_timeout,
            control: at::SOCKET.into(),
            scratch: at::SCRATCH.into(),
        };
        let directory = self.machine_dir(&record.id);
        let snapshots = beginning.directories(booted);
        let host = self.write_machine(&directory, &plan, booted, snapshots, inside.volumes)?;
        let host = Host { upper: disk, ..host };
        let untold = super::touched::untold(&plan, &host);
        let outside = microvm::container::outside(Some(spec), &driver, &host).map_err(refused)?;
        let cgroup = self.0.placements.create(record, &outside)?;
        let start = self.machine_process(&outside, &directory, cgroup, trees, namespace)?;
        Ok(MachineStart { untold, ..start }.begun_by(beginning))
    }

    /// What kind of processors a container's machine has.
    ///
    /// # Errors
    /// Its annotation names one that there is not.
    fn processor(&self, record: &ContainerRecord) -> Result<Processor> {
        let Some(name) = record.host.annotations.get(PROCESSOR) else { return Ok(self.0.config.machines.processor) };
        Processor::parse(name).ok_or_else(|| {
            let names = Processor::ALL.map(Processor::name).join(", ");
            Error::invalid(format!("the annotation {PROCESSOR}={name} is to be one of {names}"))
        })
    }

    /// Whether a machine that goes on from no snapshot boots. The disk that it writes to has so many bytes.
    pub(super) fn beginning(
        &self,
        driver: &Driver,
        hardware: &Hardware,
        disk: Option<u64>,
        booted: &Booted,
    ) -> Result<Beginning<'static>> {
        // A template says nothing on a console. Whose volumes it serves is seen by who mounts them, and what is on its disk by who mounts that.
        let is_more = hardware.volumes.is_some() && !driver.saves_volumes() || hardware.console;
        if is_more || !self.0.config.machines.templates {
            return Ok(Beginning::Boot(None));
        }
        let shape = Shape::new(self.machine_programs()?, driver, &booted.kernel, hardware, disk)?;
        let template = match booted.templates {
            Templates::Used => self.0.templates.find(&shape)?,
            Templates::Not => None,
        };
        Ok(match template {
            Some(template) => Beginning::Template(template),
            None => Beginning::Boot(Some(Box::new(Wanted { shape, kernel: booted.kernel.clone() }))),
        })
    }

    /// Makes the keeper's plan of a machine's process, which is in a network namespace that is there, or in one of its own.
    pub(super) fn machine_process(
        &self,
        outside: &Spec,
        directory: &Path,
        cgroup: Placed,
        trees: BTreeMap<PathBuf, MountTree>,
        namespace: Option<net::NetNs>,
    ) -> Result<MachineStart> {
        let mut options = CompileOptions {
            rootfs: Some(RootFs::Path(directory.join("root"))),
            cgroup: Some(cgroup.placement),
            program_reports: true,
            trees,
            ..CompileOptions::default()
        };
        let mut descriptors = Vec::new();
        if let Some(namespace) = namespace {
            options.namespace_fds.push((NamespaceKind::Network, 0));
            descriptors.push(namespace.into());
        }
        let plan =
            InitPlan::compile(outside, directory, &options).map_err(|error| Error::invalid(error.to_string()))?;
        let opened = sandbox::open_trees(&plan);
        descriptors.extend(
            opened.map_err(|error| Error::system(format!("{}: {error}", crate::link::STEPS)).with_exit_code(128))?,
        );
        let plan = plan.to_bytes().map_err(|error| Error::system(error.to_string()))?;
        Ok(MachineStart {
            plan,
            descriptors,
            directories: cgroup.directories,
            template: None,
            wanted: None,
            within: None,
            untold: None,
            keeps: None,
        })
    }

    /// The programs of a machine's process and of its file server.
    pub(super) fn machine_programs(&self) -> Result<[&Path; 2]> {
        Ok([self.0.machine_program.path()?, &self.0.config.program])
    }

    /// By what machines are run here, looked for once. Blocks the first time, for some milliseconds.
    pub(crate) fn driver_of_machines(&self) -> std::result::Result<&Driver, &Lack> {
        self.0.machine_driver.get_or_init(|| self.0.config.machines.driver.driver()).as_ref()
    }

    pub(super) fn machine_driver(&self) -> Result<Driver> {
        self.driver_of_machines().cloned().map_err(|lack| Error::not_implemented(lack.to_string()))
    }

    /// Where the files of a container's machine are. The name is short, as the path of a socket may have 108 bytes.
    pub(super) fn machine_dir(&self, id: &ContainerId) -> PathBuf {
        self.0.config.run_dir.join("machines").join(id.short())
    }

    /// Writes what a machine's process reads, and makes the directories that it sees.
    pub(super) fn write_machine(
        &self,
        directory: &Path,
        plan: &MachinePlan,
        booted: &Booted,
        snapshots: Vec<PathBuf>,
        volumes: Volumes,
    ) -> Result<Host> {
        let (file, control) = self.machine_files(directory, &plan.to_bytes().map_err(refused)?)?;
        let [program, file_server] = self.machine_programs()?;
        Ok(Host {
            program: program.to_owned(),
            file_server: file_server.to_owned(),
            plan: file,
            control,
            kernel: booted.kernel.kernel.clone(),
            initramfs: booted.kernel.initramfs.clone(),
            layers: booted.layers.iter().map(|layer| layer.path().to_owned()).collect(),
            snapshots,
            upper: None,
            volumes: plan.hardware.volumes.is_some().then_some(volumes),
            most_memory: plan.hardware.most_memory,
            faults: plan.faults(),
        })
    }

    /// Makes the directory of a machine's process, or of one that stands for a container in a machine: where its plan is then, and the directory that belongs to it.
    pub(super) fn machine_files(&self, directory: &Path, plan: &[u8]) -> Result<(PathBuf, PathBuf)> {
        let failed = |what: &'static str| {
            let on = directory.display().to_string();
            move |error: std::io::Error| Error::system(format!("{what} {on}: {error}"))
        };
        let control = directory.join("control");
        // What an earlier run has left.
        remove_directory(directory).map_err(failed("remove"))?;
        // Nobody but root: the plan has the container's environment. The machine's process has it mounted.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make"))?;
        fs::create_dir(directory.join("root")).map_err(failed("make the root directory in"))?;
        fs::create_dir(&control).map_err(failed("make the control directory in"))?;
        mount_control(&control).map_err(|errno| failed("mount the control directory in")(errno.into()))?;
        let file = directory.join("plan");
        fs::write(&file, plan).map_err(failed("write the plan in"))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).map_err(failed("write the plan in"))?;
        Ok((file, control))
    }

    /// Whether a container's machine went on after it was saved.
    pub(super) fn went_on(&self, id: &ContainerId) -> bool {
        self.left_word(id, microvm::WENT_ON)
    }

    /// Whether a container's machine says that something in it was killed for want of memory. Without a machine there is nobody to say so.
    pub(super) fn oom_killed_inside(&self, id: &ContainerId) -> bool {
        self.left_word(id, microvm::OOM_KILLED)
    }

    /// Whether it was a container's machine that ended, and not its process.
    pub(super) fn lost_its_machine(&self, id: &ContainerId) -> bool {
        self.left_word(id, microvm::LOST)
    }

    /// A machine says some things by files beside its control socket, of which only the names are looked at.
    fn left_word(&self, id: &ContainerId, name: &str) -> bool {
        fs::symlink_metadata(self.machine_dir(id).join("control").join(name)).is_ok()
    }

    /// A connection to the machine that a container is in, and its number there; answers are waited for as long as they may take. Blocks.
    pub(super) fn machine_of(&self, record: &ContainerRecord) -> Result<(Connection, GuestContainer)> {
        let Inside { owner, number } = self.inside(record)?;
        Ok((self.machine_connection(&owner)?, number))
    }

    /// A connection to a container's machine, whose answers are waited for as long as they may take. Blocks.
    pub(super) fn machine_connection(&self, id: &ContainerId) -> Result<Connection> {
        self.patient_connection(id, microvm::control::PATIENCE)
    }

    /// As [`machine_connection`](Self::machine_connection), with answers that are waited for no longer than that.
    pub(super) fn patient_connection(&self, id: &ContainerId, patience: Duration) -> Result<Connection> {
        let path = self.machine_dir(id).join("control").join(SOCKET);
        let failed = |error: Errno| Error::system(format!("open {}: {error}", path.display()));
        // The directory is the machine's: what leads elsewhere from there may lead to another machine.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let socket = rustix::fs::open(&path, flags, Mode::empty()).map_err(failed)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&socket).map_err(failed)?.st_mode);
        if kind != FileType::Socket {
            return Err(Error::system(format!("{} is no socket", path.display())));
        }
        let held = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket));
        Connection::open_within(Path::new(&held), patience).map_err(|error| match error {
            // That does not change by itself.
            ConnectionError::Version { .. } => Error::conflict(error.to_string()),
            error => Error::system(error.to_string()),
        })
    }

    /// Changes the limits of a container that runs in a machine: its own in there, the machine's memory, and what the machine's process may have on the host. Blocks.
    pub(super) fn update_machine(&self, record: &ContainerRecord, now: &LinuxResources) -> Result<()> {
        if record.state.phase == Phase::Paused {
            return Err(Error::conflict(
                "a container in a microVM answers nobody while it is paused: unpause it first",
            ));
        }
        let was = microvm::container::resized(&crate::spec::limits(&record.host.resources)?).map_err(refused)?;
        let now = microvm::container::resized(now).map_err(refused)?;
        let grows = now.memory >= was.memory;
        let mut machine = self.machine_connection(&record.id)?;
        let resize = |machine: &mut Connection| {
            machine.resize(now.memory).map_err(|error| Error::system(error.to_string()))?.map_err(not_so)
        };
        // More of it first, as it may be refused; nobody uses it before the container's limit lets them.
        if grows {
            resize(&mut machine)?;
        }
        self.limit_machine(record, now.outside, grows)?;
        let request = Request::Limit { container: CONTAINER, limits: now.inside };
        machine.ask(request).map_err(|error| Error::system(error.to_string()))?.map_err(not_so)?;
        if grows { Ok(()) } else { resize(&mut machine) }
    }

    /// Changes what a machine's process may use of the host. Until the guest has left it, its process has what it had: nobody is to be killed for that, and a lower limit comes with the next start.
    fn limit_machine(&self, record: &ContainerRecord, mut outside: LinuxResources, grows: bool) -> Result<()> {
        let in_use = self.0.placements.usage(record).map_or(0, |usage| usage.memory);
        // Held until the limits are there: another container may come into the machine at the same time.
        let guests = self.0.guests.lock();
        let limit = outside.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
        let limit = limit.map(|limit| limit.saturating_add_unsigned(guests.memory(&record.id)));
        match (limit, *outside.memory()) {
            (Some(limit), Some(mut memory)) if grows && limit.unsigned_abs() > in_use => {
                memory.set_limit(Some(limit));
                outside.set_memory(Some(memory));
            }
            _ => drop(outside.set_memory(None)),
        }
        self.0.placements.update(record, &outside)
    }

    /// Takes away what a machine's process was given.
    pub(super) fn remove_machine(&self, record: &ContainerRecord) {
        if !record.is_machine() {
            return;
        }
        let directory = self.machine_dir(&record.id);
        if let Err(error) = remove_directory(&directory) {
            tracing::warn!(directory = %directory.display(), %error, "could not remove the files of a machine");
        }
    }

    /// Takes away the files of machines that do not run: a daemon was killed behind the end of one.
    pub(super) fn sweep_machines(&self) {
        let entries = fs::read_dir(self.0.config.run_dir.join("machines")).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if self.0.templates.boots(&name) {
                continue;
            }
            let Ok(_left) = self.take_left_file_machine(&name) else { continue };
            // Looked for after the directory was seen: one that is being made belongs to who holds its container's life.
            let all = self.0.containers.all();
            let container = all.iter().find(|container| entry.file_name() == container.id.short());
            let life = container.and_then(Container::blocking_life);
            if life.as_ref().is_some_and(|life| life.record().state.phase.is_live()) {
                continue;
            }
            if let Err(error) = remove_directory(&entry.path()) {
                tracing::warn!(directory = %entry.path().display(), %error, "could not remove the files of a machine");
            }
        }
    }

    /// Refuses a machine that an older release has started: there is no program in its root by which a further process could be had.
    pub(super) fn check_release(&self, owner: &ContainerId) -> Result<()> {
        let owner = self.0.containers.find(owner.as_str())?.record();
        let root = format!("/proc/{}/root", owner.state.pid);
        // One that has ended since is told as that by whoever goes on.
        if Path::new(&root).exists() && !Path::new(&format!("{root}{}", at::PROGRAM)).exists() {
            let why = format!(
                "the microVM of container {} was started by another version of stratus: restart it",
                owner.name
            );
            return Err(Error::conflict(why));
        }
        Ok(())
    }
}

/// Layers, the lowest first, each where it lies uppermost: below that nothing of it shows, and overlayfs takes none twice.
fn once(layers: impl Iterator<Item = Digest>) -> Vec<Digest> {
    let mut kept: Vec<Digest> = Vec::new();
    for layer in layers {
        kept.retain(|below| *below != layer);
        kept.push(layer);
    }
    kept
}

/// Mounts memory for a control directory, which is its machine's: whatever that writes there, it has no more than this.
fn mount_control(directory: &Path) -> rustix::io::Result<()> {
    let options = format!("mode=700,uid={USER},gid={USER},size={CONTROL_SIZE},nr_inodes={CONTROL_FILES}");
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("control", directory, "tmpfs", flags, options.as_c_str())
}

/// Removes a machine's directory; none is as good.
pub(super) fn remove_directory(directory: &Path) -> std::io::Result<()> {
    // One that was cut short may have mounted over another.
    while rustix::mount::unmount(directory.join("control"), UnmountFlags::DETACH).is_ok() {}
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What a machine or its agent refuses of new limits.
pub(super) fn not_so(failure: Failure) -> Error {
    Error::conflict(failure.to_string())
}

/// Refuses what containers in microVMs do not have yet.
///
/// # Errors
/// The container is in one.
pub(crate) fn lacking(record: &ContainerRecord, what: &str) -> Result<()> {
    match record.is_machine() {
        true => Err(refused(microvm::Error::NotThere { what: what.to_owned() })),
        false => Ok(()),
    }
}

pub(super) fn refused(error: microvm::Error) -> Error {
    match error {
        microvm::Error::NotBehind { .. } => Error::invalid(error.to_string()),
        microvm::Error::NotThere { .. } | microvm::Error::NotSaved => Error::not_implemented(error.to_string()),
        error => Error::system(error.to_string()),
    }
}

pub(super) fn placement(container: GuestContainer) -> Result<Placement> {
    Placement::unified_at(Path::new(&place::cgroup(container))).map_err(|error| Error::system(error.to_string()))
}

/// The plan of the container's process, as the agent carries it out; `init`: behind an init of ours.
pub(super) fn workload(
    record: &ContainerRecord,
    spec: &Spec,
    init: bool,
    container: GuestContainer,
) -> Result<Vec<u8>> {
    let options = CompileOptions {
        rootfs: Some(RootFs::Path(place::root(container).into())),
        cgroup: Some(placement(container)?),
        seccomp: crate::spec::default_filter(record)?,
        init,
        ..CompileOptions::default()
    };
    let plan = InitPlan::compile(spec, Path::new("/"), &options).map_err(|error| Error::invalid(error.to_string()))?;
    plan.to_bytes().map_err(|error| Error::system(error.to_string()))
}

pub(super) fn root(inside: &microvm::container::Inside, container: GuestContainer, disk: bool) -> Root {
    Root {
        container,
        lower: Lower::Layers { disk: Disk::Serial(String::new()), layers: Vec::new() },
        upper: if disk { Upper::Disk(MachinePlan::upper()) } else { Upper::Memory { size: 0 } },
        volumes: inside.volumes.devices(),
        files: inside.files.clone(),
        limits: inside.limits.clone(),
    }
}

/// Whether a machine of these cards, which is run by `driver`, can go on from a snapshot.
pub(super) fn fits(origin: &SnapshotRecord, driver: &Driver, interfaces: &[net::GuestInterface]) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::conflict(format!("go on from a snapshot: {why}; a stop has the container begin anew")))
    };
    if origin.driver != driver.to_string() {
        return refuse(format!("its machine was run by {}, and machines are run by {driver} now", origin.driver));
    }
    match (origin.cards.len(), interfaces.len()) {
        (then, now) if then == now => Ok(()),
        (then, now) => refuse(format!(
            "its machine is on {then} networks, and the container on {now} (docker network connect and disconnect change that)"
        )),
    }
}

/// How the memory of what a container's machine goes on from gets into it.
///
/// # Errors
/// Its annotation says something else.
fn backing(record: &ContainerRecord) -> Result<Backing> {
    match record.host.annotations.get(BACKING).map(String::as_str) {
        None | Some("mapped") => Ok(Backing::Mapped),
        Some("faulted") => Ok(Backing::Faulted { ahead: None }),
        Some(other) => Err(Error::invalid(format!("the annotation {BACKING}={other} is to be `mapped` or `faulted`"))),
    }
}

/// Where its process finds what it goes on from.
pub(super) fn origin_of(beginning: &Beginning<'_>, booted: &Booted) -> Option<Origin> {
    match beginning {
        Beginning::Boot(_) => None,
        Beginning::Template(_) => Some(Origin::Template(at::snapshot(0))),
        Beginning::Snapshot(origin) => Some(Origin::Snapshot {
            snapshots: (0..booted.snapshots.len()).map(at::snapshot).collect(),
            outputs: origin.outputs,
        }),
    }
}

/// A machine that goes on finds its network cards by the addresses that they had then.
fn configuration(
    record: &ContainerRecord,
    inside: &microvm::container::Inside,
    interfaces: &[net::GuestInterface],
    beginning: &Beginning<'_>,
    seats: &Seats,
) -> Machine {
    let now = Timestamp::now().as_nanosecond();
    let others = |then: &[[u8; 6]]| {
        interfaces.iter().zip(&seats.0).filter_map(|(card, seat)| Some(another(card, *then.get(*seat)?))).collect()
    };
    let identity = MachineIdentity {
        hostname: Some(record.config.hostname.clone()).filter(|name| !name.is_empty()),
        clock: u64::try_from(now).ok(),
        entropy: Blob(rand::random::<[u8; 64]>().to_vec()),
        interfaces: match beginning {
            Beginning::Boot(_) => interfaces.iter().map(interface).collect(),
            Beginning::Template(_) => others(&template::addresses(interfaces.len())),
            Beginning::Snapshot(origin) => others(&origin.cards),
        },
        files: if matches!(beginning, Beginning::Snapshot(_)) { inside.files.clone() } else { Vec::new() },
    };
    let links = interfaces.iter().flat_map(|interface| interface.sysctls.iter().cloned());
    Machine { identity, sysctls: inside.sysctls.iter().cloned().chain(links).collect(), names: true }
}

pub(super) fn card(interface: &net::GuestInterface, limits: NetworkLimits) -> Card {
    let mtu = u16::try_from(interface.mtu).unwrap_or(u16::MAX);
    let NetworkLimits { receive, send } = limits;
    Card { tap: interface.tap.clone(), mac: interface.mac.octets(), mtu, receive, send }
}

/// An interface whose card had another address before.
fn another(card: &net::GuestInterface, was: [u8; 6]) -> Interface {
    Interface { found: Found::Mac(was), mac: Some(card.mac.octets()), ..interface(card) }
}

pub(super) fn interface(interface: &net::GuestInterface) -> Interface {
    let route = |route: &net::GuestRoute| Route { to: (route.to.addr(), route.to.prefix_len()), by: Some(route.by) };
    Interface {
        found: Found::Mac(interface.mac.octets()),
        name: interface.name.clone(),
        mac: None,
        mtu: Some(interface.mtu),
        addresses: interface.addresses.iter().map(|net| (net.addr(), net.prefix_len())).collect(),
        routes: interface.routes.iter().map(route).collect(),
    }
}
