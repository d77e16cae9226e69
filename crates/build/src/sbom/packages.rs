//! The databases of package managers, as they lie in a root file system that somebody else made: bounded, and read as text but for
//! [RPM's](crate::rpm).

use crate::rpm;
use image::tree;
use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;

/// The most bytes of a database.
const MOST: u64 = 64 << 20;
/// The most packages that are listed.
const MOST_PACKAGES: usize = 200_000;
/// The most bytes of a field.
const LONGEST: usize = 4096;

const DPKG: &str = "var/lib/dpkg/status";
/// A file for each package, in images that have no dpkg.
const DPKG_PARTS: &str = "var/lib/dpkg/status.d";
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
/// A directory for each package.
const PACMAN: &str = "var/lib/pacman/local";
/// Where RPM keeps its database, and what that is called in each of its forms, the latest first.
const RPM: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];
const RPM_FORMS: [&str; 3] = ["rpmdb.sqlite", "Packages.db", "Packages"];

/// Which package manager knows of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Deb,
    Apk,
    Pacman,
    Rpm,
}

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) architecture: String,
    /// What it was built from, where that is called otherwise or has another version.
    pub(super) source: Option<String>,
}

impl Package {
    /// What it takes to remember it.
    fn bytes(&self) -> usize {
        let Package { kind: _, name, version, architecture, source } = self;
        size_of::<Package>() + name.len() + version.len() + architecture.len() + source.as_ref().map_or(0, String::len)
    }
}

/// All that a root file system says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Sorted, each once.
    pub(super) packages: BTreeSet<Package>,
    /// `ID` and `VERSION_ID` of os-release(5).
    pub(super) distribution: String,
    pub(super) version: String,
    /// Databases that are there and could not be read, and why: a line for people each.
    pub(super) unread: Vec<String>,
}

impl Found {
    /// What is there and was not read: one line for people.
    pub(super) fn missing(&self) -> Option<String> {
        let unread = self.unread.join("; ");
        (!unread.is_empty()).then(|| format!("The list of packages is not whole: {unread}."))
    }
}

/// Looks for packages. Blocks. An error is one line for people.
pub(super) fn find(root: BorrowedFd<'_>) -> Result<Found, String> {
    let mut found = Found::default();
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(text) = read(root, path)? {
            (found.distribution, found.version) = release(&text);
            break;
        }
    }
    if let Some(text) = read(root, DPKG)? {
        add(&mut found, debs(&text, true))?;
    }
    for part in names(root, DPKG_PARTS)? {
        if !part.ends_with(".md5sums")
            && let Some(text) = read(root, &format!("{DPKG_PARTS}/{part}"))?
        {
            add(&mut found, debs(&text, false))?;
        }
    }
    for path in APK {
        if let Some(text) = read(root, path)? {
            add(&mut found, apks(&text))?;
        }
    }
    for part in names(root, PACMAN)? {
        if let Some(text) = read(root, &format!("{PACMAN}/{part}/desc"))? {
            add(&mut found, pacmans(&text).into_iter())?;
        }
    }
    for directory in RPM {
        rpms(&mut found, root, directory)?;
    }
    Ok(found)
}

/// Packages of RPM's database in a directory, in the first form that is there.
fn rpms(found: &mut Found, root: BorrowedFd<'_>, directory: &str) -> Result<(), String> {
    for form in RPM_FORMS {
        let path = format!("{directory}/{form}");
        let Some(file) = open(root, &path)? else { continue };
        let log = open(root, &format!("{path}-wal"))?;
        let log = log.as_ref().map(|log| log as &dyn rpm::Stored);
        let mut bytes = 0;
        let read = rpm::packages(&file, log, &mut |package| {
            let package = rpm_package(package);
            bytes += package.bytes();
            if bytes > MOST as usize {
                return Err(rpm::Error::TooMuch("64 MiB of names"));
            }
            add(found, std::iter::once(package)).map_err(|_| rpm::Error::TooMuch("200,000 packages"))
        });
        match read {
            Ok(()) => {}
            Err(rpm::Error::Io(error)) => return Err(failed(&path, error)),
            Err(error) => found.unread.push(format!("/{path}: {error}")),
        }
        return Ok(());
    }
    Ok(())
}

