use super::*;
use proptest::prelude::*;
use std::io::BufReader;
use std::process::Command;

fn read_all(archive: &[u8]) -> crate::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = TarReader::new(BufReader::with_capacity(61, archive));
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let contents = reader.contents(1 << 20)?;
        all.push((entry, contents));
    }
    Ok(all)
}

fn written(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, contents) in entries {
        writer.append_file(entry, &mut contents.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn gnu_tar_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/file", ["directory-with-a-long-name"; 12].join("/"));
    let mut file = Entry::new(long.as_bytes(), Kind::File, 0o640);
    (file.uid, file.gid, file.size) = (3_000_000_000, 70_000, 5);
    let archive = dir.path().join("a.tar");
    std::fs::write(&archive, written(&[(file, b"hello".to_vec())])).unwrap();
    let listing = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&archive).output().unwrap();
    let text = String::from_utf8(listing.stdout).unwrap();
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    assert!(text.contains("-rw-r----- 3000000000/70000") && text.contains(&long), "{text}");
}

#[test]
fn every_sparse_format_of_gnu_tar_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("holes")).unwrap();
    use std::os::unix::fs::FileExt as _;
    for at in [1u64 << 20, 5 << 20, 9 << 20, 13 << 20, 17 << 20, 21 << 20, 25 << 20] {
        file.write_all_at(&[7; 4096], at).unwrap();
    }
    file.set_len(30 << 20).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .args(format)
            .args(["-S", "-cf", "-", "holes"])
            .output()
            .unwrap();
        let all = read_all(&output.stdout).unwrap();
        let (entry, contents) = &all[0];
        assert_eq!((entry.name().as_str(), entry.size), ("holes", 30 << 20), "{format:?}");
        let extents = entry.extents.as_ref().unwrap();
        assert!(extents.iter().any(|e| e.offset == 1 << 20) && extents.len() >= 7, "{format:?}: {extents:?}");
        assert_eq!(contents.len(), 7 * 4096, "{format:?}");
        assert!(contents.iter().all(|b| *b == 7), "{format:?}");
    }
}

#[test]
fn long_names_and_attributes_of_gnu_tar_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(200);
    std::fs::write(dir.path().join(&name), "x").unwrap();
    std::os::unix::fs::symlink("t".repeat(300), dir.path().join("link")).unwrap();
    for format in ["gnu", "pax"] {
        let output = Command::new("tar")
            .arg("-C")
            .arg(dir.path())
            .args([&format!("--format={format}"), "--mtime=@-5.5", "-cf", "-", &name, "link"])
            .output()
            .unwrap();
        let all = read_all(&output.stdout).unwrap();
        assert_eq!(all[0].0.name(), name);
        assert_eq!(all[1].0.link, "t".repeat(300).as_bytes());
        if format == "pax" {
            assert_eq!(all[0].0.mtime, Time { seconds: -6, nanoseconds: 500_000_000 });
        }
    }
}

#[test]
fn a_cut_archive_is_refused_at_every_byte() {
    let mut file = Entry::new(*b"file", Kind::File, 0o644);
    file.size = 700;
    let whole = written(&[(Entry::new(*b"dir", Kind::Directory, 0o755), Vec::new()), (file, vec![1; 700])]);
    for cut in 1..2560 {
        // Between two entries a cut cannot be told from an end; and right behind the last file's contents, where some leave their archives.
        let result = read_all(&whole[..cut]);
        assert_eq!(result.is_ok(), matches!(cut, 512 | 1724) || cut >= 512 * 4 && cut % 512 == 0, "cut at {cut}");
    }
}

#[test]
fn an_extension_header_that_claims_gigabytes_costs_nothing() {
    let mut archive = written(&[(Entry::new(vec![b'a'; 300], Kind::Directory, 0o755), Vec::new())]);
    // The first header is pax's: let it claim 8 GiB - 1.
    archive[124..136].copy_from_slice(b"77777777777\0");
    archive[148..156].fill(b' ');
    let sum: u32 = archive[..512].iter().map(|b| u32::from(*b)).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = read_all(&archive).unwrap_err().to_string();
    assert!(error.contains("extension header"), "{error}");
}

fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Symlink),
        Just(Kind::HardLink),
        Just(Kind::Directory),
        Just(Kind::Fifo),
        (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
    ];
    let names = (prop::collection::vec(1u8.., 1..400), prop::collection::vec(1u8.., 1..300));
    let xattrs = prop::collection::vec(("[a-z.]{1,20}", prop::collection::vec(any::<u8>(), 0..40)), 0..3);
    let owner = (0..u32::MAX, 0..u32::MAX, -5_000_000_000i64..90_000_000_000);
    (kind, names, 0u32..0o10000, owner, xattrs, prop::collection::vec(any::<u8>(), 0..1500)).prop_map(
        |(kind, (path, link), mode, (uid, gid, seconds), xattrs, contents)| {
            let mut entry = Entry::new(path, kind, mode);
            if entry.kind != Kind::Directory && entry.path.ends_with(b"/") {
                entry.path.push(b'x');
            }
            if matches!(entry.kind, Kind::Symlink | Kind::HardLink) {
                entry.link = link;
            }
            (entry.uid, entry.gid, entry.mtime.seconds) = (uid, gid, seconds);
            for (name, value) in xattrs {
                if entry.xattrs.iter().all(|(n, _)| n != name.as_bytes()) {
                    entry.xattrs.push((name.into_bytes(), value));
                }
            }
            let contents = if entry.kind == Kind::File { contents } else { Vec::new() };
            entry.size = contents.len() as u64;
            (entry, contents)
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read(entries in prop::collection::vec(entry(), 0..5)) {
        prop_assert_eq!(read_all(&written(&entries)).unwrap(), entries);
    }

    #[test]
    fn nothing_makes_the_reader_panic(
        entries in prop::collection::vec(entry(), 1..3),
        damage in prop::collection::vec((0usize..4096, any::<u8>()), 0..20),
        reseal in any::<bool>(),
    ) {
        let mut archive = written(&entries);
        for (at, byte) in damage {
            let at = at % archive.len();
            archive[at] = byte;
        }
        if reseal {
            archive[148..156].fill(b' ');
            let sum: u32 = archive[..512].iter().map(|b| u32::from(*b)).sum();
            archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = read_all(&archive);
    }
}
