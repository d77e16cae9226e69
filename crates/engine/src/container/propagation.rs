//! What propagation a bind mount can have: no more than the mount that its source lies on.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::{Error, Result};

/// Checks that a bind's source lies on a mount that passes on, or takes over, as `propagation` wants it.
pub(super) fn check(source: &Path, propagation: &str) -> Result<()> {
    let fits: fn(&Mount) -> bool = match propagation {
        "shared" | "rshared" => |mount| mount.shared,
        "slave" | "rslave" => |mount| mount.shared || mount.follows,
        _ => return Ok(()),
    };
    let mount = mount_of(source)?;
    if fits(&mount) {
        return Ok(());
    }
    let wanted = if propagation.ends_with("shared") { "shared" } else { "shared or slave" };
    let (source, place) = (source.display(), mount.place.display());
    Err(Error::system(format!("path {source} is mounted on {place} but it is not a {wanted} mount")))
}

struct Mount {
    place: PathBuf,
    /// It passes on what is mounted on it, and takes over what its peers pass on.
    shared: bool,
    /// It takes over what another one passes on.
    follows: bool,
}

/// The mount that a path lies on.
fn mount_of(path: &Path) -> Result<Mount> {
    const TABLE: &str = "/proc/self/mountinfo";
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|error| Error::step(format!("look at the mount source {}", path.display()), error))?;
    let table = std::fs::read(TABLE).map_err(|error| Error::step(format!("read {TABLE}"), error))?;
    let mount = table.split(|byte| *byte == b'\n').find_map(|line| parse(line, found.stx_mnt_id));
    mount.ok_or_else(|| Error::system(format!("could not find the mount of {} in {TABLE}", path.display())))
}

/// A line of `/proc/self/mountinfo` (proc(5)), if it is of this mount: the number, four more fields, the place, options,
/// then as many fields about propagation as there are, ended by a lone `-`.
fn parse(line: &[u8], wanted: u64) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?;
    if id.parse() != Ok(wanted) {
        return None;
    }
    let place = unescaped(fields.nth(3)?);
    let propagation: Vec<&[u8]> = fields.skip(1).take_while(|field| *field != b"-").collect();
    let any = |name: &[u8]| propagation.iter().any(|field| field.starts_with(name));
    Some(Mount { place, shared: any(b"shared:"), follows: any(b"master:") })
}

/// The kernel writes blanks and backslashes in octal.
fn unescaped(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                out.push(escaped);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_kernel_writes_them() {
        let line = br"98 2 0:41 / /a\040b rw,relatime shared:7 master:3 propagate_from:2 - tmpfs none rw,size=4k";
        let mount = parse(line, 98).unwrap();
        assert_eq!((mount.place, mount.shared, mount.follows), (PathBuf::from("/a b"), true, true));
        let mount = parse(b"21 20 0:5 / /proc rw - proc shared:1 rw", 21).unwrap();
        assert_eq!((mount.place, mount.shared, mount.follows), (PathBuf::from("/proc"), false, false));
        assert!(parse(line, 9).is_none() && parse(b"98 2", 98).is_none() && parse(b"", 0).is_none());
    }

    #[test]
    fn the_mount_of_a_path() {
        assert_eq!(mount_of(Path::new("/proc/self")).unwrap().place, PathBuf::from("/proc"));
        assert!(mount_of(Path::new("/not/there")).is_err());
        assert!(check(Path::new("/proc"), "rprivate").is_ok());
    }
}
