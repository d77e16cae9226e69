//! Where the directories of root file systems are made, before they go where they stay.

use crate::reaper::Reaper;
use crate::spread::spread;
use crate::{Error, Result, content};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many directories share the work. Their groups of blocks are half of those that a file system of 256 GB has, sixteen
/// taken as one.
const PLACES: usize = 64;

/// Directories, each in a group of blocks of its own (see [`spread`]), in which root file systems are made in turn. What is made
/// in one lies in its group: so they are spread over the disk, and the search through all of its groups is made once for each of
/// these, and not for each root file system.
#[derive(Debug)]
pub(crate) struct Birthplaces {
    parent: PathBuf,
    next: AtomicUsize,
}

impl Birthplaces {
    /// Makes them ready in the directory of all images, and removes what was not born.
    pub(crate) fn open(root: &Path, reaper: &Reaper) -> Result<Birthplaces> {
        let parent = root.join("begun");
        let opened = fs::create_dir_all(&parent).and_then(|()| File::open(&parent));
        spread(&opened.map_err(|e| Error::io(format!("making {}", parent.display()), e))?);
        for place in content::list(&parent)? {
            // It has no directory below it, as nearly always.
            if place.metadata().is_ok_and(|meta| meta.nlink() == 2) {
                continue;
            }
            for left in content::list(&place.path())? {
                reaper.discard(&left.path())?;
            }
        }
        Ok(Birthplaces { parent, next: AtomicUsize::new(0) })
    }

    /// Makes a directory with what `fill` puts into it, and has it appear as `to` when it is whole.
    pub(crate) fn make(&self, to: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let place = self.parent.join((self.next.fetch_add(1, Ordering::Relaxed) % PLACES).to_string());
        let made = place.join(to.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        match fs::create_dir(&made) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&place)?;
                fs::create_dir(&made)?;
            }
            other => other?,
        }
        let filled = fill(&made).and_then(|()| fs::rename(&made, to));
        if filled.is_err() {
            let _ = fs::remove_dir_all(&made);
        }
        filled
    }
}
