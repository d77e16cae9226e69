//! Base images from the distribution's packages.

use std::collections::BTreeMap;
use std::sync::Mutex;

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
