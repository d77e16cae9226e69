//! Everything that a new process will do between clone and exec, computed ahead of time from an OCI runtime spec.
//!
//! A plan is plain data: compiled by the daemon or the command line, sent as bytes to the process that clones, and read
//! by the child as it stands. Nothing in it has to be looked up, parsed or converted after the clone.

mod ids;
mod mounts;
mod namespaces;
mod options;
mod process;
mod rootfs;
mod seccomp;
mod text;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Process, Spec};
use serde::{Deserialize, Serialize};

pub use namespaces::NamespaceKind;
pub use process::capability_number;
pub use rootfs::RootFs;

use crate::cgroup::Placement;
use crate::seccomp_agent::SeccompAgent;
pub(crate) use ids::{IdMap, IdMaps};
pub(crate) use mounts::{DevicePlan, MountKind, MountPlan};
pub(crate) use namespaces::{NamespacePlan, NamespaceSource};
#[cfg(feature = "runtime-cli")]
pub(crate) use options::mount_option_names;
pub(crate) use process::{ProcessPlan, TerminalPlan};
pub(crate) use rootfs::{OverlayPlan, RootPlan, RootSource};
pub use seccomp::SeccompFilter;
pub(crate) use seccomp::SeccompPlan;
use text::Bytes;
pub(crate) use text::Text;

/// Why a spec can't be made into a plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The spec lacks something that the runtime spec requires.
    #[error("the spec has no {0}")]
    Missing(&'static str),
    /// A field has a value that can't be honoured.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, by its name in the spec.
        field: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A string that is handed to the kernel contains a NUL byte.
    #[error("{0} contains a NUL byte")]
    Nul(String),
    /// The seccomp profile can't be compiled.
    #[error("linux.seccomp: {0}")]
    Seccomp(String),
    /// The machine or this runtime can't do what the spec asks for.
    #[error("{0}")]
    Unsupported(String),
    /// Something named by the spec could not be read.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A plan that arrived as bytes does not decode: it was cut short, or written by another version.
    #[error("not a plan of this version: {0}")]
    Decode(#[from] postcard::Error),
}

impl PlanError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }
}

/// What the spec does not say.
#[derive(Debug, Clone, Default)]
pub struct CompileOptions {
    /// The root file system; `None` takes `root.path` of the spec, relative to the bundle.
    pub rootfs: Option<RootFs>,
    /// Where the process is placed; see [`crate::cgroup::Cgroup::placement`]. `None` leaves it in its parent's cgroup.
    pub cgroup: Option<Placement>,
    /// After its set-up the child waits for [`crate::SyncChannel::start`].
    pub wait_for_start: bool,
    /// The child stops before it changes the root, for the parent's hooks ([`crate::SyncEvent::BeforePivot`]).
    /// Implied where the spec has `createContainer` or `startContainer` hooks.
    pub pause_before_pivot: bool,
    /// Whoever spawns puts the child into the group that `linux.intelRdt` says, while it stops before it changes the root. Else such a spec is refused.
    pub intel_rdt: bool,
    /// PID 1 is a small init of our own that reaps zombies and forwards signals (`docker run --init`).
    pub init: bool,
    /// Change the root by moving mounts instead of pivot_root, for a root on a RAM disk (`--no-pivot`).
    pub no_pivot: bool,
    /// Keep the caller's session keyring (`--no-new-keyring`).
    pub no_new_keyring: bool,
    /// How many descriptors from 3 on the process inherits (`--preserve-fds`).
    pub preserve_fds: u32,
    /// The program says itself when it is what it shall be, or why not ([`crate::Report`]): it stands for a process somewhere else. It may be this
    /// very program.
    pub program_reports: bool,
    /// Takes the place of the spec's seccomp profile, for whoever has it compiled already. Not for one that asks an agent:
    /// who that is, is in the spec.
    pub seccomp: Option<SeccompFilter>,
    /// Namespaces that are given as descriptors at the time of the spawn, instead of what the spec says:
    /// the kind, and the place in [`crate::Fds::namespaces`].
    pub namespace_fds: Vec<(NamespaceKind, u8)>,
    /// What bind mounts show where the spec's own words can't say it, by their destinations as the spec has them.
    pub trees: BTreeMap<PathBuf, MountTree>,
    /// What bind mounts show that is given as a descriptor of a detached tree at the time of the spawn, by their destinations as the spec has
    /// them: the place in [`crate::Fds::namespaces`]. Each is mounted once.
    pub mount_fds: BTreeMap<PathBuf, u8>,
}

/// A part of a tree, to be mounted somewhere inside the root.
#[derive(Debug, Clone)]
pub struct MountTree {
    /// The whole tree. An overlay without `upper` is mounted in the new process's mount namespace, as a root would be.
    pub root: RootFs,
    /// Which part of it; empty: all. Whatever links the tree contains, it is searched for within the tree.
    pub subpath: PathBuf,
}

