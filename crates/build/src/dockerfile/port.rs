//! What `EXPOSE` says, once variables are expanded.

use std::fmt;
use std::ops::RangeInclusive;
use thiserror::Error;

/// A text that is no port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct PortError(String);

/// Ports in a row, and their protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Their numbers.
    pub numbers: RangeInclusive<u16>,
    /// Their protocol.
    pub protocol: Protocol,
}

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl Ports {
    /// Reads `PORT[-PORT][/PROTOCOL]`. An address and a port of the host may stand before it, and mean nothing.
    pub fn parse(text: &str) -> Result<Ports, PortError> {
        let own = text.rsplit_once(':').map_or(text, |(_, own)| own);
        let (range, protocol) = own.split_once('/').unwrap_or((own, ""));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(PortError(format!("invalid proto: {other} of {text:?}: there are tcp, udp and sctp"))),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let numbers = match range.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(range).map(|number| (number, number)),
        };
        match numbers {
            Some((first, last)) if first <= last => Ok(Ports { numbers: first..=last, protocol }),
            _ => Err(PortError(format!(
                "invalid containerPort: {range:?} of {text:?}: expected a number, or two as 8000-8010"
            ))),
        }
    }

    /// Each of them, as an image's configuration has it: `80/tcp`.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let protocol = self.protocol;
        self.numbers.clone().map(move |number| format!("{number}/{protocol}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let names = |text: &str| Ports::parse(text).map(|ports| ports.names().collect::<Vec<_>>().join(" "));
        assert_eq!(names("80"), Ok("80/tcp".into()));
        assert_eq!(names("53/UDP"), Ok("53/udp".into()));
        assert_eq!(names("127.0.0.1:8080:80-81/sctp"), Ok("80/sctp 81/sctp".into()));
        for text in ["", "x", "80/", "1-", "2-1", "65536", "+1", "80/icmp", "-1"] {
            assert_eq!(names(text).is_err(), text != "80/", "{text}");
        }
    }
}
