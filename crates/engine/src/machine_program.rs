//! The program of machines' processes: a file in the data directory, which is written when the first machine needs it, and which all of them execute. So its
//! pages are in the host's memory once, and who was started by an older one goes on with that when another one takes its name.
//!
//! It lies at one address in all of them, which is chosen anew for each boot of the host, among as many as the kernel would choose from: so the constants with addresses in them are the file's,
//! and not each process's own. What else a process has (its stacks, its heap, its guest's memory) is where the kernel has chosen for it alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::{Error, Result};

/// Whoever executes it reads it, and nobody writes to it.
const MODE: u32 = 0o555;
/// Where the kernel puts a program that may lie anywhere at the lowest (its `ELF_ET_DYN_BASE`, two thirds of what a process can address), and by how many pages it goes up from there
/// at random: 28 bits by default (proc_sys_vm(5), `mmap_rnd_bits`).
const LOWEST: u64 = 0x5555_5555_4000;
const PAGES_BITS: u32 = 28;
const PAGE: u64 = 4096;
/// Where an ELF file says at which address it begins (elf(5), `e_entry`).
const START: usize = 24;

/// The program for an address.
pub type ProgramAt = fn(u64) -> Vec<u8>;

/// See the [module](self).
pub(crate) struct MachineProgram {
    at: ProgramAt,
    directory: PathBuf,
    path: PathBuf,
    /// The file that was found to be whole.
    known: Mutex<Option<Found>>,
}

/// What tells a file from another one, and from itself when it was changed.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    inode: u64,
    length: u64,
    mode: u32,
    changed: (i64, i64),
}

impl Found {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(Self { inode: found.ino(), length: found.len(), mode: found.mode(), changed })
    }
}

impl MachineProgram {
    /// Of this program, in a directory that need not be there yet, for that boot of the host.
    pub(crate) fn new(at: ProgramAt, directory: &Path, boot_id: &str) -> Self {
        let boot: String = boot_id.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        let path = directory.join(format!("machine-{boot}"));
        Self { at, directory: directory.to_owned(), path, known: Mutex::new(None) }
    }

    /// Its file, which is there and whole. Blocks the first time, for some milliseconds.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn path(&self) -> Result<&Path> {
        let failed = |error| Error::step(format!("write the program of machines, {}", self.path.display()), error);
        let mut known = self.known.lock();
        let found = Found::of(&self.path).ok();
        if found.is_none() || *known != found {
            // Another release has left it, or a loss of power has taken a part of it.
            if !self.is_whole() {
                self.write().map_err(failed)?;
            }
            *known = Some(Found::of(&self.path).map_err(failed)?);
        }
        Ok(&self.path)
    }

    fn is_whole(&self) -> bool {
        let is_file = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o7777 == MODE;
        let is_it = |read: Vec<u8>| {
            let address = start(&read)?.checked_sub(start(&(self.at)(0))?)?;
            Some(is_chosen(address) && read == (self.at)(address))
        };
        fs::symlink_metadata(&self.path).is_ok_and(is_file) && fs::read(&self.path).ok().and_then(is_it) == Some(true)
    }

    /// Never into a file that is there: a machine may execute it.
    fn write(&self) -> std::io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        self.remove_others()?;
        let new = self.path.with_extension("new");
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&(self.at)(LOWEST + (rand::random::<u64>() >> (u64::BITS - PAGES_BITS)) * PAGE))?;
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        drop(file);
        fs::rename(&new, &self.path)
    }

    /// Those of other boots and of other releases, and what somebody who was killed had begun.
    fn remove_others(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path != self.path && (name == "machine" || name.starts_with("machine-")) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Where a program begins.
fn start(program: &[u8]) -> Option<u64> {
    program.get(START..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

fn is_chosen(address: u64) -> bool {
    let pages = address.wrapping_sub(LOWEST) / PAGE;
    address.is_multiple_of(PAGE) && address >= LOWEST && pages < 1 << PAGES_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program that says where it lies.
    fn program(address: u64) -> Vec<u8> {
        [&[7; START][..], &(address + 100).to_le_bytes(), b"a program"].concat()
    }

    fn another_one(address: u64) -> Vec<u8> {
        [&[7; START][..], &(address + 200).to_le_bytes(), b"another one"].concat()
    }

    fn read(path: &Path) -> (u64, String) {
        let bytes = fs::read(path).unwrap();
        (start(&bytes).unwrap(), String::from_utf8_lossy(&bytes[START + 8..]).into_owned())
    }

    #[test]
    fn it_is_written_once_and_again_when_it_is_not_what_it_was() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("microvm");
        let first = MachineProgram::new(program, &directory, "1234-boot");
        let path = first.path().unwrap().to_owned();
        let (address, text) = read(&path);
        assert!(is_chosen(address - 100) && text == "a program", "{address:x}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o555);
        let inode = || fs::metadata(&path).unwrap().ino();
        let before = inode();
        first.path().unwrap();
        // A daemon that is started anew finds it.
        MachineProgram::new(program, &directory, "1234-boot").path().unwrap();
        assert_eq!(inode(), before);

        // What goes on by the former one has that file still.
        let held = path.with_file_name("held");
        fs::hard_link(&path, &held).unwrap();
        let other = MachineProgram::new(another_one, &directory, "1234-boot");
        assert_eq!(read(other.path().unwrap()).1, "another one");
        assert_eq!(read(&held), (address, text));
        fs::remove_file(held).unwrap();

        for spoil in [
            |path: &Path| fs::write(path, b"anothe").unwrap(),
            |path: &Path| fs::write(path, another_one(0x40_0000)).unwrap(),
            |path: &Path| fs::write(path, another_one(LOWEST + 1)).unwrap(),
            |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap(),
            |path: &Path| fs::remove_file(path).unwrap(),
            // Of one that was being written.
            |path: &Path| fs::rename(path, path.with_extension("new")).unwrap(),
        ] {
            spoil(&path);
            let (address, text) = read(other.path().unwrap());
            assert!(is_chosen(address - 200) && text == "another one", "{address:x}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o555);
        }
        // A release before had one of another name; another boot has one at another address.
        fs::write(directory.join("machine"), "of a release before").unwrap();
        fs::write(directory.join("kernel"), "something else").unwrap();
        let next = MachineProgram::new(another_one, &directory, "5678-boot");
        next.path().unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["kernel", "machine-5678b"]);
    }

    #[test]
    fn addresses_are_those_that_the_kernel_chooses_from() {
        assert!(is_chosen(LOWEST) && is_chosen(LOWEST + ((1 << PAGES_BITS) - 1) * PAGE));
        assert!(!is_chosen(LOWEST + (1 << PAGES_BITS) * PAGE) && !is_chosen(LOWEST - PAGE) && !is_chosen(LOWEST + 8));
    }
}
