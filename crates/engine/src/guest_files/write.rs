//! An archive becomes files of a guest.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use guest_protocol::files::{At, Attributes, FileReply, FileRequest, MAX_IO, Make, Tree};
use guest_protocol::message::Blob;
use tar::{Archive, Entry, EntryType};

use super::{DIRECTORY, Guest, KIND, below};
use crate::{Error, Result};

/// How an archive is unpacked.
#[derive(Debug, Default)]
pub(crate) struct WriteOptions {
    /// No directory becomes something else, and nothing else a directory.
    pub(crate) keep_kinds: bool,
    /// Whose everything is, whatever the archive says.
    pub(crate) owner: Option<(u32, u32)>,
}

/// Unpacks an archive below a directory.
pub(crate) fn write(guest: &mut Guest, directory: &At, from: impl Read, options: &WriteOptions) -> Result<()> {
    let mut archive = Archive::new(from);
    // Whatever is put into a directory changes its time.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let Some(path) = inner(&entry.path_bytes())? else { continue };
        let at = below(directory, path.as_os_str().as_bytes());
        guest.check_uncovered(&at)?;
        let attributes = attributes(&mut entry, options)?;
        make_way(guest, directory, &path, &at, entry.header().entry_type(), options)?;
        if entry.header().entry_type() == EntryType::Directory {
            directories.push((at.clone(), attributes.modified));
        }
        put(guest, directory, &at, attributes, &mut entry)?;
    }
    for (at, modified) in directories.into_iter().rev() {
        let attributes = Attributes { modified, ..Attributes::default() };
        guest.order(FileRequest::Set { at, attributes })?;
    }
    Ok(())
}

/// An entry's path below the directory; `None`: that itself.
fn inner(bytes: &[u8]) -> Result<Option<PathBuf>> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(bytes)).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                return Err(Error::invalid(format!(
                    "{:?} leads out of where the archive is unpacked",
                    OsStr::from_bytes(bytes)
                )));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(Some(path).filter(|path| !path.as_os_str().is_empty()))
}

fn attributes<R: Read>(entry: &mut Entry<'_, R>, options: &WriteOptions) -> Result<Attributes> {
    let (mut extended, mut modified) = (Vec::new(), None);
    for extension in entry.pax_extensions().map_err(unreadable)?.into_iter().flatten().flatten() {
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            extended.push((Blob(name.to_vec()), Blob(extension.value_bytes().to_vec())));
        }
        if extension.key_bytes() == b"mtime" {
            modified = Some(time(extension.value_bytes()).ok_or_else(out_of_range)?);
        }
    }
    let header = entry.header();
    let number = |number: std::io::Result<u64>| u32::try_from(number.map_err(unreadable)?).map_err(|_| out_of_range());
    let owner = match options.owner {
        Some(owner) => owner,
        None => (number(header.uid())?, number(header.gid())?),
    };
    Ok(Attributes {
        mode: Some(header.mode().map_err(unreadable)? & 0o7777),
        owner: Some(owner),
        modified: Some(match modified {
            Some(modified) => modified,
            None => (i64::try_from(header.mtime().map_err(unreadable)?).map_err(|_| out_of_range())?, 0),
        }),
        extended,
    })
}

