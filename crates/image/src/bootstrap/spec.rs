//! What to make: `DISTRIBUTION:SUITE` and its options, checked before any of it reaches another program's command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Reference;

/// Why a request for a base image makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The distribution is none that can be made.
    #[error("unknown distribution {0:?}: give debian:SUITE, ubuntu:SUITE or busybox")]
    UnknownDistribution(String),
    /// There is no suite.
    #[error("which suite of {0}? Give one, as in {0}:{1}")]
    MissingSuite(Distribution, &'static str),
    /// The suite is no word.
    #[error("invalid suite {0:?}: a suite is a word like bookworm or a version like 12")]
    BadSuite(String),
    /// A package's name is none.
    #[error("invalid package name {0:?}")]
    BadPackage(String),
    /// The mirror is no address.
    #[error("invalid mirror {0:?}: give an address that apt understands, such as http://deb.debian.org/debian")]
    BadMirror(String),
    /// The set of packages is none that exists.
    #[error("unknown variant {0:?}: give one of essential, apt, minbase, buildd, important, standard")]
    UnknownVariant(String),
    /// The architecture is no word.
    #[error("invalid architecture {0:?}: give one as dpkg calls it, such as amd64 or arm64")]
    BadArchitecture(String),
    /// The option has no meaning there.
    #[error("busybox is one package for this machine: it takes no --include, --mirror, --variant or --arch")]
    NoOptions,
}

/// A distribution whose packages make an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
}

/// Which packages are in the image, besides those that are asked for by name. The words are mmdebstrap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variant {
    /// What Debian calls essential; no apt.
    Essential,
    /// Essential packages and apt.
    Apt,
    /// Required packages and apt: what images of this name usually hold.
    #[default]
    Minbase,
    /// Minbase and what builds packages.
    Buildd,
    /// Also packages that Unix users expect.
    Important,
    /// Also packages of a character-mode system.
    Standard,
}

/// An image of a distribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributionSpec {
    pub(super) distribution: Distribution,
    /// The suite as it was asked for, which the tag shows.
    pub(super) tag: String,
    /// The suite's name in the archive.
    pub(super) suite: String,
    pub(super) include: Vec<String>,
    pub(super) mirror: Option<String>,
    pub(super) variant: Variant,
    pub(super) architecture: Option<String>,
}

/// What to make an image of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootstrapSpec {
    /// A distribution's base system.
    Distribution(DistributionSpec),
    /// The one program busybox, with all its names, from the host's distribution. About 2 MB.
    Busybox,
}

impl FromStr for BootstrapSpec {
    type Err = SpecError;

    /// Reads `debian:bookworm`, `ubuntu:24.04` or `busybox`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (text, None),
        };
        let distribution = match name {
            "busybox" if matches!(tag, None | Some("latest")) => return Ok(BootstrapSpec::Busybox),
            "debian" => Distribution::Debian,
            "ubuntu" => Distribution::Ubuntu,
            _ => return Err(SpecError::UnknownDistribution(text.to_owned())),
        };
        let tag = tag.ok_or(SpecError::MissingSuite(distribution, distribution.example()))?;
        DistributionSpec::new(distribution, tag).map(BootstrapSpec::Distribution)
    }
}

impl BootstrapSpec {
    /// Adds packages by name.
    pub fn include(mut self, packages: impl IntoIterator<Item = String>) -> Result<Self, SpecError> {
        let packages: Vec<String> = packages.into_iter().collect();
        if packages.is_empty() {
            return Ok(self);
        }
        let spec = self.distribution_mut()?;
        for package in packages {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-:".contains(c);
            let starts = package.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
            if package.len() < 2 || !starts || !package.chars().all(is_name) {
                return Err(SpecError::BadPackage(package));
            }
            spec.include.push(package);
        }
        Ok(self)
    }

