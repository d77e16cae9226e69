//! Files that a build copies from: its context, a stage, an image. They do not change while it goes on.

mod chosen;
mod listed;
mod select;

use crate::contexts::{Known, Mine};
use crate::ignore::Ignore;
use crate::scratch::Directory;
use crate::solve::Builder;
use crate::state::State;
pub(crate) use chosen::{Choices, Chosen};
use image::archive::{self, WriteOptions};
use image::tree;
use image::{Digest, Hasher, LayerDirs, MountedRootfs};
pub(crate) use listed::ListedFile;
use listed::ListedTree;
use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
pub(crate) use select::{Choice, Picked, Selection};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a copy of a whole is called.
const COPIED: &str = "files";

/// A tree of files.
pub struct Files {
    root: Root,
    /// What of it does not count as being there.
    ignore: Ignore,
    /// Digests of files that were read, by path.
    digests: Mutex<HashMap<Vec<u8>, Digest>>,
    /// All of it, where it was listed before it came: nothing of that need be looked at.
    listed: Option<ListedTree>,
    /// Files that changed while they were sent.
    changed: Vec<String>,
    /// When the commit was made that they are, seconds since 1970.
    commit_time: Option<i64>,
}

/// What keeps the tree where it is.
enum Root {
    /// A build's own copy of its context, which is removed with it.
    Context { directory: OwnedFd, place: Place },
    /// What was downloaded, and lies in a directory of its own.
    Download { directory: OwnedFd, _removed: Arc<tempfile::TempDir> },
    /// Layers, and what keeps them here.
    Layers(Box<Layers>),
    /// A Dockerfile came alone: an empty directory.
    NoContext,
    /// An image without layers: an empty directory.
    Nothing,
}

/// Layers that lie upon each other.
struct Layers {
    mounted: MountedRootfs,
    /// Where their files can be shared.
    shared: Option<LayerDirs>,
    /// What was chosen of them before.
    choices: Arc<Choices>,
    state: State,
}

/// Where a context is, while a build has it.
pub(crate) enum Place {
    /// In a directory that goes with the build.
    Own(Directory),
    /// Where it stays for the next one.
    Kept(Mine),
}

impl Place {
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Place::Own(directory) => directory.path().to_owned(),
            Place::Kept(mine) => mine.tree(),
        }
    }
}

impl Files {
    /// A context in a directory of its own, which goes with this. Whose a file was counts for nothing.
    ///
    /// # Errors
    /// Where the directory can't be opened.
    pub(crate) fn of_context(directory: impl Into<Directory>, ignore: Ignore) -> std::io::Result<Files> {
        Files::of_place(Place::Own(directory.into()), ignore)
    }

    fn of_place(place: Place, ignore: Ignore) -> std::io::Result<Files> {
        let opened = OwnedFd::from(File::open(place.path())?);
        Ok(Files::new(Root::Context { directory: opened, place }, ignore))
    }

    /// A context that came file by file: what lies in its place, in the order of a walk, and names of what changed on the way.
    ///
    /// # Errors
    /// Where the directory can't be opened.
    pub(crate) fn of_listed(
        place: Place,
        ignore: Ignore,
        files: Arc<Vec<ListedFile>>,
        changed: Vec<String>,
    ) -> std::io::Result<Files> {
        let all = Files::of_place(place, ignore)?;
        let like = all.root().map(rustix::fs::fstat).transpose()?;
        Ok(Files { listed: like.map(|like| ListedTree::new(files, like)), changed, ..all })
    }

    /// What was downloaded into a directory of its own.
    pub(crate) fn of_download(directory: Arc<tempfile::TempDir>) -> std::io::Result<Files> {
        let opened = OwnedFd::from(File::open(directory.path())?);
        Ok(Files::new(Root::Download { directory: opened, _removed: directory }, Ignore::default()))
    }

    /// The context of a Dockerfile that came alone.
    pub fn no_context() -> Files {
        Files::new(Root::NoContext, Ignore::default())
    }

    /// The files of an image without layers.
    pub(crate) fn nothing() -> Files {
        Files::new(Root::Nothing, Ignore::default())
    }

    /// The files of an image in the making.
    pub(crate) async fn of_state(builder: &Builder, state: State) -> crate::Result<Arc<Files>> {
        let failed = |e: &dyn std::fmt::Display| crate::Error::failed("opening the files of an image", e);
        let images = builder.images().clone();
        let mounted = images.view_layers(state.diff_ids().to_vec()).await.map_err(|e| failed(&e))?;
        let diff_ids = state.diff_ids().to_vec();
        let shared = tokio::task::spawn_blocking(move || images.shared_layers(&diff_ids)).await;
        let shared = shared.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let layers = Layers { mounted, shared, choices: Arc::clone(builder.choices()), state };
        Ok(Arc::new(Files::new(Root::Layers(Box::new(layers)), Ignore::default())))
    }

    /// The same, as those of a commit that was made then.
    pub(crate) fn of_commit(self, time: Option<i64>) -> Files {
        Files { commit_time: time, ..self }
    }

