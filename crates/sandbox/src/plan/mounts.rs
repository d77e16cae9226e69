//! Mounts, devices and what is hidden, flattened to the arguments of system calls.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount, Spec};
use serde::{Deserialize, Serialize};

use super::options::{IdmapOption, Options};
use super::process::selinux_enabled;
use super::rootfs::{self, RootFs};
use super::{CompileOptions, IdMaps, MountTree, NamespaceKind, NamespacePlan, OverlayPlan, PlanError, Text, cstring};
use crate::cgroup::{Layout, Placement};

/// The longest value that `fsconfig(2)` takes.
const PARAMETER_MAX: usize = 255;

/// One mount, or one thing done between mounts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct MountPlan<'p> {
    /// Relative to the root.
    pub(crate) target: Text<'p>,
    /// For messages: `proc on /proc`.
    pub(crate) label: Text<'p>,
    pub(crate) kind: MountKind<'p>,
    /// `MOUNT_ATTR_*`.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) recursive_set: u64,
    pub(crate) recursive_clear: u64,
    pub(crate) propagation: Vec<u64>,
    pub(crate) copy_up: bool,
    /// Mappings of an id-mapped mount, and whether they cover what is mounted below it.
    pub(crate) idmap: Option<(IdMaps, bool)>,
    /// The target may lie within /proc.
    pub(crate) in_proc: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) enum MountKind<'p> {
    /// A new file system, by `fsopen(2)`.
    New { fstype: Text<'p>, source: Text<'p>, parameters: Vec<(Text<'p>, Option<Text<'p>>)> },
    /// A new file system whose options are too long for `fsconfig(2)`, by `mount(2)`.
    Classic { fstype: Text<'p>, source: Text<'p>, data: Text<'p> },
    /// A tree that is mounted elsewhere, or a part of it: what `subpath` leads to within it.
    Bind { source: Text<'p>, subpath: Text<'p>, recursive: bool },
    /// A detached tree that is given as a descriptor: its place among them.
    Given { slot: u8 },
    /// A new overlay, or a part of it.
    Overlay { overlay: OverlayPlan<'p>, subpath: Text<'p> },
    /// Other flags for what is mounted there already.
    Remount,
    /// A symbolic link with this content.
    Symlink { to: Text<'p> },
}

/// A device node to make. In a user namespace, where none can be made, the host's is bound.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct DevicePlan<'p> {
    /// Relative to the root.
    pub(crate) path: Text<'p>,
    /// The same in the host, for a bind.
    pub(crate) host_path: Text<'p>,
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) bind: bool,
}

/// What the spec's mounts and devices come to.
pub(crate) struct Mounted {
    pub(crate) mounts: Vec<MountPlan<'static>>,
    pub(crate) devices: Vec<DevicePlan<'static>>,
    pub(crate) symlinks: Vec<(Text<'static>, Text<'static>)>,
    pub(crate) mask_options: Vec<(Text<'static>, Option<Text<'static>>)>,
}

struct Context<'a> {
    bundle: &'a Path,
    namespaces: &'a NamespacePlan<'a>,
    ids: Option<&'a IdMaps>,
    cgroup: Option<&'a Placement>,
    trees: &'a BTreeMap<PathBuf, MountTree>,
    given: &'a BTreeMap<PathBuf, u8>,
    /// SELinux's context for file systems made here.
    label: Option<&'a str>,
}

pub(crate) fn compile(
    spec: &Spec,
    bundle: &Path,
    namespaces: &NamespacePlan,
    ids: Option<&IdMaps>,
    options: &CompileOptions,
) -> Result<Mounted, PlanError> {
    let linux = spec.linux().as_ref().ok_or(PlanError::Missing("linux"))?;
    let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
    if let Some(label) = label.filter(|_| !selinux_enabled()) {
        return Err(PlanError::Unsupported(format!(
            "linux.mountLabel is {label:?}, but SELinux is not enabled on this machine"
        )));
    }
    let context = Context {
        bundle,
        namespaces,
        ids,
        cgroup: options.cgroup.as_ref(),
        trees: &options.trees,
        given: &options.mount_fds,
        label,
    };
    let mut mounts = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        context.mount(mount, &mut mounts)?;
    }
    // A bind over /dev brings its own nodes; the host's directory must not be written to.
    let own_dev = !spec.mounts().iter().flatten().any(|mount| is_bind(mount) && normal(mount.destination()) == "dev");
    let in_user_namespace = namespaces.isolated(NamespaceKind::User);
    let (devices, symlinks) =
        if own_dev { (devices(linux, in_user_namespace)?, symlinks()) } else { (Vec::new(), Vec::new()) };
    let mask_options = match label {
        Some(label) => vec![(c"context".into(), Some(cstring("linux.mountLabel", label)?))],
        None => Vec::new(),
    };
    Ok(Mounted { mounts, devices, symlinks, mask_options })
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"))
}

