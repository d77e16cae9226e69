//! What a `COPY` or an `ADD` takes: files that are here, and files at addresses, which come only where they are needed.

use crate::cache::Key;
use crate::files::{Choice, Chosen, Files, Picked, Selection};
use crate::ignore::Ignore;
use crate::remote::{Commit, MODE, Tell, WebFile};
use crate::request::Lender;
use crate::solve::Builder;
use crate::{Error, Result};
use image::tar::Attributes;
use rustix::fs::{AtFlags, FileType};
use std::sync::Arc;

/// A source, or several of them.
pub(crate) enum Piece {
    /// Files of the context, a stage or an image.
    Files {
        files: Arc<Files>,
        choice: Choice,
        /// Archives are unpacked.
        unpack: bool,
    },
    /// A file at an address.
    Web {
        file: WebFile,
        /// Its name in a directory, where its address has one.
        name: Option<String>,
        unpack: bool,
    },
    /// The files of a commit.
    Git(Part),
}

/// What is taken of a commit.
pub(crate) struct Part {
    pub(crate) commit: Commit,
    /// `.git` is one of its files.
    pub(crate) keeps: bool,
    pub(crate) exclude: Ignore,
    /// The same as it was written, for the key.
    pub(crate) excludes: Vec<String>,
    /// Who has what its server asks for.
    pub(crate) lender: Option<Arc<dyn Lender>>,
}

/// A piece that was looked up: what it adds to a key is known.
pub(crate) enum Found {
    Files { files: Arc<Files>, choice: Choice, chosen: Chosen, unpack: bool },
    Web { file: WebFile, name: Option<String>, unpack: bool },
    Git(Part),
}

/// A piece that is here.
pub(crate) struct Taken {
    pub(crate) files: Arc<Files>,
    pub(crate) selection: Selection,
    pub(crate) unpack: bool,
    /// Where a file of no name comes from.
    pub(crate) nameless: Option<String>,
}

impl Piece {
    /// Looks up what it means. Blocks. An error is one line for people.
    pub(crate) fn look(self) -> Result<Found, String> {
        match self {
            Piece::Files { files, choice, unpack } => {
                let chosen = files.choose(&choice)?;
                Ok(Found::Files { files, choice, chosen, unpack })
            }
            Piece::Web { file, name, unpack } => Ok(Found::Web { file, name, unpack }),
            Piece::Git(part) => Ok(Found::Git(part)),
        }
    }
}

impl Found {
    /// Files that are here.
    pub(crate) fn files(&self) -> Option<&Files> {
        match self {
            Found::Files { files, .. } => Some(files),
            Found::Web { .. } | Found::Git(_) => None,
        }
    }

    /// Adds all that makes a difference to a key; `commit_time` is the time that a commit's files have.
    pub(crate) fn add_to(&self, key: Key, commit_time: impl Fn(&Files) -> Option<i64>) -> Key {
        match self {
            Found::Files { files, chosen, unpack, .. } => {
                let key = match commit_time(files) {
                    Some(time) => key.text("files of a commit").number(time.cast_unsigned()),
                    None => key.text("files"),
                };
                key.number(u64::from(*unpack)).digest(chosen.digest())
            }
            Found::Web { file, name, unpack } => {
                let key = key.text("web").option(name.as_deref(), Key::text).digest(&file.digest);
                key.number(u64::from(*unpack))
            }
            Found::Git(Part { commit, keeps, excludes, .. }) => key
                .text("git")
                // It says where submodules are.
                .text(&commit.remote)
                .text(&commit.id)
                .option(commit.directory.as_deref(), Key::text)
                .number(u64::from(*keeps))
                .each(excludes, |key, pattern| key.text(pattern)),
        }
    }

    /// Brings it here.
    pub(crate) async fn take(self, builder: &Builder, tell: Tell<'_>) -> Result<Taken> {
        match self {
            Found::Files { files, chosen: Chosen::Here(selection, _), unpack, .. } => {
                Ok(Taken { files, selection, unpack, nameless: None })
            }
            Found::Files { files, choice, chosen: Chosen::Known(_), unpack } => {
                Taken::of(files, choice, unpack).await.map_err(|e| Error::failed("looking up files", e))
            }
            Found::Web { file, name, unpack } => {
                let (directory, alone) = builder.web().take(&file, tell).await?;
                let failed = |e: &dyn std::fmt::Display| Error::failed("opening what was downloaded", e);
                let files = Files::of_download(directory).map_err(|e| failed(&e))?;
                let root = files.root().ok_or_else(|| failed(&"it is gone"))?;
                let mut stat = rustix::fs::statat(root, alone, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(&e))?;
                stat.st_mode = FileType::RegularFile.as_raw_mode() | MODE;
                let nameless = name.is_none().then(|| file.url.clone());
                let picked = Picked {
                    from: alone.as_bytes().to_vec(),
                    to: name.unwrap_or_default().into_bytes(),
                    stat,
                    link: Vec::new(),
                    attributes: Attributes::new(),
                    digest: Some(file.digest),
                    same_as: None,
                    is_source: true,
                };
                let selection = Selection { picked: vec![picked], sources: 1, top: None };
                Ok(Taken { files: Arc::new(files), selection, unpack, nameless })
            }
            Found::Git(Part { commit, keeps, exclude, lender, .. }) => {
                let checkout = builder.git().fetch(&commit, keeps, lender.as_ref()).await?;
                let failed = |e: &dyn std::fmt::Display| Error::failed("opening what was fetched", e);
                let files = Files::of_context(checkout.files, Ignore::default()).map_err(|e| failed(&e))?;
                let choice = Choice { sources: vec!["/".into()], exclude, parents: false };
                Taken::of(Arc::new(files), choice, false).await.map_err(|e| failed(&e))
            }
        }
    }
}

impl Taken {
    /// What a choice means of some files. An error is one line for people.
    async fn of(files: Arc<Files>, choice: Choice, unpack: bool) -> Result<Taken, String> {
        let selecting = tokio::task::spawn_blocking(move || {
            files.select(&choice).map(|selection| Taken { files, selection, unpack, nameless: None })
        });
        selecting.await.map_err(|e| e.to_string())?
    }
}

/// Whether a file of this name is left out.
pub(crate) fn left_out(exclude: &Ignore, name: Option<&str>) -> bool {
    name.is_some_and(|name| exclude.ignores(name))
}
