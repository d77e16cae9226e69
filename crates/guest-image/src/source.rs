//! Where a kernel and its modules come from.

use crate::error::Error;
use crate::fetch::fetch;
use std::cmp::Ordering;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The first one that has mount_setattr(2), by which a container's mounts get what the specification says of them.
const OLDEST: (u32, u32) = (5, 12);

/// Where a kernel and its modules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This machine: a kernel for clouds that is installed (`/boot/vmlinuz-*cloud*`, the newest), else the one that runs.
    Host,
    /// The distribution's kernel for clouds, by apt, which verifies it. It is not installed.
    Fetched,
    /// Files of the user's.
    Files(Files),
}

/// A kernel, and the modules that were built with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// A bzImage, or an ELF file with an entry for PVH.
    pub kernel: PathBuf,
    /// A directory as `/lib/modules/VERSION` is.
    pub modules: PathBuf,
}

/// What was found, and where it is from, for people.
pub(crate) struct Origin {
    pub(crate) files: Files,
    pub(crate) from: String,
}

impl Source {
    /// The files. What is fetched goes into `scratch`.
    pub(crate) fn open(&self, scratch: &Path, lock: &File, progress: &dyn Fn(&str)) -> Result<Origin, Error> {
        let files = match self {
            Source::Fetched => return fetch(scratch, lock, progress),
            Source::Host => Files::of_host(Path::new("/"))?,
            Source::Files(files) => files.clone(),
        };
        let from = files.kernel.display().to_string();
        Ok(Origin { files, from })
    }
}

impl Files {
    /// The kernel of a machine whose root directory that is.
    fn of_host(root: &Path) -> Result<Files, Error> {
        let boot = root.join("boot");
        let names = fs::read_dir(&boot)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut versions: Vec<String> = names
            .filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
            .filter(|version| version.contains("cloud"))
            .collect();
        versions.sort_by(|a, b| by_version(b, a));
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        versions.push(running.clone());
        let files = versions.iter().map(|version| Files {
            kernel: boot.join(format!("vmlinuz-{version}")),
            modules: root.join("lib/modules").join(version),
        });
        let is_there = |files: &Files| File::open(&files.kernel).is_ok() && files.modules.join("kernel").is_dir();
        files.into_iter().find(is_there).ok_or(Error::NoHostKernel { running })
    }

    /// The version of both.
    ///
    /// # Errors
    /// They are of two, or of one that is too old.
    pub(crate) fn version(&self) -> Result<String, Error> {
        let path = self.modules.canonicalize().map_err(Error::io("find the modules", &self.modules))?;
        let modules = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kernel = self.kernel.clone();
        match version_of(&kernel)? {
            Some(version) if version != modules => {
                Err(Error::OtherModules { kernel, version, modules: self.modules.clone() })
            }
            _ if release(&modules).is_some_and(|release| release < OLDEST) => {
                Err(Error::TooOld { kernel, version: modules, oldest: OLDEST })
            }
            _ => Ok(modules),
        }
    }
}

/// The first two numbers of a version. `None`: it does not begin with any, as somebody named it otherwise.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The version that a bzImage says that it is of (the kernel's Documentation/arch/x86/boot.rst, `kernel_version`). `None`: it is none, or says nothing.
fn version_of(kernel: &Path) -> Result<Option<String>, Error> {
    let file = File::open(kernel).map_err(Error::io("open the kernel", kernel))?;
    let mut header = [0; 0x210];
    if file.read_exact_at(&mut header, 0).is_err() || header[0x202..0x206] != *b"HdrS" {
        return Ok(None);
    }
    let at = u64::from(u16::from_le_bytes([header[0x20e], header[0x20f]]));
    let mut text = [0; 128];
    // The text is behind the header, and less is there only in what is no kernel.
    if at == 0 || file.read_exact_at(&mut text, at + 0x200).is_err() {
        return Ok(None);
    }
    let text = text.split(|byte| *byte == 0 || *byte == b' ').next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}

/// `6.1.0-9` before `6.1.0-56`: numbers by what they are, and all else by its letters.
fn by_version(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let mut parts = vec![(0u64, String::new())];
        for letter in text.chars() {
            let digit = letter.to_digit(10).map(u64::from);
            match (digit, parts.last_mut()) {
                (Some(digit), Some((number, text))) if text.is_empty() => {
                    *number = number.saturating_mul(10).saturating_add(digit);
                }
                (Some(digit), _) => parts.push((digit, String::new())),
                (None, Some((_, text))) => text.push(letter),
                (None, None) => {}
            }
        }
        parts
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_for_clouds_comes_first_and_needs_its_modules() {
        let root = tempfile::tempdir().unwrap();
        let running = rustix::system::uname().release().to_string_lossy().into_owned();
        let install = |version: &str, modules: bool| {
            fs::create_dir_all(root.path().join("boot")).unwrap();
            fs::write(root.path().join(format!("boot/vmlinuz-{version}")), "").unwrap();
            if modules {
                fs::create_dir_all(root.path().join(format!("lib/modules/{version}/kernel"))).unwrap();
            }
        };
        let found = || Files::of_host(root.path());
        let told = found().unwrap_err().to_string();
        assert!(told.contains(&format!("/boot/vmlinuz-{running}")) && told.contains("--fetch"), "{told}");
        install(&running, true);
        assert!(found().unwrap().kernel.ends_with(format!("boot/vmlinuz-{running}")));
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-100-amd64"] {
            install(version, true);
        }
        install("6.12.0-1-cloud-amd64", false);
        let files = found().unwrap();
        assert!(files.kernel.ends_with("boot/vmlinuz-6.1.0-56-cloud-amd64"), "{files:?}");
        assert!(files.modules.ends_with("lib/modules/6.1.0-56-cloud-amd64"), "{files:?}");
    }

    #[test]
    fn a_kernel_that_is_too_old_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let version = |name: &str| {
            let (kernel, modules) = (dir.path().join("vmlinux"), dir.path().join(name));
            fs::write(&kernel, "").unwrap();
            fs::create_dir_all(&modules).unwrap();
            Files { kernel, modules }.version()
        };
        for old in ["5.10.0-32-cloud-amd64", "4.19.0", "5.11"] {
            let told = version(old).unwrap_err().to_string();
            assert!(told.contains(&format!("of version {old}")) && told.contains("5.12 or newer"), "{told}");
        }
        for new in ["5.12.0", "5.15.0-91-generic", "6.1.0-56", "10.0", "of-my-own"] {
            assert_eq!(version(new).unwrap(), new);
        }
    }

    #[test]
    fn a_kernel_with_anothers_modules_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-56 (a@b) #");
        let (kernel, modules) = (dir.path().join("vmlinuz"), dir.path().join("6.1.0-57"));
        fs::write(&kernel, &image).unwrap();
        fs::create_dir(&modules).unwrap();
        let mut files = Files { kernel: kernel.clone(), modules };
        let told = files.version().unwrap_err().to_string();
        assert!(told.contains("is of version 6.1.0-56, and the modules in"), "{told}");
        files.modules = dir.path().join("6.1.0-56");
        assert!(files.version().unwrap_err().to_string().contains("6.1.0-56: No such file"));
        fs::create_dir(&files.modules).unwrap();
        assert_eq!(files.version().unwrap(), "6.1.0-56");
        for other in [&b""[..], &image[..0x300]] {
            fs::write(&kernel, other).unwrap();
            assert_eq!(files.version().unwrap(), "6.1.0-56");
        }
    }
}