    /// Takes packages from this mirror alone, rather than from those that the host uses.
    pub fn mirror(mut self, mirror: &str) -> Result<Self, SpecError> {
        let known = ["http://", "https://", "file:/", "copy:/", "mirror+", "tor+http"];
        let is_clean = |c: char| c.is_ascii_graphic() && !"[]\"'\\".contains(c);
        if !known.iter().any(|scheme| mirror.starts_with(scheme)) || !mirror.chars().all(is_clean) {
            return Err(SpecError::BadMirror(mirror.to_owned()));
        }
        self.distribution_mut()?.mirror = Some(mirror.trim_end_matches('/').to_owned());
        Ok(self)
    }

    /// Takes another set of packages than [`Variant::Minbase`].
    pub fn variant(mut self, variant: Variant) -> Result<Self, SpecError> {
        self.distribution_mut()?.variant = variant;
        Ok(self)
    }

    /// Makes it for another architecture than the host's. The host must be able to run that one's programs (package `qemu-user-static`).
    pub fn architecture(mut self, architecture: &str) -> Result<Self, SpecError> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if architecture.is_empty() || !architecture.chars().all(is_name) {
            return Err(SpecError::BadArchitecture(architecture.to_owned()));
        }
        self.distribution_mut()?.architecture = Some(architecture.to_owned());
        Ok(self)
    }

    /// What the image is called.
    pub fn reference(&self) -> Reference {
        let text = match self {
            BootstrapSpec::Busybox => "busybox:latest".to_owned(),
            BootstrapSpec::Distribution(spec) => format!("{}:{}", spec.distribution, spec.tag),
        };
        // A checked suite is a valid tag, and the names are fixed.
        Reference::parse(&text).unwrap_or_else(|error| unreachable!("{text:?} was checked: {error}"))
    }

    fn distribution_mut(&mut self) -> Result<&mut DistributionSpec, SpecError> {
        match self {
            BootstrapSpec::Distribution(spec) => Ok(spec),
            BootstrapSpec::Busybox => Err(SpecError::NoOptions),
        }
    }
}

impl DistributionSpec {
    fn new(distribution: Distribution, tag: &str) -> Result<DistributionSpec, SpecError> {
        let starts = tag.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
        if !starts || tag.len() > 64 || !tag.chars().all(is_word) {
            return Err(SpecError::BadSuite(tag.to_owned()));
        }
        Ok(DistributionSpec {
            distribution,
            tag: tag.to_owned(),
            suite: distribution.codename(tag).unwrap_or_else(|| tag.to_owned()),
            include: Vec::new(),
            mirror: None,
            variant: Variant::default(),
            architecture: None,
        })
    }
}

impl Distribution {
    /// The name in `/etc/os-release` and in images' names.
    pub(super) fn id(self) -> &'static str {
        match self {
            Distribution::Debian => "debian",
            Distribution::Ubuntu => "ubuntu",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Distribution::Debian => "bookworm",
            Distribution::Ubuntu => "noble",
        }
    }

    /// The archive's name for a version: by the package `distro-info-data` where it is installed, else by what was released so far.
    fn codename(self, version: &str) -> Option<String> {
        if !version.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let table = PathBuf::from(format!("/usr/share/distro-info/{}.csv", self.id()));
        let listed = std::fs::read_to_string(table).ok().and_then(|table| codename_in(&table, version));
        let released: &[(&str, &str)] = match self {
            Distribution::Debian => &[("11", "bullseye"), ("12", "bookworm"), ("13", "trixie")],
            Distribution::Ubuntu => &[
                ("20.04", "focal"),
                ("22.04", "jammy"),
                ("24.04", "noble"),
                ("25.10", "questing"),
                ("26.04", "resolute"),
            ],
        };
        listed.or_else(|| {
            released.iter().find(|(number, _)| *number == version).map(|(_, codename)| (*codename).to_owned())
        })
    }

    /// Where the archive's keys are, in the order of preference.
    pub(super) fn keyrings(self) -> [&'static str; 2] {
        match self {
            Distribution::Debian => {
                ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"]
            }
            Distribution::Ubuntu => {
                ["/usr/share/keyrings/ubuntu-archive-keyring.gpg", "/usr/share/keyrings/ubuntu-archive-keyring.pgp"]
            }
        }
    }

    /// The one command that installs the keys on a host.
    pub(super) fn keyring_command(self, host: Option<Distribution>) -> &'static str {
        match (self, host) {
            (Distribution::Debian, _) => "apt-get install debian-archive-keyring",
            // Debian has it from release 13 on, and that file suits older ones.
            (Distribution::Ubuntu, Some(Distribution::Debian)) => {
                "apt-get install ubuntu-keyring  # before Debian 13: install the package of Debian 13 with dpkg -i"
            }
            (Distribution::Ubuntu, _) => "apt-get install ubuntu-keyring",
        }
    }
}

