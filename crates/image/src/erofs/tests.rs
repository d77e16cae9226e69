//! Layers of several parts, as the kernel shows their files.

use super::attributes::{Of, is_opaque, read};
use super::write;
use crate::{Digest, pack};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// All that is below a directory, in order: what it is, and whether it hides what lies below it.
fn shown(root: &Path, below: &str, all: &mut Vec<String>) {
    let mut names: Vec<String> = fs::read_dir(root.join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for name in names {
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let kind = fs::symlink_metadata(root.join(&path)).unwrap().file_type();
        if kind.is_dir() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let opened = rustix::fs::openat(CWD, root.join(&path), flags, Mode::empty()).unwrap();
            all.push(format!("{path}/{}", if is_opaque(&opened).unwrap() { " opaque" } else { "" }));
            shown(root, &path, all);
        } else if kind.is_char_device() {
            all.push(format!("{path} whiteout"));
        } else if kind.is_socket() {
            all.push(format!("{path} socket"));
        } else {
            all.push(path);
        }
    }
}

#[test]
fn parts_come_to_what_they_show_together() {
    let temp = tempfile::tempdir().unwrap();
    let (upper, lower) = (temp.path().join("upper"), temp.path().join("lower"));
    let file = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    };
    let whiteout = |path: &Path| {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    };
    let opaque = |path: &Path| {
        fs::create_dir_all(path).unwrap();
        rustix::fs::lsetxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    };
    for path in ["a/x", "a/y", "b", "c/z", "c/d/e", "o/q", "only/x", "t"] {
        file(&lower.join(path));
    }
    opaque(&lower.join("o"));
    whiteout(&lower.join("w"));
    for path in ["a/x2", "b/f", "c/w", "c/d/g", "o/r", "o/in/it", "t", "w/again"] {
        file(&upper.join(path));
    }
    opaque(&upper.join("a"));
    for path in ["c/z", "o/q2", "o/in/it2"] {
        whiteout(&upper.join(path));
    }
    drop(UnixListener::bind(upper.join("socket")).unwrap());

    let image = temp.path().join("image");
    let output = File::options().read(true).write(true).create_new(true).open(&image).unwrap();
    let parts = vec![pack::open(&upper).unwrap(), pack::open(&lower).unwrap()];
    let (_, size) = write::write(parts, output, &Digest::of(b"")).unwrap();
    assert_eq!(fs::metadata(&image).unwrap().len(), size);
    let place = temp.path().join("place");
    fs::create_dir(&place).unwrap();
    match rustix::mount::mount(&image, &place, "erofs", MountFlags::RDONLY, None) {
        // Only by a loop device, before Linux 6.12: the other tests do that.
        Err(rustix::io::Errno::NOTBLK) => return,
        other => other.unwrap(),
    }
    let mut all = Vec::new();
    shown(&place, "", &mut all);
    rustix::mount::unmount(&place, UnmountFlags::DETACH).unwrap();
    let expected = [
        "a/ opaque",
        "a/x2",
        "b/ opaque",
        "b/f",
        "c/",
        "c/d/",
        "c/d/e",
        "c/d/g",
        "c/w",
        "c/z whiteout",
        // What would be deleted in it is not there any more.
        "o/ opaque",
        "o/in/",
        "o/in/it",
        "o/q",
        "o/r",
        "only/",
        "only/x",
        "socket socket",
        "t",
        "w/ opaque",
        "w/again",
    ];
    assert_eq!(all, expected);
}

#[test]
fn attributes_of_what_has_none_are_none() {
    let file = rustix::fd::OwnedFd::from(tempfile::tempfile().unwrap());
    assert!(read(Of::Open(&file)).unwrap().is_empty());
}
