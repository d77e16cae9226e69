//! Debian and Ubuntu: `mmdebstrap` does the work, or `debootstrap` and `tar` where that is what is installed.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::archive::{follow, host_architecture, image_platform, is_installed, output_of, stream_to};
use super::place::Place;
use super::sources::{Host, Source};
use super::spec::{Distribution, DistributionSpec};
use super::{BootstrapError, BootstrapEvent, BootstrapProgress, BootstrapSpec, ImportMetadata, Variant};
use crate::{ImageConfig, RunConfig};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How a distribution's image is going to be made.
pub(super) struct Plan<'a> {
    spec: &'a DistributionSpec,
    keyring: &'static str,
    architecture: String,
    sources: Vec<Source>,
    /// Seconds since 1970: no file is younger.
    epoch: i64,
}

pub(super) fn plan<'a>(
    spec: &'a DistributionSpec,
    progress: BootstrapProgress<'_>,
) -> Result<Plan<'a>, BootstrapError> {
    let host = Host::read();
    if !is_installed("mmdebstrap") && !is_installed("debootstrap") {
        return Err(BootstrapError::MissingProgram {
            program: "mmdebstrap".into(),
            command: "apt-get install mmdebstrap".into(),
        });
    }
    let keyrings = spec.distribution.keyrings();
    let keyring =
        keyrings.into_iter().find(|path| Path::new(path).exists()).ok_or_else(|| BootstrapError::MissingKeyring {
            distribution: spec.distribution.to_string(),
            path: keyrings[0].into(),
            command: spec.distribution.keyring_command(host.distribution).to_owned(),
        })?;
    let architecture = match &spec.architecture {
        Some(architecture) => architecture.clone(),
        None => host_architecture()?,
    };
    let sources = match &spec.mirror {
        Some(mirror) => vec![Source { uri: mirror.clone(), suite: spec.suite.clone() }],
        None => host.sources_for(spec.distribution, &spec.suite, &architecture),
    };
    progress(BootstrapEvent::Phase(format!("asking {} for {}", host_of(&sources[0].uri), spec.suite)));
    let epoch = match std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok()) {
        Some(epoch) => epoch,
        None => sources
            .iter()
            .map(|source| release_date(spec, source))
            .try_fold(0, |newest, date| Ok::<_, BootstrapError>(newest.max(date?)))?,
    };
    Ok(Plan { spec, keyring, architecture, sources, epoch })
}