/// A path without leading slash, `.` and `..`, as it is meant within the root.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    parts.join("/")
}

/// The files of /proc that may be mounted over: each a view that LXCFS and the like replace.
const PROC_ALLOWED: &[&str] = &[
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
    "proc/net/dev",
];

impl Context<'_> {
    fn mount(&self, mount: &Mount, plans: &mut Vec<MountPlan<'static>>) -> Result<(), PlanError> {
        let destination = normal(mount.destination());
        if mount.destination().as_os_str().is_empty() {
            return Err(PlanError::Missing("mounts.destination"));
        }
        let mut options = Options::parse(mount.options().as_deref().unwrap_or(&[]))?;
        let fstype = mount.typ().as_deref().unwrap_or("");
        let bind = options.bind || fstype == "bind";
        let kernel = |options: &Options| -> Result<bool, PlanError> {
            let inside = destination == "proc" || destination.starts_with("proc/");
            let allowed = PROC_ALLOWED.contains(&destination.as_str()) || options.remount;
            if inside && !allowed && !matches!(fstype, "proc" | "mqueue" | "binfmt_misc") {
                return Err(PlanError::invalid(
                    "mounts.destination",
                    format!("/{destination} cannot be mounted over: it is inside /proc"),
                ));
            }
            Ok(inside)
        };
        let in_proc = kernel(&options)?;
        let source = mount.source().as_deref().map(|source| source.as_os_str().as_bytes().to_vec());
        if matches!(fstype, "cgroup" | "cgroup2") && !bind {
            return self.cgroup(&destination, &options, plans);
        }
        if bind {
            let (kind, source) = self.bind(mount, &options)?;
            let label = format!("{} to /{destination}", source.display());
            let kind = if options.remount { MountKind::Remount } else { kind };
            plans.push(self.plan(&destination, label, kind, &options, mount, in_proc)?);
            return Ok(());
        }
        if options.remount {
            let label = format!("remount of /{destination}");
            plans.push(self.plan(&destination, label, MountKind::Remount, &options, mount, in_proc)?);
            return Ok(());
        }
        if fstype.is_empty() {
            return Err(PlanError::invalid("mounts.type", format!("/{destination} has neither a type nor bind")));
        }
        // sysfs shows the network namespace, and takes one of the same user namespace; without, the host's is bound.
        if fstype == "sysfs"
            && self.namespaces.isolated(NamespaceKind::User)
            && !self.namespaces.is_new(NamespaceKind::Network)
        {
            options.recursive_set |= options.set;
            let kind = whole(c"/sys".into(), true);
            plans.push(self.plan(&destination, format!("/sys to /{destination}"), kind, &options, mount, in_proc)?);
            return Ok(());
        }
        if fstype == "tmpfs" && !options.parameters.iter().any(|(key, _)| key.as_c_str() == c"mode") {
            // As the directory beneath it, else 1777: decided where the directory can be seen.
            options.parameters.push((c"mode".into(), None));
        }
        if let Some(context) = self.label.filter(|_| fstype != "proc" && fstype != "sysfs") {
            options.parameters.push((c"context".into(), Some(cstring("linux.mountLabel", context)?)));
        }
        let source = source.filter(|source| !source.is_empty()).unwrap_or_else(|| fstype.as_bytes().to_vec());
        let kind = new_filesystem(fstype, source, &options)?;
        let label = format!("{fstype} on /{destination}");
        plans.push(self.plan(&destination, label, kind, &options, mount, in_proc)?);
        Ok(())
    }

    /// What a bind mount shows, and what messages call it.
    fn bind(&self, mount: &Mount, options: &Options) -> Result<(MountKind<'static>, PathBuf), PlanError> {
        let source = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty());
        let source = source.ok_or(PlanError::Missing("mounts.source"))?;
        if let Some(slot) = self.given.get(mount.destination()) {
            return Ok((MountKind::Given { slot: *slot }, source.clone()));
        }
        let recursive = options.recursive_bind;
        let text = |path: &Path| cstring("mounts.source", path.as_os_str().as_bytes());
        let Some(tree) = self.trees.get(mount.destination()) else {
            let source = self.bundle.join(source);
            return Ok((MountKind::Bind { source: text(&source)?, subpath: c"".into(), recursive }, source));
        };
        let subpath = text(&tree.subpath)?;
        let kind = match &tree.root {
            RootFs::Path(path) => MountKind::Bind { source: text(path)?, subpath, recursive },
            RootFs::Overlay { .. } => MountKind::Overlay { overlay: rootfs::overlay_plan(&tree.root)?, subpath },
        };
        Ok((kind, if tree.subpath.as_os_str().is_empty() { source.clone() } else { source.join(&tree.subpath) }))
    }

    fn plan(
        &self,
        destination: &str,
        label: String,
        kind: MountKind<'static>,
        options: &Options,
        mount: &Mount,
        in_proc: bool,
    ) -> Result<MountPlan<'static>, PlanError> {
        let uids = mount.uid_mappings().as_deref().unwrap_or(&[]);
        let gids = mount.gid_mappings().as_deref().unwrap_or(&[]);
        let explicit = !uids.is_empty() || !gids.is_empty();
        let idmap = match (options.idmap, explicit) {
            (None, false) => None,
            (option, true) => {
                Some((IdMaps::new("mounts.uidMappings", uids, gids)?, option == Some(IdmapOption::Recursive)))
            }
            (Some(option), false) => {
                let ids = self.ids.ok_or_else(|| {
                    PlanError::invalid(
                        "mounts.options",
                        format!("idmap on /{destination} needs uidMappings and gidMappings, or a user namespace"),
                    )
                })?;
                Some((ids.clone(), option == IdmapOption::Recursive))
            }
        };
        // The layers of an overlay are mapped, and not the overlay.
        let idmap = idmap.filter(|_| !matches!(kind, MountKind::Overlay { .. }));
        if idmap.is_some() && !matches!(kind, MountKind::Bind { .. }) {
            return Err(PlanError::invalid("mounts.options", format!("idmap on /{destination} needs a bind mount")));
        }
        Ok(MountPlan {
            target: cstring("mounts.destination", destination)?,
            label: cstring("mounts.destination", label)?,
            kind,
            set: options.set,
            clear: options.clear,
            recursive_set: options.recursive_set,
            recursive_clear: options.recursive_clear,
            propagation: options.propagation.clone(),
            copy_up: options.copy_up,
            idmap,
            in_proc,
        })
    }

    /// A `cgroup` mount: the container's own part of every hierarchy.
    fn cgroup(
        &self,
        destination: &str,
        options: &Options,
        plans: &mut Vec<MountPlan<'static>>,
    ) -> Result<(), PlanError> {
        let own_view = self.namespaces.isolated(NamespaceKind::Cgroup);
        let here = |name: &str| format!("{destination}/{name}");
        // The place says it, where it is on another machine.
        let unified = self.cgroup.is_some_and(Placement::is_unified);
        let layout = Layout::detect().map_err(|error| PlanError::Unsupported(error.to_string()))?;
        if unified || layout.is_unified() {
            let kind = match (own_view, self.cgroup.and_then(Placement::unified)) {
                (false, Some(directory)) => whole(directory.to_owned().into(), false),
                _ => new_filesystem("cgroup2", b"cgroup".to_vec(), &Options::default())?,
            };
            plans.push(simple(destination, "cgroup2", kind, options)?);
            return Ok(());
        }
        let base = Options { set: options.set & !libc::MOUNT_ATTR_RDONLY, ..options.clone() };
        let parameters = Options { parameters: vec![(c"mode".into(), Some(c"755".into()))], ..Options::default() };
        plans.push(simple(destination, "tmpfs", new_filesystem("tmpfs", b"tmpfs".to_vec(), &parameters)?, &base)?);
        // The attributes of the binds come at the end, all at once.
        let later = Options { set: 0, clear: 0, ..options.clone() };
        for hierarchy in layout.v1() {
            let name = hierarchy.name();
            let kind = match (own_view, self.cgroup.and_then(|cgroup| cgroup.v1_directory(name))) {
                (false, Some(directory)) => whole(directory.to_owned().into(), false),
                (false, None) => whole(cstring("cgroup", hierarchy.mount_point().as_os_str().as_bytes())?, false),
                (true, _) => {
                    let parameters = hierarchy.mount_parameters();
                    let parsed = Options { parameters, ..Options::default() };
                    new_filesystem("cgroup", b"cgroup".to_vec(), &parsed)?
                }
            };
            let options = if matches!(kind, MountKind::Bind { .. }) { &later } else { options };
            plans.push(simple(&here(name), "cgroup", kind, options)?);
            // Where several controllers share a hierarchy, each is found by its own name as well.
            for alias in hierarchy.controllers().iter().filter(|alias| alias.as_str() != name && !alias.contains('=')) {
                let kind = MountKind::Symlink { to: cstring("cgroup", name)? };
                plans.push(simple(&here(alias), "symlink", kind, &Options::default())?);
            }
        }
        let all = MountPlan {
            set: 0,
            clear: 0,
            recursive_set: options.set,
            recursive_clear: options.clear,
            ..simple(destination, "tmpfs", MountKind::Remount, options)?
        };
        plans.push(all);
        Ok(())
    }
}

