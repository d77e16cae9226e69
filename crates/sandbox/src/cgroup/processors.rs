//! What a cgroup says of each processor: which it may use, and what it used of it.

use std::fs;
use std::path::Path;

use super::{Layout, below};

/// Of each processor. Only the runtime's `events` tell it, so it is not read along with [`super::Stats`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Processors {
    /// Time in kernel mode of each processor, in nanoseconds (version 1 only).
    pub(crate) kernel: Vec<u64>,
    /// Time in user mode of each processor, in nanoseconds (version 1 only).
    pub(crate) user: Vec<u64>,
    /// Which may be used.
    pub(crate) set: Cpuset,
}

/// Processors and memory nodes that may be used, and how: cpuset(7).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cpuset {
    /// Numbers of processors.
    pub(crate) cpus: Vec<u16>,
    /// Numbers of memory nodes.
    pub(crate) mems: Vec<u16>,
    /// The values of [`FLAGS`] (version 1 only).
    values: [u64; FLAGS.len()],
    /// How far load is balanced (version 1 only); -1 is the kernel's default.
    pub(crate) relax_domain_level: i64,
}

/// Files of version 1 without `cpuset.`, by which runc names what is in them, too.
const FLAGS: [&str; 8] = [
    "cpu_exclusive",
    "mem_hardwall",
    "mem_exclusive",
    "memory_migrate",
    "memory_spread_page",
    "memory_spread_slab",
    "memory_pressure",
    "sched_load_balance",
];

impl Processors {
    /// Reads it. What is not there is zero or empty.
    pub(super) fn read(layout: &Layout, path: &str) -> Processors {
        let text = |directory: &Path, file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
        if let Some(mount) = layout.v2().filter(|_| layout.is_unified()) {
            let directory = below(mount, path);
            let set = Cpuset {
                cpus: numbers(&text(&directory, "cpuset.cpus.effective")),
                mems: numbers(&text(&directory, "cpuset.mems.effective")),
                ..Cpuset::default()
            };
            return Processors { set, ..Processors::default() };
        }
        let directory = |controller: &str| layout.hierarchy(controller).map(|h| below(h.mount_point(), path));
        let mut processors = Processors::default();
        if let Some(directory) = directory("cpuacct") {
            (processors.kernel, processors.user) = usage_all(&text(&directory, "cpuacct.usage_all"));
        }
        if let Some(directory) = directory("cpuset") {
            let file = |name: &str| text(&directory, &format!("cpuset.{name}"));
            processors.set = Cpuset {
                cpus: numbers(&file("cpus")),
                mems: numbers(&file("mems")),
                values: FLAGS.map(|name| file(name).trim().parse().unwrap_or(0)),
                relax_domain_level: file("sched_relax_domain_level").trim().parse().unwrap_or(0),
            };
        }
        processors
    }
}

impl Cpuset {
    /// The flags, by name.
    pub(crate) fn flags(&self) -> impl Iterator<Item = (&'static str, u64)> {
        FLAGS.into_iter().zip(self.values)
    }
}

/// `0-2,7`: cpuset(7), "List format". What is no such list is left out.
fn numbers(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// A line of names (`cpu user system`), and then one of each processor: time in kernel and in user mode.
fn usage_all(text: &str) -> (Vec<u64>, Vec<u64>) {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next().unwrap_or_default();
    let place = |wanted: &str| names.iter().position(|name| *name == wanted);
    let (Some(user), Some(kernel)) = (place("user"), place("system")) else { return (Vec::new(), Vec::new()) };
    let of = |fields: &[&str], place: usize| fields.get(place).and_then(|field| field.parse().ok()).unwrap_or(0);
    lines.map(|fields| (of(&fields, kernel), of(&fields, user))).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(numbers("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(numbers("\n"), [0; 0]);
        assert_eq!(numbers("3-1,x,70000"), [0; 0]);
    }

    #[test]
    fn each_processor_has_a_line() {
        assert_eq!(usage_all("cpu user system\n0 5 7\n1 6 8\n"), (vec![7, 8], vec![5, 6]));
        assert_eq!(usage_all(""), (vec![], vec![]));
    }
}
