//! A directory of the client's that is an OCI layout: the daemon reads files of it and writes some, by what they are and never by a path.

use build::LayoutFile;
use image::Digest;
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
            LayoutFile::Index => self.0.join("index.json"),
            LayoutFile::Blob(digest) => self.0.join("blobs/sha256").join(digest.hex()),
        }
    }

    /// Opens a file. An error is one line for people.
    pub(crate) fn open(&self, file: LayoutFile) -> Result<File, String> {
        let path = self.path(file);
        let failed = |e: io::Error| format!("reading {}: {e}", path.display());
        // Whoever opens a pipe waits for its other end.
        match fs::metadata(&path).map_err(failed)?.is_file() {
            true => File::open(&path).map_err(failed),
            false => Err(format!("{} is no file", path.display())),
        }
    }

    /// Whether a blob of so many bytes is there.
    pub(crate) fn has(&self, blob: &Digest, size: u64) -> bool {
        let metadata = fs::metadata(self.path(LayoutFile::Blob(*blob)));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    /// Keeps what comes, to its end, as a file. It has its name once it is complete. An error is one line for people.
    pub(crate) fn keep(&self, file: LayoutFile, from: &mut impl Read) -> Result<(), String> {
        let path = self.path(file);
        let mut write = || {
            let parent = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(parent)?;
            // As any file that is made: the user's mask takes away what others may not do.
            let mut made = tempfile::Builder::new();
            let mut made = made.prefix(".part-").permissions(Permissions::from_mode(0o666)).tempfile_in(parent)?;
            io::copy(from, made.as_file_mut())?;
            made.persist(&path).map_err(|e| e.error).map(drop)
        };
        write().map_err(|e| format!("writing {}: {e}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