/// A bind of all of a tree.
fn whole(source: Text<'static>, recursive: bool) -> MountKind<'static> {
    MountKind::Bind { source, subpath: c"".into(), recursive }
}

fn simple(
    destination: &str,
    fstype: &str,
    kind: MountKind<'static>,
    options: &Options,
) -> Result<MountPlan<'static>, PlanError> {
    Ok(MountPlan {
        target: cstring("mounts.destination", destination)?,
        label: cstring("mounts.destination", format!("{fstype} on /{destination}"))?,
        kind,
        set: options.set,
        clear: options.clear,
        recursive_set: 0,
        recursive_clear: 0,
        propagation: options.propagation.clone(),
        copy_up: false,
        idmap: None,
        in_proc: false,
    })
}

fn new_filesystem(fstype: &str, source: Vec<u8>, options: &Options) -> Result<MountKind<'static>, PlanError> {
    let source = cstring("mounts.source", source)?;
    let kind = cstring("mounts.type", fstype)?;
    let too_long = |text: &Option<Text<'static>>| text.as_ref().is_some_and(|text| text.count_bytes() > PARAMETER_MAX);
    if options.parameters.iter().any(|(_, value)| too_long(value)) {
        let words = options.parameters.iter().map(|(key, value)| match value {
            Some(value) => [key.to_bytes(), b"=", value.to_bytes()].concat(),
            None => key.to_bytes().to_vec(),
        });
        let data = cstring("mounts.options", words.collect::<Vec<_>>().join(&b','))?;
        return Ok(MountKind::Classic { fstype: kind, source, data });
    }
    Ok(MountKind::New { fstype: kind, source, parameters: options.parameters.clone() })
}

