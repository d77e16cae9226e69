//! Which of a kernel's modules a guest loads, and in which order.

use crate::error::Error;
use crate::module::{dependencies, name_of, plain, read};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a guest can't do without, and what for.
const NEEDED: [(&str, &str); 8] = [
    ("virtio_mmio", "for its devices"),
    ("virtio_blk", "for its disks"),
    ("virtio_net", "for its network"),
    ("vmw_vsock_virtio_transport", "to speak with its host"),
    ("erofs", "for the layers of its image"),
    ("overlay", "for its root file system"),
    ("ext4", "for what it writes to a disk"),
    ("virtio_rng", "for random numbers"),
];

/// What makes more of it, where the kernel has it: QEMU's devices, volumes, memory that grows and shrinks, clones that know that they are, and a
/// checksum that some kernels of ext4 and EROFS look for by another name.
const WELCOME: [&str; 8] = [
    "crc32c_generic",
    "virtio_pci",
    "virtio_console",
    "virtiofs",
    "virtio_balloon",
    "virtio_mem",
    "vmgenid",
    "af_packet",
];

/// The modules that a guest loads, unpacked, each behind those that it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// Names of files (`virtio_blk.ko`), and what is in them.
    files: Vec<(String, Vec<u8>)>,
}

impl Modules {
    /// Picks them from a directory as `/lib/modules/VERSION` is, installed or only unpacked: neither depmod(8) nor its indexes are needed.
    /// What is built in is left out.
    ///
    /// # Errors
    /// Where something is neither there nor built in that a guest needs; where a module can't be read.
    pub fn pick(directory: &Path) -> Result<Modules, Error> {
        let mut found = Found { files: BTreeMap::new(), built_in: built_in(directory)? };
        // What is elsewhere than in `kernel`, as in `updates`, is somebody's own, and depmod(8) prefers it.
        found.look(&directory.join("kernel"))?;
        for more in ["extra", "updates"] {
            found.look(&directory.join(more))?;
        }
        let mut picked = Picked { found: &found, taken: BTreeSet::new(), modules: Modules::default() };
        for name in WELCOME.iter().take(1).filter(|name| found.files.contains_key(**name)) {
            picked.take(name)?;
        }
        for (name, purpose) in NEEDED {
            let missing = || Error::NoModule { modules: directory.to_owned(), module: name.to_owned(), purpose };
            if !found.files.contains_key(name) && !found.built_in.contains(name) {
                return Err(missing());
            }
            picked.take(name)?;
        }
        for name in WELCOME.iter().filter(|name| found.files.contains_key(**name)) {
            picked.take(name)?;
        }
        Ok(picked.modules)
    }

    /// Reads them from a directory that has them unpacked, beside a file `list` with their files' names in the order of loading, a line each.
    pub fn read(directory: &Path) -> Result<Modules, Error> {
        let path = directory.join("list");
        let list = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let file = |name: &str| {
            let path = directory.join(name);
            Ok((name.to_owned(), fs::read(&path).map_err(Error::io("read", &path))?))
        };
        Ok(Modules { files: list.lines().filter(|line| !line.is_empty()).map(file).collect::<Result<_, _>>()? })
    }

    /// Writes them as [`Modules::read`] reads them.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), Error> {
        for (name, contents) in self.files().chain([("list", self.list().as_bytes())]) {
            let path = directory.join(name);
            fs::write(&path, contents).map_err(Error::io("write", &path))?;
        }
        Ok(())
    }

    /// Names of files, and what is in them, in the order of loading.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, contents)| (&**name, &**contents))
    }

    /// The names of the files in the order of loading, a line each.
    pub fn list(&self) -> String {
        self.files.iter().map(|(name, _)| format!("{name}\n")).collect()
    }
}

/// What a kernel has.
struct Found {
    /// Files of modules, by the modules' names.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

impl Found {
    /// Looks for modules in a directory and all below. What is found later counts.
    fn look(&mut self, directory: &Path) -> Result<(), Error> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io("read", directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("read", directory))?;
            let kind = entry.file_type().map_err(Error::io("look at", &entry.path()))?;
            if kind.is_dir() {
                self.look(&entry.path())?;
            } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
                self.files.insert(name, entry.path());
            }
        }
        Ok(())
    }
}

/// The names of modules that are no files, as they are in the kernel (`modules.builtin`).
fn built_in(directory: &Path) -> Result<BTreeSet<String>, Error> {
    let path = directory.join("modules.builtin");
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.map_err(Error::io("read", &path))?,
    };
    Ok(text.lines().filter_map(|line| name_of(line.rsplit('/').next().unwrap_or(line))).collect())
}

struct Picked<'a> {
    found: &'a Found,
    /// Taken, or about to be.
    taken: BTreeSet<String>,
    modules: Modules,
}

impl Picked<'_> {
    /// Takes a module behind all that it depends on, unless it is taken or built in.
    fn take(&mut self, name: &str) -> Result<(), Error> {
        let Some(path) = self.found.files.get(name) else { return Ok(()) };
        if !self.taken.insert(plain(name)) {
            return Ok(());
        }
        let contents = read(path)?;
        for needed in dependencies(&contents, path)? {
            if !self.found.files.contains_key(&needed) && !self.found.built_in.contains(&needed) {
                let reason = format!("it depends on {needed}, which is not there");
                return Err(Error::Module { path: path.clone(), reason });
            }
            self.take(&needed)?;
        }
        self.modules.files.push((format!("{name}.ko"), contents));
        Ok(())
    }
}
