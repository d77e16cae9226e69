//! A copy of a client's directory becomes what the client's is.

use super::kept::{Indexed, Known, Mine, is_key};
use super::list::{List, Listed, What};
use crate::files::{Files, ListedFile, Place};
use crate::ignore::Ignore;
use crate::solve::Builder;
use crate::state::FIXED_TIMES;
use crate::{Error, Result};
use image::tree::LastDirectory;
use image::tree::walk::order;
use image::{Hasher, tree};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The one attribute of a file that is the file's own, and not its file system's.
const CAPABILITY: &str = "security.capability";

/// A context that is about to be listed. What is here of it is read meanwhile.
pub struct Expected {
    builder: Builder,
    here: Here,
}

/// What is here of a context.
enum Here {
    /// It is kept, and what is in it is being read.
    Kept(JoinHandle<Result<(Mine, Indexed)>>),
    /// Nothing, as another build has what there is.
    Nothing,
}

/// A context on its way here.
pub struct Update {
    builder: Builder,
    place: Place,
    root: OwnedFd,
    list: List,
    /// What is known of each, in the list's order.
    known: Vec<Option<Known>>,
    /// Files that are to be sent, by their places in the list.
    lacks: Vec<u32>,
    /// Further names of files, and the places of the first ones: they are made once those are there.
    links: Vec<(u32, u32)>,
    /// All names of files that have several.
    several: HashSet<u32>,
    /// Files that changed while they were sent.
    changed: BTreeSet<u32>,
    /// Files of which the next build has to ask again.
    unsettled: BTreeSet<u32>,
    /// Files that vanished before they were sent.
    gone: BTreeSet<u32>,
    /// The tree is another than the index says.
    touched: bool,
    /// The directory that was last written to: what comes next is mostly in there, too.
    parent: LastDirectory,
}

/// What became of a file while it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it was listed.
    Same {
        /// What it may do beyond its user, as the kernel keeps it; empty: nothing.
        capabilities: Vec<u8>,
        /// It was changed long enough ago that a further change has another time: file systems count theirs in steps.
        settled: bool,
    },
    /// It was changed meanwhile: what was sent may be neither what it was nor what it is.
    Changed,
    /// It is no longer there, or no file any more.
    Gone,
}

/// A file on its way here.
pub struct Taking<'u> {
    update: &'u mut Update,
    index: u32,
    file: File,
    hasher: Hasher,
    /// Bytes that came.
    size: u64,
}

impl Builder {
    /// Expects a context. What is here of it already, under `key`, is not to be sent again; while another build has that, this one gets a
    /// copy of its own.
    ///
    /// # Errors
    /// Where the key is none, or what is here can't be read beside the list.
    pub fn expect(&self, key: &str) -> Result<Expected> {
        if !is_key(key) {
            return Err(Error::Invalid(format!("a context is known by 64 hexadecimal digits, and not by {key:?}")));
        }
        let here = match self.kept().take(key) {
            Some(mine) => {
                let thread = thread::Builder::new().name("context-index".into());
                let reading = thread.spawn(move || mine.open().map(|indexed| (mine, indexed)));
                Here::Kept(reading.map_err(|e| Error::failed("starting a thread to read what is in a context", e))?)
            }
            None => Here::Nothing,
        };
        Ok(Expected { builder: self.clone(), here })
    }
}

impl Expected {
    /// Begins to take the context, of which `list` is all. Blocks.
    ///
    /// # Errors
    /// Where it can't be made here.
    pub fn listed(self, list: List) -> Result<Update> {
        let Expected { builder, here } = self;
        let failed = |e: &dyn std::fmt::Display| Error::failed("making a directory for the context", e);
        let (place, before) = match here {
            Here::Kept(reading) => {
                let (mine, before) = reading.join().map_err(|_| failed(&"who reads what is in it has ended"))??;
                (Place::Kept(mine), before)
            }
            Here::Nothing => (Place::Own(builder.directory().map_err(|e| failed(&e))?), Indexed::new()),
        };
        let root = OwnedFd::from(File::open(place.path()).map_err(|e| failed(&e))?);
        let mut update = Update {
            builder,
            place,
            root,
            list: List::default(),
            known: Vec::with_capacity(list.entries().len()),
            lacks: Vec::new(),
            links: Vec::new(),
            several: HashSet::new(),
            changed: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            gone: BTreeSet::new(),
            touched: false,
            parent: LastDirectory::default(),
        };
        update.compare(&list, before)?;
        update.list = list;
        Ok(update)
    }
}

