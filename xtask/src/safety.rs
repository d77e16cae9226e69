//! Where `unsafe` may be: in the crates that speak to the kernel in ways no library has, and nowhere else.

use crate::source;
use crate::workspace::{Package, Workspace};
use anyhow::{Context, Result};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The crates that may have `unsafe` code, each block with its reason. `fuzz` has programs that libFuzzer calls as C.
const MAY: [&str; 5] = ["fuzz", "guest", "keeper", "sandbox", "vmm"];

/// Something that may be unsafe where nothing may.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsafe {
    /// A library or program does not forbid it.
    NotForbidden { root: PathBuf },
    /// It is used.
    Used { file: PathBuf, line: usize },
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsafe::NotForbidden { root } => {
                write!(f, "{}: `#![forbid(unsafe_code)]` is missing", root.display())
            }
            Unsafe::Used { file, line } => {
                write!(f, "{}:{line}: `unsafe` may be used in {} only", file.display(), MAY.join(", "))
            }
        }
    }
}

/// What is or may be unsafe in the workspace, and must not be.
pub(crate) fn check(workspace: &Workspace) -> Result<Vec<Unsafe>> {
    let mut found = Vec::new();
    for package in workspace.packages.iter().filter(|package| !MAY.contains(&package.name.as_str())) {
        check_package(package, &mut found)?;
    }
    Ok(found)
}

fn check_package(package: &Package, found: &mut Vec<Unsafe>) -> Result<()> {
    let is_shipped = |kind: &String| ["lib", "bin", "proc-macro", "custom-build"].contains(&kind.as_str());
    for target in package.targets.iter().filter(|target| target.kind.iter().any(is_shipped)) {
        if !source::forbids_unsafe(&read(&target.src_path)?) {
            found.push(Unsafe::NotForbidden { root: target.src_path.clone() });
        }
    }
    // Tests and examples are crates of their own, which no `forbid` of the library reaches.
    for file in rust_files(package.folder())? {
        let lines = source::lines_with_unsafe(&read(&file)?);
        found.extend(lines.into_iter().map(|line| Unsafe::Used { file: file.clone(), line }));
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The Rust files below `folder`, in order, without those that are built.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Target;

    /// A crate with the given files.
    fn package(name: &str, dir: &Path, files: &[(&str, &str)]) -> Package {
        let folder = dir.join(name);
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let target = |path: &str, kind: &str| Target { kind: vec![kind.to_owned()], src_path: folder.join(path) };
        let targets = files.iter().filter_map(|(path, _)| match *path {
            "src/lib.rs" => Some(target(path, "lib")),
            "tests/a.rs" => Some(target(path, "test")),
            _ => None,
        });
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            license: None,
            source: None,
            manifest_path: folder.join("Cargo.toml"),
            dependencies: Vec::new(),
            targets: targets.collect(),
        }
    }

    #[test]
    fn unsafe_is_found_where_it_may_not_be() {
        let dir = tempfile::tempdir().unwrap();
        let unsafe_test = ("tests/a.rs", "fn t() {\n    unsafe { f() }\n}\n");
        let workspace = Workspace {
            target_directory: Default::default(),
            packages: vec![
                package(
                    "good",
                    dir.path(),
                    &[("src/lib.rs", "//! Good.\n#![forbid(unsafe_code)]\n"), ("tests/a.rs", "")],
                ),
                package("lax", dir.path(), &[("src/lib.rs", "// #![forbid(unsafe_code)]\n"), unsafe_test]),
                package("sandbox", dir.path(), &[("src/lib.rs", "unsafe fn f() {}\n")]),
            ],
        };
        let lax = dir.path().join("lax");
        assert_eq!(
            check(&workspace).unwrap(),
            [
                Unsafe::NotForbidden { root: lax.join("src/lib.rs") },
                Unsafe::Used { file: lax.join("tests/a.rs"), line: 2 },
            ]
        );
    }
}
