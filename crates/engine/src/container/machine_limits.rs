//! How much a container's machine may receive and send, which its annotations say: Docker has no such limits.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use microvm::{Limits, Rate};

use crate::{Error, Result};

/// Bytes a second that each network card of the machine receives or sends at most.
const RECEIVE: &str = "stratus.microvm.network.receive";
const SEND: &str = "stratus.microvm.network.send";

/// How much goes through each network card of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NetworkLimits {
    pub(super) receive: Limits,
    pub(super) send: Limits,
}

impl NetworkLimits {
    /// Those that annotations say.
    ///
    /// # Errors
    /// One is no number of bytes.
    pub(super) fn of(annotations: &BTreeMap<String, String>) -> Result<NetworkLimits> {
        Ok(NetworkLimits { receive: limits(annotations, RECEIVE)?, send: limits(annotations, SEND)? })
    }
}

fn limits(annotations: &BTreeMap<String, String>, name: &str) -> Result<Limits> {
    let Some(text) = annotations.get(name) else { return Ok(Limits::default()) };
    let per_second: NonZeroU64 = text.parse().map_err(|_| {
        Error::invalid(format!("the annotation {name}={text} is to be a number of bytes a second, and not 0"))
    })?;
    // A tenth of a second may go at once.
    Ok(Limits { bytes: Some(Rate { per_second, burst: per_second.get() / 10 }), operations: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> Result<NetworkLimits> {
        let owned = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        NetworkLimits::of(&owned.collect())
    }

    #[test]
    fn annotations_limit_a_machine_s_network() {
        assert_eq!(of(&[("other", "x")]).unwrap(), NetworkLimits::default());
        let limited = of(&[(SEND, "1000000")]).unwrap();
        let rate = Rate { per_second: NonZeroU64::new(1_000_000).unwrap(), burst: 100_000 };
        assert_eq!(limited.send, Limits { bytes: Some(rate), operations: None });
        assert_eq!(limited.receive, Limits::default());
        for wrong in ["", "0", "-1", "1M", "18446744073709551616"] {
            let error = of(&[(RECEIVE, wrong)]).unwrap_err().to_string();
            assert!(error.contains(RECEIVE) && error.contains(wrong), "{error}");
        }
    }
}
