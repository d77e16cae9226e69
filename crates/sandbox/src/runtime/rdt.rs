//! `linux.intelRdt`: how much of the processors' shared caches, and of the way to the memory, a container may take.
//!
//! The kernel has groups of processes for it, directories of the `resctrl` file system, which an administrator mounts: `schemata` says
//! what a group may take, and writing a thread's number to `tasks` puts it there; what it clones is in it, too. A group
//! may have groups within it that only count (`mon_groups`). Sources: `Documentation/filesystems/resctrl.rst` of the kernel, "IntelRdt" of the
//! runtime specification.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Result, RuntimeError};
use crate::cgroup::{Cgroup, unescape};
use crate::process::start_time_of_living;

/// How often all threads of a container are looked through, to find those that were begun meanwhile.
const PASSES: usize = 20;

/// What a spec says of it. `oci_spec` reads `enableCMT` and `enableMBM` by other names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rdt {
    #[serde(rename = "closID")]
    clos_id: Option<String>,
    schemata: Option<Vec<String>>,
    l3_cache_schema: Option<String>,
    mem_bw_schema: Option<String>,
    enable_monitoring: Option<bool>,
    /// Before version 1.3.0.
    #[serde(rename = "enableCMT")]
    enable_cmt: Option<bool>,
    /// Before version 1.3.0.
    #[serde(rename = "enableMBM")]
    enable_mbm: Option<bool>,
}

impl Rdt {
    /// Nothing but the limits.
    pub(super) fn of_schemas(l3_cache_schema: Option<String>, mem_bw_schema: Option<String>) -> Self {
        Self { l3_cache_schema, mem_bw_schema, ..Self::default() }
    }

    /// What the spec says that these bytes are; they were understood as one.
    pub(super) fn of(spec: &Spec, bytes: &[u8]) -> serde_json::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Config {
            linux: Linux,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Linux {
            intel_rdt: Option<Rdt>,
        }
        match spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) {
            Some(_) => serde_json::from_slice::<Config>(bytes).map(|config| config.linux.intel_rdt),
            None => Ok(None),
        }
    }
}

/// The mounted file system.
#[derive(Debug)]
pub(super) struct Resctrl {
    root: PathBuf,
}

/// A container's group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    directory: PathBuf,
    /// Whether it goes with the container.
    made: bool,
    /// The group within it that counts what this container does alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitoring: Option<PathBuf>,
    /// Whether statistics tell of the cache that is taken, and of the way to the memory.
    #[serde(default)]
    occupancy: bool,
    #[serde(default)]
    bandwidth: bool,
}

