//! A directory as a layer's archive. The same directory is the same archive each time: names in order, and nothing in it
//! but what the directory holds.

use crate::archive::Packer;
use crate::pipeline::{BUFFER, Source};
use crate::root::RootLook;
use crate::rootfs::is_opaque;
use crate::tar::{Entry, Kind, TarWriter};
use crate::tree::walk::{Found, walk};
use crate::{Error, Result};
use bytes::{Buf as _, Bytes};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Pieces that wait.
const QUEUE: usize = 4;

/// Bytes between marks.
const MARKED: usize = 4 << 20;

/// Opens a directory to be packed.
pub(crate) fn open(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|e| Error::io(format!("opening {}", directory.display()), e))
}

/// The archive of a directory in overlayfs' form, which a thread of its own writes: overlayfs' whiteouts and opaque directories in
/// OCI's form (image-spec, layer.md). The root directory has an entry where it is not [plain](crate::root), and where the layer
/// `says_root`.
pub(crate) fn packed(directory: OwnedFd, says_root: bool) -> Result<Packed> {
    written(move |output| pack(directory, says_root, output))
}

/// An archive that a thread of its own writes.
pub(crate) fn written(write: impl FnOnce(Output) -> Result<()> + Send + 'static) -> Result<Packed> {
    let (to, from) = sync_channel(QUEUE);
    let work = move || {
        let output = Output { to: to.clone(), buffer: Vec::with_capacity(BUFFER), unmarked: 0 };
        // Nobody is told where nobody reads any more.
        drop(to.send(write(output).map(|()| None)));
    };
    let thread = std::thread::Builder::new().name("layer-pack".into());
    thread.spawn(work).map_err(|e| Error::io("starting a thread to pack a layer", e))?;
    Ok(Packed { from, present: Bytes::new(), ended: false })
}

/// Writes a directory as a layer's archive.
fn pack(directory: OwnedFd, says_root: bool, output: Output) -> Result<()> {
    let mut packer = Packer::new(TarWriter::new(output));
    add_root(&mut packer, &directory, says_root)?;
    walk(directory, &mut |found| pack_one(&mut packer, found))?;
    packer.finish()?.flush().map_err(|e| Error::io("writing an archive", e))
}

/// Adds a layer's root directory, where the layer `says_root`, and where it is not as it is without being said.
pub(crate) fn add_root<W: Write>(packer: &mut Packer<W>, directory: &OwnedFd, says_root: bool) -> Result<()> {
    let mut stat = rustix::fs::fstat(directory).map_err(|e| Error::io("reading a layer's directory", e))?;
    if says_root || RootLook::from(&stat) != RootLook::PLAIN {
        // Its time is that of whoever made the directory last, not of anything in the layer.
        stat.st_mtime = 0;
        let root = Found { parent: directory.as_fd(), name: b".", path: b".", stat };
        packer.add(&root, b".")?;
    }
    Ok(())
}

/// Refuses a name in a directory that whoever takes the archive would take for a deletion.
pub(crate) fn refuse_deletion(name: &[u8], parent: &[u8]) -> Result<()> {
    if !name.starts_with(b".wh.") {
        return Ok(());
    }
    let reason = "a layer cannot hold a name that begins with .wh.: it would delete a file".into();
    let entry = [parent, b"/", name].concat();
    Err(Error::HostileEntry { entry: String::from_utf8_lossy(&entry).trim_start_matches('/').to_owned(), reason })
}

fn pack_one(packer: &mut Packer<Output>, found: &Found<'_>) -> Result<bool> {
    packer.output().mark(found.path).map_err(|e| Error::io("writing an archive", e))?;
    let (parent, name) = crate::tree::split(found.path);
    let beside = |name: &[u8]| if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() };
    refuse_deletion(name, parent)?;
    if found.kind() == FileType::CharacterDevice && found.stat.st_rdev == 0 {
        packer.add_entry(&Entry::new(beside(&[b".wh.", name].concat()), Kind::File, 0))?;
        return Ok(false);
    }
    packer.add(found, found.path)?;
    if found.kind() == FileType::Directory && is_opaque(found).map_err(|errno| found.failed(errno))? {
        packer.add_entry(&Entry::new([found.path, b"/.wh..wh..opq"].concat(), Kind::File, 0))?;
    }
    Ok(true)
}

/// A piece of an archive.
pub(crate) enum Piece {
    Bytes(Bytes),
    /// Here begins what is at this path.
    Mark(Vec<u8>),
}

/// What a thread has packed, on its way.
pub(crate) struct Output {
    to: SyncSender<Result<Option<Piece>>>,
    buffer: Vec<u8>,
    /// Bytes since the last mark.
    unmarked: usize,
}

impl Output {
    /// Says what begins, where nothing was said for long.
    fn mark(&mut self, path: &[u8]) -> io::Result<()> {
        if self.unmarked < MARKED {
            return Ok(());
        }
        self.unmarked = 0;
        self.flush()?;
        self.send(Piece::Mark(path.to_vec()))
    }

    fn send(&self, piece: Piece) -> io::Result<()> {
        self.to.send(Ok(Some(piece))).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.unmarked += taken;
        if self.buffer.len() == BUFFER {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER));
        self.send(Piece::Bytes(full.into()))
    }
}

/// The archive, piece by piece. It ends with an error where packing did.
pub(crate) struct Packed {
    from: Receiver<Result<Option<Piece>>>,
    present: Bytes,
    ended: bool,
}

impl Packed {
    /// The next piece; `None`: that was all.
    pub(crate) fn next_piece(&mut self) -> Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        let next = self.from.recv().map_err(|_| Error::Interrupted("packing a layer".into()))??;
        self.ended = next.is_none();
        Ok(next)
    }
}

impl Source for Packed {
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.next_piece()? {
                Some(Piece::Bytes(bytes)) => return Ok(Some(bytes)),
                Some(Piece::Mark(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

impl Read for Packed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.present.is_empty() {
            match self.next() {
                Ok(Some(bytes)) => self.present = bytes,
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let taken = self.present.len().min(into.len());
        self.present.copy_to_slice(&mut into[..taken]);
        Ok(taken)
    }
}
