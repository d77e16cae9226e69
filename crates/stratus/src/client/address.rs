//! Where the daemon is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::Error;
use crate::tls::Identity;

/// Where a daemon listens unless it is told otherwise.
pub(super) const DEFAULT: &str = "unix:///run/stratus/docker.sock";

/// The address of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `HOST:PORT`, without TLS: for tunnels that end on this machine.
    Tcp(String),
    /// `HOST:PORT`, with TLS in which both sides show a certificate.
    Tls(String, Identity),
}

impl Address {
    /// The flag's, else `DOCKER_HOST`'s, else the default.
    pub(super) fn choose(flag: Option<&str>) -> Result<Address, Error> {
        let variable = std::env::var("DOCKER_HOST").ok().filter(|value| !value.is_empty());
        flag.map(str::to_owned).or(variable).as_deref().unwrap_or(DEFAULT).parse()
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |why| Err(Error::Address(text.to_owned(), why));
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(("unix", _)) => bad("the path must be absolute"),
            Some(("tcp", host)) => {
                let host = host.trim_end_matches('/');
                let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty());
                match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
                    Some(_) => Ok(match identity() {
                        Some(identity) => Address::Tls(host.to_owned(), identity),
                        None => Address::Tcp(host.to_owned()),
                    }),
                    None => bad("it needs a host and a port"),
                }
            }
            Some(("ssh", _)) => {
                bad("for another machine, forward its socket: ssh -L /tmp/stratus.sock:/run/stratus/docker.sock HOST")
            }
            Some(_) => bad("the scheme is unknown"),
            None if text.starts_with('/') => Ok(Address::Unix(text.into())),
            None => bad("it has no scheme"),
        }
    }
}

/// What to show a daemon that is reached by TCP: where `docker` has it, if its variables say that it is to.
fn identity() -> Option<Identity> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    variable("DOCKER_TLS_VERIFY")?;
    let directory = variable("DOCKER_CERT_PATH").map(PathBuf::from);
    let home = || PathBuf::from(variable("HOME").unwrap_or_default()).join(".docker");
    Some(Identity::in_directory(&directory.unwrap_or_else(home)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(host) | Address::Tls(host, _) => write!(f, "tcp://{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_ports_are_addresses() {
        assert_eq!("unix:///a/b".parse::<Address>().expect("an address"), Address::Unix("/a/b".into()));
        assert_eq!("/a/b".parse::<Address>().expect("an address"), Address::Unix("/a/b".into()));
        assert_eq!("tcp://[::1]:2375/".parse::<Address>().expect("an address").to_string(), "tcp://[::1]:2375");
        for bad in ["", "a", "unix://a", "tcp://a", "tcp://:1", "tcp://a:b", "npipe:////./x", "ssh://a"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
