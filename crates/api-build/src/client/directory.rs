//! A directory of the client's, told and sent file by file.

use crate::entry::{self, EntryWriter};
use crate::wire::{self, PieceWriter};
use build::ignore::Ignore;
use build::{Listed, Stamp, Verdict, What};
use image::tree;
use image::tree::walk::{Found, walk};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes that are read or written at a time.
const BUFFER: usize = 128 << 10;

/// The one attribute of a file that is the file's own, and not its file system's.
const CAPABILITY: &str = "security.capability";

/// A directory whose files are sent.
pub struct Directory {
    /// It.
    pub opened: OwnedFd,
    /// What of it does not count.
    pub ignore: Ignore,
    /// Called with the path of what no list can have.
    pub left_out: fn(&str),
}

/// Why a directory was not sent.
enum Why {
    /// Something of it can't be read.
    Reading(String),
    /// The daemon does not take it any more: it has said why.
    Sending,
}

impl Directory {
    /// Tells what is there, and sends what is wanted of it. Blocks. An error is one line for people.
    pub(crate) fn send(self, stream: impl Read + Write) -> Result<(), String> {
        match self.sent(stream) {
            Err(Why::Reading(why)) => Err(why),
            Ok(()) | Err(Why::Sending) => Ok(()),
        }
    }

    fn sent(self, stream: impl Read + Write) -> Result<(), Why> {
        let lost = |_: io::Error| Why::Sending;
        let root = self.opened.try_clone().map_err(|e| Why::Reading(format!("reading the context: {e}")))?;
        let mut output = BufWriter::with_capacity(BUFFER, stream);
        let files = self.list(&mut output)?;
        output.flush().map_err(lost)?;
        let mut stream = BufReader::with_capacity(BUFFER, output.into_inner().map_err(|_| Why::Sending)?);
        let mut wanted = Vec::new();
        while let Some(place) = entry::read_wanted(&mut stream).map_err(lost)? {
            let place = files.binary_search_by_key(&place, |(place, ..)| *place).map_err(|_| Why::Sending)?;
            wanted.push(place);
        }
        let mut output = BufWriter::with_capacity(BUFFER, stream.into_inner());
        let mut sender = Sender { root, parent: None };
        for place in wanted {
            let (_, path, stamp) = &files[place];
            sender.file(path, stamp, &mut output)?;
        }
        output.flush().map_err(lost)
    }

    /// Tells all that is there; the files, each with its place in the list.
    fn list(self, output: &mut impl Write) -> Result<Vec<(u32, Vec<u8>, Stamp)>, Why> {
        let Directory { opened, ignore, left_out } = self;
        let mut writer = EntryWriter::new(output);
        let (mut files, mut place, mut broken) = (Vec::new(), 0_u32, false);
        let walked = walk(opened, &mut |found| {
            let path = String::from_utf8_lossy(found.path);
            let enters = found.kind() == FileType::Directory && ignore.enters(&path);
            // A directory that is left out goes along where something in it may not be: so it keeps its permissions.
            if !enters && ignore.ignores(&path) {
                return Ok(false);
            }
            let Some(what) = what(found)? else {
                if found.kind() == FileType::Socket {
                    left_out(&path);
                }
                return Ok(false);
            };
            if let What::File(stamp) = &what {
                files.push((place, found.path.to_vec(), *stamp));
            }
            place = place.saturating_add(1);
            let entry = Listed { path: found.path.to_vec(), mode: found.stat.st_mode & 0o7777, what };
            writer.write(&entry).map_err(|_| {
                broken = true;
                found.failed(Errno::PIPE)
            })?;
            Ok(enters)
        });
        match (broken, walked) {
            (true, _) => Err(Why::Sending),
            (false, Err(error)) => Err(Why::Reading(error.to_string())),
            (false, Ok(())) => writer.end().map(|_| files).map_err(|_| Why::Sending),
        }
    }
}

/// What something is; `None`: nothing that is told of, or it vanished meanwhile.
fn what(found: &Found<'_>) -> image::Result<Option<What>> {
    let device = |block| What::Device { block, device: found.stat.st_rdev };
    Ok(Some(match found.kind() {
        FileType::RegularFile => What::File(stamp(&found.stat)),
        FileType::Directory => What::Directory,
        FileType::Symlink => match rustix::fs::readlinkat(found.parent, found.name, Vec::new()) {
            Ok(link) => What::Link(link.into_bytes()),
            Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(found.failed(errno)),
        },
        FileType::Fifo => What::Pipe,
        FileType::CharacterDevice => device(false),
        FileType::BlockDevice => device(true),
        _ => return Ok(None),
    }))
}

