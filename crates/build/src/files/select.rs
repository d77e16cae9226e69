//! Which files an instruction means.

use super::Files;
use super::listed::{ListedFile, Met};
use crate::cache::Key;
use crate::contexts::{Known, What};
use crate::glob::{Glob, Stars};
use crate::ignore::Ignore;
use crate::state::FIXED_TIME;
use image::archive;
use image::tar::Attributes;
use image::tree::walk::{Found, walk};
use image::tree::{self, Escape};
use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// What is chosen of a tree.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    /// Paths and patterns of them, with variables expanded.
    pub(crate) sources: Vec<String>,
    /// What is left out, in patterns that begin where a copied directory does.
    pub(crate) exclude: Ignore,
    /// Sources keep their directories.
    pub(crate) parents: bool,
}

/// Something that is copied.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Where it is in the tree.
    pub(crate) from: Vec<u8>,
    /// Where it goes, below the destination.
    pub(crate) to: Vec<u8>,
    pub(crate) stat: Stat,
    /// What a link says.
    pub(crate) link: Vec<u8>,
    pub(crate) attributes: Attributes,
    /// Its digest, of a file.
    pub(crate) digest: Option<image::Digest>,
    /// Where the same file goes under another name of its own.
    pub(crate) same_as: Option<Vec<u8>>,
    /// It is a source itself, and not what a source holds.
    pub(crate) is_source: bool,
}

/// All that is copied: directories before what they hold.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub(crate) picked: Vec<Picked>,
    /// How many sources there were, each pattern counting as often as it fitted.
    pub(crate) sources: usize,
    /// The first source, if it is a directory whose contents are copied.
    pub(crate) top: Option<Stat>,
}

/// A source that was found.
struct Source {
    /// Where it is, with all links followed.
    path: Vec<u8>,
    /// As it was named.
    named: Vec<u8>,
    stat: Stat,
}

impl Picked {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn new(stat: Stat, from: Vec<u8>, to: Vec<u8>) -> Picked {
        let (link, attributes) = (Vec::new(), Attributes::new());
        Picked { from, to, stat, link, attributes, digest: None, same_as: None, is_source: false }
    }

    /// Something of which all is known.
    fn listed(file: &ListedFile, stat: Stat, from: Vec<u8>, to: Vec<u8>) -> Picked {
        let mut picked = Picked::new(stat, from, to);
        if let What::Link(link) = &file.listed.what {
            picked.link.clone_from(link);
        }
        if let Some(known) = &file.known {
            picked.holds(known);
        }
        picked
    }

    fn holds(&mut self, known: &Known) {
        self.digest = Some(known.digest);
        if !known.capabilities.is_empty() {
            self.attributes = vec![(b"security.capability".to_vec(), known.capabilities.clone())];
        }
    }
}

impl Selection {
    /// Finds files that have several names in one source, whose first is picked here: so will they have where they go. What is copied
    /// from another source is a copy of its own.
    fn find_names(&mut self, from: usize) {
        let mut first: HashMap<(u64, u64), (Vec<u8>, Vec<u8>)> = HashMap::new();
        let picked = self.picked[from..].iter_mut();
        let files = picked.filter(|one| one.kind() == FileType::RegularFile && one.stat.st_nlink > 1);
        for one in files {
            match first.entry((one.stat.st_dev, one.stat.st_ino)) {
                Entry::Occupied(other) => {
                    // One name that is picked twice is no second name: the other is in a layer, where it was in nobody's way.
                    let (from, to) = other.get();
                    one.same_as = (*from != one.from && *to != one.to).then(|| to.clone());
                }
                Entry::Vacant(none) => drop(none.insert((one.from.clone(), one.to.clone()))),
            }
        }
    }

