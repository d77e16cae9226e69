//! A container's runtime specification, taken apart: what its agent does in the machine ([`inside`]), and what the machine's process is on the host
//! ([`outside`]): a sandbox of its own, of a user who owns nothing, in which there is nothing but what the machine is made of.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use guest_protocol::configuration::File;
use guest_protocol::message::{Blob, ContainerId};
use guest_protocol::place;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Mount, Spec};
use sandbox::MountTree;
use serde_json::{Map, Value, json};
use vmm::{MIB, MemorySize, VcpuCount};

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::volumes::Volumes;
use crate::{files, role};

/// The user and group of a machine's process on the host, who own nothing.
pub const USER: u32 = 65534;
/// The first container of a machine.
pub const CONTAINER: ContainerId = ContainerId(1);

/// The machine's memory where a container has no limit.
const MEMORY: u64 = 512;
/// What a machine has beyond its container's limit, for its kernel and agent, in MiB.
pub const KERNEL: u64 = 96;
/// What the machine's process may have beyond its guest's memory, in MiB: the monitor's own, and buffers.
const MONITOR: u64 = 256;
/// What the process may have that stands for another container in a machine, with all that stand for further ones of its, in MiB.
const STAND_IN: u64 = 512;
/// The most processors of a machine whose container may use all of the host's.
const VCPUS: usize = 2;
/// The most memory that a machine may come to have while it runs, in MiB.
const MOST: u64 = 256 << 10;
/// Of the first container's own files, those that all others in its machine see, too.
const SHARED: [&str; 2] = ["hosts", "resolv.conf"];
/// The most bytes of a file that is taken into the machine as it is.
const FILE_MAX: u64 = 1 << 20;

/// Where things are in the sandbox of a machine's process.
pub mod at {
    /// The program of a machine's process, and of those that stand for something in it ([`role`](crate::role)).
    pub const PROGRAM: &str = "/machine";
    /// The program that serves volumes ([`files`](crate::files)), where there are some.
    pub const FILE_SERVER: &str = "/stratus";
    /// The [plan](crate::MachinePlan).
    pub const PLAN: &str = "/plan";
    /// The directory of the control socket, and of requests of further processes.
    pub const CONTROL: &str = "/control";
    /// The control socket.
    pub const SOCKET: &str = "/control/socket";
    /// Memory for sockets that nobody else needs to see.
    pub const SCRATCH: &str = "/scratch";
    /// The kernel.
    pub const KERNEL: &str = "/kernel";
    /// The first root file system.
    pub const INITRAMFS: &str = "/initramfs";
    /// The disk that the container writes to.
    pub const UPPER: &str = "/upper";
    /// For what a container that came into the machine of another one has to say.
    pub const WORDS: &str = "/words";
    /// What the file server serves; nobody else keeps it.
    pub const VOLUMES: &str = "/volumes";

    /// The directory of a snapshot that the machine goes on from, the first one, to which the next is a difference, first.
    pub fn snapshot(number: usize) -> std::path::PathBuf {
        format!("/snapshots/{number}").into()
    }

    /// A layer, the lowest one first.
    pub fn layer(number: usize) -> std::path::PathBuf {
        format!("/layers/{number}").into()
    }
}

/// What is done in the machine.
#[derive(Debug)]
pub struct Inside {
    /// What the agent's plan is made of.
    pub spec: Spec,
    /// Files that are mounted into the container.
    pub files: Vec<File>,
    /// What is mounted into it of the host.
    pub volumes: Volumes,
    /// Of the whole machine: paths below `/proc/sys`, and values.
    pub sysctls: Vec<(String, String)>,
    /// Of the container's control group in the machine: files, and what is written to them.
    pub limits: Vec<(String, String)>,
}

/// Files of the host that are mounted into a container and that nobody changes while it runs.
#[derive(Debug, Clone, Copy)]
pub struct OwnFiles<'f> {
    /// The directory of its own, which are taken along as they are.
    pub own: &'f Path,
    /// Where it comes into the machine of another container: that one's directory, whose files are there already.
    pub first: Option<&'f Path>,
    /// Its number in the machine.
    pub container: ContainerId,
}

