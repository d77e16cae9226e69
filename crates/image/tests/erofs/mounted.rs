//! File systems that are mounted for a test, and what is seen in them.

use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something that is mounted until this is dropped.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// An EROFS file; by a loop device, where the kernel takes no plain file (before Linux 6.12).
    pub(crate) fn erofs(file: &Path) -> Mounted {
        let place = tempfile::tempdir().unwrap();
        match rustix::mount::mount(file, place.path(), "erofs", MountFlags::RDONLY, None) {
            Err(Errno::NOTBLK) => {
                let mut mount = Command::new("mount");
                mount.args(["-t", "erofs", "-o", "loop,ro"]).arg(file).arg(place.path());
                assert!(mount.status().unwrap().success());
            }
            other => other.unwrap(),
        }
        Mounted(place)
    }

    /// Directories upon one another, the topmost first.
    pub(crate) fn overlay(lower: &[PathBuf]) -> Mounted {
        let place = tempfile::tempdir().unwrap();
        let lower: Vec<&[u8]> = lower.iter().map(|dir| dir.as_os_str().as_bytes()).collect();
        let options = [b"lowerdir=", &lower.join(&b':')[..], b",redirect_dir=off,metacopy=off"].concat();
        let options = CString::new(options).unwrap();
        rustix::mount::mount("overlay", place.path(), "overlay", MountFlags::RDONLY, options.as_c_str()).unwrap();
        Mounted(place)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// What is seen of a thing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Kind and permissions.
    mode: u32,
    owner: (u32, u32),
    /// Of all but directories.
    size: u64,
    device: u64,
    modified: (i64, i64),
    /// Names, of all but directories.
    links: u64,
    /// The first path of a thing of several names.
    first: Option<PathBuf>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    contents: Vec<u8>,
}

/// All that is seen below a directory, and its own look but for its time.
pub(crate) fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut firsts = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let at = root.join(&path);
        let meta = fs::symlink_metadata(&at).unwrap();
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort_by(|a, b| b.cmp(a));
            waiting.extend(names.into_iter().map(|name| path.join(name)));
        }
        let several = !meta.is_dir() && meta.nlink() > 1;
        let first = several.then(|| firsts.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone()).clone());
        let contents = match meta.file_type() {
            kind if kind.is_file() => fs::read(&at).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let is_root = path.as_os_str().is_empty();
        let one = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: if meta.is_dir() { 0 } else { meta.size() },
            device: meta.rdev(),
            modified: if is_root { (0, 0) } else { (meta.mtime(), meta.mtime_nsec()) },
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            first,
            attributes: attributes(&at),
            contents,
        };
        all.insert(path, one);
    }
    all
}

/// Extended attributes, but for those of security modules.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other.unwrap(),
    };
    let names =
        names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty() && *name != b"security.selinux");
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_vec(), value)
    };
    names.map(value).collect()
}

/// Says where two trees differ.
pub(crate) fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (seen(one), seen(other));
    let paths = |seen: &BTreeMap<PathBuf, Seen>| seen.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&one), paths(&other));
    for (path, is) in &one {
        let (is, was) = (is, &other[path]);
        assert!(is.contents == was.contents, "{}: other contents", path.display());
        assert_eq!(look(is), look(was), "{}", path.display());
    }
}

/// All but what is in it.
fn look(seen: &Seen) -> Seen {
    Seen { contents: Vec::new(), attributes: seen.attributes.clone(), first: seen.first.clone(), ..*seen }
}

/// The parts of a file that are no holes.
pub(crate) fn data(path: &Path) -> Vec<(u64, u64)> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY, Mode::empty()).unwrap();
    let (mut parts, mut at) = (Vec::new(), 0);
    while let Ok(begin) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        at = rustix::fs::seek(&file, SeekFrom::Hole(begin)).unwrap();
        parts.push((begin, at));
    }
    parts
}

/// What `fsck.erofs` says.
pub(crate) fn check(file: &Path) {
    let output = Command::new("fsck.erofs").arg("--extract").arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
