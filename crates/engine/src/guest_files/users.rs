//! Who is who in a container in a microVM, by its own files.

use std::io::Read;
use std::path::Path;

use super::contents::Contents;
use super::{Guest, KIND, REGULAR, root};
use crate::spec::UserDatabase;
use crate::{Error, Result};

/// How many bytes are read of each file.
const MOST: u64 = 1 << 20;

/// What the files say; `None`: one of them is in a volume of a container that does not run, which the host has.
pub(crate) fn user_database(guest: &mut Guest) -> Result<Option<UserDatabase>> {
    let (passwd, group) = (read(guest, "/etc/passwd")?, read(guest, "/etc/group")?);
    Ok(passwd.zip(group).map(|(passwd, group)| UserDatabase { passwd, group }))
}

/// A small file, without anything where there is none.
fn read(guest: &mut Guest, path: &str) -> Result<Option<String>> {
    let found = guest.resolve(&Path::new(path).join("."))?;
    if guest.is_covered(&found) {
        return Ok(None);
    }
    let at = root(&found);
    if guest.stat(&at)?.is_none_or(|stat| stat.mode & KIND != REGULAR) {
        return Ok(Some(String::new()));
    }
    let (mut contents, mut bytes) = (Contents::new(guest, &at), Vec::new());
    let read = contents.by_ref().take(MOST).read_to_end(&mut bytes);
    contents.end()?;
    read.map_err(|error| Error::step(format!("read the container's {path}"), error))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}