/// Takes from a container's specification what is done in the machine. `parts` are what its mounts show where that is part of a tree, by their destinations.
///
/// # Errors
/// It asks for something that is not possible behind a hypervisor, or is not there yet: what, is said.
pub fn inside(spec: Spec, own: OwnFiles<'_>, parts: &BTreeMap<PathBuf, MountTree>) -> Result<Inside> {
    let linux = spec.linux().clone().unwrap_or_default();
    let of_links = linux.sysctl().iter().flatten().filter(|(name, _)| is_of_network(name));
    let mut sysctls: Vec<_> = of_links.map(|(name, value)| (name.replace('.', "/"), value.clone())).collect();
    sysctls.sort();
    let limits = limits(linux.resources().as_ref());
    let mut spec = confined(spec)?;
    let (mut files, mut volumes) = (Vec::new(), Volumes::of(own.container));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| is_bind(mount)) {
        match mount.source() {
            Some(source) if source.starts_with(own.own) => take_along(mount, own.container, &mut files)?,
            Some(source) if own.first.is_some_and(|first| source.starts_with(first)) => {
                let name = name_of(source, CONTAINER);
                mount.set_source(Some(place::file(&name).into()));
            }
            _ => volumes.take(mount, parts.contains_key(mount.destination()))?,
        }
    }
    spec.set_mounts(Some(mounts));
    if own.first.is_none() {
        // Where something else is mounted over one of them, whoever comes into the machine has it all the same.
        for name in SHARED.iter().filter(|name| own.own.join(name).exists()) {
            if files.iter().all(|file: &File| file.name != **name) {
                files.push(taken_along(&own.own.join(name), own.container)?);
            }
        }
    }
    Ok(Inside { spec, files, volumes, sysctls, limits })
}

/// The machine's own network is the container's.
fn is_of_network(sysctl: &str) -> bool {
    sysctl.starts_with("net.")
}

/// Of a container's specification, what confines its processes within the machine: its namespaces there, and nothing of the host.
///
/// # Errors
/// It asks for something that is not possible behind a hypervisor.
pub fn confined(mut spec: Spec) -> Result<Spec> {
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for namespace in &namespaces {
        let of_host = namespace.path().as_ref().is_some_and(|path| !path.starts_with(place::NAMESPACES));
        if namespace.typ() != LinuxNamespaceType::Network && of_host {
            return Err(not_behind(format!("the {} namespace of another container", namespace.typ())));
        }
    }
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    for (kind, what) in [
        (LinuxNamespaceType::Network, "the host's network"),
        (LinuxNamespaceType::Pid, "the host's processes"),
        (LinuxNamespaceType::Ipc, "the host's IPC"),
        (LinuxNamespaceType::Uts, "the host's name"),
    ] {
        if !has(kind) {
            return Err(not_behind(what));
        }
    }
    if has(LinuxNamespaceType::User) {
        return Err(not_behind("a user namespace of the host"));
    }
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    linux.set_namespaces(Some(namespaces));
    if linux.devices().as_ref().is_some_and(|devices| !devices.is_empty()) {
        return Err(not_behind("a device of the host"));
    }
    let mut sysctls = linux.sysctl().clone().unwrap_or_default();
    sysctls.retain(|name, _| !is_of_network(name));
    linux.set_sysctl(Some(sysctls));
    linux.set_resources(None).set_cgroups_path(None);
    spec.set_linux(Some(linux));
    if let Some(mut process) = spec.process().clone() {
        process.set_apparmor_profile(None);
        spec.set_process(Some(process));
    }
    Ok(spec)
}

fn not_behind(what: impl Into<String>) -> Error {
    Error::NotBehind { what: what.into() }
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"))
}

/// What a file of a container is called in its machine. Those of the first one have their own names.
fn name_of(source: &Path, container: ContainerId) -> String {
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    if container == CONTAINER { name.into_owned() } else { format!("{container}.{name}") }
}

/// Of a bind mount of one of our own files, a mount of a file that the machine gets.
fn take_along(mount: &mut Mount, container: ContainerId, files: &mut Vec<File>) -> Result<()> {
    let file = taken_along(&mount.source().clone().unwrap_or_default(), container)?;
    mount.set_source(Some(place::file(&file.name).into()));
    files.push(file);
    Ok(())
}

