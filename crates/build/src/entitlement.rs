//! What a step may have that others have not: both who builds and the daemon's administrator have to want it. The host's network is the
//! exception where whoever builds gives it to all steps, as `docker build --network host` does, which has no other way to say so.

use crate::dockerfile::{Network, Run, Security};
use crate::request::Request;
use engine::model::NetworkMode;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Something that a step asks for beside what any container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Entitlement {
    /// `RUN --security=insecure`: all privileges, as `docker run --privileged` gives them.
    Insecure,
    /// `RUN --network=host`: the host's network.
    HostNetwork,
    /// The build's secrets and agents, in what a base image asks of whoever builds upon it (`ONBUILD`). It is for who builds alone to say.
    OnBuild,
}

impl Entitlement {
    const ALL: [Entitlement; 3] = [Entitlement::Insecure, Entitlement::HostNetwork, Entitlement::OnBuild];

    /// Whether a daemon's administrator has a say in it: it is something of the machine's.
    pub fn is_the_daemons(self) -> bool {
        self != Entitlement::OnBuild
    }

    /// Its name, which is `BuildKit`'s where that has it.
    pub fn name(self) -> &'static str {
        match self {
            Entitlement::Insecure => "security.insecure",
            Entitlement::HostNetwork => "network.host",
            Entitlement::OnBuild => "onbuild.secrets",
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is none of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no entitlement {0:?}: there are onbuild.secrets, security.insecure and network.host")]
pub struct UnknownEntitlement(String);

impl FromStr for Entitlement {
    type Err = UnknownEntitlement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| UnknownEntitlement(text.to_owned()))
    }
}

impl From<Entitlement> for String {
    fn from(one: Entitlement) -> String {
        one.name().to_owned()
    }
}

impl TryFrom<String> for Entitlement {
    type Error = UnknownEntitlement;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Says why a step does not get what it asks for, in one line; `allowed` is what the daemon allows.
pub(crate) fn check(run: &Run, request: &Request, allowed: &BTreeSet<Entitlement>) -> Result<(), String> {
    let insecure = run.security == Security::Insecure;
    // A build on the host's network gives each step that.
    let host = run.network == Network::Host && request.host.network_mode != NetworkMode::Host;
    let asked = [(insecure, Entitlement::Insecure), (host, Entitlement::HostNetwork)];
    let mut asked = asked.into_iter().filter_map(|(asked, one)| asked.then_some(one));
    let refused = asked.find(|one| !request.allowed.contains(one) || !allowed.contains(one));
    let Some(refused) = refused else { return Ok(()) };
    let (who, what) = (!request.allowed.contains(&refused), !allowed.contains(&refused));
    let client = format!("stratus build --allow {refused}");
    let daemon = format!("build-allow-entitlement = [\"{refused}\"] in the daemon's configuration");
    Err(match (who, what) {
        (true, true) => format!("{refused} is not allowed: it takes {client}, and {daemon}"),
        (true, false) => format!("{refused} is not allowed: it takes {client}, too, beside what the daemon allows"),
        _ => format!("{refused} is not allowed: it takes {daemon}, too, beside --allow {refused}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_known_by_their_names() {
        for one in Entitlement::ALL {
            assert_eq!(one.to_string().parse(), Ok(one));
        }
        let said = "device".parse::<Entitlement>().unwrap_err().to_string();
        assert!(said.contains("security.insecure and network.host"), "{said}");
    }
}