impl Update {
    /// Removes what is no more, makes what is no file, and notes what is lacking.
    fn compare(&mut self, list: &List, before: Indexed) -> Result<()> {
        let mut before = before.into_iter().peekable();
        let (mut stale, mut made) = (Vec::new(), Vec::new());
        let mut names = Names(HashMap::with_capacity(list.entries().len()));
        for (place, entry) in (0..).zip(list.entries()) {
            while let Some((old, _)) = before.next_if(|(old, _)| order(&old.path, &entry.path) == Ordering::Less) {
                stale.push(old);
            }
            let old = before.next_if(|(old, _)| old.path == entry.path);
            let is_file = matches!(entry.what, What::File(_));
            let first = names.first(list, place);
            if let Some(first) = first {
                self.several.extend([first, place]);
            }
            // Where the first name is another file than before, so is this.
            let stays = first.is_none_or(|first| self.known.get(first as usize).is_some_and(Option::is_some));
            match old {
                Some((old, known)) if stays && old == *entry && (known.is_some() || !is_file) => {
                    self.known.push(known);
                    continue;
                }
                // Its permissions alone.
                Some((old, _)) if old.what == What::Directory && entry.what == What::Directory => {
                    made.push((entry, true))
                }
                Some((old, _)) => {
                    stale.push(old);
                    made.push((entry, false));
                }
                None => made.push((entry, false)),
            }
            self.known.push(None);
            match first {
                Some(first) => self.links.push((place, first)),
                None if is_file => self.lacks.push(place),
                None => {}
            }
        }
        stale.extend(before.map(|(old, _)| old));
        if !stale.is_empty() || !made.is_empty() {
            self.touch()?;
        }
        // What a directory holds goes before it does.
        for old in stale.iter().rev() {
            self.remove(old).map_err(|errno| failed_at(old, errno))?;
        }
        self.parent.forget();
        for (entry, there) in made {
            self.make(entry, there).map_err(|errno| failed_at(entry, errno))?;
        }
        Ok(())
    }

    /// From here on the tree is not what its index says.
    fn touch(&mut self) -> Result<()> {
        self.touched = true;
        match &self.place {
            Place::Kept(mine) => mine.forget(),
            Place::Own(_) => Ok(()),
        }
    }

    /// Files that are to be sent, by their places in the list.
    pub fn lacks(&self) -> &[u32] {
        &self.lacks
    }

    /// Begins to take a file that is lacking. Blocks.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn take(&mut self, index: u32) -> Result<Taking<'_>> {
        let Some(entry) = self.list.entries().get(index as usize).cloned() else {
            return Err(Error::Invalid(format!("the build context has no file {index}")));
        };
        let (parent, name) = tree::split(&entry.path);
        let opened = self.parent(parent).and_then(|parent| create(parent, name));
        let file = File::from(opened.map_err(|errno| failed_at(&entry, errno))?);
        Ok(Taking { update: self, index, file, hasher: Hasher::new(), size: 0 })
    }

    /// The context, of which `ignore` is no part.
    ///
    /// # Errors
    /// Where it can't be kept.
    pub fn finish(mut self, ignore: Ignore) -> Result<Files> {
        self.link()?;
        if self.touched {
            self.set_times().map_err(|errno| Error::failed("setting times in the context", errno))?;
        }
        let Update { builder, mut place, list, known, several, changed, unsettled, gone, touched, .. } = self;
        let entries = list.into_entries();
        // What came, and not what was said to come.
        let size = known.iter().flatten().fold(0, |sum: u64, known| sum.saturating_add(known.size));
        let called = |place: &u32| String::from_utf8_lossy(&entries[*place as usize].path).into_owned();
        let changed = changed.iter().map(called).collect();
        let there = (0..).zip(entries).zip(known).filter(|((place, _), _)| !gone.contains(place));
        let files = there.map(|((place, listed), known)| {
            let settled = !unsettled.contains(&place);
            ListedFile { listed, known, settled, several: several.contains(&place) }
        });
        let files: Arc<Vec<ListedFile>> = Arc::new(files.collect());
        if let Place::Kept(mine) = &mut place {
            if touched {
                mine.write(&files, size)?;
            } else {
                mine.touch();
            }
            builder.kept().bound(mine.key(), size);
        }
        let files = Files::of_listed(place, ignore, files, changed);
        files.map_err(|e| Error::failed("opening the context", e))
    }

    /// Gives files their further names.
    fn link(&mut self) -> Result<()> {
        // Files whose first name gets no more names, and the names that have taken its place.
        let mut instead: HashMap<u32, u32> = HashMap::new();
        for (place, first) in std::mem::take(&mut self.links) {
            let is_gone = self.gone.contains(&first);
            if self.unsettled.contains(&first) {
                self.unsettled.insert(place);
            }
            // What lost one of its names was changed, too.
            if is_gone || self.changed.contains(&first) {
                self.changed.insert(place);
            }
            if is_gone {
                self.gone.insert(place);
                continue;
            }
            if !self.name(place, instead.get(&first).copied().unwrap_or(first))? {
                instead.insert(first, place);
            }
            self.known[place as usize] = self.known[first as usize].clone();
        }
        Ok(())
    }

    /// Gives a file a further name. `false`: file systems allow a file only so many, or only one, and this is a file of its own.
    fn name(&mut self, place: u32, of: u32) -> Result<bool> {
        let [entry, other] = [place, of].map(|place| self.list.entries()[place as usize].clone());
        let (above, name) = tree::split(&other.path);
        let from = self.parent(above).and_then(|parent| rustix::io::fcntl_dupfd_cloexec(parent, 0));
        let from = from.map_err(|errno| failed_at(&other, errno))?;
        let (parent, own) = tree::split(&entry.path);
        let parent = self.parent(parent).map_err(|errno| failed_at(&entry, errno))?;
        match rustix::fs::linkat(&from, name, parent, own, AtFlags::empty()) {
            Ok(()) => return Ok(true),
            Err(Errno::MLINK | Errno::PERM) => {}
            Err(errno) => return Err(failed_at(&entry, errno)),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut source = File::from(
            rustix::fs::openat(&from, name, flags, Mode::empty()).map_err(|errno| failed_at(&other, errno))?,
        );
        let mut file = File::from(create(parent, own).map_err(|errno| failed_at(&entry, errno))?);
        let failed =
            |error| Error::failed(format!("keeping {} of the context", String::from_utf8_lossy(&entry.path)), error);
        io::copy(&mut source, &mut file).map_err(failed)?;
        let known = self.known[of as usize].as_ref();
        let capabilities = known.map_or(&[][..], |known| &known.capabilities);
        dress(&file, entry.mode, capabilities).map_err(|errno| failed_at(&entry, errno))?;
        Ok(false)
    }

    /// Gives what is no file the time that files have: whoever mounts the context sees it.
    fn set_times(&mut self) -> Result<(), Errno> {
        let list = std::mem::take(&mut self.list);
        for entry in list.entries().iter().filter(|entry| !matches!(entry.what, What::File(_))) {
            let (parent, name) = tree::split(&entry.path);
            rustix::fs::utimensat(self.parent(parent)?, name, &FIXED_TIMES, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.list = list;
        rustix::fs::futimens(&self.root, &FIXED_TIMES)
    }

    fn remove(&mut self, old: &Listed) -> Result<(), Errno> {
        let (parent, name) = tree::split(&old.path);
        let flags = if old.what == What::Directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(self.parent(parent)?, name, flags)
    }

    /// Makes what is no file; a directory may be there already.
    fn make(&mut self, entry: &Listed, there: bool) -> Result<(), Errno> {
        let (parent, name) = tree::split(&entry.path);
        let parent = self.parent(parent)?;
        let mode = Mode::from_raw_mode(entry.mode);
        match &entry.what {
            What::Directory if there => {}
            What::Directory => rustix::fs::mkdirat(parent, name, mode)?,
            What::Link(link) => return rustix::fs::symlinkat(&link[..], parent, name),
            What::Pipe => rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)?,
            What::Device { block, device } => {
                let kind = if *block { FileType::BlockDevice } else { FileType::CharacterDevice };
                rustix::fs::mknodat(parent, name, kind, mode, *device)?;
            }
            What::File(_) => return Ok(()),
        }
        // Less what this process takes away from what it makes.
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty())
    }

    fn parent(&mut self, path: &[u8]) -> Result<&OwnedFd, Errno> {
        self.parent.open(self.root.as_fd(), path)
    }
}

