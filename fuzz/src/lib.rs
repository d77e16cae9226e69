//! What strangers can send, thrown at the code that reads it: one function for each kind of reader.
//!
//! None of them may panic, hang, or do anything outside of the directory that it is given, whatever the bytes are. `make test`
//! runs each for a bounded number of inputs (`tests/briefly.rs`); `make fuzz` has libFuzzer look for new ones.
#![forbid(unsafe_code)]

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use image::Reference;
use image::tar::TarReader;
use keeper::logs::reader::{LogReader, ReadOptions};
use keeper::protocol::{FromKeeper, LogConfig, ToKeeper, UnixNanos};
use net::dns::{NameSource, Outcome, Transport, View};
use sandbox::plan::PlanError;
use sandbox::{CompileOptions, ExecPlan, InitPlan};

/// A reader, and its name: that of its directory of seeds, and of its program.
pub type Target = (&'static str, fn(&[u8]));

/// All readers that need no file system.
pub const PURE: [Target; 10] = [
    ("api", api),
    ("changes", changes),
    ("configuration", configuration),
    ("dns", dns),
    ("documents", documents),
    ("keeper", keeper),
    ("reference", reference),
    ("registry", registry),
    ("runtime_spec", runtime_spec),
    ("tar", tar),
];

/// Those that read or write files, and are slower.
pub const FILES: [Target; 4] = [("archive", archive), ("logs", logs), ("store", store), ("unpack", unpack)];

/// The entries of an archive, and their contents.
pub fn tar(data: &[u8]) {
    let mut reader = TarReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        let _ = entry.name();
        while let Ok(part) = reader.fill() {
            let length = part.len();
            if length == 0 {
                break;
            }
            reader.consume(length);
        }
    }
    assert!(reader.offset() <= data.len() as u64 + 512, "more was read than there is");
}

/// The daemon's configuration file.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(why) = stratus::check_configuration(text) {
        assert!(!why.is_empty(), "it is refused without a word");
    }
}

/// A layer, unpacked into a directory: nothing beside the directory changes.
pub fn unpack(data: &[u8]) {
    into_directory(|root| image::fuzz::unpack(root.as_fd(), data));
}

/// `docker cp` into a container.
pub fn archive(data: &[u8]) {
    into_directory(|root| {
        let options = image::archive::WriteOptions::default();
        let _ = image::archive::write_path(root.as_fd(), Path::new("/"), data, &options);
    });
}

/// Gives `work` a directory that lies beside a file which it must not reach.
fn into_directory(work: impl FnOnce(&File)) {
    const KEPT: &[u8] = b"kept";
    let around = tempfile::tempdir().expect("make a directory");
    let (root, beside) = (around.path().join("root"), around.path().join("beside"));
    std::fs::create_dir(&root).expect("make a directory");
    std::fs::write(&beside, KEPT).expect("write a file");
    work(&File::open(&root).expect("open a directory"));
    assert_eq!(std::fs::read(&beside).expect("the file beside"), KEPT);
    assert_eq!(std::fs::read_dir(around.path()).expect("the directory").count(), 2, "something appeared outside");
}

/// Manifests, indexes and configurations of images.
pub fn documents(data: &[u8]) {
    let _ = image::Manifest::parse(data);
    let _ = image::Index::parse(data);
    if let Ok(config) = image::ImageConfig::parse(data) {
        let _ = (config.platform(), config.created_at());
        let written = config.to_json().expect("what was read can be written");
        let again = image::ImageConfig::parse(&written).expect("what was written can be read");
        assert_eq!(again.to_json().expect("it can be written again"), written);
    }
}

/// Names of images: what is taken has one form that means itself.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(reference) = Reference::parse(text) else { return };
    let canonical = reference.canonical();
    assert_eq!(Reference::parse_canonical(&canonical).expect("a form of ours").canonical(), canonical);
    assert_eq!(Reference::parse(&reference.familiar()).expect("the short form").canonical(), canonical);
    let _ = (reference.with_tag(text).is_ok(), reference.with_digest(text).is_ok());
}

