//! The process itself: program, user, capabilities, limits.

use std::os::unix::ffi::OsStrExt;

use oci_spec::runtime::{
    Capabilities, IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

use super::{Bytes, PlanError, SeccompFilter, SeccompPlan, Text, cstring, strings};

/// Where programs are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The five sets, as masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) ambient: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TerminalPlan {
    /// Rows and columns at the start.
    pub(crate) size: Option<(u16, u16)>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct RlimitPlan {
    pub(crate) resource: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SchedulerPlan {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'p"))]
pub(crate) struct ProcessPlan<'p> {
    pub(crate) argv: Vec<Text<'p>>,
    pub(crate) envp: Vec<Text<'p>>,
    /// Where the program may be, in the order in which to look.
    pub(crate) candidates: Vec<Text<'p>>,
    pub(crate) cwd: Text<'p>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: Option<u32>,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) no_new_privileges: bool,
    pub(crate) rlimits: Vec<RlimitPlan>,
    pub(crate) oom_score_adj: Option<Text<'p>>,
    pub(crate) io_priority: Option<u32>,
    pub(crate) scheduler: Option<SchedulerPlan>,
    /// CPU masks, for before and after the move into the cgroup.
    pub(crate) affinity_initial: Option<Bytes<'p>>,
    pub(crate) affinity_final: Option<Bytes<'p>>,
    pub(crate) memory_policy: Option<(u32, Vec<u64>)>,
    pub(crate) personality: Option<u64>,
    /// What is written to `/proc/self/attr/{apparmor/,}exec`.
    pub(crate) apparmor: Option<Text<'p>>,
    pub(crate) selinux: Option<Text<'p>>,
    pub(crate) seccomp: Option<SeccompPlan<'p>>,
    pub(crate) terminal: Option<TerminalPlan>,
}

/// `exec` says that the process joins a running container: CPU affinity applies to it alone, and memory policy and
/// personality stay as the container's first process has them. `filter` takes the place of the spec's profile.
pub(crate) fn compile(
    process: &Process,
    linux: Option<&Linux>,
    filter: Option<&SeccompFilter>,
    exec: bool,
) -> Result<ProcessPlan<'static>, PlanError> {
    let argv = strings("process.args", process.args())?;
    let Some(program) = argv.first() else {
        return Err(PlanError::Missing("process.args"));
    };
    if program.is_empty() {
        return Err(PlanError::invalid("process.args", "the program's name is empty"));
    }
    let envp = strings("process.env", process.env())?;
    if !process.cwd().is_absolute() {
        return Err(PlanError::invalid("process.cwd", format!("{} is not an absolute path", process.cwd().display())));
    }
    let user = process.user();
    let affinity = process.exec_cpu_affinity().as_ref().filter(|_| exec);
    let mask = |list: &Option<String>| {
        list.as_deref().filter(|l| !l.is_empty()).map(|l| bits("process.execCPUAffinity", l)).transpose()
    };
    let oom = process.oom_score_adj();
    if let Some(score) = oom.filter(|score| !(-1000..=1000).contains(score)) {
        return Err(PlanError::invalid("process.oomScoreAdj", format!("{score} is not between -1000 and 1000")));
    }
    Ok(ProcessPlan {
        candidates: candidates(program, &envp)?,
        argv,
        envp,
        cwd: cstring("process.cwd", process.cwd().as_os_str().as_bytes())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: rlimits(process)?,
        oom_score_adj: oom.map(|score| cstring("process.oomScoreAdj", score.to_string())).transpose()?,
        io_priority: io_priority(process)?,
        scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
        affinity_initial: affinity.map(|a| mask(a.initial())).transpose()?.flatten().map(Bytes::from),
        affinity_final: affinity.map(|a| mask(a.cpu_affinity_final())).transpose()?.flatten().map(Bytes::from),
        memory_policy: linux.filter(|_| !exec).map(memory_policy).transpose()?.flatten(),
        personality: linux.and_then(|linux| linux.personality().as_ref()).map(personality).transpose()?,
        apparmor: apparmor(process)?,
        selinux: selinux(process)?,
        seccomp: match (filter, linux.and_then(|linux| linux.seccomp().as_ref())) {
            (Some(filter), _) => Some(filter.plan()),
            (None, Some(profile)) => Some(SeccompFilter::compile(profile)?.plan()),
            (None, None) => None,
        },
        terminal: process.terminal().unwrap_or(false).then(|| TerminalPlan {
            size: process
                .console_size()
                .map(|size| (size.height().min(0xffff) as u16, size.width().min(0xffff) as u16))
                .filter(|size| *size != (0, 0)),
        }),
    })
}

fn candidates(program: &Text<'static>, envp: &[Text<'static>]) -> Result<Vec<Text<'static>>, PlanError> {
    if program.to_bytes().contains(&b'/') {
        return Ok(vec![program.clone()]);
    }
    let path = envp.iter().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH.as_bytes()).split(|byte| *byte == b':');
    directories
        .map(|directory| {
            let directory = if directory.is_empty() { b"." } else { directory };
            cstring("process.args", [directory, b"/", program.to_bytes()].concat())
        })
        .collect()
}

