//! What QEMU has to complain about: in a file that nobody else sees, as its standard error would be the container's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::error::{Error, Result};

/// How many bytes at the end of all are looked at, and how many lines are told.
const TAIL: u64 = 2048;
const LINES: usize = 3;
const NAME: &str = "complaints";

/// See the [module](self).
pub(super) struct Complaints(File);

impl Complaints {
    /// An empty file in `scratch`, and what QEMU writes it by.
    pub(super) fn new(scratch: &Path) -> Result<(Self, File)> {
        let path = scratch.join(NAME);
        let failed = |source| Error::File { what: "QEMU's complaints", path: path.clone(), source };
        let written = OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        let read = File::open(&path).map_err(failed)?;
        Ok((Self(read), written))
    }

    /// The last ones, in one line; empty: there are none.
    pub(super) fn last(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = self.0.seek(SeekFrom::End(0)).unwrap_or_default();
        let read = self.0.seek(SeekFrom::Start(end.saturating_sub(TAIL)));
        // What can't be read is told by nobody.
        let _ = read.and_then(|_| (&self.0).take(TAIL).read_to_end(&mut bytes));
        one_line(&String::from_utf8_lossy(&bytes))
    }

    /// Adds them to what was tried in vain.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        match (error, self.last()) {
            (Error::Monitor { tried, why }, said) if !said.is_empty() => {
                Error::Monitor { tried, why: format!("{why}: {said}") }
            }
            (error, _) => error,
        }
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join("; ");
    // Some of it may be a guest's.
    last.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_last_lines_are_told_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let (mut complaints, mut written) = Complaints::new(directory.path()).unwrap();
        assert_eq!(complaints.last(), "");
        let monitor = || Error::Monitor { tried: "go on", why: "reset".to_owned() };
        assert_eq!(complaints.explain(monitor()).to_string(), "go on through QEMU's monitor: reset");
        write!(written, "{}\none\n\ntwo \x1b[1m\n  three\n", "much ".repeat(1000)).unwrap();
        assert_eq!(complaints.last(), "one; two ?[1m; three");
        assert!(complaints.explain(monitor()).to_string().ends_with("reset: one; two ?[1m; three"));
    }
}