/// What a container's first process will do. See the [module](self).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub struct InitPlan<'p> {
    pub(crate) namespaces: NamespacePlan<'p>,
    pub(crate) ids: Option<IdMaps>,
    pub(crate) cgroup: Option<CgroupPlan<'p>>,
    pub(crate) hostname: Option<Text<'p>>,
    pub(crate) domainname: Option<Text<'p>>,
    pub(crate) root: RootPlan<'p>,
    pub(crate) mounts: Vec<MountPlan<'p>>,
    pub(crate) devices: Vec<DevicePlan<'p>>,
    /// Link and what it points to.
    pub(crate) symlinks: Vec<(Text<'p>, Text<'p>)>,
    /// Path below `/proc/sys`, value.
    pub(crate) sysctls: Vec<(Text<'p>, Text<'p>)>,
    pub(crate) masked: Vec<Text<'p>>,
    pub(crate) mask_options: Vec<(Text<'p>, Option<Text<'p>>)>,
    pub(crate) readonly: Vec<Text<'p>>,
    pub(crate) pause_before_pivot: bool,
    pub(crate) create_container: Vec<HookPlan<'p>>,
    pub(crate) start_container: Vec<HookPlan<'p>>,
    /// The process gets a session keyring of its own, so that keys of the host do not leak into it.
    pub(crate) own_keyring: bool,
    pub(crate) wait_for_start: bool,
    pub(crate) init: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) program_reports: bool,
    pub(crate) process: ProcessPlan<'p>,
    pub(crate) seccomp_agent: Option<SeccompAgent>,
}

/// Where a new process is placed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct CgroupPlan<'p> {
    /// The directory for `CLONE_INTO_CGROUP`.
    pub(crate) unified: Option<Text<'p>>,
    /// The file of each v1 hierarchy that the process writes itself to.
    pub(crate) tasks: Vec<Text<'p>>,
}

impl CgroupPlan<'static> {
    fn of(placement: &Placement) -> Self {
        Self {
            unified: placement.unified().map(|path| path.to_owned().into()),
            tasks: placement.v1_tasks().map(|path| path.to_owned().into()).collect(),
        }
    }
}

/// A hook that the child runs by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct HookPlan<'p> {
    pub(crate) path: Text<'p>,
    pub(crate) argv: Vec<Text<'p>>,
    pub(crate) envp: Vec<Text<'p>>,
    /// In milliseconds; 0 waits for ever.
    pub(crate) timeout: u32,
}

/// What the plan of a further process in a running container needs to know beyond the process itself.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// The container's bundle, which a seccomp agent is told.
    pub bundle: PathBuf,
    /// The container's cgroup.
    pub cgroup: Option<Placement>,
    /// As [`CompileOptions::seccomp`].
    pub seccomp: Option<SeccompFilter>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// As [`CompileOptions::program_reports`].
    pub program_reports: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// After its set-up the process waits for [`crate::SyncChannel::start`].
    pub wait_for_start: bool,
}

/// What a further process in a running container will do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub struct ExecPlan<'p> {
    /// `CLONE_NEW*` of the namespaces that are the container's own.
    pub(crate) join: u64,
    pub(crate) user_namespace: bool,
    pub(crate) cgroup: Option<CgroupPlan<'p>>,
    /// The process gets a session keyring of its own, so that keys of the host do not leak into it.
    pub(crate) own_keyring: bool,
    pub(crate) wait_for_start: bool,
    pub(crate) preserve_fds: u32,
    pub(crate) program_reports: bool,
    pub(crate) process: ProcessPlan<'p>,
    pub(crate) seccomp_agent: Option<SeccompAgent>,
}

