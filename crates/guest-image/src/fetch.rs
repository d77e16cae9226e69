//! The distribution's kernel for clouds, fetched by apt, which verifies that the distribution signed it, and unpacked without installing it.

use crate::Modules;
use crate::error::Error;
use crate::source::{Files, Origin};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages that depend on the newest kernel for virtual machines: Debian's, Ubuntu's two.
fn packages() -> Vec<String> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    [&*format!("linux-image-cloud-{architecture}"), "linux-image-virtual", "linux-image-kvm"].map(str::to_owned).into()
}

/// Programs that fetch and unpack, in a directory of their own.
struct Workshop<'a> {
    directory: &'a Path,
    /// They hold it, too, as they may outlive who started them.
    lock: &'a File,
}

/// Fetches the newest, into `scratch`.
pub(crate) fn fetch(scratch: &Path, lock: &File, progress: &dyn Fn(&str)) -> Result<Origin, Error> {
    let workshop = Workshop { directory: scratch, lock };
    let names = packages();
    let mut image = None;
    for name in &names {
        let depends = workshop.run("apt-cache", &["depends", "--important", name]);
        match depends {
            Ok(said) => image = kernel_of(&said),
            // It knows no such package.
            Err(Error::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
        if image.is_some() {
            break;
        }
    }
    let image = image.ok_or(Error::NoPackage { packages: names })?;
    let version = image["linux-image-".len()..].to_owned();
    progress(&format!("fetching {image} with apt"));
    let mut from = workshop.fetch(&image)?;
    // Ubuntu has the modules in packages of their own.
    for more in ["linux-modules", "linux-modules-extra"].map(|name| format!("{name}-{version}")) {
        let files = files_in(scratch, &version);
        let lacks = files.as_ref().is_none_or(|files| Modules::pick(&files.modules).is_err());
        if lacks && workshop.run("apt-cache", &["show", &more]).is_ok() {
            progress(&format!("fetching {more} with apt"));
            from = format!("{from}, {}", workshop.fetch(&more)?);
        }
    }
    let files = files_in(scratch, &version).ok_or_else(|| Error::Io {
        action: "find the kernel or its modules in the package, unpacked in",
        path: scratch.to_owned(),
        source: ErrorKind::NotFound.into(),
    })?;
    Ok(Origin { files, from })
}

/// The package with the kernel itself, among what another depends on.
fn kernel_of(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    let is_kernel = |name: &&str| {
        let version = name.strip_prefix("linux-image-");
        version.is_some_and(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    names.map(str::trim).find(is_kernel).map(str::to_owned)
}

/// Where packages have them: before and after `/lib` became a part of `/usr`.
fn files_in(root: &Path, version: &str) -> Option<Files> {
    let first = |paths: [PathBuf; 2]| paths.into_iter().find(|path| path.exists());
    let modules = first(["lib", "usr/lib"].map(|lib| root.join(lib).join("modules").join(version)))?;
    let kernel = first([root.join(format!("boot/vmlinuz-{version}")), modules.join("vmlinuz")])?;
    Some(Files { kernel, modules })
}

impl Workshop<'_> {
    /// Fetches a package and unpacks it. Says what it is: its name and version.
    fn fetch(&self, package: &str) -> Result<String, Error> {
        // As the user who does this, who may write here; and never what nobody signed.
        let options =
            ["-q", "-o", "APT::Sandbox::User=root", "-o", "APT::Get::AllowUnauthenticated=false", "download", package];
        self.run("apt-get", &options).map_err(|error| match error {
            Error::Failed { command, status, output } => {
                let output = format!("{output}\nWhere apt's lists are old, this helps: apt-get update");
                Error::Failed { command, status, output }
            }
            other => other,
        })?;
        let mut shown = package.to_owned();
        for entry in fs::read_dir(self.directory).map_err(Error::io("read", self.directory))? {
            let path = entry.map_err(Error::io("read", self.directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // `NAME_VERSION_ARCHITECTURE.deb`.
            let Some(rest) = name.strip_suffix(".deb").and_then(|name| name.strip_prefix(&format!("{package}_")))
            else {
                continue;
            };
            shown = format!("{package} {}", rest.split('_').next().unwrap_or(rest));
            self.run("dpkg-deb", &["--extract", &name, "."])?;
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(shown)
    }

    /// Runs a program to its end, and gives what it wrote.
    fn run(&self, program: &'static str, arguments: &[&str]) -> Result<String, Error> {
        let mut command = Command::new(program);
        let lock = self.lock.try_clone().map_err(Error::io("hand on the lock of", self.directory))?;
        command.args(arguments).current_dir(self.directory).env("LC_ALL", "C").stdin(lock);
        let output = command.output().map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NoProgram { program },
            _ => Error::Io { action: "run", path: program.into(), source: error },
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(4096)..]).trim().to_owned();
        let command = format!("{program} {}", arguments.join(" "));
        Err(Error::Failed { command, status: output.status, output: said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_with_the_kernel_is_found_among_what_another_depends_on() {
        let debian = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(kernel_of(debian).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        let ubuntu = "linux-image-virtual\n  Depends: linux-base\n |Depends: linux-image-5.15.0-91-generic\n";
        assert_eq!(kernel_of(ubuntu).as_deref(), Some("linux-image-5.15.0-91-generic"));
        assert_eq!(kernel_of("linux-image-x\n  Depends: linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn kernels_are_found_where_packages_have_them() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(files_in(root.path(), "6"), None);
        fs::create_dir_all(root.path().join("usr/lib/modules/6")).unwrap();
        fs::write(root.path().join("usr/lib/modules/6/vmlinuz"), "").unwrap();
        assert!(files_in(root.path(), "6").unwrap().kernel.ends_with("usr/lib/modules/6/vmlinuz"));
        fs::create_dir(root.path().join("boot")).unwrap();
        fs::write(root.path().join("boot/vmlinuz-6"), "").unwrap();
        assert!(files_in(root.path(), "6").unwrap().kernel.ends_with("boot/vmlinuz-6"));
    }
}
