//! An archive of a guest's files.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use guest_protocol::files::{At, Stat};
use tar::{Builder, EntryType, Header};

use super::contents::Contents;
use super::{CHARACTERS, DEPTH, DIRECTORY, Guest, KIND, LINK, REGULAR, SOCKET, below};
use crate::{Error, Result};

/// Bytes that are written at once.
const BUFFER: usize = 128 << 10;

/// How an archive is made.
#[derive(Debug, Default)]
pub(crate) struct ReadOptions {
    /// The first name of every path in it.
    pub(crate) name: PathBuf,
    /// Of what is mounted below, only the directory.
    pub(crate) one_file_system: bool,
    /// Of what the kernel makes up below the path, only the directory: what is in there are no files to be copied.
    pub(crate) skip_kernel: bool,
}

/// Where a container has what its kernel makes up.
const MADE_UP: [&str; 4] = ["/proc", "/sys", "/dev/pts", "/dev/mqueue"];

/// Writes what is at a path as an archive (PAX).
pub(crate) fn read(guest: &mut Guest, at: &At, stat: &Stat, options: &ReadOptions, to: impl Write) -> Result<()> {
    let mut packer = Packer {
        guest,
        archive: Builder::new(std::io::BufWriter::with_capacity(BUFFER, to)),
        names: HashMap::new(),
        file_system: options.one_file_system.then_some(stat.filesystem),
        skips_other_than: options.skip_kernel.then_some(stat.filesystem),
    };
    packer.pack(at, stat, &options.name, 0)?;
    packer.archive.into_inner().and_then(|mut to| to.flush()).map_err(written)
}

struct Packer<'g, W: Write> {
    guest: &'g mut Guest,
    archive: Builder<W>,
    /// Files with several names, by their numbers: the first of those.
    names: HashMap<(u64, u64), PathBuf>,
    file_system: Option<u64>,
    /// What is not of this one, and made up by the kernel, is left out.
    skips_other_than: Option<u64>,
}

impl<W: Write> Packer<'_, W> {
    fn pack(&mut self, at: &At, stat: &Stat, name: &Path, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::invalid(format!("{}: more than {DEPTH} directories deep", name.display())));
        }
        if stat.mode & KIND == SOCKET {
            // Only who made it could do anything with it.
            return Ok(());
        }
        let mut header = header(stat);
        let named = stat.mode & KIND != DIRECTORY && stat.links > 1;
        if named && let Some(first) = self.names.get(&(stat.filesystem, stat.inode)) {
            header.set_entry_type(EntryType::Link);
            return self.archive.append_link(&mut header, name, first).map_err(written);
        }
        if named {
            self.names.insert((stat.filesystem, stat.inode), name.to_owned());
        }
        let time = time(stat.modified);
        let mut extended: Vec<_> =
            stat.extended.iter().map(|(key, value)| (format!("SCHILY.xattr.{}", text(&key.0)), &value.0[..])).collect();
        extended.extend(time.as_ref().map(|time| ("mtime".to_owned(), time.as_bytes())));
        if !extended.is_empty() {
            let extended = extended.iter().map(|(key, value)| (key.as_str(), *value));
            self.archive.append_pax_extensions(extended).map_err(written)?;
        }
        match stat.mode & KIND {
            REGULAR => self.file(at, stat, header, name),
            LINK => {
                let to = self.guest.read_link(at)?;
                self.archive.append_link(&mut header, name, to).map_err(written)
            }
            DIRECTORY => {
                let mut directory = name.as_os_str().to_owned();
                directory.push("/");
                self.archive.append_data(&mut header, directory, std::io::empty()).map_err(written)?;
                let path = Path::new(OsStr::from_bytes(&at.path.0));
                let is_made_up = MADE_UP.iter().any(|made_up| path == Path::new(made_up));
                if self.file_system.is_some_and(|wanted| wanted != stat.filesystem)
                    || (is_made_up && self.skips_other_than.is_some_and(|start| start != stat.filesystem))
                {
                    return Ok(());
                }
                for (entry, stat) in self.guest.list(at)? {
                    self.pack(&below(at, &entry.0), &stat, &name.join(OsStr::from_bytes(&entry.0)), depth + 1)?;
                }
                Ok(())
            }
            _ => self.archive.append_data(&mut header, name, std::io::empty()).map_err(written),
        }
    }

    /// As many bytes as it had when it was looked at: what is shorter by now ends in zeros.
    fn file(&mut self, at: &At, stat: &Stat, mut header: Header, name: &Path) -> Result<()> {
        header.set_size(stat.size);
        let mut contents = Contents::new(self.guest, at);
        let whole = (&mut contents).chain(std::io::repeat(0)).take(stat.size);
        let appended = self.archive.append_data(&mut header, name, whole);
        contents.end()?;
        appended.map_err(written)
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.mode & 0o7777);
    header.set_uid(stat.owner.0.into());
    header.set_gid(stat.owner.1.into());
    header.set_mtime(u64::try_from(stat.modified.0).unwrap_or(0));
    header.set_size(0);
    header.set_entry_type(match stat.mode & KIND {
        REGULAR => EntryType::Regular,
        DIRECTORY => EntryType::Directory,
        LINK => EntryType::Symlink,
        CHARACTERS => EntryType::Char,
        0o060_000 => EntryType::Block,
        _ => EntryType::Fifo,
    });
    if matches!(stat.mode & KIND, CHARACTERS | 0o060_000) {
        // Its fields are there in this form of a header.
        let _ = header.set_device_major(rustix::fs::major(stat.device));
        let _ = header.set_device_minor(rustix::fs::minor(stat.device));
    }
    header
}

/// A time that a header can't have, as a record has it (POSIX, pax: seconds as a decimal number).
fn time((seconds, nanoseconds): (i64, u32)) -> Option<String> {
    let nanoseconds = nanoseconds.min(999_999_999);
    match (seconds, nanoseconds) {
        (0.., 0) => None,
        (0.., _) => Some(format!("{seconds}.{nanoseconds:09}")),
        (_, 0) => Some(seconds.to_string()),
        // What is behind the point counts on from the second before.
        _ => Some(format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)),
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn written(error: std::io::Error) -> Error {
    Error::step("write an archive", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_numbers() {
        assert_eq!(time((1_000, 0)), None);
        assert_eq!(time((1_000, 5)).unwrap(), "1000.000000005");
        assert_eq!(time((-6, 500_000_000)).unwrap(), "-5.500000000");
        assert_eq!(time((-6, 0)).unwrap(), "-6");
        assert_eq!(time((-1, 250_000_000)).unwrap(), "-0.750000000");
    }
}
