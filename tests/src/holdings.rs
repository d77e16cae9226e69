//! All that a daemon has, on the disk and in the kernel: the same before and after what leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::leftovers::{self, names_in};

/// Directories below the data directory whose entries come and go.
const DIRECTORIES: [&str; 12] = [
    "containers",
    "volumes",
    "images/blobs/sha256",
    "images/erofs",
    "images/ingest",
    "images/layers",
    "images/rootfs",
    "images/staging",
    "images/trash",
    // The kernel, and what is made of one before it has its name.
    "microvm",
    "microvm/snapshots",
    "microvm/templates",
];

/// Whether a line of them is a template of microVMs that is whole: a cache, of which there is one more behind the first machine of each kind.
pub fn is_template(line: &str) -> bool {
    line.strip_prefix("data/microvm/templates/").is_some_and(|name| !name.starts_with("new-"))
}

/// Prepared endpoints, which come and go by themselves, are never more.
const MOST_SPARE_LINKS: usize = 16;

/// A line for everything that is there, in order.
pub(crate) fn list(instance: &str, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in DIRECTORIES {
        let entries = names_in(&directory.join("data").join(name));
        found.extend(entries.into_iter().map(|entry| format!("data/{name}/{entry}")));
    }
    found.extend(kept(directory));
    let table = Command::new("nft").args(["list", "table", "inet", &format!("stratus-{instance}")]).output();
    let table = String::from_utf8_lossy(&table.expect("nft is installed").stdout).into_owned();
    found.extend(table.lines().filter(|line| line.contains("elements")).map(|line| format!("rules {}", line.trim())));
    for hierarchy in names_in(Path::new("/sys/fs/cgroup")) {
        let of_all = Path::new("/sys/fs/cgroup").join(&hierarchy).join(format!("stratus-{instance}"));
        found.extend(
            names_in(&of_all).into_iter().filter(|name| name.len() == 64).map(|id| format!("{hierarchy}/{id}")),
        );
    }
    found.extend(names_in(&directory.join("run/shm")).into_iter().map(|id| format!("shm {id}")));
    found.extend(names_in(&directory.join("run/machines")).into_iter().map(|id| format!("machine {id}")));
    let all = leftovers::find(instance, directory);
    found.extend(children(&all));
    for line in all {
        match line.split_once(' ') {
            Some(("link", name)) if name.contains('-') => {}
            // Which process it is changes with each start.
            Some(("process", rest)) => found.push(format!("process{}", &rest[rest.find(':').unwrap_or(0)..])),
            _ => found.push(line),
        }
    }
    let prefix = format!("{instance}-");
    let links = names_in(Path::new("/sys/class/net")).into_iter().filter(|name| name.starts_with(&prefix)).count();
    if links > MOST_SPARE_LINKS {
        found.push(format!("{links} links"));
    }
    found.sort();
    found
}

/// What runs below the daemon's own processes, by its program and how often: that of a machine names no directory by which it could be found, and may be in no control group any more.
fn children(found: &[String]) -> Vec<String> {
    let own: BTreeSet<&str> = found
        .iter()
        .filter_map(|line| line.strip_prefix("process ")?.split_once(':'))
        .map(|(number, _)| number)
        .collect();
    let mut counts = BTreeMap::<String, usize>::new();
    for process in names_in(Path::new("/proc")) {
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        // By proc_pid_stat(5) the program's name is in parentheses, which it may have itself; then come the state and the parent.
        let Some((name, rest)) = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") ")) else { continue };
        if rest.split(' ').nth(1).is_some_and(|parent| own.contains(parent)) && !own.contains(process.as_str()) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts.into_iter().map(|(name, count)| format!("child {name} {count}")).collect()
}

/// What the keeper remembers: of its journal, who was born and not forgotten, and who of these has ended. Each frame is a length and a checksum
/// of four bytes each, and a payload that says what it is by its first byte, and of whom by a length and a name.
fn kept(directory: &Path) -> Vec<String> {
    let journal = std::fs::read(directory.join("run/keeper/records")).unwrap_or_default();
    let (mut rest, mut kept) = (&journal[..], BTreeMap::new());
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, next)) = after.split_at_checked(length) else { break };
        let name = |payload: &[u8]| String::from_utf8_lossy(&payload[2..2 + usize::from(payload[1])]).into_owned();
        match payload.first() {
            Some(1) => _ = kept.insert(name(payload), "kept"),
            Some(2) => _ = kept.insert(name(payload), "ended"),
            Some(3) => _ = kept.remove(&name(payload)),
            _ => {}
        }
        rest = next;
    }
    kept.into_iter().map(|(id, what)| format!("{what} {id}")).collect()
}