fn rpm_package(package: rpm::Installed) -> Package {
    let rpm::Installed { name, version, architecture, source } = package;
    Package { kind: Kind::Rpm, name, version, architecture, source }
}

fn add(found: &mut Found, packages: impl Iterator<Item = Package>) -> Result<(), String> {
    for package in packages {
        found.packages.insert(package);
        if found.packages.len() > MOST_PACKAGES {
            return Err(format!("the image says that it has more than {MOST_PACKAGES} packages"));
        }
    }
    Ok(())
}

/// `ID` and `VERSION_ID`.
fn release(text: &str) -> (String, String) {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        bounded(line.unwrap_or_default().trim().trim_matches(['"', '\'']))
    };
    (value("ID").to_lowercase(), value("VERSION_ID"))
}

/// Packages of dpkg's database: paragraphs of fields (deb822(5)).
fn debs(text: &str, with_state: bool) -> impl Iterator<Item = Package> {
    paragraphs(text).filter_map(move |lines| {
        let field = |name: &str| {
            lines.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| bounded(value.trim()))
            })
        };
        // "install ok installed": what is only known, or half there, is not.
        let state = field("Status").unwrap_or_default();
        if with_state && state.split_whitespace().nth(2) != Some("installed") {
            return None;
        }
        let (name, version) = (field("Package")?, field("Version")?);
        Some(Package {
            kind: Kind::Deb,
            name,
            version,
            architecture: field("Architecture").unwrap_or_default(),
            source: field("Source").filter(|source| !source.is_empty()),
        })
    })
}

/// Packages of apk's database: paragraphs of fields that have a letter each.
fn apks(text: &str) -> impl Iterator<Item = Package> {
    paragraphs(text).filter_map(|lines| {
        let field = |letter: &str| {
            lines
                .iter()
                .find_map(|line| line.strip_prefix(letter)?.strip_prefix(':'))
                .map(|value| bounded(value.trim()))
        };
        let (name, version) = (field("P")?, field("V")?);
        let source = field("o").filter(|origin| !origin.is_empty() && *origin != name);
        Some(Package { kind: Kind::Apk, name, version, architecture: field("A").unwrap_or_default(), source })
    })
}

/// A package of pacman's: fields whose names are between percent signs, each with its values below it.
fn pacmans(text: &str) -> Option<Package> {
    let blocks: Vec<Vec<&str>> = paragraphs(text).collect();
    let field = |name: &str| {
        let own = |lines: &&Vec<&str>| lines.first().is_some_and(|line| line.trim().trim_matches('%') == name);
        blocks.iter().find(own)?.get(1).map(|value| bounded(value.trim()))
    };
    let (name, version) = (field("NAME")?, field("VERSION")?);
    let source = field("BASE").filter(|base| !base.is_empty() && *base != name);
    Some(Package { kind: Kind::Pacman, name, version, architecture: field("ARCH").unwrap_or_default(), source })
}

/// What is between empty lines.
fn paragraphs(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let first = lines.find(|line| !line.trim().is_empty())?;
        let rest = lines.by_ref().take_while(|line| !line.trim().is_empty());
        Some(std::iter::once(first).chain(rest).collect())
    })
}

fn bounded(text: &str) -> String {
    let printable = |c: &char| !c.is_control();
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().filter(printable).collect()
}

fn failed(path: &str, error: impl std::fmt::Display) -> String {
    format!("reading /{path} of the image: {error}")
}

/// A file, where there is one; links in the root file system lead nowhere else.
fn open(root: BorrowedFd<'_>, path: &str) -> Result<Option<File>, String> {
    let file = match tree::open(root, path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    Ok(file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file))
}