/// A file of the host as the machine gets it.
fn taken_along(source: &Path, container: ContainerId) -> Result<File> {
    let failed = |error| Error::File { what: "a file of the container", path: source.to_owned(), source: error };
    let length = fs::metadata(source).map_err(failed)?.len();
    if length > FILE_MAX {
        return Err(Error::NotThere { what: format!("a file of {length} bytes ({})", source.display()) });
    }
    let contents = Blob(fs::read(source).map_err(failed)?);
    Ok(File { name: name_of(source, container), mode: 0o644, contents })
}

/// What a container's limits are in its machine, for its machine, and for the machine's process.
#[derive(Debug)]
pub struct Resized {
    /// Files of the container's control group in the machine, and what is written to them.
    pub inside: Vec<(String, String)>,
    /// The machine's memory.
    pub memory: MemorySize,
    /// What its process may use of the host.
    pub outside: LinuxResources,
}

/// What the limits of a container come to whose machine runs, of which the processors stay as many as they are.
///
/// # Errors
/// The limit of its memory is more than a machine can have.
pub fn resized(resources: &LinuxResources) -> Result<Resized> {
    let (_, memory) = size_for(Some(resources))?;
    let outside = serde_json::from_value(Value::Object(outside_of(resources)?));
    let outside = outside.map_err(|error| Error::Spec(error.to_string()))?;
    Ok(Resized { inside: changed(limits(Some(resources)), &["memory.max", "pids.max"]), memory, outside })
}

/// What the limits of a container come to that is in the machine of another one: as [`limits_beside`], for one that runs.
pub fn resized_beside(resources: &LinuxResources) -> (Vec<(String, String)>, u64) {
    let (limits, memory) = beside_of(Some(resources));
    (changed(limits, &["memory.max", "pids.max", "cpu.max"]), memory)
}

/// Limits over what was written to those files before: where there is none now, there is to be none.
fn changed(mut limits: Vec<(String, String)>, files: &[&str]) -> Vec<(String, String)> {
    for file in files {
        if !limits.iter().any(|(name, _)| name == file) {
            limits.push(((*file).to_owned(), "max".to_owned()));
        }
    }
    limits
}

/// How much memory a machine may have while it runs that has `memory` at its start: as much as the host has, whose bytes are given.
pub fn most(memory: MemorySize, host: u64) -> MemorySize {
    MemorySize::from_mib((host / MIB).min(MOST)).map_or(memory, |most| most.max(memory))
}

/// Of the container's own limits, those that are kept in the machine.
fn limits(resources: Option<&LinuxResources>) -> Vec<(String, String)> {
    let Some(resources) = resources else { return Vec::new() };
    let memory = resources.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
    let pids = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit > 0);
    let limit = |name: &str, value: Option<i64>| value.map(|value| (name.to_owned(), value.to_string()));
    [limit("memory.max", memory), limit("pids.max", pids)].into_iter().flatten().collect()
}

/// The limits of a container that comes into the machine of another one, all of which are kept in the machine: files of its control group, and what is written to them; and by how many bytes
/// the machine grows for it, which is the limit of its memory. Without one it has what the machine has.
pub fn limits_beside(container: &Spec) -> (Vec<(String, String)>, u64) {
    beside_of(container.linux().as_ref().and_then(|linux| linux.resources().as_ref()))
}

fn beside_of(resources: Option<&LinuxResources>) -> (Vec<(String, String)>, u64) {
    let mut limits = limits(resources);
    let memory = resources.and_then(|resources| resources.memory().as_ref()?.limit()).filter(|limit| *limit > 0);
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    if let Some(quota) = cpu.and_then(|cpu| cpu.quota()).filter(|quota| *quota > 0) {
        let period = cpu.and_then(|cpu| cpu.period()).filter(|period| *period > 0).unwrap_or(100_000);
        limits.push(("cpu.max".to_owned(), format!("{quota} {period}")));
    }
    (limits, memory.unwrap_or(0).unsigned_abs())
}

/// How large a machine is for a container: its memory holds the container's limit and the kernel, and its processors are as many as the container may
/// use at once.
///
/// # Errors
/// The limit is more than a machine can have.
pub fn size(container: &Spec) -> Result<(VcpuCount, MemorySize)> {
    size_for(container.linux().as_ref().and_then(|linux| linux.resources().as_ref()))
}

