//! Tokens: whoever shows one may ask one microVM something, at some of its ports, for a while.
//!
//! A token is what it says, as JSON, and HMAC-SHA256 of that (RFC 2104) with a key of this daemon's, both in base64url. Nobody else reads it: so it needs no
//! form that names its algorithm, as those of RFC 7515 do, and there is none to be talked into.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use engine::model::Timestamp;
use engine::{Error, Result};
use ring::hmac;
use serde::{Deserialize, Serialize};

/// The longest time for which a token may be good.
pub(crate) const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The most ranges of ports in one token.
const RANGES: usize = 64;
/// What goes before what is signed: nothing else is signed by this key, and this says what it is.
const PREFIX: &str = "stratus1";
/// Bytes of a key.
pub(super) const KEY: usize = 32;

/// Ports of a microVM that a token is for: at least one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ports(Vec<(u16, u16)>);

/// Which one text names: `8080`, `8000-8099`, or `all`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid(format!("port {text:?}: write a port, as 8080, some of them, as 8000-8099, or all"));
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let port = |text: &str| text.parse().ok().filter(|port: &u16| *port > 0 && is_number(text)).ok_or_else(wrong);
        let range = match text.split_once('-') {
            _ if text == "all" => 1..=u16::MAX,
            Some((first, last)) => port(first)?..=port(last)?,
            None => port(text)?..=port(text)?,
        };
        if range.is_empty() { Err(wrong()) } else { Ok(Self(range)) }
    }
}

impl Ports {
    /// All that are in one of these ranges.
    ///
    /// # Errors
    /// There is none, or too many of them.
    pub fn new(ranges: impl IntoIterator<Item = PortRange>) -> Result<Self> {
        let ranges: Vec<_> = ranges.into_iter().map(|PortRange(range)| range.into_inner()).collect();
        match ranges.len() {
            0 => Err(Error::invalid("a token is for one port at least")),
            1..=RANGES => Ok(Self(ranges)),
            more => Err(Error::invalid(format!("{more} ranges of ports: {RANGES} is the most"))),
        }
    }

    /// One port alone.
    pub(crate) fn one(port: u16) -> Self {
        Self(vec![(port, port)])
    }

    /// Whether a port is among them.
    pub(super) fn has(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// The port, where it is only one.
    pub(super) fn only(&self) -> Option<u16> {
        match self.0.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    /// Whom it is for: the identifier of its container.
    #[serde(rename = "m")]
    pub(super) microvm: String,
    #[serde(rename = "p")]
    pub(super) ports: Ports,
    /// Seconds since 1970, at which it is good no more.
    #[serde(rename = "e")]
    pub(super) expires: i64,
    /// How often all tokens of the microVM had been taken back when this was made.
    #[serde(rename = "g", default)]
    pub(super) generation: u64,
}

/// What signs tokens.
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(key: &[u8; KEY]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The token that says this.
    pub(super) fn sign(&self, grant: &Grant) -> Result<String> {
        let said = serde_json::to_vec(grant).map_err(|error| Error::step("write a token", error))?;
        let signed = format!("{PREFIX}.{}", URL_SAFE_NO_PAD.encode(said));
        let tag = hmac::sign(&self.0, signed.as_bytes());
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    /// What a token says, if it is one of this daemon's and good at `now`. Of what is wrong, nothing is told but that its time is over.
    ///
    /// # Errors
    /// Why it is no good, in words for whoever shows it.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Grant, &'static str> {
        const NONE: &str = "the token is none of this daemon's";
        let (signed, tag) = token.rsplit_once('.').ok_or(NONE)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| NONE)?;
        hmac::verify(&self.0, signed.as_bytes(), &tag).map_err(|_| NONE)?;
        // From here on it is what this daemon wrote.
        let said = signed.strip_prefix(PREFIX).and_then(|signed| signed.strip_prefix('.')).ok_or(NONE)?;
        let said = URL_SAFE_NO_PAD.decode(said).map_err(|_| NONE)?;
        let grant: Grant = serde_json::from_slice(&said).map_err(|_| NONE)?;
        match now.as_second() < grant.expires {
            true => Ok(grant),
            false => Err("the token has expired: ask for another one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports(text: &[&str]) -> Result<Ports> {
        Ports::new(text.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?)
    }

    fn grant() -> Grant {
        Grant { microvm: "abc".to_owned(), ports: ports(&["80", "8000-8099"]).unwrap(), expires: 1000, generation: 2 }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ports_are_what_they_are_called() {
        let some = grant().ports;
        assert!(some.has(80) && some.has(8000) && some.has(8099) && !some.has(8100) && !some.has(81));
        assert_eq!((some.to_string(), some.only()), ("80, 8000-8099".to_owned(), None));
        assert_eq!(ports(&["9000"]).unwrap().only(), Some(9000));
        assert!(ports(&["all"]).unwrap().has(65535));
        for wrong in ["", "0", "65536", "9-8", "-", "80-", "a", "80,81", "+80"] {
            assert!(wrong.parse::<PortRange>().is_err(), "{wrong}");
        }
        assert!(ports(&[]).is_err() && ports(&["1"; RANGES + 1]).is_err());
    }

    #[test]
    fn a_token_is_good_for_whom_it_was_made_and_for_so_long() {
        let signer = Signer::new(&[7; KEY]);
        let token = signer.sign(&grant()).unwrap();
        assert_eq!(signer.verify(&token, at(999)).unwrap(), grant());
        assert!(signer.verify(&token, at(1000)).unwrap_err().contains("expired"));
        assert!(Signer::new(&[8; KEY]).verify(&token, at(0)).unwrap_err().contains("none of this daemon's"));
        // It goes into a header, and into the name of a protocol of WebSocket, as it is.
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{token}");
    }

    proptest! {
        #[test]
        fn nothing_but_the_token_is_one(at_byte in 0usize..200, change in 1u8..255, other in ".{0,80}") {
            let signer = Signer::new(&[7; KEY]);
            let token = signer.sign(&grant()).unwrap();
            let mut bytes = token.clone().into_bytes();
            let place = at_byte % bytes.len();
            bytes[place] ^= change;
            if let Ok(changed) = String::from_utf8(bytes) {
                prop_assert!(signer.verify(&changed, at(0)).is_err(), "{}", changed);
            }
            prop_assert!(signer.verify(&other, at(0)).is_err());
        }
    }
}
