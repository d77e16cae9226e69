//! What strangers can send, thrown at the code that reads it: one function for each kind of reader.
//!
//! None of them may panic, hang, or do anything outside of the directory that it is given, whatever the bytes are. `make test`
//! runs each for a bounded number of inputs (`tests/briefly.rs`); `make fuzz` has libFuzzer look for new ones.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use build::check::Inputs;
use build::dockerfile::{Escape, Given, Instruction, Kind, Source};
use build::glob::{Glob, Stars};
use build::ignore::Ignore;
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
pub const PURE: [Target; 26] = [
    ("api", api),
    ("changes", changes),
    ("configuration", configuration),
    ("control", control),
    ("dns", dns),
    ("dockerfile", dockerfile),
    ("dockerignore", dockerignore),
    ("documents", documents),
    ("expansion", expansion),
    ("glob", glob),
    ("guest", guest),
    ("keeper", keeper),
    ("qcow2", qcow2),
    ("reference", reference),
    ("registry", registry),
    ("rpm", rpm),
    ("runtime_spec", runtime_spec),
    ("session", session),
    ("tar", tar),
    ("virtio_balloon", virtio_balloon),
    ("virtio_disk", virtio_disk),
    ("virtio_entropy", virtio_entropy),
    ("virtio_files", virtio_files),
    ("virtio_memory", virtio_memory),
    ("virtio_network", virtio_network),
    ("virtio_vsock", virtio_vsock),
];

/// Those that read or write files, and are slower.
pub const FILES: [Target; 5] =
    [("archive", archive), ("kernel", kernel), ("logs", logs), ("store", store), ("unpack", unpack)];

/// What a client says of a build and of its files.
pub fn session(data: &[u8]) {
    api_build::fuzz(data);
}

/// The balloon of a microVM, beside a guest that is made of the bytes.
pub fn virtio_balloon(data: &[u8]) {
    vmm::hostile::run(vmm::hostile::Kind::Balloon, data);
}

/// A disk of a microVM, beside a guest that is made of the bytes: its registers, its rings, its buffers.
pub fn virtio_disk(data: &[u8]) {
    use vmm::hostile::Kind;
    vmm::hostile::run(if data.len().is_multiple_of(2) { Kind::Disk } else { Kind::LimitedDisk }, data);
}

/// An image that is a disk of a microVM, made of the bytes: 64 that say what is read and written, and the file.
pub fn qcow2(data: &[u8]) {
    vmm::hostile::run_image(data);
}

/// A file system of a microVM, beside such a guest.
pub fn virtio_files(data: &[u8]) {
    vmm::hostile::run(vmm::hostile::Kind::Files, data);
}

/// A source of entropy of a microVM, beside such a guest.
pub fn virtio_entropy(data: &[u8]) {
    vmm::hostile::run(vmm::hostile::Kind::Entropy, data);
}

/// Memory that comes to a microVM in blocks, beside such a guest.
pub fn virtio_memory(data: &[u8]) {
    vmm::hostile::run(vmm::hostile::Kind::Memory, data);
}

/// A network card of a microVM, beside such a guest.
pub fn virtio_network(data: &[u8]) {
    use vmm::hostile::Kind;
    vmm::hostile::run(if data.len().is_multiple_of(2) { Kind::Network } else { Kind::LimitedNetwork }, data);
}

/// Sockets of a microVM, beside such a guest.
pub fn virtio_vsock(data: &[u8]) {
    vmm::hostile::run(vmm::hostile::Kind::Vsock, data);
}

/// A kernel that a user has a microVM start from.
pub fn kernel(data: &[u8]) {
    let mut file = tempfile::tempfile().expect("a temporary file");
    std::io::Write::write_all(&mut file, data).expect("the file has room");
    if let Ok(vmm::boot::Kernel::BzImage(kernel)) = vmm::boot::Kernel::open(file, Path::new("vmlinuz")) {
        let _ = kernel.unpack(&mut std::io::sink());
    }
}

/// A database of RPM, whose form the first byte picks: what comes behind lies where that form has its first page.
pub fn rpm(data: &[u8]) {
    let Some((form, rest)) = data.split_first() else { return };
    let mut database = match form % 3 {
        0 => [&b"SQLite format 3\0\x02\0"[..], &[0; 82]].concat(),
        1 => [&b"RpmP"[..], &[0; 8], &1u32.to_le_bytes(), &[0; 16]].concat(),
        _ => [&[0; 12][..], &0x0006_1561u32.to_le_bytes(), &[0; 4], &512u32.to_le_bytes(), &[0; 488]].concat(),
    };
    database.extend_from_slice(rest);
    let pages = database.len().next_multiple_of(4096);
    database.resize(pages, 0);
    let mut count = 0;
    let _ = build::rpm::packages(&&database[..], Some(&rest), &mut |package| {
        assert!(package.name.len() <= 3 * 4096, "a name is longer than what is kept");
        count += 1;
        Ok(())
    });
    assert!(count <= 4 * pages + (1 << 20), "there are more packages than bytes that are looked at");
}