    /// When the commit was made that they are, seconds since 1970.
    pub(crate) fn commit_time(&self) -> Option<i64> {
        self.commit_time
    }

    /// What of it does not count as being there.
    pub(crate) fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    fn new(root: Root, ignore: Ignore) -> Files {
        Files { root, ignore, digests: Mutex::default(), listed: None, changed: Vec::new(), commit_time: None }
    }

    /// Whether a path is that of all of what has no files: a directory that is empty.
    pub(crate) fn is_nothing(&self, path: &str) -> bool {
        matches!(self.root, Root::NoContext | Root::Nothing)
            && tree::components(path.as_bytes()).is_ok_and(|names| names.is_empty())
    }

    /// The directory of all of it.
    pub(crate) fn root(&self) -> Option<BorrowedFd<'_>> {
        match &self.root {
            Root::Context { directory, .. } | Root::Download { directory, .. } => Some(directory.as_fd()),
            Root::Layers(layers) => Some(layers.mounted.as_fd()),
            Root::NoContext | Root::Nothing => None,
        }
    }

    /// What a choice means here, unless that is known from before. Blocks. An error is one line for people.
    pub(crate) fn choose(&self, choice: &Choice) -> Result<Chosen, String> {
        let layers = match &self.root {
            Root::Layers(layers) => layers.state.chain().map(|chain| (&layers.choices, Choices::key(&chain, choice))),
            Root::Context { .. } | Root::Download { .. } | Root::NoContext | Root::Nothing => None,
        };
        if let Some(known) = layers.as_ref().and_then(|(choices, key)| choices.get(key)) {
            return Ok(Chosen::Known(known));
        }
        let selection = self.select(choice)?;
        let digest = selection.digest(!self.is_own());
        if let Some((choices, key)) = layers {
            choices.insert(key, digest);
        }
        Ok(Chosen::Here(selection, digest))
    }

    /// The directory of the one layer that has a file, where its blocks can be shared.
    pub(crate) fn shared(&self, picked: &Picked) -> Option<OwnedFd> {
        let Root::Layers(layers) = &self.root else { return None };
        layers.shared.as_ref()?.parent_of(&picked.from, &picked.stat)
    }

    /// Where something of a context is on the host, with all links followed. An error is one line for people.
    pub(crate) fn path(&self, path: &str) -> Result<PathBuf, String> {
        let Root::Context { directory, place } = &self.root else { return Err("these files have no place".into()) };
        let found = archive::target(directory.as_fd(), Path::new(path)).map_err(|e| e.to_string())?;
        Ok(place.path().join(found.strip_prefix("/").unwrap_or(&found)))
    }

    /// Copies all that is at a path, links to it followed, with owners and times, into a directory: under the name that it gives. Blocks. An
    /// error is one line for people.
    pub(crate) fn copy_whole(&self, source: &str, into: &Path) -> Result<PathBuf, String> {
        let failed = |e: &dyn std::fmt::Display| format!("copying {source}: {e}");
        let root = self.root().ok_or_else(|| failed(&"there are no files"))?;
        let source = archive::target(root, Path::new(source)).map_err(|e| failed(&e))?;
        let directory = File::open(into).map_err(|e| failed(&e))?;
        let (reader, writer) = std::io::pipe().map_err(|e| failed(&e))?;
        let options = archive::ReadOptions { name: Some(COPIED.into()), ..archive::ReadOptions::default() };
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| archive::read_path(root, &source, writer, &options));
            let written = archive::write_path(directory.as_fd(), Path::new("/"), reader, &WriteOptions::default());
            let read = reading.join().map_err(|_| failed(&"its reader ended"))?;
            // Where nothing is written any more, nothing is read either: what came first counts.
            written.map_err(|e| failed(&e))?;
            read.map_err(|e| failed(&e))
        })?;
        Ok(into.join(COPIED))
    }

    /// Whether it is the build's own copy: nobody else needs the files' looks, and nobody wrote them down.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.root, Root::Context { .. } | Root::Download { .. } | Root::NoContext)
    }

    /// Whether it is the context of a Dockerfile that came alone.
    fn has_no_context(&self) -> bool {
        matches!(self.root, Root::NoContext)
    }

    /// Files that changed while they were sent: nobody knows what of them came.
    pub(crate) fn changed(&self) -> &[String] {
        &self.changed
    }

    /// What is known of a file without a look at it.
    pub(crate) fn known(&self, path: &[u8]) -> Option<&Known> {
        self.listed.as_ref()?.known(path)
    }

    /// The digest of a file's contents.
    pub(crate) fn digest(&self, path: &[u8], file: OwnedFd) -> std::io::Result<Digest> {
        if let Some(known) = self.digests.lock().get(path) {
            return Ok(*known);
        }
        let (mut file, mut hasher) = (File::from(file), Hasher::new());
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                got => hasher.update(&buffer[..got]),
            }
        }
        let digest = hasher.finish();
        self.digests.lock().insert(path.to_vec(), digest);
        Ok(digest)
    }
}
