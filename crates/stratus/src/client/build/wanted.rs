//! `--iidfile` and `--metadata-file`: files that are to say what was built.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::super::archives::{Target, is_same_file};
use super::super::error::{Error, Result};
use super::super::transfer::blocking;

/// A file that is to say what was built. That it can be written is known before anything is done.
pub(super) struct Wanted(Place);

enum Place {
    Target(Target),
    /// It can be opened once somebody reads it, who may only do so when all is built.
    Pipe(PathBuf),
}

/// Refuses one file for both.
pub(super) fn apart(id: Option<&Path>, metadata: Option<&Path>) -> Result<()> {
    match (id, metadata) {
        (Some(id), Some(metadata)) if is_same_file(id, metadata) => Err(Error::Usage(format!(
            "--iidfile and --metadata-file both go to {}: give each a file of its own",
            id.display()
        ))),
        _ => Ok(()),
    }
}

impl Wanted {
    /// What `flag` asks for. Takes away what an earlier build wrote, which is not of this one where it fails.
    pub(super) fn new(flag: &str, path: &Path) -> Result<Wanted> {
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Ok(Wanted(Place::Pipe(path.to_owned())));
        }
        let told = |error: Error| Error::Failed(format!("{flag}: {error}"));
        let target = Target::new(Some(path)).map_err(told)?;
        target.remove_former().map_err(told)?;
        Ok(Wanted(Place::Target(target)))
    }

    pub(super) async fn write(self, text: String) -> Result<()> {
        let write = move || {
            let mut target = match self.0 {
                Place::Target(target) => target,
                Place::Pipe(path) => Target::new(Some(&path))?,
            };
            target.write(text.as_bytes())?;
            target.finish()
        };
        blocking(write).await
    }
}
