//! The smallest image that is of use: busybox, linked statically, under all its names.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::{host_architecture, image_platform, output_of};
use super::place::Place;
use super::{BootstrapError, BootstrapEvent, BootstrapProgress, BootstrapSpec, ImportMetadata};
use crate::tar::{Entry, Kind, TarReader, TarWriter, Time};
use crate::{ImageConfig, RunConfig};

const PACKAGE: &str = "busybox-static";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The largest file of the package that is taken. Busybox has 2 MB.
const FILE_MAX: u64 = 64 << 20;

const DIRECTORIES: [(&str, u32); 21] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/share", 0o755),
    ("usr/share/doc", 0o755),
    ("usr/share/doc/busybox-static", 0o755),
    ("var", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

const FILES: [(&str, u32, &str); 4] = [
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    ),
    ("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/shadow", 0o640, "root:*:::::::\ndaemon:*:::::::\nnobody:*:::::::\n"),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// The package's parts that the image has.
pub(super) struct Package {
    /// As dpkg calls it.
    architecture: String,
    version: String,
    program: Vec<u8>,
    copyright: Vec<u8>,
    /// The programs that busybox is, as paths.
    names: BTreeSet<String>,
    /// When the program was built, in seconds since 1970.
    built: i64,
}

/// Finds the package: as it is installed, else from the host's mirror.
pub(super) fn package(progress: BootstrapProgress<'_>) -> Result<Package, BootstrapError> {
    let architecture = host_architecture()?;
    if let Some(package) = installed(&architecture)? {
        return Ok(package);
    }
    progress(BootstrapEvent::Phase(format!("downloading {PACKAGE} with apt...")));
    downloaded(&architecture)
}

impl Package {
    pub(super) fn metadata(&self) -> ImportMetadata {
        let platform = image_platform(&self.architecture);
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            os: platform.os.clone(),
            created: jiff::Timestamp::from_second(self.built).ok().map(|time| time.to_string()),
            config: RunConfig {
                env: vec![PATH.to_owned()],
                cmd: Some(vec!["sh".to_owned()]),
                labels: [("org.opencontainers.image.version".to_owned(), self.version.clone())].into(),
                ..RunConfig::default()
            },
            ..ImageConfig::default()
        };
        let created_by = "stratus image bootstrap busybox".to_owned();
        ImportMetadata { reference: BootstrapSpec::Busybox.reference(), platform, config, created_by }
    }

    pub(super) fn write(&self, sink: &mut impl Write, progress: BootstrapProgress<'_>) -> Result<(), BootstrapError> {
        progress(BootstrapEvent::Phase("creating tarball...".into()));
        write_archive(self, sink).map_err(BootstrapError::io("writing the root file system"))
    }
}

/// The package as it is installed, where it is, and where its files are those that were signed.
fn installed(architecture: &str) -> Result<Option<Package>, BootstrapError> {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Abbrev}${Version}", PACKAGE]).output();
    let query = query.map_err(BootstrapError::io("starting dpkg-query"))?;
    let state = String::from_utf8_lossy(&query.stdout).into_owned();
    let Some(version) = state.strip_prefix("ii ").filter(|_| query.status.success()) else { return Ok(None) };
    if !output_of(Command::new("dpkg").args(["--verify", PACKAGE])).is_ok_and(|changed| changed.is_empty()) {
        return Ok(None);
    }
    let listed = output_of(Command::new("dpkg-query").args(["-L", PACKAGE]))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let find = |end: &str| listed.lines().find(|line| line.ends_with(end)).map(PathBuf::from);
    let (Some(program), Some(copyright)) = (find("/bin/busybox"), find("/copyright")) else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).map_err(BootstrapError::io(format!("reading {}", path.display())));
    let built = std::fs::metadata(&program).map_err(BootstrapError::io("looking at busybox"))?.mtime();
    // Minimal systems are often set up to leave documentation out.
    let copyright = if copyright.exists() { read(&copyright)? } else { return Ok(None) };
    Ok(Some(Package {
        architecture: architecture.to_owned(),
        version: version.trim().to_owned(),
        names: names(&program)?,
        program: read(&program)?,
        copyright,
        built,
    }))
}

