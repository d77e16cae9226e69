//! The guest's memory, and a snapshot's: files with holes where nothing was written yet.
//!
//! Beside what the machine has from its start on, a second file is for what may come while it runs (QEMU's docs/system/devices/virtio-mem; of its version 7.2, the sources). In a
//! snapshot it lies behind the first.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use vmm::{MIB, MemorySize};

use crate::error::{Error, Result};
use crate::plan::Hardware;

/// The name of the memory, and of the device by which more comes.
const MEMORY: &str = "memory";
pub(super) const MORE: &str = "more";
/// Bytes by which memory comes, and by which a kernel can add it.
const BLOCK: u64 = 2 << 20;
const STEP: u64 = 128 << 20;

/// The memory of a machine.
pub(super) struct Memory {
    at_start: MemorySize,
    file: PathBuf,
    /// For what may come, and how many bytes that are; none where nothing may.
    more: Option<(PathBuf, u64)>,
}

impl Memory {
    /// Files in `scratch`, which QEMU makes.
    pub(super) fn new(hardware: &Hardware, scratch: &Path) -> Self {
        let most = hardware.most_memory.bytes().saturating_sub(hardware.memory.bytes()).next_multiple_of(STEP);
        let more = (most > 0).then(|| (scratch.join(MORE), most));
        Self { at_start: hardware.memory, file: scratch.join(MEMORY), more }
    }

    /// Bytes that the machine has from its start on.
    pub(super) fn at_start(&self) -> u64 {
        self.at_start.bytes()
    }

    /// How QEMU is told of it.
    pub(super) fn arguments(&self, command: &mut Command) {
        let file = |id: &str, size: u64, path: &Path| {
            format!("memory-backend-file,id={id},size={size},mem-path={},share=on", path.display())
        };
        command.args(["-M", &format!("q35,memory-backend={MEMORY}")]);
        command.args(["-object", &file(MEMORY, self.at_start.bytes(), &self.file)]);
        let Some((path, most)) = &self.more else {
            command.args(["-m", &format!("{}M", self.at_start.mib())]);
            return;
        };
        let mib = self.at_start.mib();
        command.args(["-m", &format!("{mib}M,maxmem={}M", mib + most / MIB)]);
        command.args(["-object", &file("memory-of-more", *most, path)]);
        let device = format!("virtio-mem-pci,id={MORE},memdev=memory-of-more,requested-size=0,block-size={BLOCK}");
        command.args(["-device", &device]);
    }

    /// By how much another size is more, in whole blocks where any may come, and by how much less.
    pub(super) fn difference(&self, memory: MemorySize) -> Result<(Option<u64>, u64)> {
        let more = memory.bytes().saturating_sub(self.at_start.bytes()).next_multiple_of(BLOCK);
        let most = self.more.as_ref().map_or(0, |(_, most)| *most);
        if more > most {
            let most = self.at_start.mib() + most / MIB;
            return Err(Error::Most { most, wanted: memory.mib() });
        }
        Ok((self.more.as_ref().map(|_| more), self.at_start.bytes().saturating_sub(memory.bytes())))
    }

    /// Copies it into an empty file.
    pub(super) fn save(&self, into: &File) -> Result<()> {
        let most = self.more.as_ref().map_or(0, |(_, most)| *most);
        let whole = self.at_start.bytes() + most;
        into.set_len(whole).map_err(copied("the guest's memory", &self.file))?;
        for (path, at, length) in self.files() {
            let saved = File::open(path).and_then(|from| copy(&from, 0, length, into, at));
            saved.map_err(copied("the guest's memory", path))?;
        }
        Ok(())
    }

    /// Makes it as it was saved, in the files of a QEMU that has made its devices and waits for the rest: the device by which more comes empties, before version 8.1, what is there when it is
    /// made (`virtio_mem_device_realize`).
    pub(super) fn go_on(&self, saved: &File) -> Result<()> {
        for (path, at, length) in self.files() {
            let made = File::options().write(true).open(path).and_then(|memory| copy(saved, at, length, &memory, 0));
            made.map_err(copied("a snapshot's memory", path))?;
        }
        Ok(())
    }

    /// Its files, with where each is in a snapshot, and how long it is.
    fn files(&self) -> impl Iterator<Item = (&Path, u64, u64)> {
        let first = (self.file.as_path(), 0, self.at_start.bytes());
        let more = self.more.as_ref().map(|(path, most)| (path.as_path(), self.at_start.bytes(), *most));
        std::iter::once(first).chain(more)
    }
}

fn copied(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Copy { what, path, source }
}

/// Copies `length` bytes from a place in one file to a place in another, where there is nothing, all but holes (lseek(2), `SEEK_DATA`).
fn copy(mut from: &File, start: u64, length: u64, mut to: &File, target: u64) -> io::Result<()> {
    let end = start + length;
    let mut at = start;
    while at < end {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            // No more data.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?.min(end);
        rustix::fs::seek(from, SeekFrom::Start(data))?;
        rustix::fs::seek(to, SeekFrom::Start(target + (data - start)))?;
        let copied = io::copy(&mut io::Read::take(&mut from, hole - data), &mut to)?;
        if copied != hole - data {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = hole;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_part_of_a_file_is_copied_with_its_holes() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(64 << 20).unwrap();
        for at in [0, 8 << 20, (20 << 20) - 10, 40 << 20] {
            from.write_all_at(&[7; 20], at).unwrap();
        }
        to.set_len(64 << 20).unwrap();
        copy(&from, 8 << 20, 12 << 20, &to, 1 << 20).unwrap();
        let read = |at: u64| {
            let mut bytes = [0xee; 20];
            to.read_exact_at(&mut bytes, at).unwrap();
            bytes
        };
        assert_eq!((read(0), read(1 << 20)), ([0; 20], [7; 20]));
        // Cut where the part ends.
        let last = read((13 << 20) - 10);
        assert_eq!((&last[..10], &last[10..]), (&[7; 10][..], &[0; 10][..]));
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
