//! Where the daemon listens, as it is told.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::super::Error;

/// The port of dockers' daemons that speak TLS (IANA: docker-s).
const TLS_PORT: u16 = 2376;
/// The bytes of a socket's path (unix(7)), without those that end it and by which a new one is told from the one before.
const PATH: usize = 108 - 1 - Host::FRESH.len();

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Host {
    /// A Unix socket, by its absolute path.
    Unix(PathBuf),
    /// An address and a port, or a name and a port.
    Tcp(String),
    /// The sockets that systemd opened.
    Inherited,
}

impl Host {
    /// What a socket's name ends in until others may find it.
    pub(in super::super) const FRESH: &str = ".new";

    /// The socket at this path.
    pub(super) fn unix(path: PathBuf) -> Result<Self, Error> {
        let wrong = |why: String| Err(Error::Config(format!("host unix://{}: {why}", path.display())));
        if !path.is_absolute() {
            let absolute =
                path.to_str().map_or_else(|| "PATH".to_owned(), |path| path.trim_start_matches('/').to_owned());
            let absolute = if absolute.is_empty() { "PATH".to_owned() } else { absolute };
            return wrong(format!(
                "the socket's path must begin at the root: write unix:///{absolute}, with three slashes"
            ));
        }
        let length = path.as_os_str().as_bytes().len();
        match length > PATH {
            true => wrong(format!("the path has {length} bytes, and a socket's can have {PATH}: choose a shorter one")),
            false => Ok(Self::Unix(path)),
        }
    }

    fn tcp(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Config(format!("host tcp://{text}: {why}: write tcp://ADDRESS:PORT"));
        let address = text.trim_end_matches('/');
        if let Ok(address) = address.parse::<SocketAddr>() {
            return Ok(Self::Tcp(address.to_string()));
        }
        let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Tcp(SocketAddr::new(address, TLS_PORT).to_string()));
        }
        let (name, port) = match address.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| wrong("the port is no number up to 65535"))?),
            None => (address, TLS_PORT),
        };
        match name {
            "" => Err(wrong("it names no address; 0.0.0.0 is all of this machine's")),
            _ if name.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':' | '[' | ']')) => {
                Err(wrong("there is no such address"))
            }
            _ => Ok(Self::Tcp(format!("{name}:{port}"))),
        }
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once("://") {
            Some(("unix", path)) => Self::unix(path.into()),
            Some(("tcp", address)) => Self::tcp(address),
            Some(("fd", _)) => Ok(Self::Inherited),
            _ => Err(Error::Config(format!("host {text}: write unix:///PATH, tcp://ADDRESS:PORT or fd://"))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix://{}", path.display()),
            Self::Tcp(address) => write!(out, "tcp://{address}"),
            Self::Inherited => out.write_str("fd://"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        text.parse::<Host>().unwrap_or_else(|error| panic!("{error}")).to_string()
    }

    #[test]
    fn every_place_has_one_spelling() {
        for (given, meant) in [
            ("unix:///run/d.sock", "unix:///run/d.sock"),
            ("fd://", "fd://"),
            ("tcp://127.0.0.1:99", "tcp://127.0.0.1:99"),
            ("tcp://127.0.0.1/", "tcp://127.0.0.1:2376"),
            ("tcp://[::1]", "tcp://[::1]:2376"),
            ("tcp://::1", "tcp://[::1]:2376"),
            ("tcp://node.example:1", "tcp://node.example:1"),
            ("tcp://node.example", "tcp://node.example:2376"),
        ] {
            assert_eq!(read(given), meant, "{given}");
        }
    }

    #[test]
    fn what_is_no_place_is_told_with_what_would_be() {
        let refused = |text: &str| text.parse::<Host>().expect_err(text).to_string();
        assert_eq!(
            refused("unix://run/d.sock"),
            "host unix://run/d.sock: the socket's path must begin at the root: write unix:///run/d.sock, with three slashes"
        );
        assert!(refused("unix://").ends_with("write unix:///PATH, with three slashes"));
        let long = format!("unix:///{}", "x".repeat(103));
        assert!(refused(&long).contains("the path has 104 bytes, and a socket's can have 103"), "{}", refused(&long));
        assert_eq!(refused("d.sock"), "host d.sock: write unix:///PATH, tcp://ADDRESS:PORT or fd://");
        for wrong in
            ["tcp://", "tcp://:2376", "tcp://a b:1", "tcp://1.2.3.4:99999", "tcp://a/b", "tcp://[::1", "http://x"]
        {
            assert!(refused(wrong).contains("write "), "{wrong}");
        }
    }
}
