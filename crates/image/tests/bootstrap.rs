//! Base images from the distribution's packages.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;

use image::bootstrap::{BootstrapEvent, BootstrapSpec, ImportMetadata, bootstrap};
use image::tar::{Entry, Kind, TarReader};

fn make(spec: &str) -> (Vec<u8>, ImportMetadata, Vec<BootstrapEvent>) {
    let spec: BootstrapSpec = spec.parse().unwrap();
    let (mut archive, events) = (Vec::new(), Mutex::new(Vec::new()));
    let metadata = bootstrap(&spec, &mut archive, &|event| events.lock().unwrap().push(event)).unwrap();
    (archive, metadata, events.into_inner().unwrap())
}

fn entries(archive: &[u8]) -> BTreeMap<String, Entry> {
    let mut reader = TarReader::new(archive);
    let mut found = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = entry.name().trim_start_matches("./").trim_end_matches('/').to_owned();
        assert!(found.insert(name.clone(), entry).is_none(), "{name} stands in the archive twice");
    }
    found
}

/// Every file's entry with the digest of what is in it.
fn contents(archive: &[u8]) -> BTreeMap<String, (Entry, image::Digest)> {
    let mut reader = TarReader::new(archive);
    let mut found = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let digest = image::Digest::of(&reader.contents(1 << 30).unwrap());
        found.insert(entry.name(), (entry, digest));
    }
    found
}

#[test]
fn busybox_is_one_program_of_many_names() {
    let (archive, metadata, events) = make("busybox");
    let entries = entries(&archive);
    assert_eq!(entries["bin/busybox"].mode, 0o755);
    assert!(entries["bin/busybox"].size > 500_000);
    for name in ["bin/sh", "usr/bin/awk", "usr/bin/wget", "bin/ls"] {
        assert_eq!((&entries[name].kind, &*entries[name].link), (&Kind::Symlink, &b"/bin/busybox"[..]), "{name}");
    }
    assert_eq!(entries["tmp"].mode, 0o1777);
    assert_eq!(entries["usr/share/doc/busybox-static/copyright"].kind, Kind::File);
    assert_eq!(metadata.reference.familiar(), "busybox:latest");
    assert_eq!(metadata.config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    assert!(metadata.config.created_at().is_some());
    assert!(events.contains(&BootstrapEvent::Written(archive.len() as u64)));
    assert_eq!(make("busybox").0, archive, "the same package gives the same bytes");
}

#[test]
#[ignore = "takes half a minute, and the distribution's mirror"]
fn a_distribution_is_installed_from_its_mirror() {
    let (archive, metadata, events) = make("debian:12");
    let entries = entries(&archive);
    assert!(entries.contains_key("usr/bin/apt-get") && entries.contains_key("etc/debian_version"));
    assert!(!entries.contains_key("etc/resolv.conf") && !entries.contains_key("etc/hostname"));
    assert_eq!(metadata.reference.familiar(), "debian:12");
    assert!(
        events.iter().any(
            |event| matches!(event, BootstrapEvent::Phase(phase) if phase.to_lowercase().starts_with("installing"))
        )
    );
    let newest = entries.values().map(|entry| entry.mtime.seconds).max().unwrap();
    assert!(newest <= metadata.config.created_at().unwrap().as_second());
    let again = make("debian:12").0;
    let (first, second) = (contents(&archive), contents(&again));
    let differing: Vec<&String> = first.keys().filter(|name| first.get(*name) != second.get(*name)).collect();
    assert!(differing.is_empty(), "the same packages give the same files: {differing:?}");
    assert!(again == archive, "the same packages give the same bytes");
}

#[test]
fn a_mirror_that_is_not_there_is_named() {
    let spec = "debian:bookworm".parse::<BootstrapSpec>().unwrap().mirror("http://127.0.0.1:1/debian").unwrap();
    let error = bootstrap(&spec, std::io::sink(), &|_| {}).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1"), "{error}");
}

/// A mirror on loopback that has one suite, with nothing in it, and hands out `release` as what says so.
fn mirror(release: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/debian", listener.local_addr().unwrap());
    // It ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut asked = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut asked).is_ok_and(|count| count > 2) {}
            let (status, body) = match asked.contains("/dists/bookworm/InRelease ") {
                true => ("200 OK", release),
                false => ("404 Not Found", ""),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = (&stream).write_all((head + body).as_bytes());
        }
    });
    address
}

#[test]
fn a_mirror_whose_word_is_not_signed_by_the_distribution_is_refused() {
    const RELEASE: &str = "Origin: Debian\nSuite: stable\nCodename: bookworm\nDate: Sat, 01 Jan 2050 00:00:00 UTC\n\
        Architectures: amd64 arm64\nComponents: main\nSHA256:\n\
        \u{20}e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 main/binary-amd64/Packages\n";
    const FORGED: &str = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable\nCodename: bookworm\nDate: Sat, 01 Jan 2050 00:00:00 UTC\n\
        -----BEGIN PGP SIGNATURE-----\n\niHUEARYKAB0WIQQAAAAAAAAAAAAAAAAAAAAAAAAAAAUCZZZZZQAKCRAAAAAAAAAA\n=AAAA\n-----END PGP SIGNATURE-----\n";
    for release in [RELEASE, FORGED] {
        let spec = "debian:bookworm".parse::<BootstrapSpec>().unwrap().mirror(&mirror(release)).unwrap();
        let mut archive = Vec::new();
        let error = bootstrap(&spec, &mut archive, &|_| {}).unwrap_err().to_string();
        assert!(error.contains("sign") || error.contains("GPG"), "{error}");
    }
}
