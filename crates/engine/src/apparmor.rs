//! Which AppArmor profile confines a container, and the one that is the default.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sandbox::apparmor::AppArmor;

use crate::model::ContainerRecord;
use crate::spec::SecurityOptions;
use crate::{Error, Result};

const DEFAULT: &str = include_str!("spec/apparmor-default");
/// What clients call it to be confined by none.
const UNCONFINED: &str = "unconfined";

/// The default profile of an instance, by name.
pub fn profile_name(instance: &str) -> String {
    format!("stratus-default-{instance}")
}

/// AppArmor as this instance uses it.
pub(crate) struct Confinement {
    /// `None` where the machine has none: nobody is confined then.
    apparmor: Option<AppArmor>,
    profile: String,
    /// Where the text of the profile lies that was given to the kernel last.
    path: PathBuf,
    loaded: OnceLock<Result<(), String>>,
}

impl Confinement {
    pub(crate) fn new(instance: &str, run_dir: &Path) -> Self {
        Self {
            apparmor: AppArmor::of_this_machine(),
            profile: profile_name(instance),
            path: run_dir.join("apparmor-profile"),
            loaded: OnceLock::new(),
        }
    }

    /// Whether containers are confined where nobody says otherwise.
    pub(crate) fn is_there(&self) -> bool {
        self.apparmor.is_some()
    }

    /// Has the kernel know the default profile. It is done once; who comes meanwhile waits.
    pub(crate) fn load_default(&self) -> Result<()> {
        let Some(apparmor) = &self.apparmor else { return Ok(()) };
        let loaded = self.loaded.get_or_init(|| self.load(apparmor));
        loaded.clone().map_err(|why| {
            Error::system(format!(
                "the AppArmor profile that confines containers is not there: {why} (--security-opt apparmor=unconfined runs one without)"
            ))
        })
    }

    fn load(&self, apparmor: &AppArmor) -> Result<(), String> {
        let text = DEFAULT.replace("@NAME@", &self.profile);
        let is_same = std::fs::read_to_string(&self.path).is_ok_and(|before| before == text);
        if is_same && apparmor.has(&self.profile).map_err(|error| error.to_string())? {
            return Ok(());
        }
        let written = std::fs::write(&self.path, &text);
        written.map_err(|error| format!("cannot write {}: {error}", self.path.display()))?;
        apparmor
            .load(&self.path)
            .inspect_err(|_| drop(std::fs::remove_file(&self.path)))
            .map_err(|error| error.to_string())
    }

    /// What `inspect` shows: a name, `unconfined`, or nothing where the machine has no AppArmor.
    pub(crate) fn shown(&self, record: &ContainerRecord) -> String {
        let security = SecurityOptions::parse(&record.host.security_opt).unwrap_or_default();
        match &self.apparmor {
            None => String::new(),
            Some(_) => chosen(&security, record.host.privileged, &self.profile).to_owned(),
        }
    }

    /// The profile of a process in the container of `record`, which the kernel has when this returns; `None`: unconfined.
    pub(crate) fn profile(&self, record: &ContainerRecord, privileged: bool) -> Result<Option<String>> {
        let security = SecurityOptions::parse(&record.host.security_opt)?;
        let Some(apparmor) = &self.apparmor else {
            // Whether that is a mistake, the sandbox says.
            return Ok(security.apparmor.filter(|profile| profile != UNCONFINED));
        };
        let name = chosen(&security, privileged, &self.profile);
        if name == UNCONFINED {
            return Ok(None);
        }
        if name == self.profile {
            self.load_default()?;
        } else if !apparmor.has(name).map_err(|error| Error::step("read the kernel's AppArmor profiles", error))? {
            return Err(Error::invalid(format!(
                "the AppArmor profile {name:?} is not loaded: load it (apparmor_parser -r FILE), or name another one (aa-status lists them)"
            )));
        }
        Ok(Some(name.to_owned()))
    }
}

fn chosen<'a>(security: &'a SecurityOptions, privileged: bool, default: &'a str) -> &'a str {
    match &security.apparmor {
        Some(name) if !name.is_empty() => name,
        _ if privileged => UNCONFINED,
        _ => default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_confined_by_what() {
        let confined_by = |options: &[&str], privileged| {
            let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
            chosen(&SecurityOptions::parse(&options).unwrap(), privileged, "default").to_owned()
        };
        assert_eq!(confined_by(&[], false), "default");
        assert_eq!(confined_by(&["apparmor="], false), "default");
        assert_eq!(confined_by(&[], true), "unconfined");
        assert_eq!(confined_by(&["apparmor=unconfined"], false), "unconfined");
        assert_eq!(confined_by(&["apparmor=mine"], false), "mine");
        assert_eq!(confined_by(&["apparmor:mine"], true), "mine");
    }

    #[test]
    fn the_profile_has_one_name() {
        let text = DEFAULT.replace("@NAME@", &profile_name("abc"));
        assert!(text.contains("profile \"stratus-default-abc\" "), "{text}");
        assert!(!text.contains('@'), "{text}");
    }

    #[test]
    fn without_apparmor_nobody_is_confined() {
        let confinement = Confinement {
            apparmor: None,
            profile: profile_name("abc"),
            path: PathBuf::from("/nonexistent/profile"),
            loaded: OnceLock::new(),
        };
        assert!(!confinement.is_there());
        confinement.load_default().unwrap();
    }
}
