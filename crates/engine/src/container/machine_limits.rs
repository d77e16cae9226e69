//! How much goes through the network cards and disks of a container's machine, which its annotations say: Docker has no such limits.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use microvm::{DiskLimits, Limits, Rate};

use crate::{Error, Result};

/// Bytes a second that each network card of the machine receives or sends at most.
pub(super) const RECEIVE: &str = "stratus.microvm.network.receive";
pub(super) const SEND: &str = "stratus.microvm.network.send";
/// Bytes a second that are read and written of each disk of the machine at most, and requests.
pub(super) const DISK_BYTES: &str = "stratus.microvm.disk.bytes";
pub(super) const DISK_OPERATIONS: &str = "stratus.microvm.disk.operations";

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
        let bytes =
            |name| -> Result<Limits> { Ok(Limits { bytes: rate(annotations, name, "bytes")?, operations: None }) };
        Ok(NetworkLimits { receive: bytes(RECEIVE)?, send: bytes(SEND)? })
    }
}

/// How much goes through each disk of a machine, as annotations say.
///
/// # Errors
/// One is no number of bytes or of requests.
pub(super) fn of_disks(annotations: &BTreeMap<String, String>) -> Result<DiskLimits> {
    let each = Limits {
        bytes: rate(annotations, DISK_BYTES, "bytes")?,
        operations: rate(annotations, DISK_OPERATIONS, "requests")?,
    };
    Ok(DiskLimits { layers: each, upper: each })
}

fn rate(annotations: &BTreeMap<String, String>, name: &str, of: &str) -> Result<Option<Rate>> {
    let Some(text) = annotations.get(name) else { return Ok(None) };
    let per_second: NonZeroU64 = text.parse().map_err(|_| {
        Error::invalid(format!("the annotation {name}={text} is to be a number of {of} a second, and not 0"))
    })?;
    // A tenth of a second may go at once.
    Ok(Some(Rate { per_second, burst: per_second.get() / 10 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(annotations: &[(&str, &str)]) -> Result<NetworkLimits> {
        let owned = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        NetworkLimits::of(&owned.collect())
    }

    #[test]
    fn annotations_limit_a_machine_s_disks() {
        let of = |name: &str, value: &str| of_disks(&[(name.to_owned(), value.to_owned())].into());
        assert_eq!(of("other", "x").unwrap(), DiskLimits::default());
        let rate = Rate { per_second: NonZeroU64::new(200).unwrap(), burst: 20 };
        let limited = of(DISK_OPERATIONS, "200").unwrap();
        assert_eq!(limited.upper, Limits { bytes: None, operations: Some(rate) });
        assert_eq!(limited.layers, limited.upper);
        assert_eq!(of(DISK_BYTES, "200").unwrap().upper, Limits { bytes: Some(rate), operations: None });
        for (name, what) in [(DISK_BYTES, "bytes"), (DISK_OPERATIONS, "requests")] {
            let error = of(name, "10M").unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("10M") && error.contains(what), "{error}");
        }
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
