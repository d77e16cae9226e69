//! `COPY`, `ADD` and `WORKDIR`: files come to lie in a layer, and nothing runs.

use super::owner;
use super::piece::{Found, Piece, Taken};
use crate::cache::Key;
use crate::dockerfile::{Identity, Mode, Owner};
use crate::files::{Files, Picked};
use crate::remote::Tell;
use crate::solve::Builder;
use crate::state::State;
use image::tree::LastDirectory;
use image::{Contents, Digest, Existing, Filling, Images, KeptLayers, Look, MountedRootfs, NewLayer};
use rustix::fs::{FileType, OFlags, Stat};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is copied, where to, and how it looks then.
pub(crate) struct Copying {
    /// What is copied, in this order.
    pub(crate) pieces: Vec<Piece>,
    /// Sources keep their directories.
    pub(crate) parents: bool,
    /// Files whose contents stand in the instruction: name and contents.
    pub(crate) written: Vec<(String, String)>,
    /// Absolute, as it was written behind the working directory.
    pub(crate) destination: String,
    pub(crate) owner: Option<Owner>,
    pub(crate) mode: Option<Mode>,
    /// `--chmod` as it was written, for the key.
    pub(crate) mode_text: Option<String>,
    /// The layer does not depend on those below it.
    pub(crate) link: bool,
    /// The time of what has none of its own.
    pub(crate) time: i64,
    /// Somebody asked for that time: it is that of a commit's files, too.
    pub(crate) time_is_asked: bool,
}

/// A copy whose files were looked up: its key is known.
pub(crate) struct Looked {
    copying: Copying,
    found: Vec<Found>,
}

impl Copying {
    /// All of some files, as they are, into the root directory.
    pub(crate) fn all(pieces: Vec<Piece>, (time, time_is_asked): (i64, bool)) -> Copying {
        Copying {
            pieces,
            parents: false,
            written: Vec::new(),
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            mode_text: None,
            link: false,
            time,
            time_is_asked,
        }
    }

    /// The time that files have which are a commit's; `None`: they are none, or have that of all.
    fn commit_time(&self, files: &Files) -> Option<i64> {
        files.commit_time().filter(|_| !self.time_is_asked)
    }

    /// Looks up all that it means. Blocks.
    pub(crate) fn look(mut self) -> Result<Looked, String> {
        let pieces = std::mem::take(&mut self.pieces);
        let found = pieces.into_iter().map(Piece::look).collect::<Result<_, _>>()?;
        Ok(Looked { copying: self, found })
    }
}

impl Looked {
    /// What it depends on of the root file system that it comes into.
    fn below(&self, state: &State) -> Option<Digest> {
        if self.copying.link { None } else { state.chain() }
    }

    /// What the copy is found again by.
    pub(crate) fn key(&self, state: &State) -> Key {
        let copying = &self.copying;
        Key::new("copy of pieces")
            .option(self.below(state).as_ref(), Key::digest)
            .text(&copying.destination)
            .option(copying.owner.as_ref(), owner_part)
            .option(copying.mode_text.as_deref(), Key::text)
            .number(u64::from(copying.parents))
            .number(copying.time.cast_unsigned())
            .each(&copying.written, |key, (name, contents)| key.text(name).text(contents))
            .each(&self.found, |key, piece| piece.add_to(key, |files| copying.commit_time(files)))
    }

    /// What copies have in common that are likely to be of much the same files.
    pub(crate) fn kind(&self, state: &State, text: &str) -> Digest {
        let copying = &self.copying;
        let key = Key::new("copies like").option(self.below(state).as_ref(), Key::digest).text(text);
        // Directories on the way look as these say.
        let key = key.text(&copying.destination);
        let files = self.found.iter().filter_map(Found::files);
        let key = files
            .filter_map(|files| copying.commit_time(files))
            .fold(key, |key, time| key.number(time.cast_unsigned()));
        key.option(copying.owner.as_ref(), owner_part).number(copying.time.cast_unsigned()).finish()
    }

    /// Makes the layer; it takes what it can from the layer of a copy that it is `like`.
    pub(crate) async fn make(
        self,
        builder: &Builder,
        state: &State,
        like: Option<Digest>,
        tell: Tell<'_>,
    ) -> Result<Option<KeptLayers>, String> {
        let images = builder.images().clone();
        let below = below(&images, state, self.copying.link).await?;
        let mut taken = Vec::with_capacity(self.found.len());
        for piece in self.found {
            taken.push(piece.take(builder, tell).await.map_err(|e| e.to_string())?);
        }
        let contents = Arc::new((self.copying, taken));
        if let Some(like) = like.filter(|_| state.diff_ids().len() < MOST_UPON) {
            let begin = move |images: &Images| images.begin_layer_like(&like);
            match filled(&images, begin, &contents, below.clone()).await {
                Ok(Some(layer)) => return Ok(layer),
                Ok(None) => {}
                // A layer that has all of it has nothing to do with what is in the way of that.
                Err(error) => tracing::debug!(error, "a layer can't lie upon a former one"),
            }
        }
        let layer = filled(&images, |images| images.begin_layer().map(Some), &contents, below).await?;
        layer.ok_or_else(|| "a new layer does not fit".to_owned())
    }
}