/// A file's text.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<String>, String> {
    let Some(file) = open(root, path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|e| failed(path, e))?;
    if bytes.len() as u64 > MOST {
        return Err(failed(path, format!("it has more than {MOST} bytes")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The names in a directory.
fn names(root: BorrowedFd<'_>, path: &str) -> Result<Vec<String>, String> {
    let directory = match tree::open(root, path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
        Err(error) => return Err(failed(path, error)),
    };
    let listed = rustix::fs::Dir::read_from(&directory).map_err(|e| failed(path, e))?;
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(|e| failed(path, e))?;
        let name = entry.file_name().to_string_lossy();
        if !matches!(&*name, "." | "..") {
            names.push(name.into_owned());
        }
        if names.len() > MOST_PACKAGES {
            return Err(failed(path, format!("it has more than {MOST_PACKAGES} files")));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fd::AsFd as _;

    const STATUS: &str = "\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Description: GNU C Library
 Version: of nothing

Package: gone
Status: deinstall ok config-files
Version: 1


Package: half
Status: install ok installed
";

    #[test]
    fn what_dpkg_has_installed_is_found() {
        let found: Vec<Package> = debs(STATUS, true).collect();
        let libc = Package {
            kind: Kind::Deb,
            name: "libc6".into(),
            version: "2.36-9+deb12u4".into(),
            architecture: "amd64".into(),
            source: Some("glibc (2.36-9)".into()),
        };
        assert_eq!(found, [libc]);
        assert_eq!(debs("Package: tzdata\nVersion: 1\nArchitecture: all\n", false).count(), 1);
    }

    #[test]
    fn what_apk_has_installed_is_found() {
        let text =
            "C:Q1x=\nP:musl-utils\nV:1.2.5-r0\nA:x86_64\no:musl\nF:lib\n\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\n";
        let found: Vec<Package> = apks(text).collect();
        let names: Vec<_> = found.iter().map(|package| (&*package.name, package.source.as_deref())).collect();
        assert_eq!(names, [("musl-utils", Some("musl")), ("musl", None)]);
    }

    #[test]
    fn what_pacman_has_installed_is_found() {
        let text = "%NAME%\ngcc-libs\n\n%VERSION%\n14.2.1-1\n\n%BASE%\ngcc\n\n%DESC%\n%NAME%\n\n%ARCH%\nx86_64\n\n%DEPENDS%\nglibc\nx\n";
        let found = pacmans(text).unwrap();
        assert_eq!((&*found.name, &*found.version, &*found.architecture), ("gcc-libs", "14.2.1-1", "x86_64"));
        assert_eq!((found.source.as_deref(), pacmans("%NAME%\n\n%VERSION%\n")), (Some("gcc"), None));
    }

    #[test]
    fn links_lead_nowhere_else_and_what_is_not_read_is_told() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("status"), STATUS).unwrap();
        let at = |path: &str| root.path().join(path);
        for path in ["var/lib/dpkg/status.d", "var/lib/rpm", "var/lib/pacman/local/zlib-1:1.3-1", "etc"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        std::os::unix::fs::symlink(outside.path().join("status"), at("var/lib/dpkg/status")).unwrap();
        std::fs::write(at("var/lib/dpkg/status.d/base"), "Package: base-files\nVersion: 12\n").unwrap();
        std::fs::write(at("var/lib/dpkg/status.d/base.md5sums"), "Package: no\nVersion: 1\n").unwrap();
        std::fs::write(at("var/lib/pacman/local/ALPM_DB_VERSION"), "9\n").unwrap();
        std::fs::write(at("var/lib/pacman/local/zlib-1:1.3-1/desc"), "%NAME%\nzlib\n\n%VERSION%\n1:1.3-1\n").unwrap();
        std::fs::write(at("var/lib/rpm/rpmdb.sqlite"), "").unwrap();
        std::fs::write(at("etc/os-release"), "NAME=x\nID=\"Debian\"\nVERSION_ID='12'\n").unwrap();
        let opened = File::open(root.path()).unwrap();
        let found = find(opened.as_fd()).unwrap();
        assert_eq!(found.packages.iter().map(|package| &*package.name).collect::<Vec<_>>(), ["base-files", "zlib"]);
        assert_eq!((&*found.distribution, &*found.version), ("debian", "12"));
        assert_eq!(found.unread, ["/var/lib/rpm/rpmdb.sqlite: this is no database of RPM that is known here"]);
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "(?s).{0,400}") {
            let count = debs(&text, false).count() + debs(&text, true).count() + apks(&text).count();
            prop_assert!(count <= 3 * text.len());
            release(&text);
            prop_assert!(pacmans(&text).is_none_or(|package| package.name.len() <= text.len()));
        }
    }
}
