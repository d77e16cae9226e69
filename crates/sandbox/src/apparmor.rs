//! AppArmor: whether the kernel confines by it, and the profiles that it has.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the kernel tells, and what compiles a profile for it.
#[derive(Clone, Debug)]
pub struct AppArmor {
    security: PathBuf,
    parser: PathBuf,
}

impl AppArmor {
    /// The machine's, where the kernel confines by it and there is a parser to load profiles with.
    pub fn of_this_machine() -> Option<Self> {
        let parser = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"].iter().map(PathBuf::from);
        Self::find(Path::new("/sys"), parser)
    }

    fn find(sys: &Path, parsers: impl IntoIterator<Item = PathBuf>) -> Option<Self> {
        let security = sys.join("kernel/security/apparmor");
        if !is_enabled_in(sys) || !security.join("profiles").exists() {
            return None;
        }
        let parser = parsers.into_iter().find(|parser| parser.exists())?;
        Some(AppArmor { security, parser })
    }

    /// Whether the kernel has a profile of this name.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        let loaded = fs::read_to_string(self.security.join("profiles"))?;
        Ok(loaded.lines().any(|line| name_of(line) == Some(name)))
    }

    /// Gives the kernel the profile in the file at `path`, in the place of one of the same name.
    ///
    /// # Errors
    /// With what the parser said.
    pub fn load(&self, path: &Path) -> Result<(), LoadError> {
        let failed = |why: String| LoadError { parser: self.parser.clone(), path: path.to_owned(), why };
        let mut command = Command::new(&self.parser);
        // Not from its cache, nor into it: profiles of this kind come and go with a daemon.
        command.args(["--replace", "--skip-cache", "--quiet"].map(OsStr::new)).arg(path);
        let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let said = said.trim();
        Err(failed(if said.is_empty() { output.status.to_string() } else { said.to_owned() }))
    }
}

/// Whether the kernel confines by AppArmor, whoever loads profiles.
pub(crate) fn is_enabled() -> bool {
    is_enabled_in(Path::new("/sys"))
}

fn is_enabled_in(sys: &Path) -> bool {
    fs::read(sys.join("module/apparmor/parameters/enabled")).is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Takes a profile out of the kernel, where it is there. What it confined is confined no more: end that first.
///
/// # Errors
/// Where the kernel refuses.
pub fn unload(name: &str) -> io::Result<bool> {
    let remove = Path::new("/sys/kernel/security/apparmor/.remove");
    match fs::write(remove, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        written => written.map(|()| true),
    }
}

/// `NAME (MODE)`; a name may have blanks and parentheses in it.
fn name_of(line: &str) -> Option<&str> {
    line.rsplit_once(" (").map(|(name, _mode)| name)
}

/// Why a profile is not loaded.
#[derive(Clone, Debug)]
pub struct LoadError {
    parser: PathBuf,
    path: PathBuf,
    why: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} does not load {}: {}", self.parser.display(), self.path.display(), self.why)
    }
}

impl std::error::Error for LoadError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory like `/sys`, as a kernel with AppArmor shows it.
    fn sys(enabled: &str, profiles: Option<&str>) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("module/apparmor/parameters/enabled", enabled);
        if let Some(profiles) = profiles {
            write("kernel/security/apparmor/profiles", profiles);
        }
        sys
    }

    #[test]
    fn it_takes_a_kernel_that_confines_its_file_system_and_a_parser() {
        let parser = || [PathBuf::from("/nonexistent/parser"), PathBuf::from("/bin/sh")];
        let found = |sys: &tempfile::TempDir| AppArmor::find(sys.path(), parser()).is_some();
        assert!(found(&sys("Y\n", Some(""))));
        assert!(!found(&sys("N\n", Some(""))), "built in, and switched off");
        assert!(!found(&sys("Y\n", None)), "securityfs is not mounted");
        assert!(!found(&tempfile::tempdir().unwrap()), "not built in");
        assert!(AppArmor::find(sys("Y\n", Some("")).path(), []).is_none(), "nothing loads profiles");
    }

    #[test]
    fn profiles_by_name() {
        let sys = sys("Y\n", Some("stratus-default (enforce)\n/usr/bin/man (complain)\nodd (name) (enforce)\n"));
        let apparmor = AppArmor::find(sys.path(), [PathBuf::from("/bin/sh")]).unwrap();
        for name in ["stratus-default", "/usr/bin/man", "odd (name)"] {
            assert!(apparmor.has(name).unwrap(), "{name}");
        }
        for name in ["stratus", "stratus-default (enforce)", ""] {
            assert!(!apparmor.has(name).unwrap(), "{name}");
        }
    }

    #[test]
    fn what_the_parser_says_is_told() {
        let sys = sys("Y\n", Some(""));
        let load = |parser: &str, text: &str| {
            let profile = sys.path().join("profile");
            fs::write(&profile, text).unwrap();
            AppArmor::find(sys.path(), [PathBuf::from(parser)]).unwrap().load(&profile)
        };
        let error = load("/bin/false", "").unwrap_err().to_string();
        assert!(error.starts_with("/bin/false does not load") && error.ends_with("exit status: 1"), "{error}");
        let error = load("/bin/ls", "").unwrap_err().to_string();
        assert!(error.contains("--replace"), "{error}");
        load("/bin/true", "").unwrap();
    }
}
