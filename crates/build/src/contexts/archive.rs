//! A context that came as an archive, or that lies at an address.

use super::settle::settle;
use crate::attest::Fetched;
use crate::dockerfile::{AddSource, Builtin, Given, Source};
use crate::files::Files;
use crate::ignore::Ignore;
use crate::request::Lender;
use crate::scratch::{self, Directory};
use crate::solve::Builder;
use crate::{Error, Result};
use image::Compression;
use image::archive::{self, WriteOptions};
use image::tree;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The file that is built where nothing else is named.
const DOCKERFILE: &str = "Dockerfile";

/// The most bytes of a file that is read into memory.
const MOST: u64 = 16 << 20;

/// A context, and the file in it that says what to do.
pub struct Received {
    /// The file.
    pub file: Source,
    /// All files, but those that `.dockerignore` excludes.
    pub context: Arc<Files>,
    /// When its commit was made, if it is one: seconds since 1970.
    pub commit_time: Option<i64>,
    /// Where it was fetched from, if it was.
    pub origin: Option<Fetched>,
}

/// The most bytes by which an archive is told from a Dockerfile.
pub(super) const BEGINNING: u64 = 64 << 10;

impl Builder {
    /// Takes a context from an archive, in any compression. `name` is the path of the Dockerfile in it; empty: `Dockerfile`.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it is no archive, leads out of itself, or has no such file.
    pub fn receive(&self, archive: impl Read + Send, name: &str) -> Result<Received> {
        of_directory(self.unpacked(archive)?, name, None)
    }

    /// What an archive holds, in a directory of its own. Blocks.
    pub(super) fn unpacked(&self, archive: impl Read + Send) -> Result<Directory> {
        let directory = self.directory().map_err(|e| Error::failed("making a directory for the context", e))?;
        let opened = File::open(directory.path()).map_err(|e| Error::failed("opening the context", e))?;
        let options =
            WriteOptions { keep_kinds: false, owner: Some((0, 0)), most: scratch::LARGEST, ..WriteOptions::default() };
        archive::write_path(opened.as_fd(), Path::new("/"), archive, &options).map_err(|e| match e {
            e if e.is_no_space() => Error::failed("receiving the context", e),
            e => Error::Invalid(format!("reading the build context: {e}")),
        })?;
        Ok(directory)
    }

    /// Fetches a context: a git repository, an archive, or a Dockerfile without a context. `name` is as for [`Builder::receive`];
    /// `lender` has what a server asks for; `given` says whether a repository's `.git` comes with it.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the address is refused or there is nothing, else as for [`Builder::receive`].
    pub async fn fetch(
        &self,
        address: &str,
        name: &str,
        given: &Given,
        lender: Option<&Arc<dyn Lender>>,
    ) -> Result<Received> {
        let keep = Builtin::ContextKeepGitDir.is_yes(given)?;
        let address = address_of(address);
        let blocking = |e: tokio::task::JoinError| Error::failed("fetching the context", e);
        let name = name.to_owned();
        match AddSource::parse(&address) {
            AddSource::Git(source) => {
                let commit = self.git().look(&source, lender).await?;
                let checkout = self.git().fetch(&commit, keep, lender).await?;
                let reading =
                    tokio::task::spawn_blocking(move || of_directory(checkout.files, &name, Some(checkout.time)));
                let received = reading.await.map_err(blocking)??;
                let origin = Some(Fetched::commit(&commit.remote, &commit.id));
                Ok(Received { origin, ..received })
            }
            AddSource::Url(url) => {
                let failed = |error| match error {
                    // In the words that clients know.
                    Error::Invalid(why) => {
                        let shown = image::registry::without_password(&url);
                        Error::Invalid(format!("error downloading remote context {shown}: {why}"))
                    }
                    other => other,
                };
                let file = self.web().look(&url, None, &|_, _| ()).await.map_err(failed)?;
                let (directory, alone) = self.web().take(&file, &|_, _| ()).await?;
                let path = directory.path().join(alone);
                let builder = self.clone();
                let reading = tokio::task::spawn_blocking(move || {
                    let received = builder.of_file(&path, &url, &name);
                    drop(directory);
                    received
                });
                let origin = Some(Fetched::file(&file.url, &file.digest));
                reading.await.map_err(blocking)?.map(|received| Received { origin, ..received })
            }
            AddSource::Path(text) => Err(Error::Invalid(format!(
                "{}: a context is at an address of http, https or git",
                image::registry::without_password(&text)
            ))),
        }
    }

