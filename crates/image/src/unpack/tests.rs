use super::*;
use crate::tar::{TarWriter, Time};
use proptest::prelude::*;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// A directory to unpack into, beside things that must not change.
struct Stage {
    temp: tempfile::TempDir,
}

impl Stage {
    fn new() -> Stage {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("outside/dir")).unwrap();
        std::fs::write(temp.path().join("outside/file"), "sentinel").unwrap();
        std::fs::create_dir(temp.path().join("root")).unwrap();
        Stage { temp }
    }

    fn root(&self) -> std::path::PathBuf {
        self.temp.path().join("root")
    }

    fn unpack_with(&self, archive: &[u8], change: impl FnOnce(&mut Options<'_>)) -> Result<Unpacked> {
        let limits = UnpackLimits::default();
        let mut options = Options {
            whiteouts: Whiteouts::Overlay,
            limits: &limits,
            base: b"",
            below: None,
            owner: None,
            ids: None,
            keep_kinds: false,
            keep_top: false,
            packed: None,
        };
        change(&mut options);
        unpack(std::fs::File::open(self.root()).unwrap().as_fd(), archive, &options)
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked> {
        self.unpack_with(archive, |_| {})
    }

    /// Everything beside the root, with what a write or a change of owner or mode would show.
    fn outside(&self) -> Vec<String> {
        let look = |path: &Path| {
            let meta = std::fs::symlink_metadata(path).unwrap();
            format!("{} {:o} {} {} {}", path.display(), meta.mode(), meta.uid(), meta.mtime_nsec(), meta.nlink())
        };
        let mut seen: Vec<String> =
            ["outside", "outside/dir", "outside/file"].iter().map(|p| look(&self.temp.path().join(p))).collect();
        let names = |dir: &Path| {
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        seen.push(std::fs::read_to_string(self.temp.path().join("outside/file")).unwrap());
        for dir in ["", "outside", "outside/dir"] {
            let mut names = names(&self.temp.path().join(dir));
            names.sort();
            seen.extend(names);
        }
        seen
    }
}

fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, contents) in entries {
        let mut entry = entry.clone();
        entry.size = contents.len() as u64;
        writer.append_file(&entry, &mut &contents[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn file(path: &str) -> Entry {
    Entry::new(path, Kind::File, 0o644)
}

fn dir(path: &str) -> Entry {
    Entry::new(path, Kind::Directory, 0o755)
}

fn link(path: &str, to: &str) -> Entry {
    Entry { link: to.into(), ..Entry::new(path, Kind::Symlink, 0o777) }
}

fn hard(path: &str, to: &str) -> Entry {
    Entry { link: to.into(), ..Entry::new(path, Kind::HardLink, 0o644) }
}

fn is_whiteout(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value).is_ok_and(|n| &value[..n] == b"y")
}

#[test]
fn owners_modes_times_and_attributes_arrive() {
    let stage = Stage::new();
    let mut program = file("usr/bin/sudo");
    (program.mode, program.uid, program.gid) = (0o4755, 3_000_000, 70_000);
    program.mtime = Time { seconds: 1_000_000_000, nanoseconds: 0 };
    // CAP_NET_RAW as a file's capability, version 2.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
    let ping = Entry {
        xattrs: vec![
            (b"security.capability".to_vec(), capability.clone()),
            (b"user.note".to_vec(), b"x".to_vec()),
            (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        ],
        ..file("usr/bin/ping")
    };
    let tmp = Entry { mode: 0o1777, mtime: Time { seconds: 77, nanoseconds: 0 }, ..dir("tmp") };
    let done = stage.unpack(&archive(&[(tmp, b""), (program, b"#!"), (ping, b"elf"), (file("tmp/x"), b"")])).unwrap();
    assert_eq!(done, Unpacked { file_bytes: 5, entries: 4, says_top: false });
    let sudo = std::fs::metadata(stage.root().join("usr/bin/sudo")).unwrap();
    assert_eq!(
        (sudo.mode() & 0o7777, sudo.uid(), sudo.gid(), sudo.mtime()),
        (0o4755, 3_000_000, 70_000, 1_000_000_000)
    );
    let tmp = std::fs::metadata(stage.root().join("tmp")).unwrap();
    assert_eq!((tmp.mode() & 0o7777, tmp.mtime()), (0o1777, 77), "a directory's time survives what is put into it");
    let ping = stage.root().join("usr/bin/ping");
    let mut value = [0; 64];
    let n = rustix::fs::lgetxattr(&ping, "security.capability", &mut value).unwrap();
    assert_eq!(&value[..n], capability);
    assert!(rustix::fs::lgetxattr(&ping, "trusted.overlay.redirect", &mut value).is_err());
    assert_eq!(
        std::fs::metadata(stage.root().join("usr")).unwrap().mode() & 0o7777,
        0o755,
        "parents that were not listed"
    );
    assert_eq!(std::fs::metadata(stage.root().join("usr")).unwrap().mtime(), 1_000_000_000, "the same on another day");
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let stage = Stage::new();
    stage
        .unpack(&archive(&[
            (dir("etc"), b""),
            (file("etc/.wh.passwd"), b""),
            (dir("var"), b""),
            (file("var/new"), b"1"),
            (file("var/.wh..wh..opq"), b""),
            (file(".wh..wh.plnk"), b""),
            (file(".wh.replaced"), b""),
            (dir("replaced"), b""),
            (dir("kept"), b""),
            (file("kept/file"), b""),
            (file(".wh.kept"), b""),
            (file("new-file"), b"new"),
            (file(".wh.new-file"), b""),
        ]))
        .unwrap();
    let root = stage.root();
    assert!(is_whiteout(&root.join("etc/passwd")));
    assert!(is_opaque(&root.join("var")) && root.join("var/new").exists());
    assert!(!root.join(".wh..wh.plnk").exists());
    assert!(is_opaque(&root.join("replaced")), "what is deleted and made again does not merge");
    assert!(is_opaque(&root.join("kept")) && root.join("kept/file").exists(), "a whiteout hides lower layers only");
    assert_eq!(std::fs::read(root.join("new-file")).unwrap(), b"new");
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh.."] {
        let error = Stage::new().unpack(&archive(&[(file(name), b"")])).unwrap_err();
        assert!(matches!(error, Error::HostileEntry { .. }), "{name}: {error}");
    }
}

#[test]
fn whiteouts_are_names_like_others_elsewhere() {
    let stage = Stage::new();
    stage.unpack_with(&archive(&[(file(".wh.x"), b"1")]), |o| o.whiteouts = Whiteouts::Verbatim).unwrap();
    let whiteout = Entry { kind: Kind::CharDevice { major: 0, minor: 0 }, ..file("hidden") };
    let refused = stage.unpack_with(&archive(&[(whiteout, b"")]), |o| o.whiteouts = Whiteouts::Verbatim);
    assert!(matches!(refused, Err(Error::HostileEntry { .. })), "{refused:?}");
    assert!(stage.root().join(".wh.x").exists());
}

#[test]
fn nothing_leads_out() {
    let attempts: Vec<Vec<(Entry, &[u8])>> = vec![
        vec![(file("../outside/file"), b"bad")],
        vec![(file("/../outside/file"), b"bad")],
        vec![(file("a/../../outside/file"), b"bad")],
        vec![(link("out", "../outside"), b""), (file("out/file"), b"bad")],
        vec![(link("out", "../outside/file"), b""), (file("out"), b"bad")],
        vec![
            (link("out", "../outside/file"), b""),
            (hard("mine", "out/../../outside/file"), b""),
            (file("mine"), b"bad"),
        ],
        vec![(link("out", "../outside"), b""), (hard("mine", "out/file"), b"")],
        vec![(hard("mine", "../outside/file"), b"")],
        vec![(link("out", "../outside"), b""), (file("out/.wh.file"), b"")],
        vec![(link("out", "../outside"), b""), (file("out/.wh..wh..opq"), b"")],
        vec![(link("out", "../outside/dir"), b""), (Entry { mode: 0o777, uid: 5, ..dir("out") }, b"")],
        vec![(link("proc", "/proc/self/root"), b""), (file("proc/etc/bad"), b"bad")],
        vec![(link(".", "../outside"), b""), (file("file"), b"bad")],
        vec![
            (dir("d"), b""),
            (link("d/up", "../../outside"), b""),
            (dir("d/up/dir"), b""),
            (Entry { mode: 0o4777, ..file("d/up/dir/x") }, b"bad"),
        ],
    ];
    for attempt in attempts {
        let stage = Stage::new();
        let before = stage.outside();
        let _ = stage.unpack(&archive(&attempt));
        assert_eq!(stage.outside(), before, "{attempt:?}");
    }
}

#[test]
fn links_that_stay_inside_work() {
    let stage = Stage::new();
    stage
        .unpack(&archive(&[
            (dir("usr/bin"), b""),
            (link("bin", "/usr/bin"), b""),
            (file("bin/sh"), b"shell"),
            (hard("usr/bin/bash", "bin/sh"), b""),
            (link("dangling", "/nowhere"), b""),
        ]))
        .unwrap();
    assert_eq!(std::fs::read(stage.root().join("usr/bin/bash")).unwrap(), b"shell");
    assert_eq!(std::fs::metadata(stage.root().join("usr/bin/sh")).unwrap().nlink(), 2);
    assert_eq!(std::fs::read_link(stage.root().join("dangling")).unwrap(), Path::new("/nowhere"));
}

#[test]
fn the_later_of_two_entries_wins() {
    let stage = Stage::new();
    stage
        .unpack(&archive(&[
            (file("a"), b"first, and longer"),
            (file("a"), b"second"),
            (dir("b"), b""),
            (file("b/inside"), b""),
            (file("b"), b"file now"),
            (link("c", "a"), b""),
            (file("c"), b"no longer a link"),
            (file("d"), b""),
            (dir("d"), b""),
            (file("d/inside"), b"1"),
            (Entry { mode: 0o700, ..dir("d") }, b""),
            (hard("a", "a"), b""),
        ]))
        .unwrap();
    let root = stage.root();
    assert_eq!(std::fs::read(root.join("a")).unwrap(), b"second");
    assert_eq!(std::fs::read(root.join("b")).unwrap(), b"file now");
    assert_eq!(std::fs::read(root.join("c")).unwrap(), b"no longer a link");
    assert_eq!(std::fs::read(root.join("d/inside")).unwrap(), b"1", "a directory that comes twice keeps its contents");
    assert_eq!(std::fs::metadata(root.join("d")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn devices_pipes_and_sparse_files_arrive() {
    let stage = Stage::new();
    let mut sparse = file("sparse");
    sparse.mode = 0o600;
    stage
        .unpack(&archive(&[
            (Entry::new("null", Kind::CharDevice { major: 1, minor: 3 }, 0o666), b""),
            (Entry::new("disk", Kind::BlockDevice { major: 259, minor: 300 }, 0o660), b""),
            (Entry::new("pipe", Kind::Fifo, 0o622), b""),
        ]))
        .unwrap();
    let look = |name: &str| std::fs::symlink_metadata(stage.root().join(name)).unwrap();
    assert_eq!((look("null").rdev(), look("null").permissions().mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    assert_eq!(look("disk").rdev(), rustix::fs::makedev(259, 300));
    assert!(look("pipe").file_type().is_fifo());

    let holes = std::fs::File::create(stage.temp.path().join("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"middle", 1 << 20).unwrap();
    holes.set_len(8 << 20).unwrap();
    let tar = std::process::Command::new("tar")
        .arg("-C")
        .arg(stage.temp.path())
        .args(["-S", "-cf", "-", "holes"])
        .output()
        .unwrap();
    let done = stage.unpack(&tar.stdout).unwrap();
    assert!(done.file_bytes < 1 << 16);
    let (there, here) =
        (std::fs::read(stage.root().join("holes")).unwrap(), std::fs::read(stage.temp.path().join("holes")).unwrap());
    assert!(there == here && look("holes").blocks() < 100);
}

#[test]
fn limits_name_the_entry() {
    let bomb = archive(&[(file("small"), b"1"), (file("bomb"), &[0; 100_000])]);
    let small = UnpackLimits { bytes: 50_000, ..UnpackLimits::default() };
    let stage = Stage::new();
    let limited = |limits: UnpackLimits, archive: &[u8]| {
        stage.unpack_with(archive, |o| o.limits = Box::leak(Box::new(limits))).unwrap_err().to_string()
    };
    assert!(limited(small, &bomb).contains("\"bomb\": the size of a file exceeds the limit of 50000"));
    let deep = "d/".repeat(600);
    assert!(limited(UnpackLimits::default(), &archive(&[(dir(&deep), b"")])).contains("directories above one another"));
    let few = UnpackLimits { entries: 1, ..UnpackLimits::default() };
    assert!(limited(few, &bomb).contains("\"bomb\": the number of entries"));
    let many: Vec<_> = (0..60).map(|i| (file(&format!("f{i}")), &[0u8; 1000][..])).collect();
    let small = UnpackLimits { bytes: 50_000, ..UnpackLimits::default() };
    assert!(limited(small, &archive(&many)).contains("uncompressed bytes"));
    // Directories are remembered to the end, and a name may have thousands of bytes.
    let long = "n".repeat(200);
    let named: Vec<_> = (0..10).map(|i| (dir(&format!("{long}{i}")), &b""[..])).collect();
    let little = || UnpackLimits { names: 2000, ..UnpackLimits::default() };
    assert!(
        limited(little(), &archive(&named)).contains("the memory for names of directories exceeds the limit of 2000")
    );
    // The same one again takes no more, and one that is replaced takes none.
    let again: Vec<_> = (0..30).map(|_| (dir(&long), &b""[..])).collect();
    Stage::new().unpack_with(&archive(&again), |o| o.limits = Box::leak(Box::new(little()))).unwrap();
    let replaced: Vec<_> = (0..30).flat_map(|_| [(dir(&long), &b""[..]), (file(&long), &b""[..])]).collect();
    Stage::new().unpack_with(&archive(&replaced), |o| o.limits = Box::leak(Box::new(little()))).unwrap();
}

#[test]
fn copying_into_a_container_keeps_kinds_apart() {
    let stage = Stage::new();
    std::fs::create_dir_all(stage.root().join("app/dir")).unwrap();
    std::fs::write(stage.root().join("app/file"), "").unwrap();
    std::os::unix::fs::symlink("/app/dir", stage.root().join("app/link")).unwrap();
    let cp = |entries: &[(Entry, &[u8])]| {
        stage.unpack_with(&archive(entries), |o| {
            (o.base, o.keep_kinds, o.keep_top, o.whiteouts) = (b"app", true, true, Whiteouts::Verbatim);
        })
    };
    let reason = |result: Result<Unpacked>| match result.unwrap_err() {
        Error::Path { reason, .. } => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(cp(&[(file("dir"), b"")])), PathReason::DirectoryInTheWay);
    assert_eq!(reason(cp(&[(dir("file"), b"")])), PathReason::FileInTheWay);
    cp(&[(file("link/through"), b"in the container's own root")]).unwrap();
    assert!(stage.root().join("app/dir/through").exists());
    assert!(matches!(cp(&[(file("../up"), b"")]).unwrap_err(), Error::HostileEntry { .. }));
}

/// Layers below, of which nothing may change.
fn below(stage: &Stage) -> std::path::PathBuf {
    let below = stage.temp.path().join("below");
    for directory in ["usr/lib", "opt/kept", "etc"] {
        std::fs::create_dir_all(below.join(directory)).unwrap();
    }
    std::fs::write(below.join("etc/file"), "sentinel").unwrap();
    let links = [
        ("usr/lib", "lib"),
        ("/opt/../opt/kept", "kept"),
        ("../../outside/dir", "up"),
        ("/nowhere", "dangling"),
        ("round", "round"),
        ("lib/../../lib", "through"),
    ];
    for (target, name) in links {
        std::os::unix::fs::symlink(target, below.join(name)).unwrap();
    }
    let lib = below.join("usr/lib");
    std::fs::set_permissions(&lib, std::fs::Permissions::from_mode(0o2750)).unwrap();
    std::os::unix::fs::chown(&lib, Some(7), Some(8)).unwrap();
    std::fs::set_permissions(&lib, std::fs::Permissions::from_mode(0o2750)).unwrap();
    rustix::fs::lsetxattr(&lib, "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    std::fs::File::open(&lib)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(77))
        .unwrap();
    below
}

fn unpack_over(stage: &Stage, below: &Path, entries: &[(Entry, &[u8])]) -> Result<Unpacked> {
    let (root, below) = (std::fs::File::open(stage.root()).unwrap(), std::fs::File::open(below).unwrap());
    let limits = UnpackLimits::default();
    let below = Some(below.as_fd());
    let options = Options { whiteouts: Whiteouts::Verbatim, below, ..Options::of_layer(&limits, None) };
    unpack(root.as_fd(), &archive(entries)[..], &options)
}

#[test]
fn links_of_what_lies_below_are_followed() {
    let stage = Stage::new();
    let below = below(&stage);
    let outside = stage.outside();
    let entries = [
        (file("lib/one"), &b"1"[..]),
        (hard("lib/two", "lib/one"), b""),
        (file("through/three"), b"3"),
        (file("kept/deep/four"), b"4"),
        (file("etc/five"), b"5"),
        (file("new/six"), b"6"),
    ];
    unpack_over(&stage, &below, &entries).unwrap();
    let read = |path: &str| std::fs::read_to_string(stage.root().join(path)).unwrap();
    for (path, text) in
        [("usr/lib/one", "1"), ("usr/lib/two", "1"), ("usr/lib/three", "3"), ("opt/kept/deep/four", "4")]
    {
        assert_eq!(read(path), text);
    }
    assert!(!stage.root().join("lib").exists() && !stage.root().join("kept").exists());
    let look = |path: &str| {
        let found = std::fs::metadata(stage.root().join(path)).unwrap();
        (found.mode() & 0o7777, found.uid(), found.gid())
    };
    assert_eq!(look("usr/lib"), (0o2750, 7, 8));
    assert_eq!(std::fs::metadata(stage.root().join("usr/lib")).unwrap().mtime(), 77);
    let mut value = [0; 8];
    assert_eq!(rustix::fs::lgetxattr(stage.root().join("usr/lib"), "user.note", &mut value), Ok(1));
    assert_eq!(look("new"), (0o755, 0, 0));
    assert_eq!(std::fs::read_dir(below.join("usr/lib")).unwrap().count(), 0);
    assert_eq!(stage.outside(), outside);
}

#[test]
fn links_of_what_lies_below_lead_nowhere_else() {
    // `up` is `/outside/dir` to who has this root, and that is not there.
    for path in ["dangling/x", "dangling/x/y", "round/x", "etc/file/x", "up/x"] {
        let stage = Stage::new();
        let below = below(&stage);
        let outside = stage.outside();
        let refused = unpack_over(&stage, &below, &[(file(path), b"")]);
        assert!(matches!(&refused, Err(Error::HostileEntry { entry, .. }) if entry == path), "{path}: {refused:?}");
        assert_eq!(stage.outside(), outside);
    }
}

#[test]
fn an_entry_of_its_own_takes_a_links_place() {
    let stage = Stage::new();
    let below = below(&stage);
    unpack_over(&stage, &below, &[(file("lib/one"), b""), (dir("lib"), b""), (file("lib/two"), b"")]).unwrap();
    let found = |path: &str| stage.root().join(path).exists();
    assert!(found("usr/lib/one") && found("lib/two") && !found("usr/lib/two"));
    // What is behind the link that the directory hides is not there any more.
    unpack_over(&stage, &below, &[(link("lib", "/etc"), b""), (file("lib/three"), b"")]).unwrap();
    assert!(found("etc/three"));
}

/// As in a container: what took a directory's place has emptied it.
#[test]
fn a_directory_that_was_replaced_comes_back_empty() {
    let stage = Stage::new();
    let below = below(&stage);
    std::fs::create_dir_all(below.join("usr/lib/sub")).unwrap();
    std::os::unix::fs::symlink("/etc", below.join("usr/lib/away")).unwrap();
    let entries = [
        (file("usr/lib"), &b"1"[..]),
        (dir("usr/lib"), b""),
        (file("usr/lib/away/x"), b"2"),
        (file("usr/lib/sub/y"), b"3"),
        (link("opt", "usr"), b""),
        (dir("opt"), b""),
        (dir("etc"), b""),
    ];
    unpack_over(&stage, &below, &entries).unwrap();
    let opaque =
        |path: &str| rustix::fs::lgetxattr(stage.root().join(path), "trusted.overlay.opaque", &mut [0; 8]).is_ok();
    assert!(opaque("usr/lib") && opaque("opt"));
    // What was never anything else shows what it has below.
    assert!(!opaque("etc") && !opaque("usr") && !opaque("usr/lib/sub"));
    // No link of what was there leads anywhere now, and nothing looks as there.
    assert!(stage.root().join("usr/lib/away/x").exists() && !stage.root().join("etc/x").exists());
    let refused = unpack_over(&stage, &below, &[(hard("name", "usr/lib/away/nothing"), b"")]);
    assert!(matches!(refused, Err(Error::HostileEntry { .. })));
}

#[test]
fn a_file_of_what_lies_below_gets_a_further_name() {
    let stage = Stage::new();
    let below = below(&stage);
    std::fs::write(below.join("usr/lib/first"), "text").unwrap();
    let mut first = hard("new/second", "lib/first");
    (first.mode, first.uid, first.mtime.seconds) = (0o4755, 9, 55);
    let entries =
        [(first, &b""[..]), (hard("new/third", "usr/lib/first"), b""), (hard("usr/lib/fourth", "new/second"), b"")];
    unpack_over(&stage, &below, &entries).unwrap();
    let found = |path: &str| std::fs::metadata(stage.root().join(path)).unwrap();
    let own = found("usr/lib/first");
    assert_eq!((own.nlink(), own.mode() & 0o7777, own.uid(), own.mtime()), (4, 0o4755, 9, 55));
    for name in ["new/second", "new/third", "usr/lib/fourth"] {
        assert_eq!(found(name).ino(), own.ino());
    }
    assert_eq!(std::fs::read(stage.root().join("new/third")).unwrap(), b"text");
    // The directory that it lies in looks as it does there, and what is there is as it was.
    let there = std::fs::metadata(below.join("usr/lib")).unwrap();
    assert_eq!((found("usr/lib").uid(), found("usr/lib").mtime()), (7, there.mtime()));
    assert_eq!(std::fs::metadata(below.join("usr/lib/first")).unwrap().nlink(), 1);
    // Something else than a file, something behind a link, and what an entry took the place of, are not there.
    for entries in [
        vec![(hard("x", "lib"), &b""[..])],
        vec![(hard("x", "dangling/y"), b"")],
        vec![(hard("x", "opt"), b"")],
        vec![(link("etc", "new"), b""), (hard("x", "etc/file"), b"")],
        vec![(file("etc"), b""), (dir("etc"), b""), (hard("x", "etc/file"), b"")],
    ] {
        let refused = unpack_over(&stage, &below, &entries);
        assert!(
            matches!(refused, Err(Error::HostileEntry { .. })),
            "{:?}",
            entries.last().map(|last| last.0.link.clone())
        );
    }
}

fn hostile_name() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            "[abc]",
            Just("..".into()),
            Just(".".into()),
            Just(String::new()),
            Just("outside".into()),
            Just(".wh.a".into()),
            Just(".wh..wh..opq".into())
        ],
        1..5,
    )
    .prop_map(|names: Vec<String>| names.join("/"))
}

fn hostile_entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        3 => Just(Kind::File), 3 => Just(Kind::Symlink), 2 => Just(Kind::HardLink), 2 => Just(Kind::Directory),
        1 => Just(Kind::Fifo), 1 => Just(Kind::CharDevice { major: 0, minor: 0 }),
    ];
    let target = prop_oneof![
        hostile_name(),
        Just("../outside".to_owned()),
        Just("/../outside/file".to_owned()),
        Just("../outside/file".to_owned()),
        Just("/proc/self/cwd".to_owned())
    ];
    (kind, hostile_name(), target, 0u32..0o10000, 0u32..3).prop_map(|(kind, path, target, mode, uid)| {
        let link = if matches!(kind, Kind::Symlink | Kind::HardLink) { target.into_bytes() } else { Vec::new() };
        Entry { link, uid, ..Entry::new(if path.is_empty() { ".".to_owned() } else { path }, kind, mode) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_archive_writes_outside_of_its_root(entries in prop::collection::vec(hostile_entry(), 1..14)) {
        let stage = Stage::new();
        let before = stage.outside();
        let entries: Vec<_> = entries.iter().map(|e| (e.clone(), if e.kind == Kind::File { &b"bad"[..] } else { b"" })).collect();
        // One by one as well, so that what comes after a refused entry is tried, too.
        let _ = stage.unpack(&archive(&entries));
        for entry in &entries {
            let _ = stage.unpack(&archive(std::slice::from_ref(entry)));
        }
        prop_assert_eq!(stage.outside(), before);
    }
}
