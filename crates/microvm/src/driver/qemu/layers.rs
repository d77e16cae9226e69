//! The image's layers as one disk.
//!
//! The one form of a disk that QEMU knows and that is a list of files is VMware's, of which it saves no machine, as it might keep some of it in memory.
//! So the guest's disk lies over that, and while a machine is saved over nothing.

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use qapi::{Command, Empty};
use serde::Serialize;
use serde_json::{Value, json};
use vmm::CONCATENATED_ALIGN;

use super::monitor::Monitor;
use crate::error::{Error, Result};
use crate::plan::LAYERS;

/// The node of the list of files, and that of nothing.
const LIST: &str = "list";
const NOTHING: &str = "nothing";
/// Bytes of a sector.
const SECTOR: u64 = 512;

/// The layers of a machine.
pub(super) struct Layers {
    list: PathBuf,
    /// In bytes.
    size: u64,
}

impl Layers {
    /// Makes one disk of files, if there are any.
    pub(super) fn new(layers: &[PathBuf], scratch: &Path) -> Result<Option<Self>> {
        if layers.is_empty() {
            return Ok(None);
        }
        let (list, size) = concatenated(layers, scratch)?;
        Ok(Some(Self { list, size }))
    }

    /// The nodes of QEMU's that it is made of.
    pub(super) fn nodes(&self) -> [Value; 2] {
        [self.files(), over(LIST)]
    }

    fn files(&self) -> Value {
        let file = json!({ "driver": "file", "filename": self.list });
        json!({ "driver": "vmdk", "node-name": LIST, "read-only": true, "file": file })
    }

    /// Puts nothing below the disk of a machine that rests.
    pub(super) fn take_out(&self, monitor: &mut Monitor) -> Result<()> {
        let nothing = json!({ "driver": "null-co", "node-name": NOTHING, "read-only": true, "size": self.size });
        exchange(monitor, nothing, NOTHING, LIST)
    }

    /// Puts the files back there.
    pub(super) fn put_back(&self, monitor: &mut Monitor) -> Result<()> {
        exchange(monitor, self.files(), LIST, NOTHING)
    }
}

/// The node that the guest has: whatever is below.
fn over(below: &str) -> Value {
    json!({ "driver": "raw", "node-name": LAYERS, "read-only": true, "file": below })
}

/// Puts a new node, whose name is `is`, below the guest's disk, and takes the one that `was` there away.
fn exchange(monitor: &mut Monitor, node: Value, is: &'static str, was: &'static str) -> Result<()> {
    let tried = "exchange what is below a disk";
    monitor.execute(tried, &Add(node))?;
    monitor.execute(tried, &Reopen { options: [over(is)] })?;
    monitor.execute(tried, &qapi::qmp::blockdev_del { node_name: was.to_owned() }).map(drop)
}

/// `blockdev-add`.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Add(Value);

impl Command for Add {
    type Ok = Empty;
    const NAME: &'static str = "blockdev-add";
    const ALLOW_OOB: bool = false;
}

/// `blockdev-reopen`.
#[derive(Debug, Serialize)]
struct Reopen {
    options: [Value; 1],
}

impl Command for Reopen {
    type Ok = Empty;
    const NAME: &'static str = "blockdev-reopen";
    const ALLOW_OOB: bool = false;
}

/// Makes one disk of several files, each from a multiple of [`CONCATENATED_ALIGN`] bytes on, and says how large it is (Virtual Disk Format 5.0, "Extent Descriptions").
fn concatenated(layers: &[PathBuf], scratch: &Path) -> Result<(PathBuf, u64)> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what: "a layer's disk", path, source }
    };
    let gap = scratch.join("gap");
    File::create(&gap).and_then(|file| file.set_len(CONCATENATED_ALIGN)).map_err(failed(&gap))?;
    let mut list =
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
            .to_owned();
    let mut size = 0;
    for layer in layers {
        let length = fs::metadata(layer).map_err(failed(layer))?.len();
        let rest = length.next_multiple_of(CONCATENATED_ALIGN) - length;
        // Writing to text that is in memory can't fail.
        let _ = writeln!(list, "RW {} FLAT \"{}\" 0", length / SECTOR, layer.display());
        size += length + rest;
        if rest > 0 {
            let _ = writeln!(list, "RW {} FLAT \"{}\" 0", rest / SECTOR, gap.display());
        }
    }
    let path = scratch.join("layers.vmdk");
    fs::write(&path, list).map_err(failed(&path))?;
    Ok((path, size))
}