    /// A file that was fetched: an archive, or a Dockerfile. Blocks.
    fn of_file(&self, path: &Path, url: &str, name: &str) -> Result<Received> {
        let failed = |e: std::io::Error| Error::failed("opening the context", e);
        let file = File::open(path).map_err(failed)?;
        let mut first = Vec::new();
        (&file).take(BEGINNING).read_to_end(&mut first).map_err(failed)?;
        if Compression::of(&first) != Compression::None || archive::is_archive(&first[..]) {
            return self.receive(first.as_slice().chain(file), name);
        }
        let called = image::registry::file_name(url).unwrap_or_else(|| DOCKERFILE.to_owned());
        (&file).take(MOST + 1 - BEGINNING).read_to_end(&mut first).map_err(failed)?;
        if first.len() as u64 > MOST {
            return Err(Error::Invalid(format!("{called} is no archive, and too large for a Dockerfile")));
        }
        let context = Arc::new(Files::no_context());
        Ok(Received { file: Source::from_bytes(called, &first), context, commit_time: None, origin: None })
    }
}

/// An address in full: Docker has a short form of a repository.
pub(super) fn address_of(text: &str) -> String {
    match text.strip_prefix("github.com/") {
        Some(path) => {
            let (path, fragment) = path.split_once('#').unwrap_or((path, ""));
            format!("https://github.com/{}.git#{fragment}", path.trim_end_matches(".git"))
        }
        None => text.to_owned(),
    }
}

/// A context that lies in a directory, and when the commit was made that it is. Blocks.
fn of_directory(directory: Directory, name: &str, commit_time: Option<i64>) -> Result<Received> {
    let opened = File::open(directory.path()).map_err(|e| Error::failed("opening the context", e))?;
    let opened = OwnedFd::from(opened);
    let root = opened.as_fd();
    let (name, text) = match (name, read(root, if name.is_empty() { DOCKERFILE } else { name })?) {
        ("", None) => ("dockerfile", read(root, "dockerfile")?),
        ("", text) => (DOCKERFILE, text),
        (name, text) => (name, text),
    };
    let missing = || {
        Error::Invalid(format!(
            "Cannot locate specified Dockerfile: {}",
            if name == "dockerfile" { DOCKERFILE } else { name }
        ))
    };
    let file = Source::new(shown(name), text.ok_or_else(missing)?);
    let mut ignore = Ignore::default();
    for rules in Ignore::names(name) {
        if let Some(text) = read(root, &rules)? {
            ignore = Ignore::parse(&Source::new(rules, text))?;
            break;
        }
    }
    settle(&opened, &ignore)?;
    let context = Files::of_context(directory, ignore).map_err(|e| Error::failed("opening the context", e))?;
    Ok(Received { file, context: Arc::new(context.of_commit(commit_time)), commit_time, origin: None })
}

/// What a Dockerfile is called. One that lies outside of the context is sent by docker's client under a name of chance, and by no other.
fn shown(name: &str) -> &str {
    let chance = name.strip_prefix(".dockerfile.").filter(|rest| rest.len() == 20);
    match chance.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        true => DOCKERFILE,
        false => name,
    }
}

/// A text in the context; links in it lead nowhere else.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<String>> {
    let failed = |e: &dyn std::fmt::Display| Error::Invalid(format!("reading {path} of the build context: {e}"));
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match tree::open(root, path.as_bytes(), flags) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err(failed(&"it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if bytes.len() as u64 > MOST {
        return Err(failed(&format!("it has more than {MOST} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| failed(&"it is not UTF-8"))
}
