//! The first root file system of a guest.

use crate::{AGENT, Modules};
use std::io::{self, Write};

/// Writes an initramfs (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst; cpio's format `newc`, not packed) as the agent
/// expects it: itself as `/init`, the node `/dev/null`, and in `/modules` the modules with their `list`. The same modules give the same bytes.
pub fn write_initramfs(modules: &Modules, out: impl Write) -> io::Result<()> {
    let mut archive = Archive { out };
    archive.file("init", 0o755, AGENT)?;
    for directory in ["dev", "modules"] {
        archive.add(entry(directory).mode(0o040_755), &[])?;
    }
    archive.add(entry("dev/null").mode(0o020_666).rdev_major(1).rdev_minor(3), &[])?;
    archive.file("modules/list", 0o644, modules.list().as_bytes())?;
    for (name, contents) in modules.files() {
        archive.file(&format!("modules/{name}"), 0o644, contents)?;
    }
    cpio::newc::trailer(archive.out)?.flush()
}

/// Of root, of 1970.
fn entry(name: &str) -> cpio::newc::Builder {
    cpio::newc::Builder::new(name).uid(0).gid(0).mtime(0)
}

struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        self.add(entry(name).mode(0o100_000 | mode), contents)
    }

    fn add(&mut self, entry: cpio::newc::Builder, contents: &[u8]) -> io::Result<()> {
        let length = u32::try_from(contents.len()).map_err(|_| io::Error::other("a file of 4 GiB or more"))?;
        let mut entry = entry.write(&mut self.out, length);
        entry.write_all(contents)?;
        entry.finish().map(drop)
    }
}
