//! The floors: a crate may use crates of lower floors only.

use crate::workspace::Workspace;
use std::fmt;

/// Every crate's floor. ARCHITECTURE.md says what each is.
const FLOORS: [(&str, Floor); 29] = [
    ("guest-image", Floor(0)),
    ("guest-protocol", Floor(0)),
    ("machine-program", Floor(0)),
    ("store", Floor(0)),
    ("image", Floor(1)),
    ("keeper", Floor(1)),
    ("meter", Floor(1)),
    ("microvm", Floor(1)),
    ("net", Floor(1)),
    ("sandbox", Floor(1)),
    ("vmm", Floor(1)),
    ("engine", Floor(2)),
    ("build", Floor(3)),
    ("cluster", Floor(3)),
    ("functions", Floor(3)),
    ("machines", Floor(3)),
    ("microvms", Floor(3)),
    ("api-aws", Floor(4)),
    ("api-build", Floor(4)),
    ("api-cri", Floor(4)),
    ("api-docker", Floor(4)),
    ("api-kube", Floor(4)),
    ("dashboard", Floor(4)),
    ("stratus", Floor(5)),
    // These stand apart: above all floors, so that nothing can use them.
    ("e2e", APART),
    ("guest", APART),
    ("machine", APART),
    ("xtask", APART),
    ("fuzz", APART),
];

/// Crates that may use one of their own floor, and why.
const ALLOWED: [(&str, &str, &str); 5] = [
    ("keeper", "sandbox", "the keeper is the process that holds sandboxes: it runs what `sandbox` makes"),
    ("microvm", "sandbox", "a machine's process is a sandbox's program, and tells as such that it runs"),
    ("microvm", "vmm", "a machine's process has the machine within itself"),
    ("net", "sandbox", "a tap takes an ioctl, which is `unsafe`, which `net` has none of"),
    ("xtask", "e2e", "what Dockerfiles of tests begin with is made and kept in one place"),
];

const APART: Floor = Floor(u8::MAX);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Floor(u8);

impl Floor {
    fn of(name: &str) -> Option<Floor> {
        FLOORS.iter().find(|(other, _)| *other == name).map(|(_, floor)| *floor)
    }
}

/// A crate that is not where it belongs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// It has no floor.
    Unknown { name: String },
    /// It uses a crate that is not on a lower floor.
    Upward { name: String, uses: String },
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let floor = |name| Floor::of(name).map_or_else(|| "no floor".to_owned(), |floor| floor.to_string());
        match self {
            Misplaced::Unknown { name } => write!(f, "{name} has no floor: give it one in xtask/src/floors.rs"),
            Misplaced::Upward { name, uses } => {
                write!(f, "{name} ({}) uses {uses} ({}), which is not below it", floor(name), floor(uses))
            }
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            APART => f.write_str("apart"),
            Floor(number) => write!(f, "floor {number}"),
        }
    }
}

/// The crates that are not where they belong.
pub(crate) fn check(workspace: &Workspace) -> Vec<Misplaced> {
    let mut misplaced = Vec::new();
    for package in &workspace.packages {
        let name = &package.name;
        let Some(floor) = Floor::of(name) else {
            misplaced.push(Misplaced::Unknown { name: name.clone() });
            continue;
        };
        let mut uses: Vec<_> =
            package.dependencies.iter().filter(|other| other.path.is_some()).map(|other| &other.name).collect();
        uses.sort();
        uses.dedup();
        for uses in uses {
            let below = Floor::of(uses).is_some_and(|other| other < floor);
            let allowed = ALLOWED.iter().any(|(from, to, _why)| from == name && to == uses);
            if !below && !allowed {
                misplaced.push(Misplaced::Upward { name: name.clone(), uses: uses.clone() });
            }
        }
    }
    misplaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Package};

    fn package(name: &str, uses: &[&str]) -> Package {
        let own = |name: &&str| Dependency { name: name.to_string(), path: Some(format!("/w/crates/{name}").into()) };
        let mut dependencies: Vec<_> = uses.iter().map(own).collect();
        dependencies.push(Dependency { name: "serde".to_owned(), path: None });
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            source: None,
            manifest_path: format!("/w/crates/{name}/Cargo.toml").into(),
            dependencies,
            targets: Vec::new(),
        }
    }

    fn found(packages: Vec<Package>) -> Vec<String> {
        check(&Workspace { packages, target_directory: Default::default() }).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn down_is_fine() {
        let packages = vec![
            package("stratus", &["api-docker", "engine", "store", "keeper"]),
            package("api-docker", &["engine"]),
            package("engine", &["image", "net", "keeper", "sandbox", "meter", "store"]),
            package("image", &["store"]),
            package("xtask", &["stratus"]),
        ];
        assert_eq!(found(packages), [""; 0]);
    }

    #[test]
    fn up_and_sideways_are_not() {
        let packages = vec![
            package("image", &["engine", "net"]),
            package("store", &["stratus", "xtask"]),
            package("api-kube", &["api-docker"]),
        ];
        assert_eq!(
            found(packages),
            [
                "image (floor 1) uses engine (floor 2), which is not below it",
                "image (floor 1) uses net (floor 1), which is not below it",
                "store (floor 0) uses stratus (floor 5), which is not below it",
                "store (floor 0) uses xtask (apart), which is not below it",
                "api-kube (floor 4) uses api-docker (floor 4), which is not below it",
            ]
        );
    }

    #[test]
    fn sideways_is_fine_where_it_is_allowed_and_only_in_that_direction() {
        assert_eq!(found(vec![package("keeper", &["sandbox"])]), [""; 0]);
        let other_way = found(vec![package("sandbox", &["keeper"])]);
        assert_eq!(other_way, ["sandbox (floor 1) uses keeper (floor 1), which is not below it"]);
    }

    #[test]
    fn a_crate_without_a_floor_is_told_where_to_get_one() {
        let packages = vec![package("utils", &[]), package("engine", &["utils"])];
        assert_eq!(
            found(packages),
            [
                "utils has no floor: give it one in xtask/src/floors.rs",
                "engine (floor 2) uses utils (no floor), which is not below it",
            ]
        );
    }
}
