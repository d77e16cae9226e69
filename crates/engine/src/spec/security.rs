//! `--security-opt`

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxSeccomp};
use sandbox::SeccompFilter;

use super::seccomp;
use crate::{Error, Result};

/// The security options of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    pub(crate) system_paths_unconfined: bool,
    pub(crate) apparmor: Option<String>,
    pub(crate) labels: Vec<String>,
    profile: Profile,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Profile {
    #[default]
    Builtin,
    Unconfined,
    Given(String),
}

impl SecurityOptions {
    /// From `key=value` (or the older `key:value`).
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut out = Self::default();
        for option in options {
            if option == "no-new-privileges" {
                out.no_new_privileges = true;
                continue;
            }
            let (key, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: \"{option}\"")))?;
            match key {
                "no-new-privileges" => {
                    out.no_new_privileges =
                        value.parse().map_err(|_| Error::invalid(format!("invalid --security-opt 2: \"{option}\"")))?;
                }
                "seccomp" => {
                    out.profile = match value {
                        "unconfined" => Profile::Unconfined,
                        "builtin" => Profile::Builtin,
                        profile => Profile::Given(profile.to_owned()),
                    };
                }
                "systempaths" if value == "unconfined" => out.system_paths_unconfined = true,
                "apparmor" => out.apparmor = Some(value.to_owned()),
                "label" => out.labels.push(value.to_owned()),
                "writable-cgroups" => {
                    return Err(Error::not_implemented(
                        "--security-opt writable-cgroups is not supported: use --privileged, or bind-mount the hierarchy",
                    ));
                }
                _ => return Err(Error::invalid(format!("invalid --security-opt 2: \"{option}\""))),
            }
        }
        Ok(out)
    }

    /// The client's own seccomp profile for a container with `caps`.
    pub(crate) fn own_profile(&self, caps: &HashSet<Capability>) -> Result<Option<LinuxSeccomp>> {
        match &self.profile {
            Profile::Given(text) => seccomp::parse_profile(text, caps).map(Some),
            Profile::Unconfined | Profile::Builtin => Ok(None),
        }
    }

    /// The filter for a container with `caps` whose client has nothing to say about it.
    pub(crate) fn default_filter(&self, privileged: bool, caps: &HashSet<Capability>) -> Result<Option<SeccompFilter>> {
        match &self.profile {
            Profile::Builtin if !privileged => seccomp::default_filter(caps).map(Some),
            _ => Ok(None),
        }
    }
}