impl<'p> InitPlan<'p> {
    /// Compiles a spec.
    ///
    /// `bundle` is the directory that relative paths of the spec start from. Reads nothing but what the spec points to
    /// (namespace paths, devices given without numbers) and the machine's cgroup layout.
    pub fn compile(spec: &Spec, bundle: &Path, options: &CompileOptions) -> Result<Self, PlanError> {
        let process = spec.process().as_ref().ok_or(PlanError::Missing("process"))?;
        let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux"))?;
        let namespaces = namespaces::compile(linux, &options.namespace_fds)?;
        let ids = ids::compile(linux, &namespaces)?;
        let rootfs = match &options.rootfs {
            Some(rootfs) => rootfs.clone(),
            None => {
                let root = spec.root().as_ref().ok_or(PlanError::Missing("root"))?;
                RootFs::Path(bundle.join(root.path()))
            }
        };
        let (create_container, start_container) = hooks(spec)?;
        let mounted = mounts::compile(spec, bundle, &namespaces, ids.as_ref(), options)?;
        let text = |what: &str, value: &Option<String>| value.as_deref().map(|v| cstring(what, v)).transpose();
        if spec.hostname().is_some() && !namespaces.isolated(NamespaceKind::Uts) {
            return Err(PlanError::invalid("hostname", "needs a UTS namespace of the container's own"));
        }
        if spec.domainname().is_some() && !namespaces.isolated(NamespaceKind::Uts) {
            return Err(PlanError::invalid("domainname", "needs a UTS namespace of the container's own"));
        }
        if linux.intel_rdt().is_some() && !options.intel_rdt {
            return Err(PlanError::Unsupported("linux.intelRdt is not supported here".into()));
        }
        let process = process::compile(process, Some(linux), options.seccomp.as_ref(), false)?;
        Ok(Self {
            hostname: text("hostname", spec.hostname())?,
            domainname: text("domainname", spec.domainname())?,
            root: rootfs::compile(&rootfs, spec, linux, bundle, options.no_pivot)?,
            mounts: mounted.mounts,
            devices: mounted.devices,
            symlinks: mounted.symlinks,
            sysctls: sysctls(linux, &namespaces)?,
            masked: strings("linux.maskedPaths", linux.masked_paths())?,
            mask_options: mounted.mask_options,
            readonly: strings("linux.readonlyPaths", linux.readonly_paths())?,
            pause_before_pivot: options.pause_before_pivot
                || options.intel_rdt
                || !create_container.is_empty()
                || !start_container.is_empty(),
            create_container,
            start_container,
            own_keyring: !options.no_new_keyring,
            wait_for_start: options.wait_for_start,
            init: options.init,
            preserve_fds: preserved(options.preserve_fds, options.program_reports)?,
            program_reports: options.program_reports,
            seccomp_agent: agent(&process, spec, bundle),
            process,
            cgroup: options.cgroup.as_ref().map(CgroupPlan::of),
            namespaces,
            ids,
        })
    }

    /// The plan as bytes, for another process of the same version.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        encode(self)
    }

    /// Takes up a plan that [`to_bytes`](Self::to_bytes) wrote, and borrows its strings.
    pub fn from_bytes(bytes: &'p [u8]) -> Result<Self, PlanError> {
        Ok(postcard::from_bytes(bytes)?)
    }

    /// Whether the process gets a terminal.
    pub fn has_terminal(&self) -> bool {
        self.process.terminal.is_some()
    }

    /// Who is to get [`crate::SyncEvent::SeccompListener`].
    pub fn seccomp_agent(&self) -> Option<&SeccompAgent> {
        self.seccomp_agent.as_ref()
    }

    /// Whether the child waits for [`crate::SyncChannel::start`].
    pub fn waits_for_start(&self) -> bool {
        self.wait_for_start
    }

    /// Whether the child stops at [`crate::SyncEvent::BeforePivot`].
    pub fn pauses_before_pivot(&self) -> bool {
        self.pause_before_pivot
    }
}

impl<'p> ExecPlan<'p> {
    /// Compiles a further process for the container that `container` describes.
    ///
    /// What `process` leaves out where the spec's own process has it (nothing but the seccomp profile, which belongs
    /// to the container) is taken from `container`.
    pub fn compile(process: &Process, container: &Spec, options: &ExecOptions) -> Result<Self, PlanError> {
        let linux = container.linux().as_ref().ok_or(PlanError::Missing("linux"))?;
        let (join, user_namespace) = namespaces::join_flags(linux);
        let process = process::compile(process, Some(linux), options.seccomp.as_ref(), true)?;
        Ok(Self {
            join,
            user_namespace,
            cgroup: options.cgroup.as_ref().map(CgroupPlan::of),
            own_keyring: !options.no_new_keyring,
            wait_for_start: options.wait_for_start,
            preserve_fds: preserved(options.preserve_fds, options.program_reports)?,
            program_reports: options.program_reports,
            seccomp_agent: agent(&process, container, &options.bundle),
            process,
        })
    }

    /// The plan as bytes, for another process of the same version.
    pub fn to_bytes(&self) -> Result<Vec<u8>, PlanError> {
        encode(self)
    }

    /// Takes up a plan that [`to_bytes`](Self::to_bytes) wrote, and borrows its strings.
    pub fn from_bytes(bytes: &'p [u8]) -> Result<Self, PlanError> {
        Ok(postcard::from_bytes(bytes)?)
    }

    /// Whether the process gets a terminal.
    pub fn has_terminal(&self) -> bool {
        self.process.terminal.is_some()
    }

    /// Who is to get [`crate::SyncEvent::SeccompListener`].
    pub fn seccomp_agent(&self) -> Option<&SeccompAgent> {
        self.seccomp_agent.as_ref()
    }
}

