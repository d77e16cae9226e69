//! Cgroups that systemd manages (`--systemd-cgroup`): each container is a scope of its own, made over D-Bus, as
//! dockerd, containerd and podman ask for on servers that systemd runs. See org.freedesktop.systemd1(5) and systemd.resource-control(5).
//!
//! A scope is made of processes that run already, and ends with the last of them. So a process that does nothing holds it until
//! the container's first one is in it. Limits go to systemd as well as to the files: what it knows it sets again after a reload.

use std::sync::mpsc;
use std::time::Duration;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use zbus::blocking::{Connection, MessageIterator};
use zbus::zvariant::{OwnedObjectPath, Value};

use super::{Result, RuntimeError};
use crate::cgroup::{Layout, weight_of_shares};
use crate::sys;

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long systemd may take for a scope.
const PATIENCE: Duration = Duration::from_secs(30);
const UNLIMITED: u64 = u64::MAX;

type Properties = Vec<(&'static str, Value<'static>)>;

/// A scope by its name, `slice:prefix:name` in the runtime specification's `cgroupsPath`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scope {
    slice: String,
    unit: String,
}

/// Keeps a scope that has no process of its container yet.
pub(super) struct Held {
    _idle: sys::Idle,
}

impl Scope {
    pub(super) fn parse(path: &str) -> Result<Self> {
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(RuntimeError::Usage(format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
            )));
        };
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
        Ok(Self { slice: slice.to_owned(), unit })
    }

    /// Makes it. It stays for as long as something runs in it, or what is returned is held.
    pub(super) fn start(&self, id: &str, resources: &LinuxResources) -> Result<Held> {
        // Before there are threads, which the connection brings.
        let idle = sys::Idle::start().map_err(RuntimeError::system("start a process that holds the scope"))?;
        let connection = connect()?;
        let properties = || {
            let mut all = vec![
                ("Description", Value::from(format!("container {id}"))),
                ("Slice", Value::from(self.slice.clone())),
                ("PIDs", Value::from(vec![idle.pid()])),
                ("Delegate", Value::from(true)),
                ("DefaultDependencies", Value::from(false)),
                ("CollectMode", Value::from("inactive-or-failed")),
            ];
            all.extend(
                ["CPUAccounting", "MemoryAccounting", "TasksAccounting", "IOAccounting"]
                    .map(|name| (name, true.into())),
            );
            all.extend(limits(resources));
            all
        };
        match self.enqueue(&connection, properties()) {
            // One of the same name that failed is in the way until it is forgotten.
            Err(Refused::Exists) => {
                let _ = call(&connection, "ResetFailedUnit", &(self.unit.as_str(),));
                self.enqueue(&connection, properties()).map_err(|refused| self.refused("make", refused))?;
            }
            other => other.map_err(|refused| self.refused("make", refused))?,
        }
        Ok(Held { _idle: idle })
    }

    /// Has systemd know of other limits.
    pub(super) fn set(&self, resources: &LinuxResources) -> Result<()> {
        let limits = limits(resources);
        if limits.is_empty() {
            return Ok(());
        }
        let arguments = (self.unit.as_str(), true, limits);
        call(&connect()?, "SetUnitProperties", &arguments)
            .map(drop)
            .map_err(|error| self.refused("change", Refused::Other(error.to_string())))
    }

    fn refused(&self, what: &str, refused: Refused) -> RuntimeError {
        let why = match refused {
            Refused::Exists => "a unit of this name runs already".to_owned(),
            Refused::Other(why) => why,
        };
        RuntimeError::State(format!("systemd does not {what} {}: {why}", self.unit))
    }

    /// Starts the unit, and waits until systemd is done with it.
    fn enqueue(&self, connection: &Connection, properties: Properties) -> std::result::Result<(), Refused> {
        let other = |error: zbus::Error| Refused::Other(error.to_string());
        let rule = zbus::MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .interface(MANAGER)
            .and_then(|rule| rule.member("JobRemoved"))
            .map_err(other)?
            .build();
        let removed = MessageIterator::for_match_rule(rule, connection, Some(64)).map_err(other)?;
        let auxiliary: Vec<(&str, Properties)> = Vec::new();
        let reply = call(connection, "StartTransientUnit", &(self.unit.as_str(), "replace", properties, auxiliary));
        let reply = reply.map_err(|error| match error {
            zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.UnitExists" => {
                Refused::Exists
            }
            error => other(error),
        })?;
        let job: OwnedObjectPath = reply.body().deserialize().map_err(other)?;
        match wait_for(job, removed) {
            Some(result) if result == "done" => Ok(()),
            Some(result) => Err(Refused::Other(format!("its job is {result}"))),
            None => Err(Refused::Other(format!("it has not answered for {} s", PATIENCE.as_secs()))),
        }
    }
}

