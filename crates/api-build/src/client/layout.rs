//! A directory of the client's that is an OCI layout: the daemon reads files of it and writes some, by what they are and never by a path.

use build::LayoutFile;
use image::Digest;
use image::manifest::MAX_DOCUMENT;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A directory in the form of an OCI layout, which need not be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutDirectory(PathBuf);

impl LayoutDirectory {
    /// The one of this path.
    pub fn new(path: impl Into<PathBuf>) -> LayoutDirectory {
        LayoutDirectory(path.into())
    }

    fn path(&self, file: LayoutFile) -> PathBuf {
        match file {
            LayoutFile::Marker => self.0.join("oci-layout"),
            LayoutFile::Blob(digest) => self.0.join("blobs/sha256").join(digest.hex()),
        }
    }

    fn index(&self) -> PathBuf {
        self.0.join("index.json")
    }

    /// Opens a file. An error is one line for people.
    pub(crate) fn open(&self, file: LayoutFile) -> Result<File, String> {
        let path = self.path(file);
        found(&path)?.ok_or_else(|| format!("reading {}: it is not there", path.display()))
    }

    /// Opens the index, if there is one. An error is one line for people.
    pub(crate) fn open_index(&self) -> Result<Option<File>, String> {
        found(&self.index())
    }

    /// Puts an index in the place of the one of this digest, or of none: `false`, where there is another. An error is one line for people.
    pub(crate) fn replace_index(&self, former: Option<&Digest>, from: &mut impl Read) -> Result<bool, String> {
        let path = self.index();
        let failed = |e: io::Error| format!("writing {}: {e}", path.display());
        let mut index = Vec::new();
        from.take(MAX_DOCUMENT + 1).read_to_end(&mut index).map_err(failed)?;
        if index.len() as u64 > MAX_DOCUMENT {
            return Err(format!("writing {}: it would have more than {MAX_DOCUMENT} bytes", path.display()));
        }
        fs::create_dir_all(&self.0).map_err(failed)?;
        let directory = File::open(&self.0).map_err(failed)?;
        // Whoever else writes here does so, too. A file system may have no locks: then nothing tells two of one moment apart.
        let _ = directory.lock();
        let mut there = Vec::new();
        let there = match self.open_index()? {
            None => None,
            Some(file) => {
                let read = file.take(MAX_DOCUMENT + 1).read_to_end(&mut there);
                read.map_err(|e| format!("reading {}: {e}", path.display()))?;
                Some(Digest::of(&there))
            }
        };
        if there.as_ref() != former {
            return Ok(false);
        }
        write(&path, &mut &index[..]).map(|()| true)
    }

    /// Whether a blob of so many bytes is there.
    pub(crate) fn has(&self, blob: &Digest, size: u64) -> bool {
        let metadata = fs::metadata(self.path(LayoutFile::Blob(*blob)));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Keeps what comes, to its end, as a file. It has its name once it is complete. An error is one line for people.
    pub(crate) fn keep(&self, file: LayoutFile, from: &mut impl Read) -> Result<(), String> {
        write(&self.path(file), from)
    }
}

/// Opens a file, if it is there.
fn found(path: &Path) -> Result<Option<File>, String> {
    let failed = |e: io::Error| format!("reading {}: {e}", path.display());
    // Whoever opens a pipe waits for its other end.
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => File::open(path).map(Some).map_err(failed),
        Ok(_) => Err(format!("{} is no file", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn write(path: &Path, from: &mut impl Read) -> Result<(), String> {
    let mut written = || {
        let parent = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent)?;
        // As any file that is made: the user's mask takes away what others may not do.
        let mut made = tempfile::Builder::new();
        let mut made = made.prefix(".part-").permissions(Permissions::from_mode(0o666)).tempfile_in(parent)?;
        io::copy(from, made.as_file_mut())?;
        // A name is not to come to the disk before what it stands for.
        made.as_file().sync_data()?;
        made.persist(path).map_err(|e| e.error).map(drop)
    };
    written().map_err(|e| format!("writing {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_takes_the_place_of_the_one_that_was_meant() {
        let temp = tempfile::tempdir().expect("a directory");
        let layout = LayoutDirectory::new(temp.path().join("new"));
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        assert!(layout.open_index().expect("none").is_none());
        assert_eq!(layout.replace_index(Some(&one), &mut &b"two"[..]), Ok(false));
        assert_eq!(layout.replace_index(None, &mut &b"one"[..]), Ok(true));
        // Somebody else was faster.
        assert_eq!(layout.replace_index(None, &mut &b"two"[..]), Ok(false));
        assert_eq!(layout.replace_index(Some(&one), &mut &b"two"[..]), Ok(true));
        assert_eq!(
            layout.replace_index(Some(&two), &mut &vec![0; 5 << 20][..]).map_err(|why| why.contains("more than")),
            Err(true)
        );
        // What can't be read is not none.
        fs::remove_file(temp.path().join("new/index.json")).expect("removed");
        fs::create_dir(temp.path().join("new/index.json")).expect("something else");
        assert!(layout.open_index().is_err() && layout.replace_index(None, &mut &b"one"[..]).is_err());
    }

    #[test]
    fn a_file_has_its_name_once_it_is_complete() {
        struct Breaks;
        impl Read for Breaks {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let temp = tempfile::tempdir().expect("a directory");
        let layout = LayoutDirectory::new(temp.path().join("new/cache"));
        let digest = Digest::of(b"contents");
        let blob = LayoutFile::Blob(digest);
        assert!(!layout.has(&digest, 8) && layout.open(blob).is_err());
        layout.keep(blob, &mut (&b"cont"[..]).chain(Breaks)).expect_err("half of it");
        assert!(!layout.has(&digest, 8) && !layout.has(&digest, 4));
        assert_eq!(fs::read_dir(temp.path().join("new/cache/blobs/sha256")).expect("blobs").count(), 0);
        layout.keep(blob, &mut &b"contents"[..]).expect("all of it");
        assert!(layout.has(&digest, 8) && !layout.has(&digest, 9));
        let mut text = String::new();
        layout.open(blob).expect("a file").read_to_string(&mut text).expect("its contents");
        assert_eq!(text, "contents");
    }
}
