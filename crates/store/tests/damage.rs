//! Files that are not what a store left: refused, left as they are, with what to do.

use redb::TableDefinition;
use rustix::fs::inotify;
use std::ffi::CString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use store::{OpenError, Options, Revision, Store, WatchError};

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    place_in(std::env::temp_dir())
}

fn place_in(parent: impl AsRef<Path>) -> Place {
    let dir = tempfile::tempdir_in(parent).unwrap();
    Place { path: dir.path().join("state.db"), _dir: dir }
}

/// A store with a few hundred values of different sizes, and some history.
fn filled(path: &Path) -> Store {
    let store = Store::open(path).unwrap();
    for n in 0..200 {
        store.txn().put(format!("container/{}", n % 50), vec![n as u8; n * 31 % 5000]).commit().unwrap();
    }
    store
}

/// Opens what must be refused as damaged, and left as it is.
fn refused(path: &Path) -> String {
    let before = fs::read(path).unwrap();
    let error = Store::open(path).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert_eq!(fs::read(path).unwrap().len(), before.len(), "it was touched");
    error.to_string()
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let Place { path, _dir } = place();
    drop(filled(&path));
    let whole = fs::read(&path).unwrap();
    let cuts = (0..64).map(|n| n * whole.len() / 64).chain([1, 9, 100, 4095, 4096, 4097, whole.len() - 1]);
    for cut in cuts {
        fs::write(&path, &whole[..cut]).unwrap();
        let text = refused(&path);
        assert!(text.contains("There is no backup") && text.contains("state.db.damaged`"), "{text}");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(Store::open(&path).unwrap().list("").unwrap().entries.len(), 50);
}

#[test]
fn a_file_cut_short_after_a_crash_is_refused() {
    let Place { path, _dir } = place();
    let store = filled(&path);
    // What `kill -9` would leave: the file as it is while the store is open.
    let whole = fs::read(&path).unwrap();
    drop(store);
    for cut in (0..64).map(|n| n * whole.len() / 64) {
        fs::write(&path, &whole[..cut]).unwrap();
        refused(&path);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(Store::open(&path).unwrap().revision(), Revision(200));
}

#[test]
fn a_damaged_page_is_found_or_was_not_in_use() {
    let Place { path, _dir } = place();
    let store = filled(&path);
    let (contents, revision) = (store.list("").unwrap(), store.revision());
    drop(store);
    let whole = fs::read(&path).unwrap();
    let mut found = 0;
    for page in 1..whole.len() / 4096 {
        let mut damaged = whole.clone();
        for byte in &mut damaged[page * 4096 + 200..page * 4096 + 264] {
            *byte ^= 0x5a;
        }
        fs::write(&path, &damaged).unwrap();
        match Store::open(&path) {
            Ok(store) => assert_eq!((store.list("").unwrap(), store.revision()), (contents.clone(), revision)),
            Err(OpenError::Corrupt { .. }) => found += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(found > 50, "only {found} damaged pages were found");
}

#[test]
fn something_else_is_no_store() {
    let Place { path, _dir } = place();
    for contents in [b"hello\n".to_vec(), vec![0; 100_000], b"redb\x1a\x0a\xa9\x0d\x0a".repeat(5000)] {
        fs::write(&path, contents).unwrap();
        refused(&path);
    }
    fs::remove_file(&path).unwrap();

    // A database of somebody else's.
    let database = redb::Database::create(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(TableDefinition::<&str, u64>::new("theirs")).unwrap();
    txn.commit().unwrap();
    drop(database);
    let text = refused(&path);
    assert!(text.contains("it has no table \"meta\""), "{text}");
}

#[test]
fn a_newer_programs_store_is_refused() {
    let Place { path, _dir } = place();
    drop(filled(&path));
    let database = redb::Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("version", 7).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, supported: 1, .. }), "{error}");
}

#[test]
fn a_store_in_use_is_refused_and_free_afterwards() {
    let Place { path, _dir } = place();
    let store = Store::open(&path).unwrap();
    let watch = store.watch("", Revision::ZERO).unwrap();
    assert!(matches!(Store::open(&path), Err(OpenError::Locked { .. })));
    drop(store);
    assert!(matches!(Store::open(&path), Err(OpenError::Locked { .. })), "a watch keeps it open");
    drop(watch);
    Store::open(&path).unwrap();
}

#[test]
fn a_place_that_cannot_be_is_told_with_the_systems_answer() {
    let Place { path, _dir } = place();
    let error = Store::open(path.join("below/state.db")).unwrap_err();
    assert!(error.to_string().contains("No such file or directory"), "{error}");
    fs::create_dir(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(error.to_string().contains("Is a directory"), "{error}");
}

#[test]
fn the_backup_brings_a_lost_store_back_by_the_command_that_the_error_tells() {
    let Place { path, _dir } = place();
    let backup = path.with_file_name("state.db.backup");
    let store = filled(&path);
    store.backup().unwrap();
    let (kept, revision) = (store.list("").unwrap(), store.revision());
    store.txn().put("later", "lost").commit().unwrap();
    drop(store);
    fs::write(&path, &fs::read(&path).unwrap()[..50_000]).unwrap();

    let text = refused(&path);
    let command = text.split('`').nth(1).unwrap();
    assert_eq!(command, format!("mv {0} {0}.damaged && mv {1} {0}", path.display(), backup.display()));
    fs::rename(&path, path.with_file_name("state.db.damaged")).unwrap();

    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "not empty, while a backup is there: {error}");
    assert!(error.to_string().contains(&format!("`mv {} {}`", backup.display(), path.display())), "{error}");

    fs::rename(&backup, &path).unwrap();
    let store = Store::open(&path).unwrap();
    let restored = store.list("").unwrap();
    assert_eq!(restored.entries, kept.entries);
    assert!(restored.revision > Revision(revision.0 + 1), "no revision is ever given out twice");
    assert!(matches!(store.watch("", revision), Err(WatchError::Compacted { .. })));
    let mut watch = store.watch("", restored.revision).unwrap();
    let next = store.txn().put("container/1", "new").commit().unwrap();
    assert_eq!(next, Revision(restored.revision.0 + 1));
    assert_eq!(watch.next_blocking().unwrap().revision, next);
    drop((store, watch));
    assert_eq!(Store::open(&path).unwrap().revision(), next);
}

/// A file that is to be moved to its place (inotify(7)).
struct Appearing {
    events: OwnedFd,
    name: CString,
}

impl Appearing {
    fn of(path: &Path) -> Appearing {
        let events = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&events, path.parent().unwrap(), inotify::WatchFlags::MOVED_TO).unwrap();
        Appearing { events, name: CString::new(path.file_name().unwrap().as_bytes()).unwrap() }
    }

    fn wait(self) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.events, &mut buffer);
        while events.next().unwrap().file_name() != Some(self.name.as_c_str()) {}
    }
}

