//! Platforms: what an image runs on.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no platform: expected OS[/ARCHITECTURE[/VARIANT]], as \"linux/amd64\" or \"linux/arm64/v8\"")]
pub struct PlatformError(String);

/// An operating system and an architecture, in Go's names (OCI image-spec, image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The architecture, as `amd64`.
    pub architecture: String,
    /// The operating system, as `linux`.
    pub os: String,
    /// The version of the operating system; Windows images have it.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed; Windows images have it.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// The variant of the architecture, as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Operating systems that Go programs are made for, those first that images are.
const SYSTEMS: [&str; 15] = [
    "linux",
    "windows",
    "darwin",
    "freebsd",
    "aix",
    "android",
    "dragonfly",
    "illumos",
    "ios",
    "js",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
];

/// Architectures that images are made for.
const ARCHITECTURES: [&str; 16] = [
    "amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x", "loong64", "mips", "mipsle", "mips64", "mips64le",
    "ppc64", "riscv", "sparc64", "wasm",
];

impl Platform {
    /// A platform of these names, in their normal form.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let (architecture, variant) = normal_architecture(architecture, variant);
        Platform {
            architecture,
            os: match os.to_ascii_lowercase().as_str() {
                "macos" => "darwin".into(),
                other => other.into(),
            },
            os_version: None,
            os_features: Vec::new(),
            variant,
        }
    }

    /// What this program runs on.
    pub fn host() -> Platform {
        Platform::new("linux", std::env::consts::ARCH, None)
    }

    /// The same in normal form: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`.
    pub fn normalized(&self) -> Platform {
        let mut normal = Platform::new(&self.os, &self.architecture, self.variant.as_deref());
        normal.os_version.clone_from(&self.os_version);
        normal.os_features.clone_from(&self.os_features);
        normal
    }

    /// Refuses names of no operating system or architecture that Go knows, so that nothing is made for a slip of the pen.
    ///
    /// # Errors
    /// One line for people.
    pub fn known(self) -> Result<Platform, String> {
        for (what, name, known) in
            [("operating system", &self.os, &SYSTEMS[..]), ("architecture", &self.architecture, &ARCHITECTURES[..])]
        {
            if !known.contains(&name.as_str()) {
                return Err(format!(
                    "{self} is no platform that there is: {name} is no {what}: there are {}",
                    known.join(", ")
                ));
            }
        }
        Ok(self)
    }

    /// Whether an image for `image` is for exactly this platform, both in normal form.
    pub fn matches(&self, image: &Platform) -> bool {
        let (a, b) = (self.normalized(), image.normalized());
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant
    }
}

/// Go's name of an architecture and variant, under whatever name it came.
fn normal_architecture(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase).filter(|v| !v.is_empty());
    let (name, variant): (&str, Option<&str>) = match (architecture.as_str(), variant.as_deref()) {
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        ("powerpc64le", v) => ("ppc64le", v),
        (name, v) => (name, v),
    };
    (name.into(), variant.map(Into::into))
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let bad = || PlatformError(text.chars().take(160).collect());
        let word = |w: &&str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(word) {
            return Err(bad());
        }
        match parts[..] {
            [one] if SYSTEMS.contains(&one.to_ascii_lowercase().as_str()) || one.eq_ignore_ascii_case("macos") => {
                Ok(Platform::new(one, &Platform::host().architecture, None))
            }
            [one] => Platform::new("linux", one, None).known().map_err(|_| bad()),
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_same_platform_are_one() {
        for (text, normal) in [
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "/", "linux/", "a/b/c/d", "linux/am d64", "foo"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        let known = |text: &str| text.parse::<Platform>().unwrap().known().map(|platform| platform.to_string());
        assert_eq!(known("darwin/aarch64"), Ok("darwin/arm64".to_owned()));
        assert!(known("linux/foo").unwrap_err().contains("foo is no architecture"));
        assert!(known("linus/amd64").unwrap_err().contains("linus is no operating system"));
    }
}
