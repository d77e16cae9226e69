//! Further contexts that lie at addresses: commits, archives, single files.

use super::archive::{BEGINNING, address_of};
use super::settle::settle;
use crate::attest::Fetched;
use crate::dockerfile::AddSource;
use crate::files::Files;
use crate::ignore::Ignore;
use crate::remote::MODE;
use crate::request::Lender;
use crate::scratch::Directory;
use crate::solve::Builder;
use crate::{Error, NamedContext, Result};
use image::Compression;
use image::archive;
use rustix::fd::OwnedFd;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

/// What a file is called whose address says nothing of that.
const NAMELESS: &str = "file";

impl Builder {
    /// Fetches a further context: the files of a git repository or an archive, else the one file that lies there. `lender` has what a
    /// server asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the address is refused or there is nothing, or what is there leads out of itself.
    pub async fn fetch_named(&self, address: &str, lender: Option<&Arc<dyn Lender>>) -> Result<NamedContext> {
        let (files, origin) = match AddSource::parse(&address_of(address)) {
            AddSource::Git(source) => {
                let commit = self.git().look(&source, lender).await?;
                let checkout = self.git().fetch(&commit, false, lender).await?;
                let reading = tokio::task::spawn_blocking(move || settled(checkout.files)).await;
                (
                    reading.map_err(|e| Error::failed("opening a context", e))??.of_commit(Some(checkout.time)),
                    Fetched::commit(&commit.remote, &commit.id),
                )
            }
            AddSource::Url(url) => {
                let file = self.web().look(&url, None, &|_, _| ()).await?;
                let (directory, alone) = self.web().take(&file, &|_, _| ()).await?;
                let origin = Fetched::file(&file.url, &file.digest);
                let builder = self.clone();
                let reading =
                    tokio::task::spawn_blocking(move || builder.files_of(&directory.path().join(alone), &url));
                (reading.await.map_err(|e| Error::failed("opening a context", e))??, origin)
            }
            AddSource::Path(text) => {
                let text = image::registry::without_password(&text);
                return Err(Error::Invalid(format!("{text}: a context is at an address of http, https or git")));
            }
        };
        Ok(NamedContext::Files { files: Arc::new(files), origin: Some(origin) })
    }

    /// What an archive holds, or a file alone under its own name. Blocks.
    fn files_of(&self, path: &Path, url: &str) -> Result<Files> {
        let failed = |e: std::io::Error| Error::failed("opening a context", e);
        let file = File::open(path).map_err(failed)?;
        let mut first = Vec::new();
        (&file).take(BEGINNING).read_to_end(&mut first).map_err(failed)?;
        let directory = if Compression::of(&first) != Compression::None || archive::is_archive(&first[..]) {
            self.unpacked(first.as_slice().chain(file))?
        } else {
            let directory = self.directory().map_err(failed)?;
            let name = image::registry::file_name(url).unwrap_or_else(|| NAMELESS.to_owned());
            let own = directory.path().join(name);
            // What was downloaded stays for others.
            fs::copy(path, &own).map_err(failed)?;
            fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(MODE)).map_err(failed)?;
            directory
        };
        settled(directory)
    }
}

/// All that is in a directory, with one time. Blocks.
fn settled(directory: Directory) -> Result<Files> {
    let failed = |e: std::io::Error| Error::failed("opening a context", e);
    let opened = OwnedFd::from(File::open(directory.path()).map_err(failed)?);
    settle(&opened, &Ignore::default())?;
    Files::of_context(directory, Ignore::default()).map_err(failed)
}