fn capabilities(process: &Process) -> CapabilityPlan {
    // A spec without capabilities gets none.
    let Some(sets) = process.capabilities() else {
        return CapabilityPlan::default();
    };
    let mask = |set: &Option<Capabilities>| {
        set.iter().flatten().fold(0, |mask, capability| mask | 1u64 << capability_number(*capability))
    };
    CapabilityPlan {
        bounding: mask(sets.bounding()),
        effective: mask(sets.effective()),
        inheritable: mask(sets.inheritable()),
        permitted: mask(sets.permitted()),
        ambient: mask(sets.ambient()),
    }
}

/// The number of a capability in `linux/capability.h`.
pub fn capability_number(capability: oci_spec::runtime::Capability) -> u32 {
    use oci_spec::runtime::Capability as C;
    match capability {
        C::Chown => 0,
        C::DacOverride => 1,
        C::DacReadSearch => 2,
        C::Fowner => 3,
        C::Fsetid => 4,
        C::Kill => 5,
        C::Setgid => 6,
        C::Setuid => 7,
        C::Setpcap => 8,
        C::LinuxImmutable => 9,
        C::NetBindService => 10,
        C::NetBroadcast => 11,
        C::NetAdmin => 12,
        C::NetRaw => 13,
        C::IpcLock => 14,
        C::IpcOwner => 15,
        C::SysModule => 16,
        C::SysRawio => 17,
        C::SysChroot => 18,
        C::SysPtrace => 19,
        C::SysPacct => 20,
        C::SysAdmin => 21,
        C::SysBoot => 22,
        C::SysNice => 23,
        C::SysResource => 24,
        C::SysTime => 25,
        C::SysTtyConfig => 26,
        C::Mknod => 27,
        C::Lease => 28,
        C::AuditWrite => 29,
        C::AuditControl => 30,
        C::Setfcap => 31,
        C::MacOverride => 32,
        C::MacAdmin => 33,
        C::Syslog => 34,
        C::WakeAlarm => 35,
        C::BlockSuspend => 36,
        C::AuditRead => 37,
        C::Perfmon => 38,
        C::Bpf => 39,
        C::CheckpointRestore => 40,
    }
}

