//! Which namespaces are new, which are joined, and which are the parent's.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use super::{PlanError, Text, cstring};

/// The kinds of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Users, groups and capabilities.
    User,
    /// Mounts.
    Mount,
    /// Process ids.
    Pid,
    /// Network devices, addresses, ports.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of the cgroup tree.
    Cgroup,
    /// Monotonic and boot-time clocks.
    Time,
}

impl NamespaceKind {
    /// The kind's `CLONE_NEW*` flag.
    pub fn clone_flag(self) -> u64 {
        (match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Network => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => libc::CLONE_NEWTIME,
        }) as u64
    }

    /// The kind's name in the OCI runtime spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    /// The kind's file in `/proc/PID/ns`.
    pub fn proc_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    fn of(kind: LinuxNamespaceType) -> Self {
        match kind {
            LinuxNamespaceType::User => Self::User,
            LinuxNamespaceType::Mount => Self::Mount,
            LinuxNamespaceType::Pid => Self::Pid,
            LinuxNamespaceType::Network => Self::Network,
            LinuxNamespaceType::Ipc => Self::Ipc,
            LinuxNamespaceType::Uts => Self::Uts,
            LinuxNamespaceType::Cgroup => Self::Cgroup,
            LinuxNamespaceType::Time => Self::Time,
        }
    }
}

/// Where a namespace to join is found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) enum NamespaceSource<'p> {
    Path(Text<'p>),
    /// The place among the descriptors given to the spawn.
    Slot(u8),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct Join<'p> {
    pub(crate) kind: NamespaceKind,
    pub(crate) source: NamespaceSource<'p>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct NamespacePlan<'p> {
    /// `CLONE_NEW*` of the new ones.
    pub(crate) new: u64,
    /// The ones to join, the user namespace first.
    pub(crate) join: Vec<Join<'p>>,
    /// The text for `/proc/PID/timens_offsets`; empty for none.
    pub(crate) time_offsets: String,
}

impl NamespacePlan<'_> {
    pub(crate) fn is_new(&self, kind: NamespaceKind) -> bool {
        self.new & kind.clone_flag() != 0
    }

    pub(crate) fn joins(&self, kind: NamespaceKind) -> bool {
        self.join.iter().any(|join| join.kind == kind)
    }

    /// New or joined: in any case not simply the parent's.
    pub(crate) fn isolated(&self, kind: NamespaceKind) -> bool {
        self.is_new(kind) || self.joins(kind)
    }
}

pub(crate) fn compile(linux: &Linux, fds: &[(NamespaceKind, u8)]) -> Result<NamespacePlan<'static>, PlanError> {
    let mut plan = NamespacePlan { new: 0, join: Vec::new(), time_offsets: String::new() };
    let mut seen = 0;
    for namespace in linux.namespaces().iter().flatten() {
        let kind = NamespaceKind::of(namespace.typ());
        if seen & kind.clone_flag() != 0 {
            let reason = format!("the {} namespace is listed twice", kind.name());
            return Err(PlanError::invalid("linux.namespaces", reason));
        }
        seen |= kind.clone_flag();
        if let Some((_, slot)) = fds.iter().find(|(given, _)| *given == kind) {
            plan.join.push(Join { kind, source: NamespaceSource::Slot(*slot) });
            continue;
        }
        match namespace.path() {
            Some(path) if !path.as_os_str().is_empty() => {
                let path = cstring("linux.namespaces.path", path.as_os_str().as_bytes())?;
                plan.join.push(Join { kind, source: NamespaceSource::Path(path) });
            }
            _ => plan.new |= kind.clone_flag(),
        }
    }
    for (kind, slot) in fds.iter().filter(|(kind, _)| seen & kind.clone_flag() == 0) {
        plan.join.push(Join { kind: *kind, source: NamespaceSource::Slot(*slot) });
    }
    // Joining the user namespace first gives the capabilities that joining the others takes.
    plan.join.sort_by_key(|join| join.kind != NamespaceKind::User);
    if !plan.isolated(NamespaceKind::Mount) {
        return Err(PlanError::invalid("linux.namespaces", "a mount namespace is required"));
    }
    if let Some(offsets) = linux.time_offsets().as_ref().filter(|offsets| !offsets.is_empty()) {
        if !plan.is_new(NamespaceKind::Time) {
            return Err(PlanError::invalid("linux.timeOffsets", "needs a new time namespace"));
        }
        for (clock, offset) in offsets {
            if !matches!(clock.as_str(), "monotonic" | "boottime") {
                let reason = format!("{clock:?} is no clock of a time namespace; use monotonic or boottime");
                return Err(PlanError::invalid("linux.timeOffsets", reason));
            }
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            plan.time_offsets += &format!("{clock} {seconds} {nanoseconds}\n");
        }
    }
    Ok(plan)
}

/// What a further process joins: every namespace that the container does not share with its parent by default.
pub(crate) fn join_flags(linux: &Linux) -> (u64, bool) {
    let kinds = linux.namespaces().iter().flatten().map(|namespace| NamespaceKind::of(namespace.typ()));
    let flags = kinds.fold(0, |flags, kind| flags | kind.clone_flag());
    (flags, flags & NamespaceKind::User.clone_flag() != 0)
}