/// Why systemd did not do something.
enum Refused {
    Exists,
    Other(String),
}

fn connect() -> Result<Connection> {
    Connection::system().map_err(|error| {
        RuntimeError::State(format!(
            "cannot reach systemd over D-Bus: {error}. Install the package dbus, or have cgroups managed as files (dockerd: \
             --exec-opt native.cgroupdriver=cgroupfs; podman: --cgroup-manager cgroupfs)"
        ))
    })
}

fn call<B>(connection: &Connection, method: &str, arguments: &B) -> zbus::Result<zbus::Message>
where
    B: serde::Serialize + zbus::zvariant::DynamicType,
{
    connection.call_method(Some(SERVICE), OBJECT, Some(MANAGER), method, arguments)
}

/// The result of a job; `None` if it does not end.
fn wait_for(job: OwnedObjectPath, removed: MessageIterator) -> Option<String> {
    let (sender, receiver) = mpsc::channel();
    // The iterator can't be told to give up; the thread ends with the process at the latest.
    std::thread::spawn(move || {
        for message in removed.flatten() {
            let body = message.body();
            let Ok((_, path, _, result)) = body.deserialize::<(u32, OwnedObjectPath, String, String)>() else {
                continue;
            };
            if path == job {
                let _ = sender.send(result);
                return;
            }
        }
    });
    receiver.recv_timeout(PATIENCE).ok()
}

/// Limits, by the names of systemd.resource-control(5). Those without a name there are set in the files alone.
fn limits(resources: &LinuxResources) -> Properties {
    let unified = Layout::detect().is_ok_and(Layout::is_unified);
    let mut all = Properties::new();
    if let Some(memory) = resources.memory() {
        memory_limits(memory, unified, &mut all);
    }
    if let Some(cpu) = resources.cpu() {
        cpu_limits(cpu, unified, &mut all);
    }
    if let Some(limit) = resources.pids().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        all.push(("TasksMax", Value::from(u64::try_from(limit).unwrap_or(UNLIMITED))));
    }
    all
}

fn memory_limits(memory: &LinuxMemory, unified: bool, all: &mut Properties) {
    let given = |value: Option<i64>| value.filter(|value| *value != 0);
    let bytes = |value: i64| Value::from(u64::try_from(value).unwrap_or(UNLIMITED));
    if let Some(limit) = given(memory.limit()) {
        all.push((if unified { "MemoryMax" } else { "MemoryLimit" }, bytes(limit)));
    }
    if !unified {
        return;
    }
    if let Some(reservation) = given(memory.reservation()) {
        all.push(("MemoryLow", bytes(reservation)));
    }
    match (given(memory.limit()), given(memory.swap())) {
        (_, Some(-1)) => all.push(("MemorySwapMax", Value::from(UNLIMITED))),
        (Some(limit), Some(swap)) if swap >= limit => all.push(("MemorySwapMax", bytes(swap - limit))),
        _ => {}
    }
}