/// Layers of an image that may have two directories each: overlayfs takes 500.
const MOST_UPON: usize = 200;

/// Begins a layer, fills it and makes it visible; `None`: there is none that it could be like, or it is not like that.
async fn filled(
    images: &Images,
    begin: impl FnOnce(&Images) -> image::Result<Option<NewLayer>> + Send + 'static,
    contents: &Arc<(Copying, Vec<Taken>)>,
    below: Option<Arc<MountedRootfs>>,
) -> Result<Option<Option<KeptLayers>>, String> {
    let (images, contents) = (images.clone(), Arc::clone(contents));
    let filling = tokio::task::spawn_blocking(move || {
        let Some(layer) = begin(&images).map_err(|e| e.to_string())? else { return Ok(None) };
        let (copying, taken) = &*contents;
        let filling = fill(copying, taken, layer, below)?;
        if !filling.fits() {
            return Ok(None);
        }
        filling.finish().map(Some).map_err(|e| e.to_string())
    });
    match filling.await.map_err(|e| e.to_string())?? {
        Some(layer) => layer.finish(None).await.map(Some).map_err(|e| e.to_string()),
        None => Ok::<_, String>(None),
    }
}

fn fill(
    copying: &Copying,
    taken: &[Taken],
    layer: NewLayer,
    below: Option<Arc<MountedRootfs>>,
) -> Result<Filling, String> {
    let owner = copying.owner.as_ref().map(|owner| owner::numbers(owner, below.as_deref())).transpose()?;
    let mut place = Place {
        above: Look::of_directory(owner.unwrap_or((0, 0)), copying.time),
        filling: layer.fill(below).map_err(|e| e.to_string())?,
        copying,
        owner,
        source: LastDirectory::default(),
    };
    let (base, into) = place.destination(taken)?;
    if into {
        place.base(&base, only_directory(taken))?;
    }
    for piece in taken {
        if let Some(url) = piece.nameless.as_ref().filter(|_| into) {
            return Err(format!("cannot determine filename from url: {url}"));
        }
        place.source.forget();
        for picked in &piece.selection.picked {
            let at = if into { base.join(OsStr::from_bytes(&picked.to)) } else { base.clone() };
            place.one(piece, picked, &at, if into { &base } else { &at })?;
        }
    }
    for (name, contents) in &copying.written {
        let at = if into { base.join(name) } else { base.clone() };
        let look = place.look(0o644, (0, 0), (copying.time, 0), Vec::new(), false);
        let Place { filling, above, .. } = &mut place;
        filling.file(&at, Contents::Bytes(contents.as_bytes()), &look, above).map_err(|e| e.to_string())?;
    }
    Ok(place.filling)
}

/// The directory that is copied, where it is all that is: whose files, and how it looks.
fn only_directory(taken: &[Taken]) -> Option<(&Files, &Stat)> {
    match taken {
        [piece] if piece.selection.sources == 1 => piece.selection.top.as_ref().map(|top| (&*piece.files, top)),
        _ => None,
    }
}

fn owner_part(key: Key, owner: &Owner) -> Key {
    let identity = |key: Key, identity: &Identity| match identity {
        Identity::Number(number) => key.text("number").number(u64::from(*number)),
        Identity::Name(name) => key.text("name").text(name),
    };
    identity(key, &owner.user).option(owner.group.as_ref(), identity)
}

/// Where a copy goes.
struct Place<'c> {
    copying: &'c Copying,
    filling: Filling,
    owner: Option<(u32, u32)>,
    /// Directories that are missing above it.
    above: Look,
    /// The directory that files were last taken from.
    source: LastDirectory,
}