/// Looks a version up in a table of distro-info: `version,codename,series,…`, where the series is the archive's name.
fn codename_in(table: &str, version: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let mut columns = line.split(',');
        let number = columns.next()?.split(' ').next()?;
        let series = columns.nth(1)?;
        (number == version && !series.is_empty()).then(|| series.to_owned())
    })
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Variant {
    const ALL: [(Variant, &'static str); 6] = [
        (Variant::Essential, "essential"),
        (Variant::Apt, "apt"),
        (Variant::Minbase, "minbase"),
        (Variant::Buildd, "buildd"),
        (Variant::Important, "important"),
        (Variant::Standard, "standard"),
    ];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Variant::ALL.iter().find(|(variant, _)| variant == self);
        f.write_str(named.map_or("minbase", |(_, name)| name))
    }
}

impl FromStr for Variant {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Variant::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(variant, _)| *variant).ok_or_else(|| SpecError::UnknownVariant(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn suite(text: &str) -> String {
        match text.parse().unwrap() {
            BootstrapSpec::Distribution(spec) => spec.suite,
            BootstrapSpec::Busybox => "busybox".into(),
        }
    }

    #[test]
    fn versions_are_names_of_suites() {
        assert_eq!(suite("debian:bookworm"), "bookworm");
        assert_eq!(suite("debian:12"), "bookworm");
        assert_eq!(suite("ubuntu:24.04"), "noble");
        assert_eq!(suite("busybox"), "busybox");
        assert_eq!("debian:12".parse::<BootstrapSpec>().unwrap().reference().familiar(), "debian:12");
        let table = "version,codename,series,created\n24.04 LTS,Noble Numbat,noble,2023\n12,Bookworm,bookworm,2021\n";
        assert_eq!(codename_in(table, "24.04").as_deref(), Some("noble"));
        assert_eq!(codename_in(table, "12").as_deref(), Some("bookworm"));
        assert_eq!(codename_in(table, "1"), None);
    }

    #[test]
    fn nothing_odd_reaches_a_command_line() {
        for bad in ["debian", "debian:", "debian:-x", "debian:a b", "debian:../x", "fedora:40", "busybox:1", ""] {
            assert!(bad.parse::<BootstrapSpec>().is_err(), "{bad}");
        }
        let spec = || "debian:sid".parse::<BootstrapSpec>().unwrap();
        for bad in ["-o", "a,b", "x y", "$(id)", "", "A1"] {
            assert!(spec().include([bad.to_owned()]).is_err(), "{bad}");
        }
        for bad in ["ftp", "-x", "http://a b/", "http://a]", "javascript:x"] {
            assert!(spec().mirror(bad).is_err(), "{bad}");
        }
        assert!(spec().include(["libstdc++6".to_owned(), "gcc:arm64".to_owned()]).is_ok());
        assert!(spec().architecture("--x").is_err());
        assert_eq!("busybox".parse::<BootstrapSpec>().unwrap().mirror("http://a/"), Err(SpecError::NoOptions));
        assert!("extract".parse::<Variant>().is_err() && "apt".parse() == Ok(Variant::Apt));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_has_a_name(text in "(debian|ubuntu|busybox):?[a-z0-9.-]{0,70}") {
            if let Ok(spec) = text.parse::<BootstrapSpec>() { spec.reference(); }
        }
    }
}