    /// A digest of all that makes a difference. Times and owners count where they are `kept`.
    pub(crate) fn digest(&self, kept: bool) -> image::Digest {
        let looks = |key: Key, stat: &Stat| {
            let key = key.number(u64::from(stat.st_mode));
            match kept {
                true => key
                    .number(u64::from(stat.st_uid))
                    .number(u64::from(stat.st_gid))
                    .number(stat.st_mtime.cast_unsigned())
                    .number(stat.st_mtime_nsec),
                false => key,
            }
        };
        let key = Key::new("selection").number(u64::from(kept)).number(self.sources as u64);
        let key = key.option(self.top.as_ref(), looks);
        let key = key.each(&self.picked, |key, one| {
            looks(key.bytes(&one.to), &one.stat)
                .number(if matches!(one.kind(), FileType::CharacterDevice | FileType::BlockDevice) {
                    one.stat.st_rdev
                } else {
                    0
                })
                .bytes(&one.link)
                .number(u64::from(one.is_source))
                .option(one.digest.as_ref(), Key::digest)
                .option(one.same_as.as_ref(), |key, other| key.bytes(other))
                .each(&one.attributes, |key, (name, value)| key.bytes(name).bytes(value))
        });
        key.finish()
    }
}

/// The root directory of what has no files.
fn empty() -> Result<Source, String> {
    // Nobody can make one up field by field: so it is that of any directory, with all that counts.
    let mut stat = rustix::fs::stat("/").map_err(|e| failed(b"", e))?;
    stat.st_mode = FileType::Directory.as_raw_mode() | 0o755;
    (stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec) = (0, 0, FIXED_TIME, 0);
    Ok(Source { path: Vec::new(), named: Vec::new(), stat })
}

impl Files {
    /// What a choice means here. Blocks: every file that is chosen is read once. An error is one line for people.
    pub(crate) fn select(&self, choice: &Choice) -> Result<Selection, String> {
        let mut selection = Selection::default();
        for text in &choice.sources {
            let sources = self.sources(text)?;
            if sources.is_empty() && !is_pattern(text) {
                return Err(self.missing(text));
            }
            for source in sources {
                selection.sources += 1;
                let first = selection.picked.len();
                self.pick(&source, text, choice, &self.ignore, &mut selection)?;
                selection.find_names(first);
            }
        }
        match selection.sources {
            0 => Err(format!("no source files were specified: nothing fits {}", choice.sources.join(" "))),
            _ => Ok(selection),
        }
    }

    /// All that is at a path, as whoever mounts it sees it. Blocks. An error is one line for people.
    pub(crate) fn whole(&self, path: &str) -> Result<Selection, String> {
        let outside = |Escape| format!("forbidden path outside the build context: {path}");
        let named = tree::components(path.as_bytes()).map_err(outside)?.join(&b'/');
        let root = self.root().ok_or_else(|| self.missing(path))?;
        let nothing = Ignore::default();
        let source = self.source(root, &named, &nothing)?.ok_or_else(|| self.missing(path))?;
        let mut selection = Selection { sources: 1, ..Selection::default() };
        self.pick(&source, path, &Choice::default(), &nothing, &mut selection)?;
        selection.find_names(0);
        Ok(selection)
    }

    fn missing(&self, text: &str) -> String {
        let missing = format!("stat {}: file does not exist", text.trim_start_matches('/'));
        match self.is_own() {
            _ if self.has_no_context() => {
                format!(
                    "{missing}: there is no build context, as a Dockerfile came alone (stratus build -f - PATH has one)"
                )
            }
            true => format!("file not found in build context or excluded by .dockerignore: {missing}"),
            false => missing,
        }
    }