impl Place<'_> {
    /// The destination with links followed, and whether it is a directory that things go into.
    fn destination(&self, taken: &[Taken]) -> Result<(PathBuf, bool), String> {
        let text = &self.copying.destination;
        let base = self.filling.resolve(Path::new(text)).map_err(|e| e.to_string())?;
        let asked = text.ends_with('/') || text.ends_with("/.") || text == "/";
        let sources: usize = taken.iter().map(|piece| piece.selection.sources).sum();
        let several = sources + self.copying.written.len() > 1;
        let one_directory = taken.iter().any(|piece| piece.selection.top.is_some());
        let there = self.filling.found(&base).map_err(|e| e.to_string())? == Some(FileType::Directory);
        if several && !asked && !there && !one_directory {
            return Err(format!(
                "when copying several files, the destination {text} must be a directory and end with a /"
            ));
        }
        Ok((base, asked || several || self.copying.parents || one_directory || there))
    }

    /// Makes the directory that things go into; one that is new looks as the only directory that is copied.
    fn base(&mut self, base: &Path, like: Option<(&Files, &Stat)>) -> Result<(), String> {
        let there = self.filling.found(base).map_err(|e| e.to_string())?.is_some();
        let look = match like.filter(|_| !there) {
            Some((files, stat)) => self.look_of(files, stat, Vec::new()),
            None => self.above.clone(),
        };
        let Place { filling, above, .. } = self;
        filling.directory(base, &look, Existing::Keep, above).map_err(|e| e.to_string())
    }

    fn one(&mut self, piece: &Taken, picked: &Picked, at: &Path, base: &Path) -> Result<(), String> {
        let Taken { files, unpack, .. } = piece;
        let look = self.look_of(files, &picked.stat, picked.attributes.clone());
        let failed = |e: image::Error| e.to_string();
        let (parent, name) = image::tree::split(&picked.from);
        let Place { filling, above, owner, source, .. } = self;
        match picked.kind() {
            FileType::Directory => filling.directory(at, &look, Existing::Change, above).map_err(failed),
            FileType::Symlink => filling.symlink(at, &picked.link, &look, above).map_err(failed),
            FileType::RegularFile => {
                if let Some(other) = &picked.same_as
                    && filling.hard_link(at, &base.join(OsStr::from_bytes(other)), above).map_err(failed)?
                {
                    return Ok(());
                }
                let root = files.root().ok_or("the files are gone")?;
                let parent = source.open(root, parent);
                let parent = parent.map_err(|errno| format!("opening {}: {errno}", at.display()))?.as_fd();
                if *unpack && picked.is_source && is_archive(parent, name)? {
                    let file = open(parent, name)?;
                    return filling.archive(base, file, *owner, above).map_err(failed);
                }
                let shared = files.shared(picked);
                let parent = shared.as_ref().map_or(parent, AsFd::as_fd);
                let size = u64::try_from(picked.stat.st_size).unwrap_or(0);
                let known = picked.digest.map(|digest| (digest, size));
                let contents = Contents::Of { parent, name, known };
                filling.file(at, contents, &look, above).map_err(failed)
            }
            // Nobody can do anything with a socket's name.
            FileType::Socket => Ok(()),
            kind => filling.node(at, kind, picked.stat.st_rdev, &look, above).map_err(failed),
        }
    }

    /// How something that is copied looks: times and owners are the source's own, unless that is a copy that the build has for itself.
    fn look_of(&self, files: &Files, stat: &Stat, attributes: image::tar::Attributes) -> Look {
        let (own, mtime) = match !files.is_own() {
            true => {
                let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
                ((stat.st_uid, stat.st_gid), (stat.st_mtime, nanoseconds))
            }
            false => ((0, 0), (self.copying.commit_time(files).unwrap_or(self.copying.time), 0)),
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        self.look(stat.st_mode & 0o7777, own, mtime, attributes, is_directory)
    }

    fn look(
        &self,
        mode: u32,
        own: (u32, u32),
        mtime: (i64, u32),
        attributes: image::tar::Attributes,
        is_directory: bool,
    ) -> Look {
        let mode = self.copying.mode.as_ref().map_or(mode, |change| change.apply(mode, is_directory));
        Look { owner: self.owner.unwrap_or(own), mode, mtime, attributes }
    }
}

/// What lies below a layer, if it depends on that.
async fn below(images: &Images, state: &State, link: bool) -> Result<Option<Arc<MountedRootfs>>, String> {
    if link || state.diff_ids().is_empty() {
        return Ok(None);
    }
    let view = images.view_layers(state.diff_ids().to_vec()).await;
    view.map(|view| Some(Arc::new(view))).map_err(|e| e.to_string())
}

fn open(parent: rustix::fd::BorrowedFd<'_>, name: &[u8]) -> Result<std::fs::File, String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, rustix::fs::Mode::empty());
    opened.map(std::fs::File::from).map_err(|e| format!("opening {}: {e}", String::from_utf8_lossy(name)))
}

/// Whether a file is an archive that `ADD` unpacks: a tar archive, in whatever compression.
fn is_archive(parent: rustix::fd::BorrowedFd<'_>, name: &[u8]) -> Result<bool, String> {
    Ok(image::archive::is_archive(open(parent, name)?))
}

/// The key of a `WORKDIR`, and what it makes: the directory, where there is none.
pub(crate) fn directory_key(state: &State, path: &str, time: i64) -> Key {
    Key::new("directory").option(state.chain().as_ref(), Key::digest).text(path).number(time.cast_unsigned())
}

/// Makes a directory, where there is none.
pub(crate) async fn directory(
    images: &Images,
    state: &State,
    path: &str,
    time: i64,
) -> Result<Option<KeptLayers>, String> {
    let below = below(images, state, false).await?;
    let (images, path) = (images.clone(), path.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let layer = images.begin_layer()?;
        let mut filling = layer.fill(below)?;
        let at = filling.resolve(Path::new(&path))?;
        if filling.found(&at)? == Some(FileType::Directory) {
            return Ok::<_, image::Error>(None);
        }
        let look = Look::of_directory((0, 0), time);
        filling.directory(&at, &look, Existing::Keep, &look)?;
        filling.finish().map(Some)
    });
    match made.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? {
        Some(layer) => layer.finish(None).await.map_err(|e| e.to_string()),
        None => Ok(None),
    }
}