fn size_for(resources: Option<&LinuxResources>) -> Result<(VcpuCount, MemorySize)> {
    let limit = resources.and_then(|resources| resources.memory().as_ref()?.limit()).filter(|limit| *limit > 0);
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    let quota = cpu.and_then(|cpu| {
        let quota = cpu.quota().filter(|quota| *quota > 0)?.unsigned_abs();
        Some(quota.div_ceil(cpu.period().filter(|period| *period > 0).unwrap_or(100_000)))
    });
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let set = cpu.and_then(|cpu| processors(cpu.cpus().as_deref()?));
    let here = set.map_or(here, |set| here.min(set));
    let count = quota.map_or(here.min(VCPUS), |quota| usize::try_from(quota).unwrap_or(here).clamp(1, here));
    let count = u8::try_from(count).unwrap_or(VcpuCount::MAX).min(VcpuCount::MAX);
    Ok((VcpuCount::new(count)?, memory(limit.map(i64::unsigned_abs))?))
}

/// How many processors a list as `0-2,5` names (cpuset(7)); `None`: it is none, which is another's to say.
fn processors(list: &str) -> Option<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(range).try_fold(0, |sum: usize, count| sum.checked_add(count?)).filter(|count| *count > 0)
}

/// The memory of a machine whose container may have so many bytes; `None`: it has no limit.
///
/// # Errors
/// The limit is more than a machine can have.
pub fn memory(limit: Option<u64>) -> Result<MemorySize> {
    Ok(MemorySize::from_mib(limit.map_or(MEMORY, |limit| limit.div_ceil(MIB) + KERNEL))?)
}

/// What the machine's process sees of the host.
#[derive(Debug)]
pub struct Host {
    /// The machine's program.
    pub program: PathBuf,
    /// The file with the plan.
    pub plan: PathBuf,
    /// The directory for the control socket, which belongs to [`USER`].
    pub control: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The first root file system.
    pub initramfs: PathBuf,
    /// EROFS files, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Directories of snapshots, the first one first.
    pub snapshots: Vec<PathBuf>,
    /// The disk that the container writes to, which belongs to [`USER`]; `None`: it writes to the machine's memory.
    pub upper: Option<PathBuf>,
    /// The program that has the role of its [file server](files::ROLE), which brings the directories of its libraries along.
    pub file_server: PathBuf,
    /// What is mounted for its file server, if it has one: nothing for a template, whose server has nothing to serve.
    pub volumes: Option<Volumes>,
    /// The most memory that its guest can have.
    pub most_memory: MemorySize,
    /// Whether its process has faults of its own memory told.
    pub faults: Faults,
}

/// Whether a machine's process has faults of its own memory told, its kernel's as well (userfaultfd(2)), for which it has to open a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// It has not.
    Unused,
    /// It has, where the host can: else it does without.
    Useful,
    /// It has.
    Needed,
}