/// The devices that every container has, then those of the spec.
fn devices(linux: &Linux, bind: bool) -> Result<Vec<DevicePlan<'static>>, PlanError> {
    const DEFAULT: &[(&str, u32, u32)] =
        &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut plans = Vec::new();
    for (name, major, minor) in DEFAULT {
        let path = format!("dev/{name}");
        plans.push(DevicePlan {
            host_path: cstring("linux.devices", format!("/{path}"))?,
            path: cstring("linux.devices", path)?,
            mode: libc::S_IFCHR | 0o666,
            device: libc::makedev(*major, *minor),
            uid: 0,
            gid: 0,
            bind,
        });
    }
    for device in linux.devices().iter().flatten() {
        let plan = self::device(device, bind)?;
        plans.retain(|other| other.path != plan.path);
        // The multiplexer is always that of the container's own devpts: the host's would give out the host's terminals.
        if plan.path.as_c_str() != c"dev/ptmx" {
            plans.push(plan);
        }
    }
    Ok(plans)
}

fn device(device: &LinuxDevice, bind: bool) -> Result<DevicePlan<'static>, PlanError> {
    let path = normal(device.path());
    if path.is_empty() {
        return Err(PlanError::invalid("linux.devices.path", "is the root itself"));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(PlanError::invalid("linux.devices.type", "must be b, c, u or p")),
    };
    let part = |value: i64| {
        u32::try_from(value).map_err(|_| {
            PlanError::invalid("linux.devices", format!("{} has no valid number", device.path().display()))
        })
    };
    let number = if kind == libc::S_IFIFO { 0 } else { libc::makedev(part(device.major())?, part(device.minor())?) };
    Ok(DevicePlan {
        host_path: cstring("linux.devices.path", device.path().as_os_str().as_bytes())?,
        path: cstring("linux.devices.path", path)?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        device: number,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
        bind: bind && kind != libc::S_IFIFO,
    })
}

fn symlinks() -> Vec<(Text<'static>, Text<'static>)> {
    let mut links = vec![
        (c"dev/fd".into(), c"/proc/self/fd".into()),
        (c"dev/stdin".into(), c"/proc/self/fd/0".into()),
        (c"dev/stdout".into(), c"/proc/self/fd/1".into()),
        (c"dev/stderr".into(), c"/proc/self/fd/2".into()),
        (c"dev/ptmx".into(), c"pts/ptmx".into()),
    ];
    if PathBuf::from("/proc/kcore").exists() {
        links.push((c"dev/core".into(), c"/proc/kcore".into()));
    }
    links
}