#[test]
fn the_backup_is_written_without_being_asked() {
    let Place { path, _dir } = place();
    let backup = path.with_file_name("state.db.backup");
    let appearing = Appearing::of(&backup);
    let store = filled(&path);
    appearing.wait();
    drop(store);
    fs::rename(&backup, &path).unwrap();
    assert!(!Store::open(&path).unwrap().list("").unwrap().entries.is_empty());

    let Place { path, _dir } = place();
    let store = Store::open_with(&path, Options { backup_interval: None, ..Options::default() }).unwrap();
    store.txn().put("a", "b").commit().unwrap();
    drop(store);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing but the store");
}

/// The first page says where everything else is, and which of two commits is the newest.
#[test]
fn a_flipped_bit_of_the_first_page_is_found_or_changes_nothing() {
    // Two slots and what comes before them; behind them nothing is read.
    const HEADER: usize = 320;
    // In memory, as five thousand openings each wait for the disk.
    let Place { path, _dir } = place_in("/dev/shm");
    let store = Store::open(&path).unwrap();
    for n in 0..10 {
        store.txn().put(format!("container/{n}"), format!("{n}")).commit().unwrap();
    }
    let (contents, revision) = (store.list("").unwrap(), store.revision());
    // What `kill -9` would leave, and what an orderly end leaves.
    let killed = fs::read(&path).unwrap();
    drop(store);
    let closed = fs::read(&path).unwrap();
    for (whole, state) in [(&killed, "killed"), (&closed, "closed")] {
        let mut found = 0;
        for bit in (0..HEADER * 8).chain([HEADER * 8, 512 * 8 + 1, 4095 * 8]) {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            let at = format!("{state}: bit {} of byte {}", bit % 8, bit / 8);
            match Store::open(&path) {
                Ok(store) => {
                    let read = (store.list("").unwrap(), store.revision());
                    assert_eq!(read, (contents.clone(), revision), "{at}");
                }
                Err(OpenError::Corrupt { .. }) => found += 1,
                Err(error) => panic!("{at}: {error}"),
            }
        }
        // The whole slot of the newest commit, and what says how the file is laid out.
        assert!(found >= 128 * 8, "{state}: only {found} flipped bits were found");
    }
}