/// The specification of a machine's process; `container`: what is to run in it, if anything is. `memory` is the machine's. Where it has volumes, it begins with what its [file server](files) needs, and gives it up before it
/// makes the machine.
///
/// # Errors
/// The file server's own files can't be told.
pub fn outside(container: Option<&Spec>, driver: &Driver, host: &Host) -> Result<Spec> {
    let process_of = container.and_then(|container| container.process().as_ref());
    let terminal = process_of.is_some_and(|process| process.terminal().unwrap_or(false));
    let scratch = format!("size={}m", driver.scratch(host.most_memory));
    let mut mounts = own_mounts();
    mounts.push(json!({ "destination": at::SCRATCH, "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "nodev", "mode=700", scratch, format!("uid={USER}"), format!("gid={USER}")] }));
    mounts.push(bind(&host.control, Path::new(at::CONTROL), "rw"));
    let files = [(&host.plan, at::PLAN), (&host.kernel, at::KERNEL), (&host.initramfs, at::INITRAMFS)];
    mounts.push(program(&host.program, at::PROGRAM));
    mounts.extend(files.map(|(source, target)| bind(source, Path::new(target), "ro")));
    mounts.extend(host.layers.iter().enumerate().map(|(number, layer)| bind(layer, &at::layer(number), "ro")));
    mounts.extend(host.snapshots.iter().enumerate().map(|(number, path)| bind(path, &at::snapshot(number), "ro")));
    mounts.extend(host.upper.iter().map(|disk| bind(disk, Path::new(at::UPPER), "rw")));
    mounts.extend(visible(driver).iter().map(|path| bind(path, path, "ro")));
    let mut devices =
        vec![json!({ "path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o666 })];
    if uses_kvm(driver) {
        devices.push(json!({ "path": "/dev/kvm", "type": "c", "major": 10, "minor": 232, "fileMode": 0o666 }));
    }
    let faults = userfault(host.faults)?;
    if let Some((major, minor)) = faults {
        devices.push(json!({ "path": USERFAULT, "type": "c", "major": major, "minor": minor, "fileMode": 0o666 }));
    }
    let mut own = process_of_machine(role::RUN, terminal);
    if let Some(volumes) = &host.volumes {
        let options = ["nosuid", "noexec", "nodev", "mode=755", "size=64k"];
        mounts.push(json!({ "destination": at::VOLUMES, "type": "tmpfs", "source": "tmpfs", "options": options }));
        for mount in volumes.mounts() {
            mounts.push(serde_json::to_value(mount).map_err(|error| Error::Spec(error.to_string()))?);
        }
        match driver {
            Driver::Kvm => mounts.extend(of_file_server(&host.file_server)?),
            // It sees all libraries.
            Driver::Qemu { .. } => mounts.push(program(&host.file_server, at::FILE_SERVER)),
        }
        begin_as_root(&mut own);
    }
    confined_process(own, &mounts, &json!(devices), &resources(container, faults)?)
}

/// What the process sees of the host that serves volumes of containers that come into a machine.
#[derive(Debug)]
pub struct ServerHost {
    /// The program that has the role of a [file server](files::SHARED_ROLE).
    pub program: PathBuf,
    /// The directory in which volumes are mounted, for the process alone, at files and directories that are there.
    pub volumes: PathBuf,
    /// The directory for its socket ([`files::SOCKET`]).
    pub socket: PathBuf,
}

/// The specification of the process that serves volumes of containers that come into a machine. What it uses is the machine's.
///
/// # Errors
/// The program's own files can't be told.
pub fn serving(host: &ServerHost) -> Result<Spec> {
    let mut mounts = own_mounts();
    mounts.push(bind(&host.volumes, Path::new(at::VOLUMES), "rw"));
    mounts.push(bind(&host.socket, Path::new(at::SCRATCH), "rw"));
    mounts.extend(of_file_server(&host.program)?);
    let socket = Path::new(at::SCRATCH).join(files::SOCKET);
    let socket = socket.to_str().ok_or_else(|| Error::Spec("the path of a socket".to_owned()))?;
    let mut own = process(&[at::FILE_SERVER, files::SHARED_ROLE, at::VOLUMES, socket], false);
    begin_as_root(&mut own);
    confined_process(own, &mounts, &json!([]), &json!({}))
}

/// The program of a file server, with its libraries.
fn of_file_server(path: &Path) -> Result<Vec<Value>> {
    let libraries = libraries()?;
    Ok([program(path, at::FILE_SERVER)]
        .into_iter()
        .chain(libraries.iter().map(|path| bind(path, path, "ro")))
        .collect())
}

/// Has a process begin with what a file server takes.
fn begin_as_root(process: &mut Value) {
    let names: Vec<_> = files::CAPABILITIES.iter().map(|(name, _)| *name).chain(files::FOR_THE_START).collect();
    process["user"] = json!({ "uid": 0, "gid": 0 });
    process["capabilities"] = json!({ "bounding": names, "effective": names, "permitted": names });
}

/// What the process sees of the host that stands for a container in the machine of another one.
#[derive(Debug)]
pub struct MemberHost {
    /// The machine's program.
    pub program: PathBuf,
    /// The file with the plan.
    pub plan: PathBuf,
    /// The directory of the machine's control socket.
    pub control: PathBuf,
    /// A directory of its own, which belongs to [`USER`].
    pub words: PathBuf,
    /// EROFS files, the lowest first.
    pub layers: Vec<PathBuf>,
}

/// The specification of the process that stands for a container in the machine of another one. What that uses is the machine's.
///
/// # Errors
/// The program's own files can't be told.
pub fn beside(container: &Spec, host: &MemberHost) -> Result<Spec> {
    let terminal = container.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    let mut mounts = own_mounts();
    mounts.push(bind(&host.control, Path::new(at::CONTROL), "rw"));
    mounts.push(bind(&host.words, Path::new(at::WORDS), "rw"));
    mounts.push(program(&host.program, at::PROGRAM));
    mounts.push(bind(&host.plan, at::PLAN.as_ref(), "ro"));
    mounts.extend(host.layers.iter().enumerate().map(|(number, layer)| bind(layer, &at::layer(number), "ro")));
    let limits = json!({ "memory": { "limit": STAND_IN * MIB } });
    confined_process(process_of_machine(role::JOIN, terminal), &mounts, &json!([]), &limits)
}

/// What every process that has to do with a machine has mounted.
fn own_mounts() -> Vec<Value> {
    vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev", "ro"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=64k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] }),
    ]
}

fn confined_process(process: Value, mounts: &[Value], devices: &Value, resources: &Value) -> Result<Spec> {
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": "root", "readonly": true },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces(),
            "devices": devices,
            "resources": resources,
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/proc/timer_list"],
            "readonlyPaths": ["/proc/sys"],
        },
    });
    serde_json::from_value(spec).map_err(|error| Error::Spec(error.to_string()))
}

/// The specification of a further process in the sandbox of a machine's process: as far as one needs it.
///
/// # Errors
/// None that a caller could bring about.
pub fn further(arguments: &[&str], terminal: bool) -> Result<Spec> {
    let spec = json!({
        "ociVersion": "1.2.0",
        "process": process(arguments, terminal),
        "linux": { "namespaces": namespaces() },
    });
    serde_json::from_value(spec).map_err(|error| Error::Spec(error.to_string()))
}

/// Nobody, who may do nothing.
fn process(arguments: &[&str], terminal: bool) -> Value {
    json!({
        "terminal": terminal,
        "user": { "uid": USER, "gid": USER },
        "args": arguments,
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "noNewPrivileges": true,
        "capabilities": {},
    })
}

/// The variable that has the C library take little memory in a process of which there may be hundreds (the GNU C library's manual, "Tunables"): its allocator keeps nothing that is freed for who
/// allocates next, which is most of the heap of a process that allocates at its start and seldom after it; and threads have no room for variables of libraries that are loaded later, in a
/// program that loads none.
pub const FRUGAL: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:glibc.rtld.nns=1:glibc.rtld.optional_static_tls=0",
);

/// A process of the program of machines, that does what its plan says.
fn process_of_machine(role: &str, terminal: bool) -> Value {
    let mut process = process(&[at::PROGRAM, role, at::PLAN], terminal);
    let (name, value) = FRUGAL;
    if let Some(environment) = process["env"].as_array_mut() {
        environment.push(format!("{name}={value}").into());
    }
    process
}

fn namespaces() -> Value {
    json!([{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }])
}

/// A file that is executed, also where the file system that it lies on is mounted for none to be.
fn program(source: &Path, target: &str) -> Value {
    let options = ["bind", "nosuid", "nodev", "rprivate", "ro", "exec"];
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

fn bind(source: &Path, target: &Path, access: &str) -> Value {
    let options = ["bind", "nosuid", "nodev", "rprivate", access];
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

/// What a container's limits on its use of the host are for the machine as a whole.
fn resources(container: Option<&Spec>, faults: Option<(u32, u32)>) -> Result<Value> {
    let given = container.and_then(|container| container.linux().as_ref()?.resources().clone()).unwrap_or_default();
    let mut fields = outside_of(&given)?;
    let rules = fields.entry("devices").or_insert_with(|| json!([]));
    if let Some(rules) = rules.as_array_mut() {
        for (major, minor) in [(10, 200), (10, 232)].into_iter().chain(faults) {
            rules.push(json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }));
        }
    }
    Ok(Value::Object(fields))
}

/// Processes and threads of a machine on the host: of its processors, its devices, QEMU's work, the servers of its files, and those who stand for what runs in it.
const PROCESSES: i64 = 4096;

/// As before, but for devices.
fn outside_of(given: &LinuxResources) -> Result<Map<String, Value>> {
    let limit = given.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
    let resources = serde_json::to_value(given).map_err(|error| Error::Spec(error.to_string()))?;
    let Value::Object(mut fields) = resources else { return Ok(Map::new()) };
    // The container's limit is the agent's to keep. A process that a guest has taken over is not to take all numbers that the host has.
    fields.insert("pids".to_owned(), json!({ "limit": PROCESSES }));
    fields.remove("hugepageLimits");
    fields.remove("memory");
    if limit.is_some() {
        let (_, memory) = size_for(Some(given))?;
        fields.insert("memory".to_owned(), json!({ "limit": memory.bytes() + MONITOR * MIB }));
    }
    Ok(fields)
}

/// What the kernel says of huge pages (its Documentation/admin-guide/mm/transhuge.rst).
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// Where whoever may open it has faults of its own memory told, its kernel's as well (userfaultfd(2)).
const USERFAULT: &str = "/dev/userfaultfd";

/// The numbers of that device, if the machine's process is to have it: the host's kernel chose one of them when it booted.
///
/// # Errors
/// It needs it, and the host has none.
fn userfault(faults: Faults) -> Result<Option<(u32, u32)>> {
    if faults == Faults::Unused || faults == Faults::Useful && !has_huge_pages() {
        return Ok(None);
    }
    let path = Path::new(USERFAULT);
    let what = "the device by which faults are told, which Linux has since 6.1,";
    match fs::metadata(path) {
        Ok(found) => Ok(Some((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())))),
        Err(_) if faults == Faults::Useful => Ok(None),
        Err(source) => Err(Error::File { what, path: path.to_owned(), source }),
    }
}

