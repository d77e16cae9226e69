//! `--cap-add`, `--cap-drop` and `--privileged` become the sets of the runtime specification.

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use sandbox::plan::capability_number;

use super::defaults;
use crate::model::HostConfig;
use crate::{Error, Result};

/// Every capability that Linux has (the newest, `CAP_CHECKPOINT_RESTORE`, since 5.9).
fn all() -> impl Iterator<Item = Capability> {
    const ALL: [Capability; 41] = [
        Capability::AuditControl,
        Capability::AuditRead,
        Capability::AuditWrite,
        Capability::BlockSuspend,
        Capability::Bpf,
        Capability::CheckpointRestore,
        Capability::Chown,
        Capability::DacOverride,
        Capability::DacReadSearch,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::IpcLock,
        Capability::IpcOwner,
        Capability::Kill,
        Capability::Lease,
        Capability::LinuxImmutable,
        Capability::MacAdmin,
        Capability::MacOverride,
        Capability::Mknod,
        Capability::NetAdmin,
        Capability::NetBindService,
        Capability::NetBroadcast,
        Capability::NetRaw,
        Capability::Perfmon,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysAdmin,
        Capability::SysBoot,
        Capability::SysChroot,
        Capability::SysModule,
        Capability::SysNice,
        Capability::SysPacct,
        Capability::SysPtrace,
        Capability::SysRawio,
        Capability::SysResource,
        Capability::SysTime,
        Capability::SysTtyConfig,
        Capability::Syslog,
        Capability::WakeAlarm,
    ];
    ALL.into_iter()
}

/// The capabilities that `host` asks for; those that the daemon itself lacks are left out of a privileged set, and
/// refused when asked for by name.
pub(crate) fn effective(host: &HostConfig) -> Result<HashSet<Capability>> {
    if host.privileged {
        return Ok(all().filter(|cap| held().contains(cap)).collect());
    }
    let adds = parse("CapAdd", &host.cap_add)?;
    let drops = parse("CapDrop", &host.cap_drop)?;
    let mut set: HashSet<Capability> = match (&adds, &drops) {
        (Wanted::All, _) => all().filter(|cap| held().contains(cap)).collect(),
        (_, Wanted::All) => HashSet::new(),
        _ => defaults::CAPABILITIES.into_iter().collect(),
    };
    if let Wanted::These(drops) = &drops {
        set.retain(|cap| !drops.contains(cap));
    }
    if let Wanted::These(adds) = &adds {
        set.extend(adds);
    }
    Ok(set)
}

/// The same set as bounding, permitted and effective set: inheritable and ambient ones stay empty, so that a program
/// run by another user than root gains nothing.
pub(crate) fn sets(caps: HashSet<Capability>) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(caps.clone()))
        .set_permitted(Some(caps.clone()))
        .set_effective(Some(caps))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

enum Wanted {
    All,
    These(HashSet<Capability>),
}

fn parse(field: &str, names: &[String]) -> Result<Wanted> {
    let mut these = HashSet::new();
    for name in names {
        let upper = name.trim().to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Wanted::All);
        }
        let cap = upper.strip_prefix("CAP_").unwrap_or(&upper).parse().map_err(|_| {
            Error::invalid(format!("invalid {field}: unknown capability: \"CAP_{}\"", upper.trim_start_matches("CAP_")))
        })?;
        these.insert(cap);
    }
    Ok(Wanted::These(these))
}

/// The capabilities in this process's bounding set: nothing it starts can have more.
fn held() -> &'static HashSet<Capability> {
    static HELD: std::sync::OnceLock<HashSet<Capability>> = std::sync::OnceLock::new();
    HELD.get_or_init(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        let mask = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX);
        all().filter(|cap| mask & (1 << capability_number(*cap)) != 0).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Result<HashSet<Capability>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        effective(&HostConfig { cap_add: owned(add), cap_drop: owned(drop), ..HostConfig::default() })
    }

    #[test]
    fn drop_all_then_add_one() {
        assert_eq!(of(&["net_admin"], &["ALL"]).unwrap(), HashSet::from([Capability::NetAdmin]));
    }

    #[test]
    fn names_come_with_and_without_prefix() {
        let set = of(&[], &["CAP_CHOWN", "kill"]).unwrap();
        assert_eq!(set.len(), 12);
        assert!(!set.contains(&Capability::Chown) && !set.contains(&Capability::Kill));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        let error = of(&["FLY"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "invalid CapAdd: unknown capability: \"CAP_FLY\"");
    }
}
