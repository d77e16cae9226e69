//! A build's files as an archive, which is made while it is sent.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};

use build::ignore::Ignore;
use image::archive::attributes;
use image::tar::{Entry, Kind, TarWriter, Time};
use image::tree::walk::{Found, walk};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::error::{Error, Result};
use super::super::output;

/// What goes to the daemon.
pub(super) struct Parcel {
    /// The Dockerfile's name in it, where it is told.
    pub(super) name: Option<String>,
    /// What the user calls it.
    pub(super) called: String,
    pub(super) contents: Contents,
}

pub(super) enum Contents {
    /// An archive that somebody made, as it is.
    Archive(Box<dyn Read + Send>),
    /// A Dockerfile without a context.
    Alone { name: String, text: Vec<u8> },
    /// Files of a directory.
    Files {
        directory: Directory,
        /// Files of it that go along whatever the rules say.
        kept: Vec<String>,
        /// Files that are not in it, before all others.
        own: Vec<(String, Vec<u8>)>,
    },
}

/// A directory, and what in it is no part of the context.
pub(super) struct Directory {
    pub(super) opened: File,
    pub(super) ignore: Ignore,
}

impl Parcel {
    /// Writes the archive. Blocks.
    pub(super) fn write(self, output: &mut impl Write) -> Result<()> {
        match self.contents {
            Contents::Archive(mut archive) => pass_on(&mut archive, output),
            Contents::Alone { name, text } => {
                let mut packer = Packer::new(output);
                packer.own(&name, &text).map_err(sending())?;
                packer.tar.finish().map(drop).map_err(sending())
            }
            Contents::Files { directory, kept, own } => {
                let mut packer = Packer::new(output);
                for (name, text) in &own {
                    packer.own(name, text).map_err(sending())?;
                }
                packer.directory(directory, &kept)?;
                packer.tar.finish().map(drop).map_err(sending())
            }
        }
    }
}

fn sending() -> impl FnOnce(io::Error) -> Error {
    Error::io("sending the build context")
}

fn pass_on(archive: &mut dyn Read, output: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match archive.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => output.write_all(&buffer[..count]).map_err(sending())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Io("reading standard input".to_owned(), error)),
        }
    }
}

struct Packer<W> {
    tar: TarWriter<W>,
    /// Names that are taken.
    own: BTreeSet<Vec<u8>>,
}

impl<W: Write> Packer<W> {
    fn new(output: W) -> Packer<W> {
        Packer { tar: TarWriter::new(output), own: BTreeSet::new() }
    }

    fn own(&mut self, name: &str, text: &[u8]) -> io::Result<()> {
        let mut entry = Entry::new(name, Kind::File, 0o600);
        entry.size = text.len() as u64;
        self.own.insert(name.as_bytes().to_vec());
        self.tar.append_file(&entry, &mut &text[..])
    }

    /// All of a directory but what its rules leave out. A directory that is left out goes along where something in it may
    /// not be: so it keeps its permissions.
    fn directory(&mut self, directory: Directory, kept: &[String]) -> Result<()> {
        let Directory { opened, ignore } = directory;
        let mut broken = None;
        let walked = walk(opened.into(), &mut |found| {
            if self.own.contains(found.path) {
                return Ok(false);
            }
            let path = String::from_utf8_lossy(found.path);
            let is_directory = found.kind() == FileType::Directory;
            let leads = is_directory && kept.iter().any(|kept| is_below(kept, &path));
            let enters = is_directory && (leads || ignore.enters(&path));
            if enters || !ignore.ignores(&path) || kept.iter().any(|kept| *kept == path) {
                self.found(found).map_err(|why| match why {
                    Why::Reading(errno) => found.failed(errno),
                    Why::Sending(error) => {
                        broken = Some(error);
                        found.failed(Errno::PIPE)
                    }
                })?;
            }
            Ok(enters)
        });
        // What is not read any more is no failure of the file that was being sent.
        match broken {
            Some(error) => Err(sending()(error)),
            None => Ok(walked?),
        }
    }

    /// Something of the directory; what vanished meanwhile is left out.
    fn found(&mut self, found: &Found<'_>) -> Result<(), Why> {
        let (major, minor) = (rustix::fs::major(found.stat.st_rdev), rustix::fs::minor(found.stat.st_rdev));
        let kind = match found.kind() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => {
                let path = String::from_utf8_lossy(found.path);
                output::warning(&format!("{path} is a socket, which no archive can hold: it is left out"));
                return Ok(());
            }
        };
        let mut entry = Entry::new(found.path, kind, found.stat.st_mode & 0o7777);
        entry.mtime = Time { seconds: found.stat.st_mtime, nanoseconds: 0 };
        match entry.kind {
            Kind::Directory => entry.path.push(b'/'),
            Kind::Symlink => match rustix::fs::readlinkat(found.parent, found.name, Vec::new()) {
                Ok(link) => entry.link = link.into_bytes(),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                Err(errno) => return Err(Why::Reading(errno)),
            },
            Kind::File => {
                let fd = match found.open() {
                    Ok(fd) => fd,
                    Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Ok(()),
                    Err(errno) => return Err(Why::Reading(errno)),
                };
                // What else a file system keeps of a file says something of this machine, and nothing of the file.
                let mut kept = attributes(&fd).map_err(Why::Reading)?;
                kept.retain(|(name, _)| name == b"security.capability");
                entry.xattrs = kept;
                entry.size = u64::try_from(rustix::fs::fstat(&fd).map_err(Why::Reading)?.st_size).unwrap_or(0);
                return self.tar.append_file(&entry, &mut File::from(fd)).map_err(Why::Sending);
            }
            _ => {}
        }
        self.tar.append(&entry).map_err(Why::Sending)
    }
}

/// What kept something from being sent.
enum Why {
    Reading(Errno),
    Sending(io::Error),
}

/// Whether a path is somewhere in a directory.
fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}
