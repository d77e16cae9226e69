//! `--cidfile`: a file with the id of the container that was made, for scripts.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::{Error, Result};

/// A new file, which is taken away again where it gets no id.
pub(super) struct IdFile {
    path: PathBuf,
    file: Option<File>,
}

impl IdFile {
    /// Makes the file, before there is anything to write into it: a container is not made where its id can't be told.
    pub(super) fn new(path: &Path) -> Result<IdFile> {
        match File::create_new(path) {
            Ok(file) => Ok(IdFile { path: path.to_owned(), file: Some(file) }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Usage(format!(
                "--cidfile {0}: the file is there already, perhaps of a container that runs. Remove it, or name another",
                path.display()
            ))),
            Err(error) => Err(Error::Io(format!("creating {} for --cidfile", path.display()), error)),
        }
    }

    /// Writes the id, without an end of line, as docker does.
    pub(super) fn write(mut self, id: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let written = file.write_all(id.as_bytes());
        written.map_err(Error::io(format!("writing the container's id {id} into {}", self.path.display())))
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_gets_no_id_is_taken_away_and_one_that_is_there_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("id");
        drop(IdFile::new(&path).expect("a file"));
        assert!(!path.exists());
        IdFile::new(&path).expect("a file").write("abc").expect("written");
        assert!(IdFile::new(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("an id"), "abc");
    }
}