    /// What a path or a pattern finds, in order.
    fn sources(&self, text: &str) -> Result<Vec<Source>, String> {
        let outside = |Escape| format!("forbidden path outside the build context: {text}");
        let path = tree::components(text.as_bytes()).map_err(outside)?.join(&b'/');
        let Some(root) = self.root() else { return Ok(if path.is_empty() { vec![empty()?] } else { Vec::new() }) };
        if !is_pattern(text) {
            return Ok(self.source(root, &path, &self.ignore)?.into_iter().collect());
        }
        let pattern = Glob::parse(&String::from_utf8_lossy(&path), Stars::Components).map_err(|e| e.to_string())?;
        let mut fits: Vec<Vec<u8>> = Vec::new();
        self.visit(root, b"", &mut |met| {
            let path = String::from_utf8_lossy(met.path());
            if pattern.matches(&path) && !self.ignore.ignores(&path) {
                fits.push(met.path().to_vec());
            }
            Ok(pattern.may_match_below(&path) && self.ignore.enters(&path))
        })?;
        let mut sources = Vec::new();
        for path in fits {
            sources.extend(self.source(root, &path, &self.ignore)?);
        }
        Ok(sources)
    }

    /// What is at a path, with links followed, unless it is ignored.
    fn source(&self, root: BorrowedFd<'_>, named: &[u8], ignore: &Ignore) -> Result<Option<Source>, String> {
        let target = archive::target(root, Path::new(OsStr::from_bytes(named))).map_err(|e| e.to_string())?;
        let path = target.as_os_str().as_bytes().trim_ascii_start().strip_prefix(b"/").unwrap_or_default().to_vec();
        let (parent, name) = tree::split(&path);
        let ignored = |path: &[u8]| !path.is_empty() && ignore.ignores(&String::from_utf8_lossy(path));
        let found = tree::open(root, parent, OFlags::PATH | OFlags::DIRECTORY).and_then(|parent| {
            let name = if name.is_empty() { b"." } else { name };
            rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
        });
        match found {
            Ok(stat) if is_directory(&stat) && ignore.enters(&String::from_utf8_lossy(&path)) => {
                Ok(Some(Source { path, named: named.to_vec(), stat }))
            }
            Ok(_) if ignored(&path) => Ok(None),
            Ok(stat) => Ok(Some(Source { path, named: named.to_vec(), stat })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(other) => Err(failed(&path, other)),
        }
    }

    /// Adds a source with all that it holds and that is not ignored.
    fn pick(
        &self,
        source: &Source,
        text: &str,
        choice: &Choice,
        ignore: &Ignore,
        into: &mut Selection,
    ) -> Result<(), String> {
        let Some(root) = self.root() else {
            into.top = into.top.or(Some(source.stat).filter(|_| !choice.parents));
            return Ok(());
        };
        let prefix = match choice.parents {
            true => kept_parents(text, &source.named),
            false => Vec::new(),
        };
        let (parent, name) = tree::split(&source.path);
        if !is_directory(&source.stat) {
            let to = if choice.parents { prefix } else { tree::split(&source.named).1.to_vec() };
            if choice.exclude.ignores(&String::from_utf8_lossy(&to)) {
                return Ok(());
            }
            let parent = tree::open(root, parent, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| failed(parent, e))?;
            let parent = rustix::fd::AsFd::as_fd(&parent);
            let found = Found { parent, name, path: &source.path, stat: source.stat };
            let picked = self.picked(&found, source.path.clone(), to)?;
            into.picked.push(Picked { is_source: true, ..picked });
            return Ok(());
        }
        if choice.parents {
            self.pick_parents(root, &prefix, &source.path, into)?;
        } else if into.top.is_none() {
            into.top = Some(source.stat);
            // Nobody says when a root directory was changed: its time is that of whoever stacked or unpacked it.
            if let Some(top) = into.top.as_mut().filter(|_| source.path.is_empty()) {
                (top.st_mtime, top.st_mtime_nsec) = (FIXED_TIME, 0);
            }
        }
        let mut refused = None;
        self.visit(root, &source.path, &mut |met| {
            let from = join(&source.path, met.path());
            let below = String::from_utf8_lossy(met.path());
            let in_context = String::from_utf8_lossy(&from);
            let left_out = choice.exclude.ignores(&below) || ignore.ignores(&in_context);
            let enters = choice.exclude.enters(&below) && ignore.enters(&in_context);
            // A directory that is left out is made where something in it is not.
            if !left_out {
                let to = join(&prefix, met.path());
                match met {
                    Met::Listed { stat, file, .. } => into.picked.push(Picked::listed(file, *stat, from, to)),
                    Met::Found(found) => match self.picked(found, from, to) {
                        Ok(picked) => into.picked.push(picked),
                        Err(error) => refused = Some(error),
                    },
                }
            }
            Ok(enters && refused.is_none())
        })?;
        refused.map_or(Ok(()), Err)
    }

    /// Visits all below a directory, as [`walk`] does. An error is one line for people.
    fn visit(
        &self,
        root: BorrowedFd<'_>,
        directory: &[u8],
        visit: &mut dyn FnMut(&Met<'_>) -> image::Result<bool>,
    ) -> Result<(), String> {
        if let Some(listed) = &self.listed {
            return listed.walk(root, directory, visit).map_err(|e| e.to_string());
        }
        let opened = tree::open(root, directory, OFlags::RDONLY | OFlags::DIRECTORY);
        let opened = opened.map_err(|e| failed(directory, e))?;
        walk(opened, &mut |found| visit(&Met::Found(found))).map_err(|e| e.to_string())
    }

    /// Adds the directories that a source keeps, itself included.
    fn pick_parents(
        &self,
        root: BorrowedFd<'_>,
        prefix: &[u8],
        path: &[u8],
        into: &mut Selection,
    ) -> Result<(), String> {
        if prefix.is_empty() {
            return Ok(());
        }
        let (parent, name) = tree::split(path);
        let parent = tree::open(root, parent, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|e| failed(parent, e))?;
        let parent = rustix::fd::AsFd::as_fd(&parent);
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(path, e))?;
        let found = Found { parent, name, path, stat };
        into.picked.push(self.picked(&found, path.to_vec(), prefix.to_vec())?);
        Ok(())
    }

    fn picked(&self, found: &Found<'_>, from: Vec<u8>, to: Vec<u8>) -> Result<Picked, String> {
        let failed = |e: &dyn std::fmt::Display| format!("reading {}: {e}", String::from_utf8_lossy(&from));
        let mut picked = Picked::new(found.stat, from.clone(), to);
        match found.kind() {
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(found.parent, found.name, Vec::new()).map_err(|e| failed(&e))?;
                picked.link = link.into_bytes();
            }
            FileType::RegularFile if let Some(known) = self.known(&from) => {
                picked.holds(known);
            }
            FileType::RegularFile | FileType::Directory => {
                let fd = found.open().map_err(|e| failed(&e))?;
                picked.attributes = archive::attributes(&fd).map_err(|e| failed(&e))?;
                if found.kind() == FileType::RegularFile {
                    picked.digest = Some(self.digest(&from, fd).map_err(|e| failed(&e))?);
                }
            }
            _ => {}
        }
        Ok(picked)
    }
}

/// What of a source's own path is kept: all of it, or what is behind `/./`.
fn kept_parents(text: &str, named: &[u8]) -> Vec<u8> {
    let before = text.split_once("/./").map_or("", |(before, _)| before);
    let skipped = tree::components(before.as_bytes()).map_or(0, |names| names.len());
    let names: Vec<&[u8]> = named.split(|b| *b == b'/').filter(|name| !name.is_empty()).skip(skipped).collect();
    names.join(&b'/')
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    match (parent.is_empty(), name.is_empty()) {
        (true, _) => name.to_vec(),
        (_, true) => parent.to_vec(),
        (false, false) => [parent, b"/", name].concat(),
    }
}

fn failed(path: &[u8], errno: Errno) -> String {
    format!("reading /{}: {errno}", String::from_utf8_lossy(path))
}