/// Mounts of a specification alone, each of which is to be a bind.
pub(crate) fn binds(
    mounts: &[Mount],
    trees: &BTreeMap<PathBuf, MountTree>,
) -> Result<Vec<MountPlan<'static>>, PlanError> {
    let mut spec = Spec::default();
    spec.set_mounts(Some(mounts.to_vec()));
    let namespaces = NamespacePlan { new: 0, join: Vec::new(), time_offsets: String::new() };
    let options = CompileOptions { trees: trees.clone(), ..CompileOptions::default() };
    Ok(mounts::compile(&spec, Path::new("/"), &namespaces, None, &options)?.mounts)
}

/// What a program that reports does so by has the place of the first descriptor that would be kept.
fn preserved(count: u32, program_reports: bool) -> Result<u32, PlanError> {
    match program_reports && count > 0 {
        true => Err(PlanError::Unsupported("a program that reports inherits no further descriptors".to_owned())),
        false => Ok(count),
    }
}

/// A plan has some thousand bytes: measured first, it is put into memory once.
fn encode(plan: &impl Serialize) -> Result<Vec<u8>, PlanError> {
    let size = postcard::serialize_with_flavor(plan, postcard::ser_flavors::Size::default())?;
    Ok(postcard::to_extend(plan, Vec::with_capacity(size))?)
}

/// Who is told of what the process's filter asks about; most ask nobody.
fn agent(process: &ProcessPlan<'_>, spec: &Spec, bundle: &Path) -> Option<SeccompAgent> {
    let asks = process.seccomp.as_ref().is_some_and(|filter| filter.notify);
    asks.then(|| SeccompAgent::of(spec, bundle)).flatten()
}

pub(crate) fn cstring(what: &str, value: impl Into<Vec<u8>>) -> Result<Text<'static>, PlanError> {
    CString::new(value).map(Text::from).map_err(|_| PlanError::Nul(what.to_owned()))
}

fn strings(what: &str, values: &Option<Vec<String>>) -> Result<Vec<Text<'static>>, PlanError> {
    values.iter().flatten().map(|value| cstring(what, value.as_str())).collect()
}

fn hooks(spec: &Spec) -> Result<(Vec<HookPlan<'static>>, Vec<HookPlan<'static>>), PlanError> {
    let Some(hooks) = spec.hooks() else {
        return Ok((Vec::new(), Vec::new()));
    };
    let list =
        |hooks: &Option<Vec<oci_spec::runtime::Hook>>| hooks.iter().flatten().map(hook).collect::<Result<Vec<_>, _>>();
    Ok((list(hooks.create_container())?, list(hooks.start_container())?))
}

fn hook(hook: &oci_spec::runtime::Hook) -> Result<HookPlan<'static>, PlanError> {
    use std::os::unix::ffi::OsStrExt;
    let path = cstring("hooks.path", hook.path().as_os_str().as_bytes())?;
    let argv = match hook.args() {
        Some(args) if !args.is_empty() => strings("hooks.args", hook.args())?,
        _ => vec![path.clone()],
    };
    let seconds = hook.timeout().unwrap_or(0);
    if hook.timeout().is_some() && seconds <= 0 {
        return Err(PlanError::invalid("hooks.timeout", "must be greater than zero"));
    }
    let timeout = u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX);
    Ok(HookPlan { path, argv, envp: strings("hooks.env", hook.env())?, timeout })
}

/// Only what belongs to a namespace of the container's own may be set: anything else would change the host.
fn sysctls(
    linux: &oci_spec::runtime::Linux,
    namespaces: &NamespacePlan,
) -> Result<Vec<(Text<'static>, Text<'static>)>, PlanError> {
    const IPC: &[&str] = &[
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let mut plans = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        // Both separators are in use; a name with a slash first keeps its dots (net/ipv4/conf/eth0.1/…).
        let path = match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
            Some(b'/') => name.clone(),
            _ => name.split('/').map(|part| part.replace('.', "/")).collect::<Vec<_>>().join("."),
        };
        let dotted = path.replace('/', ".");
        let kind = if dotted.starts_with("net.") {
            NamespaceKind::Network
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            NamespaceKind::Ipc
        } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
            NamespaceKind::Uts
        } else if dotted.starts_with("user.") {
            NamespaceKind::User
        } else {
            return Err(PlanError::invalid(
                "linux.sysctl",
                format!("sysctl {name:?} is not in a separate kernel namespace"),
            ));
        };
        if !namespaces.isolated(kind) {
            let reason = format!("sysctl {name:?} is not allowed in the host's {} namespace", kind.name());
            return Err(PlanError::invalid("linux.sysctl", reason));
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(PlanError::invalid("linux.sysctl", format!("sysctl {name:?} is not a name")));
        }
        plans.push((cstring("linux.sysctl", path)?, cstring("linux.sysctl", value.as_str())?));
    }
    plans.sort();
    Ok(plans)
}