impl Resctrl {
    /// Where it is mounted.
    pub(super) fn find() -> Result<Self> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(RuntimeError::file("read", path))?;
        mount_point(&table).map(|root| Self { root }).ok_or_else(|| {
            RuntimeError::State(
                "intelRdt is specified in config, but Intel RDT is not enabled: no resctrl file system is mounted. Where the processor and \
                 the kernel have it: mount -t resctrl resctrl /sys/fs/resctrl"
                    .into(),
            )
        })
    }

    /// Makes the container's group be as its spec says. Nobody is in it yet.
    pub(super) fn prepare(&self, id: &str, rdt: &Rdt) -> Result<Group> {
        let class = rdt.clos_id.as_deref().filter(|class| !class.is_empty());
        let name = class.unwrap_or(id);
        let directory = self.directory(name)?;
        let limits = Limits::of(rdt);
        self.check(rdt)?;
        let exists = directory.is_dir();
        match class {
            Some(_) if exists => limits.check_against(&directory)?,
            Some(_) if limits.is_empty() => {
                return Err(RuntimeError::State(format!(
                    "intelRdt.closID {name:?}: {} is not there, and without a schema it has to be made beforehand",
                    directory.display()
                )));
            }
            _ => {}
        }
        make(&directory).map_err(|error| self.refused("create", &directory, &error))?;
        // What is there and has the container's own name is a rest of an earlier one.
        let shared = exists && class.is_some();
        let mut group = Group { directory, made: !shared, monitoring: None, occupancy: false, bandwidth: false };
        self.fill(&mut group, id, rdt, &limits).inspect_err(|_| {
            // What went wrong is told already.
            let _ = group.remove();
        })?;
        Ok(group)
    }

    fn fill(&self, group: &mut Group, id: &str, rdt: &Rdt, limits: &Limits) -> Result<()> {
        if group.made {
            self.write(&group.directory, "schemata", &limits.single)?;
        }
        // Last, and on its own: one write may name each resource once.
        self.write(&group.directory, "schemata", &limits.whole)?;
        let counts = rdt.enable_monitoring.unwrap_or(false);
        if counts {
            let directory = group.directory.join("mon_groups").join(id);
            make(&directory).map_err(|error| self.refused("create monitoring group", &directory, &error))?;
            group.monitoring = Some(directory);
        }
        // What specs of before 1.3.0 say.
        let (cache, memory) = (rdt.enable_cmt.unwrap_or(false), rdt.enable_mbm.unwrap_or(false));
        (group.occupancy, group.bandwidth) = (counts || cache, counts || memory);
        Ok(())
    }

    /// The directory of a group. `/`: that of all who are in no other.
    fn directory(&self, name: &str) -> Result<PathBuf> {
        match name {
            "/" => Ok(self.root.clone()),
            // The kernel's own directories.
            "info" | "mon_groups" | "mon_data" | "." | ".." => Err(invalid_class(name)),
            _ if name.contains(['/', '\n']) => Err(invalid_class(name)),
            _ => Ok(self.root.join(name)),
        }
    }

    /// Refuses what this processor can't do.
    fn check(&self, rdt: &Rdt) -> Result<()> {
        let wants = |schema: &Option<String>| schema.as_deref().is_some_and(|schema| !schema.is_empty());
        if wants(&rdt.l3_cache_schema) && !self.limits_cache() {
            return Err(not_enabled("l3CacheSchema", "Intel RDT/CAT"));
        }
        if wants(&rdt.mem_bw_schema) && !self.has("MB") {
            return Err(not_enabled("memBwSchema", "Intel RDT/MBA"));
        }
        if rdt.enable_monitoring.unwrap_or(false) && !self.has("L3_MON") {
            return Err(not_enabled("enableMonitoring", "resctrl monitoring"));
        }
        match rdt.mem_bw_schema.as_deref() {
            Some(schema) if !schema.is_empty() && (!schema.starts_with("MB:") || schema.contains('\n')) => Err(
                RuntimeError::Usage(format!("intelRdt.memBwSchema {schema:?} is not one line that begins with MB:")),
            ),
            _ => Ok(()),
        }
    }

    fn has(&self, resource: &str) -> bool {
        self.root.join("info").join(resource).is_dir()
    }

    /// With code and data told apart, or not.
    fn limits_cache(&self) -> bool {
        self.has("L3") || self.has("L3CODE")
    }

    /// Puts a thread, by its number, and what it clones from here on, into a group.
    pub(super) fn enter(&self, group: &Group, thread: i32) -> Result<()> {
        for directory in [Some(&group.directory), group.monitoring.as_ref()].into_iter().flatten() {
            self.write(directory, "tasks", &thread.to_string())?;
        }
        Ok(())
    }

    /// Puts all that runs in a cgroup into a group.
    fn enter_all(&self, group: &Group, cgroup: &Cgroup) -> Result<()> {
        let mut entered = Vec::new();
        for _ in 0..PASSES {
            let found = threads(&cgroup.processes()?);
            let new: Vec<i32> = found.iter().copied().filter(|thread| !entered.contains(thread)).collect();
            if new.is_empty() {
                return Ok(());
            }
            for thread in &new {
                match self.enter(group, *thread) {
                    // It has ended.
                    Err(_) if !Path::new(&format!("/proc/{thread}")).exists() => {}
                    result => result?,
                }
            }
            entered.extend(new);
        }
        Err(RuntimeError::State("the container begins threads faster than they are put into its resctrl group".into()))
    }

    /// `update`: other limits, for a container that may have had none.
    pub(super) fn update(&self, id: &str, group: Option<Group>, cgroup: &Cgroup, rdt: &Rdt) -> Result<Group> {
        let Some(group) = group else {
            let group = self.prepare(id, rdt)?;
            self.enter_all(&group, cgroup).inspect_err(|_| {
                let _ = group.remove();
            })?;
            return Ok(group);
        };
        self.check(rdt)?;
        self.write(&group.directory, "schemata", &Limits::of(rdt).single)?;
        Ok(group)
    }

    fn write(&self, directory: &Path, file: &str, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let path = directory.join(file);
        let write = || fs::File::create(&path)?.write_all(format!("{text}\n").as_bytes());
        write().map_err(|error| self.refused(&format!("write {text:?} to"), &path, &error))
    }

    /// With what the kernel says of its last refusal.
    fn refused(&self, what: &str, path: &Path, error: &io::Error) -> RuntimeError {
        let status = fs::read_to_string(self.root.join("info/last_cmd_status")).unwrap_or_default();
        let status = match status.trim() {
            "" | "ok" => String::new(),
            status => format!(", last_cmd_status: {status}"),
        };
        RuntimeError::State(format!("cannot {what} {}: {error}{status}", path.display()))
    }

    /// What runc's statistics tell.
    pub(super) fn stats(&self, group: &Group) -> Result<Value> {
        let read = |path: PathBuf| fs::read_to_string(&path).map_err(RuntimeError::file("read", &path));
        let (all, own) = (read(self.root.join("schemata"))?, read(group.directory.join("schemata"))?);
        let mut stats = json!({});
        let mut tell = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                stats[name] = value;
            }
        };
        if self.limits_cache() {
            let info = if self.has("L3") { "L3" } else { "L3CODE" };
            tell("l3_cache_info", Some(self.info(info, &["min_cbm_bits", "num_closids"], Some("cbm_mask"))));
            tell("l3_cache_schema_root", line(&all, "L3"));
            tell("l3_cache_schema", line(&own, "L3"));
        }
        if self.has("MB") {
            let numbers = ["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"];
            tell("mem_bw_info", Some(self.info("MB", &numbers, None)));
            tell("mem_bw_schema_root", line(&all, "MB"));
            tell("mem_bw_schema", line(&own, "MB"));
        }
        let features = fs::read_to_string(self.root.join("info/L3_MON/mon_features")).unwrap_or_default();
        let counted = |wanted: bool, names: &[&str]| -> Result<Option<Value>> {
            let known = |name: &&str| features.lines().any(|feature| feature == *name);
            let counted: Vec<&str> = names.iter().copied().filter(known).collect();
            if counted.is_empty() || !wanted { Ok(None) } else { group.counted(&counted).map(Some) }
        };
        tell("mbm_stats", counted(group.bandwidth, &["mbm_total_bytes", "mbm_local_bytes"])?);
        tell("cmt_stats", counted(group.occupancy, &["llc_occupancy"])?);
        Ok(stats)
    }

    fn info(&self, resource: &str, numbers: &[&str], text: Option<&str>) -> Value {
        let read = |name: &str| fs::read_to_string(self.root.join("info").join(resource).join(name)).ok();
        let mut info = json!({});
        for name in numbers {
            if let Some(number) = read(name).and_then(|value| value.trim().parse::<u64>().ok()) {
                info[*name] = json!(number);
            }
        }
        if let Some((name, value)) = text.and_then(|name| Some((name, read(name)?))) {
            info[name] = json!(value.trim());
        }
        info
    }
}

