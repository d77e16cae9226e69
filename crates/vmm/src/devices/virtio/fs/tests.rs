//! A file system whose server is that of machines, virtiofsd's library: saved, and gone on from with another server.

use super::session::Mounted;
use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use tempfile::TempDir;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::passthrough::{Config, MigrationOnError, PassthroughFs};
use virtiofsd::vhost_user::VhostUserFsBackendBuilder;
use vm_memory_of_virtiofsd::{GuestMemoryAtomic, GuestMemoryMmap};

/// Numbers of requests, the root's number, and flags of `FUSE_INIT` (linux/fuse.h).
const LOOKUP: u32 = 1;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const SETXATTR: u32 = 21;
const INIT: u32 = 26;
const ROOT: u64 = 1;
const ACCESS_LISTS: u32 = 1 << 29 | 1 << 20 | 1 << 6;
/// Flags of an open(2), of which the second comes with each write.
const READ_WRITE: u32 = 2;
const APPEND: u64 = 0o2000;

/// A file system with its server, of which the test is the guest.
struct Served {
    fs: Option<Fs>,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// Nothing has mounted it yet.
    fn new(directory: &Path) -> Served {
        let at = tempfile::tempdir().unwrap();
        let socket = at.path().join("files");
        let listener = UnixListener::bind(&socket).unwrap();
        let files = PassthroughFs::new(Config {
            root_dir: directory.to_str().unwrap().to_owned(),
            migration_on_error: MigrationOnError::GuestError,
            xattr: true,
            posix_acl: virtiofsd::passthrough::NegotiationMode::Auto,
            ..Config::default()
        });
        let backend = VhostUserFsBackendBuilder::default().build(files.unwrap()).unwrap();
        let server = thread::spawn(move || {
            let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
            let mut daemon = VhostUserDaemon::new("files".to_owned(), Arc::new(backend), memory).unwrap();
            daemon.start(&mut listener.into()).unwrap();
            // It says that the client is gone.
            let _ = daemon.wait();
        });
        let (connection, rings) = connect(UnixStream::connect(&socket).unwrap()).unwrap();
        let fs = Fs::new("volumes", rings, Some(connection), &Arc::new(Ending::new().unwrap())).unwrap();
        Served { fs: Some(fs), server: Some(server) }
    }

    /// With a guest that has mounted it.
    fn mounted(directory: &Path) -> Served {
        let served = Served::new(directory);
        served.fs().work.state().lanes[REQUEST_LANE].greet(&greeting()).unwrap();
        served
    }

    fn fs(&self) -> &Fs {
        self.fs.as_ref().unwrap()
    }

    fn save(&self) -> Vec<u8> {
        self.fs().state().unwrap()
    }

    fn go_on(&mut self, state: &[u8]) -> Result<(), String> {
        self.fs.as_mut().unwrap().set_state(state)
    }

    /// What the server answers, or the number of its error.
    fn ask(&self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let request = request(opcode, node, body);
        let mut state = self.fs().work.state();
        let answer = state.lanes[REQUEST_LANE].ring.ask(&request, 4096, server::PATIENCE).unwrap();
        match i32::from_le_bytes(answer[4..8].try_into().unwrap()) {
            0 => Ok(answer[16..].to_vec()),
            error => Err(-error),
        }
    }

    /// The number of a file in the root.
    fn look_up(&self, name: &str) -> u64 {
        word(&self.ask(LOOKUP, ROOT, &[name.as_bytes(), &[0]].concat()).unwrap())
    }

    /// Opens a file: its number, and that of what is open.
    fn open(&self, name: &str, flags: u32) -> (u64, u64) {
        let node = self.look_up(name);
        (node, word(&self.ask(OPEN, node, &words(&[flags, 0])).unwrap()))
    }

    fn append(&self, (node, open): (u64, u64), at: u64, bytes: &[u8]) -> Result<(), i32> {
        let body: Vec<u8> =
            [open, at, bytes.len() as u64, 0, APPEND].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ask(WRITE, node, &[&body[..], bytes].concat()).map(drop)
    }

    fn write(&self, (node, open): (u64, u64), bytes: &[u8]) -> Result<(), i32> {
        let body: Vec<u8> = [open, 0, bytes.len() as u64, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ask(WRITE, node, &[&body[..], bytes].concat()).map(drop)
    }

    fn read(&self, (node, open): (u64, u64)) -> Result<Vec<u8>, i32> {
        let body: Vec<u8> = [open, 0, 4000, 0, 0].iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        self.ask(READ, node, &body)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The server ends with its connection.
        self.fs = None;
        let ended = self.server.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the server has not panicked");
    }
}

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let length = 40 + body.len() as u32;
    let after = [words(&[length, opcode]), vec![7; 8], node.to_le_bytes().to_vec(), words(&[user, group, 1, 0])];
    [&after.concat()[..], body].concat()
}