/// `docker commit --change`: instructions of a Dockerfile.
pub fn changes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let changes: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let _ = image::changes::apply(image::RunConfig::default(), &changes);
}

/// What registries answer about who may come in.
pub fn registry(data: &[u8]) {
    image::fuzz::challenges(&String::from_utf8_lossy(data));
}

/// Bodies, queries, filters and times of the Docker API; the first byte chooses.
pub fn api(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    match choice % 4 {
        0 => api_docker::fuzz::container_create(data),
        1 => api_docker::fuzz::filters(&text),
        2 => api_docker::fuzz::query(&text),
        _ => api_docker::fuzz::timestamp(&text),
    }
}

/// Queries of containers to the name server, and the host's `resolv.conf`.
pub fn dns(data: &[u8]) {
    const VIEW: View<'static> = View { sandbox: "s", source: &Names, ndots_set: false };
    for transport in [Transport::Udp, Transport::Tcp] {
        if let Outcome::Reply(reply) = net::dns::answer(data, transport, VIEW) {
            assert!(reply.len() >= 12 && reply[2] & 0x80 != 0, "an answer is one");
            let most = if matches!(transport, Transport::Udp) { 4096 } else { usize::from(u16::MAX) };
            assert!(reply.len() <= most, "an answer of {} bytes", reply.len());
        }
    }
    let _ = net::dns::resolv::ResolvConf::parse(&String::from_utf8_lossy(data), "127.0.0.53");
}

struct Names;

impl NameSource for Names {
    fn lookup(&self, _: &str, name: &str) -> Option<Vec<IpAddr>> {
        match name {
            "web" => Some(vec![IpAddr::from([10, 0, 0, 2])]),
            "many" => Some((1..=100).map(|last| IpAddr::from([10, 0, 1, last])).collect()),
            _ => None,
        }
    }

    fn reverse(&self, _: &str, address: IpAddr) -> Option<String> {
        (address == IpAddr::from([10, 0, 0, 2])).then(|| "web.front".to_owned())
    }
}

/// What the daemon and the keeper tell each other.
pub fn keeper(data: &[u8]) {
    let _ = keeper::wire::decode::<ToKeeper>(data);
    let _ = keeper::wire::decode::<FromKeeper>(data);
    let _ = InitPlan::from_bytes(data);
    let _ = ExecPlan::from_bytes(data);
}

/// Files of logs, in both formats.
pub fn logs(data: &[u8]) {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("log");
    std::fs::write(&path, data).expect("write a file");
    let formats = [
        LogConfig::JsonFile { path: path.clone(), rotation: None, attributes: Vec::new() },
        LogConfig::Local { path, rotation: None },
    ];
    for format in formats {
        for tail in [None, Some(0), Some(3)] {
            let options = ReadOptions { tail, since: Some(UnixNanos(1)), until: Some(UnixNanos(i64::MAX)) };
            let Ok(mut reader) = LogReader::open(&format, &options) else { continue };
            let mut entries = 0;
            while let Ok(Some(_)) = reader.next_entry() {
                entries += 1;
                assert!(entries <= data.len(), "more entries than bytes");
            }
            let _ = (reader.damaged(), reader.gaps());
        }
    }
}

/// A file of the store: opened as it is, or refused and left as it is.
pub fn store(data: &[u8]) {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path().join("store");
    std::fs::write(&path, data).expect("write a file");
    match store::Store::open_with(&path, store::Options { backup_interval: None, ..store::Options::default() }) {
        Ok(store) => drop(store.list("")),
        Err(_) => assert!(std::fs::read(&path).expect("the file") == data, "a refused file was changed"),
    }
}

/// `config.json` of an OCI bundle.
pub fn runtime_spec(data: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<oci_spec::runtime::Spec>(data) else { return };
    let plan: Result<InitPlan, PlanError> = InitPlan::compile(&spec, Path::new("/bundle"), &CompileOptions::default());
    if let Ok(plan) = plan {
        let bytes = plan.to_bytes().expect("a plan can be written");
        InitPlan::from_bytes(&bytes).expect("and read");
    }
}