/// Whether the host has huge pages for whoever asks for them.
fn has_huge_pages() -> bool {
    fs::read_to_string(Path::new(HUGE_PAGES).join("enabled")).is_ok_and(|policy| !policy.contains("[never]"))
}

fn uses_kvm(driver: &Driver) -> bool {
    use crate::driver::Accelerator;
    matches!(driver, Driver::Kvm | Driver::Qemu { accelerator: Accelerator::Kvm, .. })
}

/// What else of the host's files has to be seen, where it is: QEMU's.
fn visible(driver: &Driver) -> Vec<PathBuf> {
    match driver {
        Driver::Kvm => Vec::new(),
        // It has some hundred of them, and loads more as it goes; and where it can't tell how large huge pages are, it complains of that to the container's
        // standard error.
        Driver::Qemu { .. } => ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", HUGE_PAGES]
            .map(PathBuf::from)
            .into_iter()
            .filter(|path| path.exists())
            .collect(),
    }
}

/// The directories of the libraries that this program is linked with (proc_pid_maps(5)), and its dynamic loader. The loader looks for a library by
/// another name than that of the file, which the kernel tells.
fn libraries() -> Result<Vec<PathBuf>> {
    let path = Path::new("/proc/self/maps");
    let maps = fs::read_to_string(path).map_err(|source| Error::File {
        what: "the program's own",
        path: path.to_owned(),
        source,
    })?;
    let files = maps.lines().filter_map(|line| line.split_once('/').map(|(_, path)| PathBuf::from(format!("/{path}"))));
    let is_library = |file: &PathBuf| {
        file.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.ends_with(".so") || name.contains(".so.")
        })
    };
    let mut seen: Vec<PathBuf> =
        files.filter(is_library).filter_map(|file| file.parent().map(Path::to_owned)).collect();
    // By this name the kernel looks for it, whatever it is a link to.
    seen.push(PathBuf::from("/lib64/ld-linux-x86-64.so.2"));
    seen.sort();
    seen.dedup();
    seen.retain(|path| path.exists());
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_no_more_processors_than_its_container_may_use() {
        for (list, count) in [("0", 1), ("0-3", 4), ("0-1,5", 3), (" 2 , 4-5\n", 3)] {
            assert_eq!(processors(list), Some(count), "{list}");
        }
        for none in ["", "a", "3-1", "1-", "-", "0-18446744073709551615"] {
            assert_eq!(processors(none), None, "{none}");
        }
    }
}