/// The package from the host's mirror, verified by apt.
fn downloaded(architecture: &str) -> Result<Package, BootstrapError> {
    let dir = Place::new()?;
    let apt = output_of(Command::new("apt-get").args(["-q", "download", PACKAGE]).current_dir(dir.path()));
    apt.map_err(|error| match error {
        BootstrapError::Failed { program, status, output } => BootstrapError::Failed {
            program,
            status,
            output: format!("{output}\nIf apt knows no package of that name, run `apt-get update` first."),
        },
        other => other,
    })?;
    let entries = std::fs::read_dir(dir.path()).map_err(BootstrapError::io("reading the temporary directory"))?;
    let deb = entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "deb"));
    let unexpected =
        |reason: &str| BootstrapError::Unexpected { what: format!("package {PACKAGE}"), reason: reason.into() };
    let deb = deb.ok_or_else(|| unexpected("apt-get downloaded no package"))?;
    let version = output_of(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?;
    let tar = output_of(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb))?;
    let mut reader = TarReader::new(&tar[..]);
    let (mut program, mut copyright) = (None, None);
    while let Some(entry) = reader.next_entry().map_err(|error| unexpected(&error.to_string()))? {
        let name = entry.name();
        if entry.kind == Kind::File && (name.ends_with("/bin/busybox") || name.ends_with("/copyright")) {
            let contents = reader.contents(FILE_MAX).map_err(|error| unexpected(&error.to_string()))?;
            match name.ends_with("/copyright") {
                true => copyright = Some(contents),
                false => program = Some((contents, entry.mtime.seconds)),
            }
        }
    }
    let (program, built) = program.ok_or_else(|| unexpected("it holds no bin/busybox"))?;
    let path = dir.path().join("busybox");
    std::fs::write(&path, &program).map_err(BootstrapError::io("writing busybox"))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
        .map_err(BootstrapError::io("writing busybox"))?;
    Ok(Package {
        architecture: architecture.to_owned(),
        version: String::from_utf8_lossy(&version).trim().to_owned(),
        names: names(&path)?,
        program,
        copyright: copyright.ok_or_else(|| unexpected("it holds no copyright file"))?,
        built,
    })
}

/// Asks busybox what it is called.
fn names(program: &Path) -> Result<BTreeSet<String>, BootstrapError> {
    let listed = output_of(Command::new(program).arg("--list-full"))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let is_path = |path: &&str| {
        let known = ["bin/", "sbin/", "usr/bin/", "usr/sbin/"]
            .iter()
            .any(|dir| path.strip_prefix(dir).is_some_and(|name| !name.is_empty() && !name.contains('/')));
        known && *path != "bin/busybox"
    };
    Ok(listed.lines().map(str::trim).filter(is_path).map(str::to_owned).collect())
}

fn write_archive(package: &Package, sink: &mut impl Write) -> std::io::Result<()> {
    let mtime = Time { seconds: package.built, nanoseconds: 0 };
    let entry = |path: &str, kind: Kind, mode: u32| Entry { mtime, ..Entry::new(path, kind, mode) };
    let mut tar = TarWriter::new(sink);
    for (path, mode) in DIRECTORIES {
        tar.append(&entry(&format!("{path}/"), Kind::Directory, mode))?;
    }
    let fixed = FILES.map(|(path, mode, text)| (path, mode, text.as_bytes()));
    let taken = [
        ("bin/busybox", 0o755, &*package.program),
        ("usr/share/doc/busybox-static/copyright", 0o644, &*package.copyright),
    ];
    for (path, mode, contents) in fixed.into_iter().chain(taken) {
        let file = Entry { size: contents.len() as u64, ..entry(path, Kind::File, mode) };
        tar.append_file(&file, &mut &contents[..])?;
    }
    for name in &package.names {
        tar.append(&Entry { link: b"/bin/busybox".to_vec(), ..entry(name, Kind::Symlink, 0o777) })?;
    }
    tar.finish()?.flush()
}