impl Group {
    /// Removes what was made for the container. A group that others have come into meanwhile stays: its end would set them free of it.
    pub(super) fn remove(&self) -> Result<()> {
        let gone = |directory: &Path| match fs::remove_dir(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(RuntimeError::file("remove", directory)(error)),
            _ => Ok(()),
        };
        if let Some(monitoring) = &self.monitoring {
            gone(monitoring)?;
        }
        if self.made && !self.is_in_use() {
            gone(&self.directory)?;
        }
        Ok(())
    }

    /// Whether anything runs in it. What has ended and waits for its parent to hear of it does not.
    fn is_in_use(&self) -> bool {
        let tasks = fs::read_to_string(self.directory.join("tasks")).unwrap_or_default();
        tasks.lines().filter_map(|line| line.trim().parse().ok()).any(|thread| start_time_of_living(thread).is_some())
    }

    /// The counters of each cache, in the order of their directories. One that the hardware has nothing for just now is left out.
    fn counted(&self, names: &[&str]) -> Result<Value> {
        let directory = self.monitoring.as_ref().unwrap_or(&self.directory).join("mon_data");
        let failed = |error| RuntimeError::file("read", &directory)(error);
        let mut caches: Vec<PathBuf> =
            fs::read_dir(&directory).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
        caches.sort();
        let counters = |cache: &PathBuf| -> Value {
            let number = |name: &&str| {
                let text = fs::read_to_string(cache.join(name)).ok()?;
                Some(((*name).to_owned(), json!(text.trim().parse::<u64>().ok()?)))
            };
            Value::Object(names.iter().filter_map(number).collect())
        };
        Ok(caches.iter().filter(|cache| cache.is_dir()).map(counters).collect())
    }
}