/// A mirror without the password that its address may hold.
fn host_of(uri: &str) -> &str {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// When the archive last changed a suite. The signature is verified by whoever installs from it; a wrong date would only date files.
fn release_date(spec: &DistributionSpec, source: &Source) -> Result<i64, BootstrapError> {
    let dir = Place::new()?;
    let file = dir.path().join("InRelease");
    let url = format!("{}/dists/{}/InRelease", source.uri, source.suite);
    let fetched = output_of(
        Command::new("/usr/lib/apt/apt-helper").args(["-o", "Acquire::Retries=3", "download-file", &url]).arg(&file),
    );
    fetched.map_err(|error| no_suite(error, spec, source))?;
    let text = std::fs::read_to_string(&file).map_err(BootstrapError::io(format!("reading {url}")))?;
    parse_release_date(&text)
        .ok_or_else(|| BootstrapError::Unexpected { what: url, reason: "it has no Date field that can be read".into() })
}

/// A mirror that answers, and does not have the suite, has nothing else to say.
fn no_suite(error: BootstrapError, spec: &DistributionSpec, source: &Source) -> BootstrapError {
    match error {
        BootstrapError::Failed { output, .. } if output.contains("404") && source.suite == spec.suite => {
            BootstrapError::NoSuite {
                distribution: match spec.distribution {
                    Distribution::Debian => "Debian",
                    Distribution::Ubuntu => "Ubuntu",
                },
                suite: spec.suite.clone(),
                host: host_of(&source.uri).to_owned(),
            }
        }
        error => error,
    }
}

fn parse_release_date(release: &str) -> Option<i64> {
    let date = release.lines().find_map(|line| line.strip_prefix("Date: "))?;
    // `Sat, 11 Jul 2026 10:16:37 UTC`; the zone is always UTC (Debian's repository format).
    let date = date.trim().trim_end_matches("UTC").trim_end_matches("GMT").trim();
    let date = jiff::fmt::rfc2822::parse(&format!("{date} +0000")).ok()?;
    let seconds = date.timestamp().as_second();
    (seconds > 0).then_some(seconds)
}

impl Plan<'_> {
    pub(super) fn write(
        &self,
        sink: &mut (impl Write + Send),
        progress: BootstrapProgress<'_>,
    ) -> Result<(), BootstrapError> {
        match is_installed("mmdebstrap") {
            true => stream_to(&mut self.mmdebstrap(), &Place::new()?, sink, progress),
            false => self.debootstrap(sink, progress),
        }
    }

    fn components(&self) -> &'static str {
        match self.spec.distribution {
            Distribution::Debian => "main",
            Distribution::Ubuntu => "main universe",
        }
    }

    fn source_lines(&self) -> impl Iterator<Item = String> + '_ {
        let line = |source: &Source| {
            format!("deb [signed-by={}] {} {} {}", self.keyring, source.uri, source.suite, self.components())
        };
        self.sources.iter().map(line)
    }

    fn mmdebstrap(&self) -> Command {
        let spec = self.spec;
        let mut command = Command::new("mmdebstrap");
        command
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .arg(format!("--variant={}", spec.variant))
            .arg(format!("--architectures={}", self.architecture))
            .args(["--format=tar", "--aptopt=Acquire::Languages \"none\""])
            // The host's own name and name servers are no business of an image's.
            .arg("--customize-hook=rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\"");
        let mut include = spec.include.clone();
        // Debian calls apt a required package, Ubuntu does not.
        if spec.variant != Variant::Essential && !include.iter().any(|package| package == "apt") {
            include.push("apt".to_owned());
        }
        if !include.is_empty() {
            command.arg(format!("--include={}", include.join(",")));
        }
        command.args([&*spec.suite, "-"]).args(self.source_lines());
        command
    }

    fn debootstrap(
        &self,
        sink: &mut (impl Write + Send),
        progress: BootstrapProgress<'_>,
    ) -> Result<(), BootstrapError> {
        if !rustix::process::geteuid().is_root() {
            return Err(BootstrapError::NeedsRoot);
        }
        let dir = Place::new()?;
        let root = dir.path().join("root");
        let mut command = Command::new("debootstrap");
        command
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .arg(format!("--keyring={}", self.keyring))
            .arg(format!("--arch={}", self.architecture))
            .arg(format!("--components={}", self.components().replace(' ', ",")));
        match self.spec.variant {
            Variant::Minbase | Variant::Buildd => {
                command.arg(format!("--variant={}", self.spec.variant));
            }
            // What debootstrap makes without being told is the important packages.
            Variant::Important => {}
            other => {
                return Err(BootstrapError::MissingProgram {
                    program: format!("mmdebstrap, which the variant {other} takes,"),
                    command: "apt-get install mmdebstrap".into(),
                });
            }
        }
        if !self.spec.include.is_empty() {
            command.arg(format!("--include={}", self.spec.include.join(",")));
        }
        command.arg(&self.spec.suite).arg(&root).arg(&self.sources[0].uri);
        follow(command, &dir, progress)?;
        self.tidy(&root)?;
        progress(BootstrapEvent::Phase("creating tarball...".into()));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--file=-", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--xattrs"])
            .args(["--sort=name", "--numeric-owner", "--clamp-mtime", &format!("--mtime=@{}", self.epoch)])
            .arg("--directory")
            .args([root.as_os_str(), ".".as_ref()]);
        stream_to(&mut tar, &dir, sink, progress)
    }

    /// Takes out what debootstrap leaves of the host and of its own work, and names all sources, as mmdebstrap does.
    fn tidy(&self, root: &Path) -> Result<(), BootstrapError> {
        let lines: Vec<String> = self.source_lines().collect();
        let list = root.join("etc/apt/sources.list");
        std::fs::write(&list, lines.join("\n") + "\n").map_err(BootstrapError::io("writing sources.list"))?;
        let files = [
            "etc/resolv.conf",
            "etc/hostname",
            "var/log/bootstrap.log",
            "var/log/dpkg.log",
            "var/log/alternatives.log",
            "var/cache/ldconfig/aux-cache",
            "var/cache/apt/pkgcache.bin",
            "var/cache/apt/srcpkgcache.bin",
        ];
        for file in files.map(|file| root.join(file)).into_iter().chain(leftovers(root)) {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(BootstrapError::io(format!("removing {}", file.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn metadata(&self) -> ImportMetadata {
        let platform = image_platform(&self.architecture);
        let spec = self.spec;
        let labels = [
            ("org.opencontainers.image.ref.name", spec.distribution.to_string()),
            ("org.opencontainers.image.version", spec.suite.clone()),
            ("org.opencontainers.image.base.variant", spec.variant.to_string()),
        ];
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            os: platform.os.clone(),
            created: jiff::Timestamp::from_second(self.epoch).ok().map(|time| time.to_string()),
            config: RunConfig {
                env: vec![PATH.to_owned()],
                cmd: Some(vec!["bash".to_owned()]),
                labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
                ..RunConfig::default()
            },
            ..ImageConfig::default()
        };
        let created_by = format!("stratus image bootstrap {}:{}", spec.distribution, spec.tag);
        let created_by = match spec.include.is_empty() {
            true => created_by,
            false => format!("{created_by} --include {}", spec.include.join(",")),
        };
        let reference = BootstrapSpec::Distribution(spec.clone()).reference();
        ImportMetadata { reference, platform, config, created_by }
    }
}

/// Packages and package lists that were only needed while the system was made.
fn leftovers(root: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let dirs = ["var/cache/apt/archives", "var/lib/apt/lists", "var/log/apt"].map(|dir| root.join(dir));
    let entries = dirs.into_iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).filter(|path| path.is_file() && !path.ends_with("lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_releases_are_read() {
        let release = "-----BEGIN PGP SIGNED MESSAGE-----\nOrigin: Debian\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n";
        assert_eq!(parse_release_date(release), Some(1_783_764_997));
        assert_eq!(parse_release_date("Date: soon\n"), None);
        assert_eq!(parse_release_date(""), None);
    }

    #[test]
    fn passwords_of_mirrors_are_not_shown() {
        assert_eq!(host_of("http://ann:secret@near/debian"), "near");
        assert_eq!(host_of("http://deb.debian.org/debian"), "deb.debian.org");
    }

    fn plan_of(spec: &DistributionSpec) -> Plan<'_> {
        let sources = vec![Source { uri: "http://m".into(), suite: "bookworm".into() }];
        Plan { spec, keyring: "/k.gpg", architecture: "arm64".into(), sources, epoch: 7 }
    }

    fn spec(text: &str) -> DistributionSpec {
        match text.parse().unwrap() {
            BootstrapSpec::Distribution(spec) => spec,
            BootstrapSpec::Busybox => unreachable!(),
        }
    }

    fn arguments(plan: &Plan<'_>) -> Vec<String> {
        plan.mmdebstrap().get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn mmdebstrap_is_told_everything() {
        let spec = DistributionSpec { include: vec!["curl".to_owned()], ..spec("debian:12") };
        let plan = plan_of(&spec);
        let arguments = arguments(&plan);
        for wanted in [
            "--variant=minbase",
            "--architectures=arm64",
            "--include=curl,apt",
            "bookworm",
            "-",
            "deb [signed-by=/k.gpg] http://m bookworm main",
        ] {
            assert!(arguments.iter().any(|argument| argument == wanted), "{wanted} in {arguments:?}");
        }
        let metadata = plan.metadata();
        assert_eq!(metadata.reference.familiar(), "debian:12");
        assert_eq!(metadata.platform.to_string(), "linux/arm64");
        assert_eq!(metadata.config.created.as_deref(), Some("1970-01-01T00:00:07Z"));
    }

    #[test]
    fn every_image_has_apt_but_for_the_smallest() {
        let ubuntu = spec("ubuntu:noble");
        assert!(arguments(&plan_of(&ubuntu)).contains(&"--include=apt".to_owned()));
        let essential = DistributionSpec { variant: Variant::Essential, ..ubuntu };
        assert!(!arguments(&plan_of(&essential)).iter().any(|argument| argument.starts_with("--include")));
    }
}