fn stamp(stat: &Stat) -> Stamp {
    let nanoseconds = |number: u64| u32::try_from(number).unwrap_or(0);
    Stamp {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
        changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        inode: stat.st_ino,
        device: stat.st_dev,
    }
}

/// How coarse a file system's times may be; FAT's are of two seconds.
const STEP: Duration = Duration::from_secs(2);

/// Whether a file was last changed long enough ago that it has another time when it is changed next.
fn is_settled(stamp: &Stamp, now: SystemTime) -> bool {
    let (seconds, nanoseconds) = stamp.changed;
    let changed = UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds);
    // What is to come is of another clock than this one.
    now.duration_since(changed).is_ok_and(|ago| ago > STEP)
}

/// Sends files of a directory.
struct Sender {
    root: OwnedFd,
    /// The directory that the last one was in: the next one is mostly there, too.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

impl Sender {
    fn file(&mut self, path: &[u8], listed: &Stamp, output: &mut impl Write) -> Result<(), Why> {
        let lost = |_: io::Error| Why::Sending;
        let reading = |e: &dyn std::fmt::Display| {
            let path = String::from_utf8_lossy(path);
            Why::Reading(format!(
                "reading {path}: {e} (what a build does not need of its context is left out by .dockerignore)"
            ))
        };
        let Some(mut file) = self.open(path).map_err(|e| reading(&e))? else {
            PieceWriter::new(&mut *output).end().map_err(lost)?;
            return entry::write_verdict(output, &Verdict::Gone).map_err(lost);
        };
        let before = stat(&file).map_err(|e| reading(&e))?;
        let mut pieces = PieceWriter::new(&mut *output);
        let mut buffer = [0; wire::PIECE];
        loop {
            let count = file.read(&mut buffer).map_err(|e| reading(&e))?;
            if count == 0 {
                break;
            }
            pieces.write_all(&buffer[..count]).map_err(lost)?;
        }
        pieces.end().map_err(lost)?;
        let after = stat(&file).map_err(|e| reading(&e))?;
        let verdict = match before == *listed && after == *listed {
            true => Verdict::Same {
                capabilities: capabilities(&file).map_err(|e| reading(&e))?,
                settled: is_settled(listed, SystemTime::now()),
            },
            false => Verdict::Changed,
        };
        entry::write_verdict(output, &verdict).map_err(lost)
    }

    /// Opens a file; `None`: it is no longer there, or something else by now.
    fn open(&mut self, path: &[u8]) -> Result<Option<File>, Errno> {
        let (parent, name) = tree::split(path);
        if self.parent.as_ref().is_none_or(|(held, _)| held != parent) {
            match tree::open(self.root.as_fd(), parent, OFlags::RDONLY | OFlags::DIRECTORY) {
                Ok(opened) => self.parent = Some((parent.to_vec(), opened)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
        let Some((_, parent)) = &self.parent else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, rustix::fs::Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file)).filter(|file| file.metadata().is_ok_and(|meta| meta.is_file()))),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

fn stat(file: &File) -> Result<Stamp, Errno> {
    rustix::fs::fstat(file).map(|stat| stamp(&stat))
}

/// What a file may do beyond its user, as the kernel keeps it.
fn capabilities(file: &File) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::with_capacity(256);
    match rustix::fs::fgetxattr(file, CAPABILITY, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => Ok(value),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(Vec::new()),
        Err(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_a_moment_ago_may_change_again_unseen() {
        let now = SystemTime::now();
        let at = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).expect("after 1970");
            let changed = (i64::try_from(since.as_secs()).expect("soon enough"), since.subsec_nanos());
            Stamp { size: 0, modified: changed, changed, inode: 1, device: 1 }
        };
        assert!(is_settled(&at(now - Duration::from_secs(3)), now));
        assert!(!is_settled(&at(now - Duration::from_secs(1)), now));
        assert!(!is_settled(&at(now + Duration::from_secs(60)), now));
    }
}