/// What is to be written to `schemata`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limits {
    /// `l3CacheSchema` and `memBwSchema`.
    single: String,
    /// `schemata`.
    whole: String,
}

impl Limits {
    fn of(rdt: &Rdt) -> Self {
        let cache = rdt.l3_cache_schema.as_deref().unwrap_or_default();
        let mut single: Vec<&str> = cache.lines().filter(|line| !line.is_empty() && !line.starts_with("MB:")).collect();
        single.extend(rdt.mem_bw_schema.as_deref().filter(|schema| !schema.is_empty()));
        let whole = rdt.schemata.as_deref().unwrap_or_default();
        Self { single: single.join("\n"), whole: whole.join("\n") }
    }

    fn is_empty(&self) -> bool {
        self.single.is_empty() && self.whole.is_empty()
    }

    /// Refuses a group that is there already and limits otherwise: others are in it.
    fn check_against(&self, directory: &Path) -> Result<()> {
        if self.single.is_empty() {
            return Ok(());
        }
        let path = directory.join("schemata");
        let present = fs::read_to_string(&path).map_err(RuntimeError::file("read", &path))?;
        let (present, wanted) = (parse(&present), parse(&self.single));
        match wanted.iter().find(|(place, value)| present.get(*place) != Some(value)) {
            Some(((resource, cache), value)) => Err(RuntimeError::State(format!(
                "intelRdt: {} has not {resource}:{cache}={value}: the schema of a group that is there has to be the one that is asked for",
                path.display()
            ))),
            None => Ok(()),
        }
    }
}

/// The values of a schema by resource and cache, written alike: `L3:0=0ff;1=f` and `L3:1=f; 0=ff` say the same.
fn parse(schemata: &str) -> BTreeMap<(String, String), String> {
    let mut values = BTreeMap::new();
    for (resource, rest) in schemata.lines().filter_map(|line| line.split_once(':')) {
        for (cache, value) in rest.split(';').filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            let value = if value.is_empty() { "0".to_owned() } else { value };
            values.insert((resource.trim().to_owned(), cache.trim().to_owned()), value);
        }
    }
    values
}

/// The line of a resource, and with code and data told apart, both of its lines.
fn line(schemata: &str, resource: &str) -> Option<Value> {
    let of = |line: &&str| line.split_once(':').is_some_and(|(name, _)| name.starts_with(resource));
    let lines: Vec<&str> = schemata.lines().map(str::trim).filter(of).collect();
    (!lines.is_empty()).then(|| json!(lines.join("\n")))
}

/// Makes a group where there is none.
fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Their numbers. What has ended meanwhile has none.
fn threads(processes: &[i32]) -> Vec<i32> {
    let of = |process: &i32| fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    processes.iter().flat_map(of).filter_map(number).collect()
}

/// What the text of `/proc/PID/mountinfo` says (see proc(5)).
fn mount_point(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (filesystem.split(' ').next() == Some("resctrl")).then(|| unescape(point).into())
    })
}

fn invalid_class(name: &str) -> RuntimeError {
    RuntimeError::Usage(format!("invalid intelRdt.closID {name:?}"))
}

fn not_enabled(field: &str, feature: &str) -> RuntimeError {
    RuntimeError::State(format!("intelRdt.{field} is specified in config, but {feature} is not enabled"))
}

#[cfg(test)]
mod tests;
