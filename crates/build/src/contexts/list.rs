//! What a client says of its files.

use image::tree;
use serde::{Deserialize, Serialize};

/// Something in a directory of the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The path below the directory.
    pub path: Vec<u8>,
    /// Twelve bits of permissions.
    pub mode: u32,
    /// What it is.
    pub what: What,
}

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A directory. What is in it comes behind it.
    Directory,
    /// A file.
    File(Stamp),
    /// A symbolic link, and what it says.
    Link(Vec<u8>),
    /// A pipe.
    Pipe,
    /// A device.
    Device {
        /// Of blocks, else of characters.
        block: bool,
        /// Its numbers, as the kernel has them in one.
        device: u64,
    },
}

/// What changes whenever a file does: whoever writes to it, or sets its time back, changes the time of its last change, which nobody can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Bytes.
    pub size: u64,
    /// When its contents were changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
    /// When anything of it was changed.
    pub changed: (i64, u32),
    /// Its number in its file system.
    pub inode: u64,
    /// The number of that.
    pub device: u64,
}

/// All of a directory, in the order in which it is walked: a directory before what it holds, names in the order of their bytes.
#[derive(Debug, Default)]
pub struct List {
    entries: Vec<Listed>,
    /// Bytes of all paths and links.
    bytes: usize,
    /// Directories that the present entry may be in, the innermost last: how long the path is, and the last name there.
    open: Vec<(usize, Vec<u8>)>,
}

/// Entries that a context may have.
const ENTRIES: usize = 2_000_000;
/// Bytes of all their paths and links.
const BYTES: usize = 512 << 20;
/// Bytes of a path, as the kernel has it.
const PATH: usize = 4096;
/// Directories above one another.
const DEPTH: usize = 512;

impl List {
    /// Adds what comes next; an error is one line for people.
    pub fn push(&mut self, entry: Listed) -> Result<(), String> {
        let refused = |why: &str| {
            Err(format!("{} of the build context {why}", String::from_utf8_lossy(&entry.path).escape_debug()))
        };
        self.bytes += entry.path.len() + if let What::Link(link) = &entry.what { link.len() } else { 0 };
        if self.entries.len() >= ENTRIES || self.bytes > BYTES {
            return refused(
                "is one too many: it has too many files for a build. Exclude what is not needed in .dockerignore",
            );
        }
        let (parent, name) = tree::split(&entry.path);
        if !is_name(name) || entry.path.len() >= PATH || entry.path.starts_with(b"/") {
            return refused("has a name that no file has");
        }
        if entry.mode & !0o7777 != 0 {
            return refused("has permissions that there are not");
        }
        if let What::Link(link) = &entry.what
            && (link.is_empty() || link.len() >= PATH || link.contains(&0))
        {
            return refused("is a link that says what no link does");
        }
        // The root directory is open from the begin.
        if self.open.is_empty() {
            self.open.push((0, Vec::new()));
        }
        let before = self.entries.last().map_or(&[][..], |entry| &entry.path);
        while let Some((length, _)) = self.open.last()
            && before.get(..*length) != Some(parent)
        {
            self.open.pop();
        }
        match self.open.last_mut() {
            Some((_, last)) if last.as_slice() < name => name.clone_into(last),
            Some(_) => return refused("comes out of its order"),
            None => return refused("is in no directory that was named before"),
        }
        if entry.what == What::Directory {
            if self.open.len() > DEPTH {
                return refused("lies too deep");
            }
            self.open.push((entry.path.len(), Vec::new()));
        }
        self.entries.push(entry);
        Ok(())
    }

    /// All of them.
    pub fn entries(&self) -> &[Listed] {
        &self.entries
    }

    pub(crate) fn into_entries(self) -> Vec<Listed> {
        self.entries
    }
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= 255 && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, what: What) -> Listed {
        Listed { path: path.into(), mode: 0o755, what }
    }

    fn listed(paths: &[(&str, bool)]) -> Result<List, String> {
        let mut list = List::default();
        for (path, directory) in paths {
            list.push(entry(path, if *directory { What::Directory } else { What::Pipe }))?;
        }
        Ok(list)
    }

    #[test]
    fn a_list_is_in_the_order_of_a_walk() {
        let good =
            [("a", true), ("a/b", true), ("a/b/c", false), ("a/d", false), ("a.b", false), ("e", true), ("f", false)];
        assert_eq!(listed(&good).expect("a list").entries().len(), good.len());
    }

    #[test]
    fn what_leads_out_or_comes_twice_is_refused() {
        for (paths, why) in [
            (&[("..", false)][..], "has a name"),
            (&[("/etc", false)], "has a name"),
            (&[("a", true), ("a/../b", false)], "in no directory"),
            (&[("a", true), ("a/..", false)], "has a name"),
            (&[("a/", false)], "has a name"),
            (&[("a", false), ("a/b", false)], "in no directory"),
            (&[("a", true), ("a", false)], "out of its order"),
            (&[("b", false), ("a", false)], "out of its order"),
            (&[("a", true), ("b", true), ("a/c", false)], "in no directory"),
            (&[("a\0", false)], "has a name"),
            (&[("", false)], "has a name"),
        ] {
            let said = listed(paths).expect_err("refused");
            assert!(said.contains(why), "{paths:?}: {said}");
        }
        let said = List::default().push(entry("a", What::Link(Vec::new()))).expect_err("refused");
        assert!(said.contains("is a link"), "{said}");
    }
}