fn rlimits(process: &Process) -> Result<Vec<RlimitPlan>, PlanError> {
    let mut plans: Vec<RlimitPlan> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        if plans.iter().any(|plan| plan.resource == resource) {
            return Err(PlanError::invalid("process.rlimits", format!("{} is listed twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            let reason = format!("{}: the soft limit is above the hard limit", limit.typ());
            return Err(PlanError::invalid("process.rlimits", reason));
        }
        plans.push(RlimitPlan { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(plans)
}

fn io_priority(process: &Process) -> Result<Option<u32>, PlanError> {
    let Some(priority) = process.io_priority() else { return Ok(None) };
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority()).ok().filter(|level| *level < 8).ok_or_else(|| {
        PlanError::invalid("process.ioPriority", format!("{} is not between 0 and 7", priority.priority()))
    })?;
    Ok(Some(class << 13 | level))
}

fn scheduler(scheduler: &Scheduler) -> Result<SchedulerPlan, PlanError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(PlanError::invalid("process.scheduler", "SCHED_ISO is not implemented by Linux"));
        }
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = u32::try_from(scheduler.priority().unwrap_or(0))
        .map_err(|_| PlanError::invalid("process.scheduler", "the priority is negative"))?;
    Ok(SchedulerPlan {
        policy: policy as u32,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

fn memory_policy(linux: &Linux) -> Result<Option<(u32, Vec<u64>)>, PlanError> {
    let Some(policy) = linux.memory_policy() else { return Ok(None) };
    let mode = match policy.mode() {
        MemoryPolicyModeType::MpolDefault => 0,
        MemoryPolicyModeType::MpolPreferred => 1,
        MemoryPolicyModeType::MpolBind => 2,
        MemoryPolicyModeType::MpolInterleave => 3,
        MemoryPolicyModeType::MpolLocal => 4,
        MemoryPolicyModeType::MpolPreferredMany => 5,
        MemoryPolicyModeType::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1u32 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = match policy.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => bits("linux.memoryPolicy.nodes", list)?
            .chunks(8)
            .map(|chunk| chunk.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte)))
            .collect(),
    };
    Ok(Some((mode | flags, nodes)))
}

fn personality(personality: &oci_spec::runtime::LinuxPersonality) -> Result<u64, PlanError> {
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(PlanError::invalid("linux.personality.flags", "no flags are supported"));
    }
    Ok(match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0x0,
        LinuxPersonalityDomain::PerLinux32 => 0x8,
    })
}

fn apparmor(process: &Process) -> Result<Option<Text<'static>>, PlanError> {
    let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) else {
        return Ok(None);
    };
    match (profile, crate::apparmor::is_enabled()) {
        ("unconfined", false) => Ok(None),
        (_, true) => cstring("process.apparmorProfile", format!("exec {profile}")).map(Some),
        (_, false) => Err(PlanError::Unsupported(format!(
            "process.apparmorProfile is {profile:?}, but AppArmor is not enabled on this machine"
        ))),
    }
}

/// Whether SELinux is there.
pub(crate) fn selinux_enabled() -> bool {
    std::path::Path::new("/sys/fs/selinux/enforce").exists()
}

fn selinux(process: &Process) -> Result<Option<Text<'static>>, PlanError> {
    let Some(label) = process.selinux_label().as_deref().filter(|label| !label.is_empty()) else {
        return Ok(None);
    };
    if !selinux_enabled() {
        return Err(PlanError::Unsupported(format!(
            "process.selinuxLabel is {label:?}, but SELinux is not enabled on this machine"
        )));
    }
    cstring("process.selinuxLabel", label).map(Some)
}

/// `0-3,7` as a mask, least significant byte first, in whole words of 8 bytes.
pub(crate) fn bits(field: &str, list: &str) -> Result<Vec<u8>, PlanError> {
    const BITS_MAX: usize = 8192;
    let wrong = || PlanError::invalid(field, format!("{list:?} is not a list of numbers and ranges such as 0-3,7"));
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| wrong())?;
        let last: usize = last.parse().map_err(|_| wrong())?;
        if first > last || last >= BITS_MAX {
            return Err(wrong());
        }
        mask.resize(mask.len().max((last / 64 + 1) * 8), 0);
        for bit in first..=last {
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    if mask.is_empty() {
        return Err(wrong());
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_become_masks() {
        assert_eq!(bits("x", "0-3,7").unwrap(), [0x8f, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bits("x", "64").unwrap().len(), 16);
        for wrong in ["", "a", "3-1", "1-", "99999999", "-1"] {
            assert!(bits("x", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_program_without_a_slash_is_looked_for_in_the_path() {
        let found = candidates(&c"sh".into(), &[c"PATH=/bin:/usr/bin".into()]).unwrap();
        assert_eq!(found, [c"/bin/sh".into(), c"/usr/bin/sh".into()]);
        assert_eq!(candidates(&c"./sh".into(), &[]).unwrap(), [c"./sh".into()]);
    }

    proptest! {
        #[test]
        fn any_list_is_a_mask_or_an_error(list in "[0-9,\\-]{0,20}") {
            if let Ok(mask) = bits("x", &list) {
                prop_assert!(mask.len() % 8 == 0 && mask.iter().any(|byte| *byte != 0));
            }
        }
    }
}
