//! A file system whose server is that of machines, virtiofsd's library: saved, and gone on from with another server.

use super::session::Mounted;
use super::*;
use proptest::prelude::*;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex as Lock};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;
use vhost_user_backend::VhostUserDaemon;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::passthrough::{Config, MigrationOnError, PassthroughFs};
use virtiofsd::read_dir::ReadDir;
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
        let files = PassthroughFs::new(Config {
            root_dir: directory.to_str().unwrap().to_owned(),
            migration_on_error: MigrationOnError::GuestError,
            migration_verify_handles: true,
            xattr: true,
            posix_acl: virtiofsd::passthrough::NegotiationMode::Auto,
            ..Config::default()
        });
        Served::by(files.unwrap())
    }

    fn by(files: impl FileSystem + SerializableFileSystem + Send + Sync + 'static) -> Served {
        let at = tempfile::tempdir().unwrap();
        let socket = at.path().join("files");
        let listener = UnixListener::bind(&socket).unwrap();
        let backend = VhostUserFsBackendBuilder::default().build(files).unwrap();
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

    fn server(&self) -> &server::Connection {
        self.fs().server.as_ref().unwrap()
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
        self.open_below(ROOT, name, flags)
    }

    fn open_below(&self, directory: u64, name: &str, flags: u32) -> (u64, u64) {
        let node = word(&self.ask(LOOKUP, directory, &[name.as_bytes(), &[0]].concat()).unwrap());
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
            Err(error) => panic!("{}", io::Error::from_raw_os_error(error)),
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
fn what_took_a_files_place_is_not_taken_for_it() {
    let files = directory(&["replaced", "made-again", "one", "other", "kept", "moved"]);
    let at = |name: &str| files.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/inner"), "inner\n").unwrap();
    let first = Served::mounted(files.path());
    let open = |name| first.open(name, READ_WRITE);
    let (replaced, again, one, other, kept, moved) =
        (open("replaced"), open("made-again"), open("one"), open("other"), open("kept"), open("moved"));
    let inner = first.open_below(first.look_up("dir"), "inner", READ_WRITE);
    let state = first.save();
    drop(first);

    fs::write(at("new"), "new\n").unwrap();
    fs::rename(at("new"), at("replaced")).unwrap();
    // This one is likely to have the number that the other one had.
    fs::remove_file(at("made-again")).unwrap();
    fs::write(at("made-again"), "new\n").unwrap();
    for (from, to) in [("one", "third"), ("other", "one"), ("third", "other"), ("moved", "elsewhere"), ("dir", "was")] {
        fs::rename(at(from), at(to)).unwrap();
    }
    fs::create_dir(at("dir")).unwrap();
    fs::hard_link(at("was/inner"), at("dir/inner")).unwrap();
    // Whoever goes on has a root of its own, in which the same files are.
    let root = tempfile::tempdir_in(files.path().parent().unwrap()).unwrap();
    for name in ["replaced", "made-again", "one", "other", "kept", "elsewhere"] {
        fs::hard_link(at(name), root.path().join(name)).unwrap();
    }
    for root in [files.path(), root.path()] {
        let mut second = Served::new(root);
        second.go_on(&state).unwrap();
        for file in [replaced, again, one, other, moved, inner] {
            assert_eq!(second.write(file, b"wrong"), Err(libc::EIO), "{file:?}");
            assert_eq!(second.read(file), Err(libc::EIO), "{file:?}");
        }
        second.write(kept, b"K").unwrap();
        // Who opens the path anew has what is there by now.
        let anew = second.open("replaced", READ_WRITE);
        assert_ne!(anew.0, replaced.0);
        assert_eq!(second.read(anew).unwrap(), b"new\n");
        // What is lost stays so.
        let mut third = Served::new(root);
        third.go_on(&second.save()).unwrap();
        assert_eq!(third.write(one, b"wrong"), Err(libc::EIO));
        third.write(kept, b"k").unwrap();
    }
    let contents = [("replaced", "new\n"), ("made-again", "new\n"), ("one", "other\n"), ("other", "one\n")];
    for (name, content) in contents.into_iter().chain([("elsewhere", "moved\n"), ("was/inner", "inner\n")]) {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), content);
    }
    assert_eq!(fs::read_to_string(at("kept")).unwrap(), "kept\n");
}

/// A server of nothing, which takes its time to say what it knows, and to take it over.
#[derive(Default)]
struct Slow {
    state: Vec<u8>,
    /// It says nothing until this is so.
    may_save: (Lock<bool>, Condvar),
    saves: AtomicUsize,
    loads_for: Duration,
}

/// The same, for a server and for the test.
struct Shown(Arc<Slow>);

impl FileSystem for Shown {
    type Inode = u64;
    type Handle = u64;
    type DirIter = ReadDir<Vec<u8>>;
}

impl SerializableFileSystem for Shown {
    fn prepare_serialization(&self, _cancel: Arc<AtomicBool>) {
        self.0.saves.fetch_add(1, Ordering::SeqCst);
        let (may, changed) = &self.0.may_save;
        drop(changed.wait_while(may.lock().unwrap(), |may| !*may).unwrap());
    }

    fn serialize(&self, mut pipe: fs::File) -> io::Result<()> {
        pipe.write_all(&self.0.state)
    }

    fn deserialize_and_apply(&self, mut pipe: fs::File) -> io::Result<()> {
        pipe.read_to_end(&mut Vec::new())?;
        thread::sleep(self.0.loads_for);
        Ok(())
    }
}

/// What a server says that knows so many files that are gone, and something more.
fn known(files: u32, more: usize) -> Vec<u8> {
    let nodes: Vec<_> = (2..files + 2).map(|number| (u64::from(number), 1u64, 2u32, None::<()>)).collect();
    let known = postcard::to_stdvec(&(1u32, nodes, 9u64, Vec::<()>::new())).unwrap();
    [known, vec![7; more]].concat()
}

#[test]
fn a_save_that_takes_too_long_has_no_other_one_beside_it() {
    // More than fits into what is between the two, so that it is at its end only when somebody reads it.
    let slow = Arc::new(Slow { state: known(3, 4 << 20), ..Slow::default() });
    let served = Served::by(Shown(Arc::clone(&slow)));
    let first = served.server().save_within(Duration::from_millis(10)).unwrap_err();
    assert!(first.contains("it takes more than"), "{first}");
    let is_busy = |why: &str| why.contains("still at a save that took too long");
    for _ in 0..2 {
        let second = served.server().save().unwrap_err();
        assert!(is_busy(&second), "{second}");
    }
    assert_eq!(slow.saves.load(Ordering::SeqCst), 1);
    *slow.may_save.0.lock().unwrap() = true;
    slow.may_save.1.notify_all();
    // What was left of the first one is none of the next.
    let state = loop {
        match served.server().save() {
            Ok(state) => break state,
            Err(why) => assert!(is_busy(&why), "{why}"),
        }
    };
    assert!(state == slow.state);
    assert_eq!(slow.saves.load(Ordering::SeqCst), 2);
}

#[test]
fn who_has_many_files_to_look_up_may_take_longer() {
    let slow = Arc::new(Slow { loads_for: Duration::from_millis(300), ..Slow::default() });
    let (patience, for_each) = (Duration::from_millis(50), Duration::from_secs(1));
    let load = |files| Served::by(Shown(Arc::clone(&slow))).server().load_within(&known(files, 0), patience, for_each);
    load(100).unwrap();
    let why = load(0).unwrap_err();
    assert!(why.contains("it takes more than 0 seconds"), "{why}");
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
