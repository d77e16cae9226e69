//! The image's layers as one disk.
//!
//! The one form of a disk that QEMU knows and that is a list of files is VMware's, of which it saves no machine, as it might keep some of it in memory.
//! So the guest's disk lies over that, and while a machine is saved over nothing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use qapi::{Command, Empty};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::Laid;
use super::monitor::Monitor;
use crate::error::{Error, Result};
use crate::plan::{LAYERS, LAYERS_SIZE};

/// The node of the list of files, and that of nothing.
const LIST: &str = "list";
const NOTHING: &str = "nothing";
/// Bytes of a sector.
const SECTOR: u64 = 512;

/// The layers of a machine.
pub(super) struct Layers {
    list: PathBuf,
    /// What is where nothing lies: a file of zeros, as large as the disk.
    hole: PathBuf,
    /// What is on it, by where it begins.
    extents: BTreeMap<u64, Extent>,
    /// Nothing is below the disk.
    is_out: bool,
}

/// A file on the disk.
#[derive(Clone)]
struct Extent {
    /// In bytes, a multiple of a sector's.
    length: u64,
    /// Where QEMU finds it.
    path: PathBuf,
    /// The set of descriptors by which it has it, where it is laid over the rest.
    set: Option<i64>,
}

impl Layers {
    /// Makes one disk of files, each where it is laid.
    pub(super) fn new(layers: Vec<Laid>, scratch: &Path) -> Result<Self> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { what: "a layer's disk", path, source }
        };
        let (hole, list) = (scratch.join("hole"), scratch.join("layers.vmdk"));
        File::create(&hole).and_then(|file| file.set_len(LAYERS_SIZE)).map_err(failed(&hole))?;
        let mut extents = BTreeMap::new();
        for Laid { start, path, file } in layers {
            let length = file.metadata().map_err(failed(&path))?.len();
            extents.insert(start, Extent { length, path, set: None });
        }
        let made = Self { list, hole, extents, is_out: false };
        made.write()?;
        Ok(made)
    }

    /// Writes the list of what is on the disk (Virtual Disk Format 5.0, "Extent Descriptions").
    fn write(&self) -> Result<()> {
        let mut list =
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n"
                .to_owned();
        let mut extent = |length: u64, path: &Path| {
            if length > 0 {
                // Writing to text that is in memory can't fail.
                let _ = writeln!(list, "RW {} FLAT \"{}\" 0", length / SECTOR, path.display());
            }
        };
        let mut at = 0;
        for (start, Extent { length, path, .. }) in &self.extents {
            extent(start - at, &self.hole);
            extent(*length, path);
            at = start + length;
        }
        extent(LAYERS_SIZE - at, &self.hole);
        fs::write(&self.list, list).map_err(|source| Error::File {
            what: "a layer's disk",
            path: self.list.clone(),
            source,
        })
    }

    /// The nodes of QEMU's that it is made of.
    pub(super) fn nodes(&self) -> [Value; 2] {
        [self.files(), over(LIST)]
    }

    fn files(&self) -> Value {
        let file = json!({ "driver": "file", "filename": self.list });
        json!({ "driver": "vmdk", "node-name": LIST, "read-only": true, "file": file })
    }

    /// Lays files over parts of the disk of a machine that rests, or takes away what was.
    pub(super) fn lay(&mut self, monitor: &mut Monitor, files: Vec<(u64, Option<File>)>) -> Result<()> {
        let failed = |source| Error::File { what: "a layer", path: PathBuf::from("laid over the disk"), source };
        let (mut gone, mut given) = (Vec::new(), Vec::new());
        let mut extents = self.extents.clone();
        for (start, file) in files {
            gone.extend(extents.remove(&start).and_then(|extent| extent.set));
            if let Some(file) = file {
                let length = file.metadata().map_err(failed)?.len();
                let set = monitor.give(file.into())?;
                given.push(set);
                extents.insert(start, Extent { length, path: format!("/dev/fdset/{set}").into(), set: Some(set) });
            }
        }
        let was = std::mem::replace(&mut self.extents, extents);
        let laid = self.exchange(monitor);
        if laid.is_err() && !self.is_out {
            self.extents = was;
            gone = given;
        }
        let taken = gone.into_iter().try_for_each(|set| monitor.take_back(set));
        laid.and(taken)
    }

    /// Has QEMU read the list anew.
    fn exchange(&mut self, monitor: &mut Monitor) -> Result<()> {
        self.take_out(monitor)?;
        let written = self.write();
        self.put_back(monitor)?;
        written
    }

    /// Nothing is below the disk, as they could not be put back.
    pub(super) fn are_out(&self) -> bool {
        self.is_out
    }

    /// Puts nothing below the disk of a machine that rests.
    pub(super) fn take_out(&mut self, monitor: &mut Monitor) -> Result<()> {
        let nothing = json!({ "driver": "null-co", "node-name": NOTHING, "read-only": true, "size": LAYERS_SIZE });
        exchange(monitor, nothing, NOTHING, LIST)?;
        self.is_out = true;
        Ok(())
    }

    /// Puts the files back there.
    pub(super) fn put_back(&mut self, monitor: &mut Monitor) -> Result<()> {
        exchange(monitor, self.files(), LIST, NOTHING)?;
        self.is_out = false;
        Ok(())
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
    if let Err(error) = monitor.execute(tried, &Reopen { options: [over(is)] }) {
        // Else the next one of that name could not be added.
        let _ = monitor.execute(tried, &qapi::qmp::blockdev_del { node_name: is.to_owned() });
        return Err(error);
    }
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
