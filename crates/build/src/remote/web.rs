//! Files at addresses: what one holds is known by its digest, and asked for again only where its server says that it changed.
//!
//! ```text
//! build/web/<digest of the address>    what its server said of it, and what it held
//! ```
//! The bytes are in a directory, by their digests. They are there to be copied once more without another download; where they are
//! gone, they are downloaded again. So nothing of this need be synced.

use crate::cache::{Cached, CachedKind, Keeps};
use crate::turns::Turns;
use crate::{Error, Result};
use image::Digest;
use image::registry::{Reach, Registries, RegistryError, TransportCause, Validators};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::Collection;

/// The most bytes of one file.
const LARGEST: u64 = 16 << 30;
/// The most bytes that are kept of files that servers can be asked about.
const MOST_KEPT: u64 = 2 << 30;
/// The name of a file that lies alone in a directory.
const ALONE: &str = "file";

/// Who hears how many bytes have come of how many.
pub(crate) type Tell<'t> = &'t (dyn Fn(u64, Option<u64>) + Send + Sync);

/// What is known of a file that was downloaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    digest: Digest,
    size: u64,
    validators: Validators,
    used: Timestamp,
}

/// A file at an address, as it is known to be.
#[derive(Clone, Debug)]
pub(crate) struct WebFile {
    pub(crate) url: String,
    pub(crate) digest: Digest,
    /// Where it lies, if nobody but this build can use it.
    here: Option<Arc<tempfile::TempDir>>,
}

/// All that was downloaded.
pub(crate) struct WebFiles {
    registries: Registries,
    reach: Reach,
    records: Collection<Record>,
    directory: PathBuf,
    turns: Turns<String>,
}

