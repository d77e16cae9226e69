//! Docker's seccomp profiles (a superset of the runtime specification's: rules that hold for some architectures,
//! capabilities or kernels only) become the specification's own form.

use std::collections::HashSet;
use std::sync::OnceLock;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use parking_lot::Mutex;
use sandbox::SeccompFilter;
use sandbox::plan::capability_number;
use serde::Deserialize;

use crate::{Error, Result};

/// The rules that dockerd applies by default, from moby's published profile.
const DEFAULT: &str = include_str!("seccomp-default.json");

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    listener_path: Option<std::path::PathBuf>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// How many filters of the default profile are kept compiled. Nearly every container has the same capabilities.
const COMPILED_MAX: usize = 32;

/// The filter of the default profile for a container with `caps`. Its profile is made only where the filter is not known: to
/// put 450 names together at every start would take longer than all the rest of a specification.
pub(crate) fn default_filter(caps: &HashSet<Capability>) -> Result<SeccompFilter> {
    static COMPILED: Mutex<Compiled> = Mutex::new(Compiled(Vec::new()));
    let mask = caps.iter().fold(0, |mask, cap| mask | 1 << capability_number(*cap));
    let known = COMPILED.lock().find(mask);
    if let Some(filter) = known {
        return Ok(filter);
    }
    let filter = SeccompFilter::compile(&default_profile(caps)?).map_err(|error| Error::system(error.to_string()))?;
    Ok(COMPILED.lock().keep(mask, filter))
}

/// Filters by the capabilities that they are for, the oldest first.
struct Compiled(Vec<(u64, SeccompFilter)>);

impl Compiled {
    fn find(&self, mask: u64) -> Option<SeccompFilter> {
        self.0.iter().find(|(known, _)| *known == mask).map(|(_, filter)| filter.clone())
    }

    /// Keeps a filter, unless another start has come first: then it is that one's which is kept, and given back.
    fn keep(&mut self, mask: u64, filter: SeccompFilter) -> SeccompFilter {
        if let Some(first) = self.find(mask) {
            return first;
        }
        if self.0.len() >= COMPILED_MAX {
            self.0.remove(0);
        }
        self.0.push((mask, filter.clone()));
        filter
    }
}

/// The default profile for a container with `caps`.
fn default_profile(caps: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    static PARSED: OnceLock<Result<Profile, String>> = OnceLock::new();
    let parsed = PARSED.get_or_init(|| serde_json::from_str(DEFAULT).map_err(|error| error.to_string()));
    match parsed {
        Ok(profile) => resolve(profile, caps),
        Err(error) => Err(Error::system(format!("the default seccomp profile: {error}"))),
    }
}

/// A profile given by a client, for a container with `caps`.
pub(crate) fn parse_profile(text: &str, caps: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let profile: Profile = serde_json::from_str(text)
        .map_err(|error| Error::invalid(format!("opening seccomp profile failed: decoding it failed: {error}")))?;
    if profile.architectures.is_some() && profile.arch_map.is_some() {
        return Err(Error::invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, use either",
        ));
    }
    resolve(&profile, caps)
}

fn resolve(profile: &Profile, caps: &HashSet<Capability>) -> Result<LinuxSeccomp> {
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(Some(architectures(profile)))
        .set_flags(profile.flags.clone())
        .set_listener_path(profile.listener_path.clone())
        .set_listener_metadata(profile.listener_metadata.clone());
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        let names = match (&rule.name, &rule.names) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid("both 'name' and 'names' are specified in a rule of the seccomp profile"));
            }
            (Some(name), None) => vec![name.clone()],
            (None, names) => names.clone().unwrap_or_default(),
        };
        if !applies(&rule.includes, &rule.excludes, caps) || names.is_empty() {
            continue;
        }
        let mut syscall = LinuxSyscall::default();
        syscall.set_names(names).set_action(rule.action).set_errno_ret(rule.errno_ret).set_args(rule.args.clone());
        syscalls.push(syscall);
    }
    seccomp.set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn architectures(profile: &Profile) -> Vec<Arch> {
    if let Some(listed) = &profile.architectures {
        return listed.clone();
    }
    let mapped = profile.arch_map.iter().flatten().find(|map| Some(map.architecture) == native());
    match mapped {
        Some(map) => {
            let subs = map.sub_architectures.iter().flatten().copied();
            std::iter::once(map.architecture).chain(subs).collect()
        }
        None => native().into_iter().collect(),
    }
}

fn native() -> Option<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Arch::ScmpArchX86_64),
        "aarch64" => Some(Arch::ScmpArchAarch64),
        "riscv64" => Some(Arch::ScmpArchRiscv64),
        "s390x" => Some(Arch::ScmpArchS390x),
        "powerpc64" => Some(Arch::ScmpArchPpc64le),
        _ => None,
    }
}

/// The architecture as Go names it, which profiles use.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn applies(includes: &Condition, excludes: &Condition, caps: &HashSet<Capability>) -> bool {
    let has = |name: &String| name.strip_prefix("CAP_").unwrap_or(name).parse().is_ok_and(|cap| caps.contains(&cap));
    let on_arch = |arches: &Vec<String>| arches.iter().any(|arch| arch == go_arch());
    let new_enough = |version: &String| kernel_at_least(version);
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());

    let excluded = excludes.arches.as_ref().is_some_and(on_arch)
        || excludes.caps.iter().flatten().any(has)
        || excludes.min_kernel.as_ref().is_some_and(new_enough);
    let included = (!given(&includes.arches) || includes.arches.as_ref().is_some_and(on_arch))
        && includes.caps.iter().flatten().all(has)
        && includes.min_kernel.as_ref().is_none_or(new_enough);
    included && !excluded
}

fn kernel_at_least(wanted: &str) -> bool {
    let version = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).take(2).map(|part| part.parse().unwrap_or(0)).collect()
    };
    let uname = rustix::system::uname();
    version(&uname.release().to_string_lossy()) >= version(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(seccomp: &LinuxSeccomp, name: &str) -> bool {
        let rules = seccomp.syscalls().as_ref().unwrap();
        rules.iter().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().is_none()
                && rule.names().iter().any(|have| have == name)
        })
    }

    #[test]
    fn the_default_profile_follows_the_capabilities() {
        let plain = default_profile(&super::super::defaults::CAPABILITIES.into_iter().collect()).unwrap();
        assert!(allows(&plain, "openat2") && allows(&plain, "chroot"));
        assert!(!allows(&plain, "mount") && !allows(&plain, "io_uring_setup") && !allows(&plain, "bpf"));
        let admin = default_profile(&HashSet::from([Capability::SysAdmin])).unwrap();
        assert!(allows(&admin, "mount") && !allows(&admin, "chroot"));
    }

    /// Each compiles its own, as neither finds one.
    #[test]
    fn two_starts_at_once_do_not_push_others_out() {
        let compile = || SeccompFilter::compile(&default_profile(&HashSet::new()).unwrap()).unwrap();
        let (mut compiled, first, second) = (Compiled(Vec::new()), compile(), compile());
        for _ in 0..=COMPILED_MAX {
            compiled.keep(1, first.clone());
        }
        compiled.keep(2, second);
        assert_eq!(compiled.0.iter().map(|(mask, _)| *mask).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_profile_that_is_no_json_is_refused() {
        assert!(parse_profile("{", &HashSet::new()).is_err());
        assert!(parse_profile(r#"{"defaultAction":"SCMP_ACT_WRONG"}"#, &HashSet::new()).is_err());
    }
}
