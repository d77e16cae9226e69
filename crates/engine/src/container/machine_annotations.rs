//! The annotations that say what Docker's options have no word for, of a container's machine.

use std::collections::BTreeMap;

use super::machine::{BACKING, CONSOLE, PROCESSOR};
use super::machine_limits::{DISK_BYTES, DISK_OPERATIONS, RECEIVE, SEND};
use crate::{Error, Result};

/// What all of them begin with.
const OURS: &str = "stratus.microvm.";

const KNOWN: [&str; 7] = [BACKING, CONSOLE, DISK_BYTES, DISK_OPERATIONS, RECEIVE, SEND, PROCESSOR];

/// Refuses those that mean nothing: a limit whose name was mistyped would be none. What the others say is looked at where it is used.
pub(super) fn check(annotations: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(OURS)) {
        if !KNOWN.contains(&name.as_str()) {
            return Err(Error::invalid(format!("there is no annotation {name}: there are {}", KNOWN.join(", "))));
        }
        if name == CONSOLE && !matches!(value.as_str(), "true" | "false") {
            return Err(Error::invalid(format!("the annotation {name}={value} is to be `true` or `false`")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_refused() {
        let check = |name: &str, value: &str| check(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        for known in KNOWN {
            assert!(check(known, "true").is_ok(), "{known}");
        }
        assert!(check("purpose", "trial").is_ok());
        let said = check("stratus.microvm.network.recieve", "1").unwrap_err().to_string();
        assert!(said.contains("no annotation stratus.microvm.network.recieve: there are "), "{said}");
        assert!(check(CONSOLE, "maybe").is_err());
    }
}
