//! All that a daemon has, on the disk and in the kernel: the same before and after what leaves nothing behind.

use std::path::Path;
use std::process::Command;

use crate::leftovers::{self, names_in};

/// Directories below the data directory whose entries come and go.
const DIRECTORIES: [&str; 8] = [
    "containers",
    "volumes",
    "images/blobs/sha256",
    "images/ingest",
    "images/layers",
    "images/rootfs",
    "images/staging",
    "images/trash",
];

/// Prepared endpoints, which come and go by themselves, are never more.
const MOST_SPARE_LINKS: usize = 16;

/// A line for everything that is there, in order.
pub(crate) fn list(instance: &str, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in DIRECTORIES {
        let entries = names_in(&directory.join("data").join(name));
        found.extend(entries.into_iter().map(|entry| format!("data/{name}/{entry}")));
    }
    found.extend(names_in(&directory.join("run/keeper/records")).into_iter().map(|name| format!("kept {name}")));
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
    for line in leftovers::find(instance, directory) {
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