impl WebFiles {
    pub(crate) fn open(
        registries: Registries,
        reach: Reach,
        store: &store::Store,
        directory: PathBuf,
    ) -> std::io::Result<WebFiles> {
        fs::create_dir_all(&directory)?;
        // What a former daemon was downloading.
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if Digest::from_hex(&entry.file_name().to_string_lossy()).is_err() {
                image::remove_tree(&entry.path()).map_err(std::io::Error::other)?;
            }
        }
        Ok(WebFiles {
            registries,
            reach,
            records: Collection::new(store, "build/web/"),
            directory,
            turns: Turns::default(),
        })
    }

    /// What is at an address. Where it is `known` what that has to be, nobody is asked.
    pub(crate) async fn look(&self, url: &str, known: Option<Digest>, tell: Tell<'_>) -> Result<WebFile> {
        if let Some(digest) = known {
            return Ok(WebFile { url: url.to_owned(), digest, here: None });
        }
        let id = Digest::of(url.as_bytes()).hex();
        let turn = self.turns.of(id.clone());
        let _mine = turn.lock().await;
        let failed = |e: &dyn std::fmt::Display| Error::failed("reading what is known of downloads", e);
        let record = self.records.get(&id).map_err(|e| failed(&e))?.map(|item| item.value);
        let record = record.filter(|record| self.path(&record.digest).exists());
        let Some((directory, new)) = self.download(url, record.as_ref().map(|r| &r.validators), tell).await? else {
            let record = record.ok_or_else(|| failed(&"an answer says that nothing changed, and nothing is known"))?;
            let digest = record.digest;
            self.note(&id, Record { used: Timestamp::now(), ..record })?;
            return Ok(WebFile { url: url.to_owned(), digest, here: None });
        };
        let digest = new.digest;
        let file = WebFile { url: url.to_owned(), digest, here: None };
        if !new.validators.are_there() || new.size > MOST_KEPT {
            return Ok(WebFile { here: Some(Arc::new(directory)), ..file });
        }
        // First, so that whoever removes what nothing is known of leaves it.
        self.note(
            &id,
            Record { digest: new.digest, size: new.size, validators: new.validators, used: Timestamp::now() },
        )?;
        self.keep(&directory, &digest)?;
        Ok(file)
    }

    /// A directory that holds the file alone, and its name in there. It has no other name where nobody else may need it.
    pub(crate) async fn take(&self, file: &WebFile, tell: Tell<'_>) -> Result<(Arc<tempfile::TempDir>, &'static str)> {
        if let Some(here) = &file.here {
            return Ok((Arc::clone(here), ALONE));
        }
        let failed = |e: std::io::Error| {
            Error::failed(
                format!("taking {} from what was downloaded", image::registry::without_password(&file.url)),
                e,
            )
        };
        let directory = self.temporary().map_err(failed)?;
        match fs::hard_link(self.path(&file.digest), directory.path().join(ALONE)) {
            Ok(()) => return Ok((Arc::new(directory), ALONE)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let (directory, new) = self.download(&file.url, None, tell).await?.ok_or_else(|| nothing(&file.url))?;
        if new.digest != file.digest {
            return Err(Error::Invalid(format!(
                "{}: its digest should be {}, but is {}",
                shown(&file.url),
                file.digest,
                new.digest
            )));
        }
        Ok((Arc::new(directory), ALONE))
    }

    /// Downloads into a directory, unless nothing changed.
    async fn download(
        &self,
        url: &str,
        known: Option<&Validators>,
        tell: Tell<'_>,
    ) -> Result<Option<(tempfile::TempDir, image::registry::Downloaded)>> {
        let failed = |e: std::io::Error| Error::failed(format!("downloading {}", shown(url)), e);
        let directory = self.temporary().map_err(failed)?;
        let path = directory.path().join(ALONE);
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(MODE)).map_err(failed)?;
        let wanted = image::registry::WebFile { url, reach: &self.reach, known, limit: LARGEST };
        let come = self.registries.download(&wanted, &file, tell).await.map_err(|error| refused(&error))?;
        Ok(come.map(|come| (directory, come)))
    }

    fn temporary(&self) -> std::io::Result<tempfile::TempDir> {
        tempfile::tempdir_in(&self.directory)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Gives a file its place among those that are kept, whoever else has put the same there.
    fn keep(&self, directory: &tempfile::TempDir, digest: &Digest) -> Result<()> {
        let renamed = fs::rename(directory.path().join(ALONE), self.path(digest));
        renamed.map_err(|e| Error::failed("keeping what was downloaded", e))
    }

    fn note(&self, id: &str, record: Record) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("writing what is known of downloads", e);
        self.records.put_relaxed(id, &record).map_err(|e| failed(&e))?;
        self.bound(MOST_KEPT)
    }

    /// Removes what was used longest ago, until no more is kept than so many bytes.
    fn bound(&self, most: u64) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("removing what was downloaded", e);
        let mut items = self.records.list().map_err(|e| failed(&e))?.items;
        items.sort_by_key(|item| std::cmp::Reverse(item.value.used));
        let (mut kept, mut bytes) = (HashSet::new(), 0);
        for item in items {
            let Record { digest, size, .. } = item.value;
            if kept.contains(&digest) {
                continue;
            }
            bytes += size;
            if bytes <= most {
                kept.insert(digest);
                continue;
            }
            self.records.delete(&item.id).map_err(|e| failed(&e))?;
        }
        let listed = fs::read_dir(&self.directory).map_err(|e| failed(&e))?;
        for entry in listed {
            let entry = entry.map_err(|e| failed(&e))?;
            let digest = Digest::from_hex(&entry.file_name().to_string_lossy());
            if digest.is_ok_and(|digest| !kept.contains(&digest)) {
                remove(&entry.path()).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }
}

impl Keeps for WebFiles {
    fn kind(&self) -> CachedKind {
        CachedKind::Web
    }

    fn list(&self) -> Result<Vec<Cached>> {
        let items = self.records.list().map_err(|e| Error::failed("reading what is known of downloads", e))?.items;
        let mut seen = HashSet::new();
        let cached = |item: store::Item<Record>| Cached {
            id: item.id,
            kind: CachedKind::Web,
            what: format!("a file from the web, {}", item.value.digest),
            size: item.value.size,
            made: item.value.used,
            used: item.value.used,
            uses: 1,
            parents: Vec::new(),
            in_use: false,
            shared: !seen.insert(item.value.digest),
            parts: Vec::new(),
        };
        Ok(items.into_iter().map(cached).collect())
    }

    fn remove(&self, id: &str) -> Result<bool> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("removing what was downloaded", e);
        if self.records.get(id).map_err(|e| failed(&e))?.is_none() {
            return Ok(false);
        }
        self.records.delete(id).map_err(|e| failed(&e))?;
        // What no record names any more goes with it.
        self.bound(MOST_KEPT)?;
        Ok(true)
    }
}

/// Nobody but their owner reads downloaded files, unless `--chmod` says so.
pub(crate) const MODE: u32 = 0o600;

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn nothing(url: &str) -> Error {
    Error::failed(format!("downloading {}", shown(url)), "its server says that nothing changed, and was not asked that")
}

/// An address for people: without a password.
fn shown(url: &str) -> String {
    image::registry::without_password(url)
}

/// Why nothing came, with what to do about it.
fn refused(error: &RegistryError) -> Error {
    let hint = match error {
        RegistryError::Transport { cause: TransportCause::OutOfReach { .. }, .. } => {
            ": the daemon's build-allow-address says what builds may reach beside the open network"
        }
        _ => "",
    };
    Error::Invalid(format!("{error}{hint}"))
}
