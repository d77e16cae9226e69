//! The disk of a container in a microVM (`--storage-opt size=`): what it writes is there, and not in the machine's memory, so that it outlives the run as an ordinary
//! container's changes do.
//!
//! It lies beside these, in the directory of the container's root file system, and goes with that. A snapshot of a machine has a copy of it, as it was at the same
//! moment, and whatever goes on from there begins with a copy of that.

use std::path::PathBuf;

use microvm::disk::{LARGEST, SMALLEST};

use crate::model::{ContainerRecord, HostConfig};
use crate::{Engine, Error, Result};

/// The option that says how large it is.
const SIZE: &str = "size";
/// The name of its file, in the directory of the container's root file system and in that of a snapshot.
pub(super) const DISK: &str = "disk";

/// Whether a container is a machine that writes to a disk of its own.
pub(super) fn has_disk(record: &ContainerRecord) -> bool {
    record.is_machine() && !record.host.storage_opt.is_empty()
}

/// How many bytes a machine's disk has; `None`: it has none.
///
/// # Errors
/// There is no such option, or it is none for a size.
pub(super) fn size(host: &HostConfig) -> Result<Option<u64>> {
    if let Some(other) = host.storage_opt.keys().find(|option| *option != SIZE) {
        return Err(Error::invalid(format!("unknown --storage-opt {other}: a microVM's disk has a `size`")));
    }
    let Some(text) = host.storage_opt.get(SIZE) else { return Ok(None) };
    match bytes(text) {
        Some(bytes) if (SMALLEST..=LARGEST).contains(&bytes) => Ok(Some(bytes)),
        _ => Err(Error::invalid(format!(
            "--storage-opt size={text}: a microVM's disk has {} MiB to {} TiB, such as 512m or 10G",
            SMALLEST >> 20,
            LARGEST >> 40
        ))),
    }
}

/// Bytes, with a unit that is a power of 1024, as dockerd reads them (`units.RAMInBytes`).
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text[digits.len()..].trim();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    let number: f64 = digits.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
    let bytes = number * (1_u64 << shift) as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked here; a fraction of a byte is none"
    )]
    (bytes < 1e15).then_some(bytes as u64)
}

impl Engine {
    /// Where a container's disk is; `None`: it has none.
    pub(super) fn disk_path(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        if !record.is_machine() || size(&record.host)?.is_none() {
            return Ok(None);
        }
        self.rootfs_directory(record).map(|directory| Some(directory.join(DISK)))
    }

    /// A container's disk, made where it has none yet. Blocks.
    pub(super) fn disk(&self, record: &ContainerRecord) -> Result<Option<PathBuf>> {
        let (Some(path), Some(size)) = (self.disk_path(record)?, size(&record.host)?) else { return Ok(None) };
        let made = microvm::disk::make(&path, size, rand::random());
        made.map_err(|error| Error::step(format!("make the disk {}", path.display()), error))?;
        Ok(Some(path))
    }

    /// Bytes that a container's disk takes.
    pub(crate) fn disk_usage_of(&self, record: &ContainerRecord) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let path = self.disk_path(record).ok().flatten();
        path.and_then(|path| std::fs::metadata(path).ok()).map_or(0, |disk| disk.blocks() * 512)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_dockerd_reads_them() {
        for (text, expected) in [("512m", 512 << 20), ("1.5G", 3 << 29), ("10GiB", 10 << 30), ("67108864", 64 << 20)] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for bad in ["", "m", "-1g", "1x", "1e400", "nan", "inf"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        let with = |option: &str, value: &str| {
            let storage_opt = [(option.to_owned(), value.to_owned())].into();
            size(&HostConfig { storage_opt, ..HostConfig::default() })
        };
        assert_eq!(with("size", "1g").unwrap(), Some(1 << 30));
        assert!(with("size", "1m").unwrap_err().to_string().contains("32 MiB to 2 TiB"));
        assert!(with("size", "9t").is_err() && with("inodes", "1").is_err());
    }
}
