//! Names of volumes.

use crate::{Error, Result};

/// A name for an anonymous volume: 64 hexadecimal digits.
pub(super) fn random() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses what is no name: it becomes a directory's name.
pub(super) fn check(name: &str) -> Result<()> {
    if name.len() == 1 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let (first, rest) = name.split_at_checked(1).unwrap_or(("", ""));
    let plain = |text: &str, extra: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
    if plain(first, "") && plain(rest, "_.-") && name.len() <= 255 && !first.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_no_names() {
        for name in ["..", "a/b", "-x", "", "a", "ü2"] {
            assert!(check(name).is_err(), "{name}");
        }
        check("db-data_1.x").unwrap();
        check(&random()).unwrap();
    }
}