/// Files that were met, by what tells them from all others of the client's.
struct Names(HashMap<(u64, u64), u32>);

impl Names {
    /// The first name of a file that has another one before: it has the same number, and looks the same to the last detail.
    fn first(&mut self, list: &List, place: u32) -> Option<u32> {
        let entry = list.entries().get(place as usize)?;
        let What::File(stamp) = &entry.what else { return None };
        let first = *self.0.entry((stamp.device, stamp.inode)).or_insert(place);
        let other = list.entries().get(first as usize)?;
        (first != place && other.what == entry.what && other.mode == entry.mode).then_some(first)
    }
}

impl Taking<'_> {
    /// That was all of the file, and what became of it meanwhile.
    ///
    /// # Errors
    /// Where it can't be kept.
    pub fn end(self, verdict: &Verdict) -> Result<()> {
        let Taking { update, index, file, hasher, size } = self;
        let entry = update.list.entries()[index as usize].clone();
        let failed = |errno| failed_at(&entry, errno);
        let mut capabilities = &[][..];
        match verdict {
            Verdict::Same { capabilities: had, settled } => {
                capabilities = had;
                if !settled {
                    update.unsettled.insert(index);
                }
            }
            Verdict::Changed => {
                update.changed.insert(index);
                update.unsettled.insert(index);
            }
            Verdict::Gone => {
                update.gone.insert(index);
                return update.remove(&entry).map_err(failed);
            }
        }
        dress(&file, entry.mode, capabilities).map_err(failed)?;
        let digest = hasher.finish();
        update.known[index as usize] = Some(Known { digest, size, capabilities: capabilities.to_vec() });
        Ok(())
    }
}

impl Write for Taking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size = self.size.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Always a new file: a layer may have the one that was there before.
fn create(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
}

/// Makes a file what it is in a layer, so that it can be taken there as it is.
fn dress(file: &File, mode: u32, capabilities: &[u8]) -> Result<(), Errno> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    if !capabilities.is_empty() {
        rustix::fs::fsetxattr(file, CAPABILITY, capabilities, XattrFlags::empty())?;
    }
    rustix::fs::futimens(file, &FIXED_TIMES)
}

fn failed_at(entry: &Listed, errno: Errno) -> Error {
    Error::failed(format!("keeping {} of the context", String::from_utf8_lossy(&entry.path)), errno)
}