/// A time of a record (POSIX, pax): seconds since 1970 as a decimal number. What is finer than nanoseconds is dropped.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = str::from_utf8(text).ok()?;
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if [seconds, fraction].iter().any(|digits| !digits.bytes().all(|digit| digit.is_ascii_digit())) {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let digits = fraction.get(..9).unwrap_or(fraction);
    let nanoseconds: u32 = format!("{digits:0<9}").parse().ok()?;
    Some(match (is_negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// Takes away what is in an entry's way, and makes the directories that it is in.
fn make_way(
    guest: &mut Guest,
    directory: &At,
    path: &Path,
    at: &At,
    kind: EntryType,
    options: &WriteOptions,
) -> Result<()> {
    let is_directory = kind == EntryType::Directory;
    match guest.stat(at)? {
        Some(stat) if stat.mode & KIND == DIRECTORY => match (is_directory, options.keep_kinds) {
            (true, _) => Ok(()),
            (false, true) => Err(Error::invalid("cannot overwrite directory with non-directory")),
            (false, false) => guest.order(FileRequest::Remove(at.clone())),
        },
        Some(_) if is_directory && options.keep_kinds => {
            Err(Error::invalid("cannot overwrite non-directory with directory"))
        }
        Some(_) => guest.order(FileRequest::Remove(at.clone())),
        None => {
            let above: Vec<_> = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
            for above in above.into_iter().rev() {
                let at = below(directory, above.as_os_str().as_bytes());
                if guest.stat(&at)?.is_none() {
                    let attributes = Attributes { mode: Some(0o755), owner: options.owner, ..Attributes::default() };
                    guest.order(FileRequest::Make { at, what: Make::Directory, attributes })?;
                }
            }
            Ok(())
        }
    }
}

fn put<R: Read>(
    guest: &mut Guest,
    directory: &At,
    at: &At,
    attributes: Attributes,
    entry: &mut Entry<'_, R>,
) -> Result<()> {
    let make = |what| FileRequest::Make { at: at.clone(), what, attributes: attributes.clone() };
    let header = entry.header();
    let kind = header.entry_type();
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => fill(guest, at, attributes, entry),
        EntryType::Directory => {
            guest.order(make(Make::Directory))?;
            // One that was there keeps what it had so far.
            guest.order(FileRequest::Set { at: at.clone(), attributes })
        }
        EntryType::Symlink => {
            let to = entry.link_name_bytes().ok_or_else(|| Error::invalid("a link in the archive leads nowhere"))?;
            guest.order(make(Make::Link { to: Blob(to.into_owned()) }))
        }
        EntryType::Link => {
            let to = entry.link_name_bytes().ok_or_else(|| Error::invalid("a link in the archive leads nowhere"))?;
            let to = inner(&to)?.ok_or_else(|| Error::invalid("a link in the archive leads to its root"))?;
            let to = At { tree: Tree::Root, ..below(directory, to.as_os_str().as_bytes()) };
            guest.order(make(Make::HardLink { to }))
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let number =
                |number: std::io::Result<Option<u32>>| number.map_err(unreadable).map(Option::unwrap_or_default);
            let device = rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
            let kind = match kind {
                EntryType::Char => super::CHARACTERS,
                EntryType::Block => 0o060_000,
                _ => 0o010_000,
            };
            guest.order(make(Make::Node { kind, device }))
        }
        // What says something of what follows was read with that.
        _ => Ok(()),
    }
}

fn fill<R: Read>(guest: &mut Guest, at: &At, attributes: Attributes, entry: &mut Entry<'_, R>) -> Result<()> {
    let modified = attributes.modified;
    let FileReply::Opened(handle, _) = guest.ask(FileRequest::Create { at: at.clone(), attributes })? else {
        return Err(super::unfit());
    };
    let mut bytes = vec![0; MAX_IO as usize];
    let mut offset = 0;
    let filled = loop {
        match entry.read(&mut bytes) {
            Ok(0) => break Ok(()),
            Ok(count) => {
                let piece = Blob(bytes[..count].to_vec());
                if let Err(error) = guest.order(FileRequest::Write { handle, offset, bytes: piece }) {
                    break Err(error);
                }
                offset += count as u64;
            }
            Err(error) => break Err(unreadable(error)),
        }
    };
    guest.order(FileRequest::Close(handle))?;
    filled?;
    // Writing changed it.
    guest.order(FileRequest::Set { at: at.clone(), attributes: Attributes { modified, ..Attributes::default() } })
}

fn unreadable(error: std::io::Error) -> Error {
    Error::invalid(format!("the archive can't be read: {error}"))
}

fn out_of_range() -> Error {
    Error::invalid("the archive has a number that no file can have")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_fraction() {
        assert_eq!(time(b"1000.5"), Some((1000, 500_000_000)));
        assert_eq!(time(b"1000"), Some((1000, 0)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"-5.5"), Some((-6, 500_000_000)));
        assert_eq!(time(b"-6"), Some((-6, 0)));
        for none in [&b""[..], b"-", b"1e3", b"+1", b"1.-5", b"99999999999999999999", b"\xff"] {
            assert_eq!(time(none), None, "{none:?}");
        }
    }

    #[test]
    fn no_entry_leads_out_of_the_directory() {
        assert_eq!(inner(b"/a/./b/").unwrap(), Some("a/b".into()));
        assert_eq!(inner(b"./").unwrap(), None);
        assert!(inner(b"a/../../b").is_err());
    }
}