/// What a microVM's agent says to its host, and a host to the agent: the first as they come from a machine that runs what anybody likes.
pub fn guest(data: &[u8]) {
    guest_protocol::fuzz(data);
}

/// What a microVM's process and those who are connected to its control socket say to each other.
pub fn control(data: &[u8]) {
    microvm::control::fuzz(data);
}

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

/// What registries answer about who may come in, and about what refers to an image.
pub fn registry(data: &[u8]) {
    image::fuzz::challenges(&String::from_utf8_lossy(data));
    image::fuzz::referrers(data);
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

/// A Dockerfile, read and checked.
pub fn dockerfile(data: &[u8]) {
    let file = match build::dockerfile::parse(Source::from_bytes("Dockerfile", data)) {
        Ok(file) => file,
        Err(mistakes) => return assert!(!mistakes.to_string().is_empty(), "it is refused without a word"),
    };
    assert!(!file.stages.is_empty(), "a file without a stage");
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        let last = file.source.text().split('\n').count();
        assert!(step.span.start <= step.span.end && step.span.end.line as usize <= last, "a place outside of the file");
        // An image's configuration has the text, and whoever builds upon it reads that again.
        if let Instruction::OnBuild(trigger) = &step.node
            && file.directives.escape == Escape::Backslash
        {
            let again = build::dockerfile::trigger(&Source::new("ONBUILD", &trigger.text));
            assert_eq!(
                again.map(|again| again.node.name()).ok(),
                Some(trigger.instruction.name()),
                "{:?}",
                trigger.text
            );
        }
    }
    let inputs = Inputs { given: &Given::host(), ignore: &Ignore::default(), base: &|_| None };
    for warning in build::check::check(&file, &inputs).warnings {
        assert!(!warning.detail.is_empty() && warning.span.start.line > 0, "{warning:?}");
    }
}

/// A word with variables, in front of their values: `NAME=VALUE` up to the first zero byte, and then the word.
pub fn expansion(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (values, word) = text.split_once('\0').unwrap_or(("", &text));
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let variables: BTreeMap<String, String> = values.lines().filter_map(pair).collect();
    for escape in [Escape::Backslash, Escape::Backtick] {
        for kind in [Kind::Word, Kind::Heredoc] {
            let Ok(expansion) = build::dockerfile::expand(word, kind, escape, &variables) else { continue };
            assert!(expansion.read.iter().all(|name| variables.contains_key(name)), "a variable was read that is none");
            assert!(expansion.missing.is_subset(&expansion.unset), "a variable is missing that is set");
        }
    }
}

/// A pattern, and behind the first line's end a path: what fits may be below each of its directories.
pub fn glob(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (pattern, path) = text.split_once('\n').unwrap_or((&text, ""));
    for stars in [Stars::Plain, Stars::Components, Stars::Anywhere] {
        let Ok(glob) = Glob::parse(pattern, stars) else { continue };
        if let Some(literal) = glob.literal() {
            assert!(glob.matches(&literal), "the one path that fits does not");
        }
        if glob.matches(path) && path.split('/').all(|part| !part.is_empty()) {
            let mut directories = path.match_indices('/').map(|(index, _)| &path[..index]);
            assert!(directories.all(|directory| glob.may_match_below(directory)), "{pattern:?} {path:?}");
        }
    }
}

/// A `.dockerignore`, and behind a zero byte a path: a walker that goes only where it is told to misses nothing.
pub fn dockerignore(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (rules, path) = text.split_once('\0').unwrap_or((&text, "a/b/c"));
    let ignore = match Ignore::parse(&Source::new(".dockerignore", rules)) {
        Ok(ignore) => ignore,
        Err(mistake) => return assert!(!mistake.to_string().is_empty(), "it is refused without a word"),
    };
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if plain && !ignore.ignores(path) {
        let mut directories = path.match_indices('/').map(|(index, _)| &path[..index]);
        assert!(directories.all(|directory| ignore.enters(directory)), "{rules:?} {path:?}");
    }
}