fn greeting() -> Vec<u8> {
    request(INIT, 0, &words(&[7, 36, 1 << 17, ACCESS_LISTS]))
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The first eight bytes.
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn directory(files: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    files.iter().for_each(|name| fs::write(directory.path().join(name), format!("{name}\n")).unwrap());
    directory
}

#[test]
fn open_files_go_on_with_another_server() {
    let files = directory(&["log", "moved", "deleted", "deleted-later"]);
    let at = |name: &str| files.path().join(name);
    let first = Served::mounted(files.path());
    let log = first.open("log", READ_WRITE);
    let moved = first.open("moved", READ_WRITE);
    let deleted = first.open("deleted", READ_WRITE);
    let later = first.open("deleted-later", READ_WRITE);
    first.append(log, 4, b"one\n").unwrap();
    fs::rename(at("moved"), at("elsewhere")).unwrap();
    fs::remove_file(at("deleted")).unwrap();
    let state = first.save();

    // Whoever was saved goes on as well, and can be saved again.
    first.append(log, 8, b"two\n").unwrap();
    assert_eq!(first.read(deleted).unwrap(), b"deleted\n");
    assert!(!first.save().is_empty());
    drop(first);
    fs::remove_file(at("deleted-later")).unwrap();
    fs::write(at("log"), "log\none\ntwo\nof the host\n").unwrap();

    // Several may, side by side.
    let mut others = [Served::new(files.path()), Served::new(files.path())];
    for (other, line) in others.iter_mut().zip(["three\n", "four\n"]) {
        other.go_on(&state).unwrap();
        // It appends, wherever the guest takes the end to be.
        other.append(log, 8, line.as_bytes()).unwrap();
        other.write(moved, b"M").unwrap();
        assert_eq!(other.read(moved).unwrap(), b"Moved\n");
        // What is gone is an error to who asks for it, and to nobody else.
        for gone in [deleted, later] {
            assert!(other.read(gone).is_err());
            assert!(other.write(gone, b"x").is_err());
            assert!(other.ask(OPEN, gone.0, &words(&[READ_WRITE, 0])).is_err());
        }
        assert_eq!(other.look_up("log"), log.0);
        assert_ne!(word(&other.ask(OPEN, log.0, &words(&[0, 0])).unwrap()), log.1);
        // What was agreed on with the first one holds: this has more in its header than by default.
        let attribute = [&words(&[1, 0, 0, 0])[..], b"user.a\0v"].concat();
        match other.ask(SETXATTR, log.0, &attribute) {
            Ok(_) | Err(libc::EOPNOTSUPP) => {}
            Err(error) => panic!("{}", std::io::Error::from_raw_os_error(error)),
        }
    }
    assert_eq!(fs::read_to_string(at("log")).unwrap(), "log\none\ntwo\nof the host\nthree\nfour\n");
    assert_eq!(fs::read_to_string(at("elsewhere")).unwrap(), "Moved\n");
    // One that went on is saved in its turn.
    let state = others[0].save();
    let mut last = Served::new(files.path());
    last.go_on(&state).unwrap();
    last.write(log, b"five\n").unwrap();
    assert!(last.read(deleted).is_err());
}

#[test]
fn what_nobody_has_mounted_has_nothing_to_save() {
    let files = directory(&["file"]);
    let first = Served::new(files.path());
    assert!(first.save().is_empty());
    let mut other = Served::new(files.path());
    other.go_on(&[]).unwrap();
    other.fs().work.state().lanes[REQUEST_LANE].greet(&greeting()).unwrap();
    assert_eq!(other.read(other.open("file", 0)).unwrap(), b"file\n");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// What is damaged is refused, or some files of it are gone: the server serves on.
    #[test]
    fn a_damaged_state_harms_nobody_else(at: prop::sample::Index, to: u8, cut: Option<prop::sample::Index>) {
        let files = directory(&["file", "other"]);
        let first = Served::mounted(files.path());
        first.open("file", 0);
        first.open("other", 0);
        let mut mounted = Mounted::from_bytes(&first.save()).unwrap().unwrap();
        let state = &mut mounted.server;
        let at = at.index(state.len());
        state[at] = to;
        if let Some(cut) = cut {
            state.truncate(cut.index(state.len()));
        }
        let mut other = Served::new(files.path());
        let _ = other.go_on(&mounted.to_bytes().unwrap());
        drop(other);
        prop_assert_eq!(fs::read_to_string(files.path().join("file")).unwrap(), "file\n");
    }
}
