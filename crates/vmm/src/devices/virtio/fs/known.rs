//! What virtiofsd says that it knows of a guest, as far as it has to be understood here: the state of its migrations, in versions 1 and 2.
//!
//! Two things of it are of use. A file is held against what it was by its handle (name_to_handle_at(2)), so that one that took its place is not taken for it;
//! but the root, a directory in memory that each machine has for itself, is another one wherever somebody goes on, and must not be held against anything. And
//! how many files there are says how long it may take to look them all up.

use serde::Deserialize;
use std::ops::Range;

/// The newest version that is understood; they count from 0.
const NEWEST: u32 = 1;

/// What is of use of it.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    /// How many files and directories are looked up, or opened.
    pub(super) files: usize,
    /// All that are looked for have handles, but the root: releases before they were kept had none.
    pub(super) has_handles: bool,
    /// Where the root's handle is.
    root: Option<Range<usize>>,
}

/// A file or directory, but for the handle that follows: what is found there has to have that, if there is one.
#[derive(Deserialize)]
struct Node<'a> {
    _number: u64,
    _references: u64,
    #[serde(borrow)]
    location: Location<'a>,
}

/// Where one is found.
#[derive(Deserialize)]
#[expect(dead_code, reason = "most of it is read over")]
enum Location<'a> {
    Root,
    Below { parent: u64, name: &'a str },
    Nowhere,
    BelowRoot { path: &'a str },
    ByHandle(#[serde(borrow)] Handle<'a>),
}

#[derive(Deserialize)]
struct Handle<'a> {
    _mount: u64,
    _kind: i32,
    _bytes: &'a [u8],
}

/// What is open.
#[derive(Deserialize)]
struct Open {
    _number: u64,
    _node: u64,
    _source: Source,
}

/// How it is opened again.
#[derive(Deserialize)]
enum Source {
    Flags(#[expect(dead_code, reason = "it is read over")] i32),
}

/// What is read, from its beginning.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next<T: Deserialize<'a>>(&mut self) -> Result<T, String> {
        let read = postcard::take_from_bytes(&self.bytes[self.at..]);
        let (value, rest) =
            read.map_err(|_| "what a file server says that it knows is in no form that is understood here".to_owned())?;
        self.at = self.bytes.len() - rest.len();
        Ok(value)
    }
}

impl Known {
    /// # Errors
    /// It is in another form.
    pub(super) fn read(bytes: &[u8]) -> Result<Known, String> {
        let mut reader = Reader { bytes, at: 0 };
        let version: u32 = reader.next()?;
        if version > NEWEST {
            return Err(format!(
                "a file server says what it knows in version {}, which is not known here",
                version + 1
            ));
        }
        let nodes: u64 = reader.next()?;
        let (mut root, mut has_handles) = (None, true);
        for _ in 0..nodes {
            let node: Node<'_> = reader.next()?;
            let start = reader.at;
            let handle = reader.next::<Option<Handle<'_>>>()?;
            match node.location {
                Location::Root => root = Some(start..reader.at),
                // It is an error to the guest, whatever has its name.
                Location::Nowhere => {}
                _ => has_handles &= handle.is_some(),
            }
        }
        // The number of the next one.
        reader.next::<u64>()?;
        let open: u64 = reader.next()?;
        for _ in 0..open {
            reader.next::<Open>()?;
        }
        // Each of them has some bytes.
        Ok(Known { files: (nodes + open) as usize, has_handles, root })
    }
}

/// The same, with a root that is held against nothing.
///
/// # Errors
/// It is in another form.
pub(super) fn with_any_root(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    if let Some(handle) = Known::read(&bytes)?.root {
        // There is none.
        bytes.splice(handle, [0]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Serialize;

    #[derive(Serialize)]
    enum Place {
        Root,
        Below { parent: u64, name: &'static str },
        Nowhere,
    }

    type Of = Option<(u64, i32, &'static [u8])>;

    fn state(version: u32, root: Of) -> Vec<u8> {
        state_with(version, root, Some((300, -1, b"file")))
    }

    fn state_with(version: u32, root: Of, file: Of) -> Vec<u8> {
        let nodes = [
            (2u64, 1u64, Place::Below { parent: 1, name: "file" }, file),
            (1, 200, Place::Root, root),
            (3, 1, Place::Nowhere, None),
        ];
        // The next number, two that are open, and what is of no use here.
        let open = [(7u64, 2u64, 0u32, 2i32), (8, 2, 0, -5)];
        postcard::to_stdvec(&(version, &nodes[..], 4u64, &open[..], "rest")).unwrap()
    }

    #[test]
    fn of_the_root_alone_the_handle_goes() {
        let whole = state(1, Some((301, 5, b"root")));
        assert_eq!(Known::read(&whole).unwrap().files, 5);
        assert_eq!(with_any_root(whole).unwrap(), state(1, None));
        assert_eq!(with_any_root(state(0, None)).unwrap(), state(0, None));
        assert!(Known::read(&state(2, None)).unwrap_err().contains("version 3"));
    }

    #[test]
    fn what_was_saved_before_handles_were_kept_is_told() {
        for (handle, has_handles) in [(Some((300, 1, &b"file"[..])), true), (None, false)] {
            let known = Known::read(&state_with(1, None, handle)).unwrap();
            assert_eq!(known.has_handles, has_handles);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes: Vec<u8>) {
            if let Ok(changed) = with_any_root(bytes) {
                prop_assert!(Known::read(&changed).is_ok());
            }
        }

        #[test]
        fn so_is_what_was_damaged(at: prop::sample::Index, to: u8) {
            let mut bytes = state(1, Some((301, 5, b"root")));
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = with_any_root(bytes);
        }
    }
}