fn cpu_limits(cpu: &LinuxCpu, unified: bool, all: &mut Properties) {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        all.push(match unified {
            true => ("CPUWeight", Value::from(weight_of_shares(shares))),
            false => ("CPUShares", Value::from(shares)),
        });
    }
    let period = cpu.period().filter(|period| *period != 0);
    if let (true, Some(period)) = (unified, period) {
        all.push(("CPUQuotaPeriodUSec", Value::from(period)));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        all.push(("CPUQuotaPerSecUSec", Value::from(quota_per_second(quota, period.unwrap_or(100_000)))));
    }
    for (name, set) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
        if let (true, Some(mask)) = (unified, set.as_deref().and_then(mask)) {
            all.push((name, Value::from(mask)));
        }
    }
}

/// µs of CPU time a second. systemd takes them in steps of 10 ms; what it sets must not be less than what was asked for.
fn quota_per_second(quota: i64, period: u64) -> u64 {
    const STEP: u64 = 10_000;
    match u64::try_from(quota) {
        Ok(quota) => (quota.saturating_mul(1_000_000) / period.max(1)).div_ceil(STEP).saturating_mul(STEP),
        Err(_) => UNLIMITED,
    }
}

/// `0-2,7` as bits, the first byte for 0 to 7. `None` where it is no such list, or an empty one.
fn mask(list: &str) -> Option<Vec<u8>> {
    const HIGHEST: usize = 8191;
    let mut bits = Vec::new();
    for range in list.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last > HIGHEST {
            return None;
        }
        for bit in first..=last {
            if bits.len() <= bit / 8 {
                bits.resize(bit / 8 + 1, 0);
            }
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(bits).filter(|bits| !bits.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scopes_have_slices() {
        let scope = |path: &str| Scope::parse(path).map(|scope| (scope.slice, scope.unit)).unwrap();
        assert_eq!(scope("machine.slice:libpod:42"), ("machine.slice".into(), "libpod-42.scope".into()));
        assert_eq!(scope(":docker:42"), ("system.slice".into(), "docker-42.scope".into()));
        assert_eq!(scope("a.slice::42"), ("a.slice".into(), "42.scope".into()));
        assert!(Scope::parse("/docker/42").is_err());
    }

    #[test]
    fn shares_of_time_are_rounded_up() {
        assert_eq!(quota_per_second(50_000, 100_000), 500_000);
        assert_eq!(quota_per_second(33_333, 100_000), 340_000);
        assert_eq!(quota_per_second(-1, 100_000), UNLIMITED);
    }

    #[test]
    fn sets_are_bits() {
        assert_eq!(mask("0-2,9"), Some(vec![0b111, 0b10]));
        assert_eq!(mask("7"), Some(vec![0x80]));
        for wrong in ["", "x", "3-x", "99999"] {
            assert_eq!(mask(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_set_is_read_as_it_was_written(set in prop::collection::btree_set(0usize..8192, 1..50), ranges: bool) {
            let mut list: Vec<(usize, usize)> = Vec::new();
            for &bit in &set {
                match list.last_mut() {
                    Some((_, last)) if ranges && *last + 1 == bit => *last = bit,
                    _ => list.push((bit, bit)),
                }
            }
            let range = |(first, last): &(usize, usize)| match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            };
            let bits = mask(&list.iter().map(range).collect::<Vec<_>>().join(",")).unwrap();
            let read = (0..bits.len() * 8).filter(|bit| bits[bit / 8] & 1 << (bit % 8) != 0);
            prop_assert!(read.eq(set.iter().copied()), "{bits:?}");
        }

        #[test]
        fn any_text_is_a_set_that_is_not_empty_or_none(list in "[0-9,-]{0,12}|.*") {
            if let Some(bits) = mask(&list) {
                // systemd refuses longer ones; and what ends with a zero says nothing with it.
                prop_assert!(bits.len() <= 1024 && bits.last().is_some_and(|last| *last != 0), "{bits:?}");
                prop_assert!(list.bytes().any(|byte| byte.is_ascii_digit()));
            }
        }
    }
}
