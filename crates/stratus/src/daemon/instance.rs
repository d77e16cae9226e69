//! Several daemons side by side: each has a name made of its data directory's path, and holds its two directories.
//!
//! A data directory and a run directory go together: what runs is kept by a process of the run directory, and known only
//! by the records in the data directory. So each of the two has a file that says which the other one is, locked by the
//! daemon as long as it lives, and the keeper's command line says it too. A daemon that is given two directories that
//! don't go together ends before it touches anything: to it, all that runs would be what no record knows.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::client::{Client, List};
use keeper::protocol::Request;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use super::Error;
use super::config::{Config, DATA_DIR};

/// The keeper's argument that says which data directory knows what it holds; it stands before the keeper's own.
pub(crate) const KEEPER_ARGUMENT: &str = "--data-dir";

/// Six letters and digits, the same for the same directory. They stand in the names of links, tables and cgroups.
pub(super) fn name(data_dir: &Path) -> String {
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    hash.iter().take(6).map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect()
}

/// The two directories, which are nobody else's as long as this lives.
pub(super) struct Held {
    run: Option<Bond>,
    data: Option<Bond>,
    /// Dropped last, so that nobody finds a lock's file without its lock.
    made: Made,
}

/// The directories that a start made, with their locks' files: one that is refused leaves none behind.
#[derive(Default)]
struct Made(Vec<(PathBuf, &'static str)>);

impl Made {
    fn make(&mut self, what: &'static str, directory: &Path, mode: u32, lock: &'static str) -> Result<(), Error> {
        let is_new = !directory.exists();
        make(what, directory, mode)?;
        if is_new {
            self.0.push((directory.to_owned(), lock));
        }
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (directory, lock) in &self.0 {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            // Where there is more, it was begun with.
            if entries.flatten().all(|entry| entry.file_name() == *lock) {
                let _ = std::fs::remove_file(directory.join(lock));
                let _ = std::fs::remove_dir(directory);
            }
        }
    }
}

/// The file of the run directory that is locked.
const RUN_LOCK: &str = "daemon.lock";
/// The file of the data directory that is locked.
const DATA_LOCK: &str = "lock";
/// Who has something in it to do passes through it.
const DATA_MODE: u32 = 0o711;

/// Makes the directories, and holds them.
pub(super) fn hold(config: &Config) -> Result<Held, Error> {
    let mut made = Made::default();
    made.make("create the run directory", &config.run_dir, 0o755, RUN_LOCK)?;
    let run = take_run_dir(config)?;
    made.make("create the data directory", &config.data_dir, DATA_MODE, DATA_LOCK)?;
    let data = take_data_dir(config)?;
    run.write(&config.data_dir)?;
    data.write(&config.run_dir)?;
    Ok(Held { run: Some(run), data: Some(data), made })
}

/// Holds those of the directories that are there, for somebody who only takes things away.
pub(super) fn hold_what_is_there(config: &Config) -> Result<Held, Error> {
    let run = config.run_dir.is_dir().then(|| take_run_dir(config)).transpose()?;
    let data = config.data_dir.is_dir().then(|| take_data_dir(config)).transpose()?;
    Ok(Held { run, data, made: Made::default() })
}

/// Refuses a default bridge that another instance made.
pub(super) fn check_bridge(config: &Config) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Config(error.to_string());
    let own: net::Instance = config.instance.parse().map_err(|error| failed(&error))?;
    let owner = net::owner_of_bridge(&config.bridge, &own).map_err(|error| failed(&error))?;
    match owner.filter(|owner| *owner != own) {
        Some(owner) => {
            let data_dir = data_dir_of(owner.as_str());
            Err(Error::OtherBridge { bridge: config.bridge.clone(), owner, data_dir })
        }
        None => Ok(()),
    }
}

impl Held {
    /// The daemon has begun: what it made is there to stay.
    pub(super) fn keep(&mut self) {
        self.made.0.clear();
    }

    /// Nothing runs any more, so that from now on each may go with any other.
    pub(super) fn part(self) -> Result<(), Error> {
        [self.run, self.data].iter().flatten().try_for_each(Bond::erase)
    }
}

/// One that has nothing to do answers at once.
const UNUSED_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// After a start that failed: a keeper that holds nothing is there for nobody.
pub(super) fn end_unused_keeper(run_dir: &Path) {
    // One that does not answer is somebody's.
    let Ok(mut keeper) = Client::connect_within(run_dir, UNUSED_ANSWERS_WITHIN) else { return };
    if keeper.call_within(List, UNUSED_ANSWERS_WITHIN).is_ok_and(|held| held.is_empty()) {
        // Whatever came in between is not ended with it.
        let _ = keeper.call_within(Request::Shutdown { kill: false }, UNUSED_ANSWERS_WITHIN);
    }
}

/// Makes the data directory, for who puts something into it before any daemon has.
pub(super) fn make_data_dir(directory: &Path) -> Result<(), Error> {
    make("create the data directory", directory, DATA_MODE)
}

fn make(what: &'static str, directory: &Path, mode: u32) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(Error::io(what, directory.display()))
}

fn take_run_dir(config: &Config) -> Result<Bond, Error> {
    let (bond, is_free) = Bond::open(config.run_dir.join(RUN_LOCK))?;
    let note = bond.read()?;
    let daemon = note.daemon.filter(|_| !is_free);
    let data_dir = note.partner.or_else(|| data_dir_of_keeper(&config.run_dir));
    match data_dir.filter(|data_dir| *data_dir != config.data_dir) {
        Some(data_dir) => Err(Error::OtherData { run_dir: config.run_dir.clone(), data_dir, daemon }),
        None if is_free => Ok(bond),
        None => Err(Error::InUse { directory: config.run_dir.clone(), daemon }),
    }
}

fn take_data_dir(config: &Config) -> Result<Bond, Error> {
    let (bond, is_free) = Bond::open(config.data_dir.join(DATA_LOCK))?;
    let note = bond.read()?;
    if !is_free {
        return Err(Error::InUse { directory: config.data_dir.clone(), daemon: note.daemon });
    }
    // What its keeper holds is nowhere else, as long as that lives.
    match note.partner.filter(|run_dir| *run_dir != config.run_dir) {
        Some(run_dir) if data_dir_of_keeper(&run_dir).is_some_and(|data_dir| data_dir == config.data_dir) => {
            Err(Error::OtherRun { data_dir: config.data_dir.clone(), run_dir })
        }
        _ => Ok(bond),
    }
}

/// The data directory that knows what the keeper of a run directory holds, where one lives.
fn data_dir_of_keeper(run_dir: &Path) -> Option<PathBuf> {
    data_dir_on_command_line(&keeper::client::process(run_dir).ok()?.to_string())
}

/// The data directory of the instance of that name, where a process of it is there.
fn data_dir_of(instance: &str) -> Option<PathBuf> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|process| process.file_name().into_string().ok());
    let running = numbers.filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let known = std::iter::once(PathBuf::from(DATA_DIR));
    known
        .chain(running.filter_map(|number| data_dir_on_command_line(&number)))
        .find(|data_dir| name(data_dir) == instance)
}

fn data_dir_on_command_line(process: &str) -> Option<PathBuf> {
    let line = std::fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == KEEPER_ARGUMENT.as_bytes())?;
    words.next().map(|word| OsString::from_vec(word.to_vec()).into())
}

/// A directory's file that says which other directory it goes with: two lines, its daemon's process and the other path.
struct Bond {
    file: File,
    path: PathBuf,
}

#[derive(Default)]
struct Note {
    daemon: Option<u32>,
    partner: Option<PathBuf>,
}

/// How long a daemon that was killed may take to let go of what it holds.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// From one look to the next whether it has.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

impl Bond {
    /// Opens the file, and locks it where nobody else has; says whether that was so. One that was killed a moment ago and still has it is waited for.
    fn open(path: PathBuf) -> Result<(Self, bool), Error> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let bond = Self { file: file.map_err(Error::io("open", path.display()))?, path };
        let until = Instant::now() + ENDS_WITHIN;
        loop {
            match rustix::fs::flock(&bond.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok((bond, true)),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(Error::io("lock", bond.path.display())(error.into())),
            }
            let holder = bond.read()?.daemon;
            (&bond.file).rewind().map_err(Error::io("read", bond.path.display()))?;
            if !holder.is_some_and(is_ending) || Instant::now() > until {
                return Ok((bond, false));
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn read(&self) -> Result<Note, Error> {
        let mut text = Vec::new();
        (&self.file).read_to_end(&mut text).map_err(Error::io("read", self.path.display()))?;
        let mut lines = text.split(|byte| *byte == b'\n');
        let daemon = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.parse().ok());
        let partner = lines.next().filter(|line| !line.is_empty()).map(|line| OsString::from_vec(line.to_vec()).into());
        Ok(Note { daemon, partner })
    }

    /// One write: whoever is killed around it leaves the whole of the one note or of the other, and its tail behind it.
    fn write(&self, partner: &Path) -> Result<(), Error> {
        let mut text = format!("{}\n", std::process::id()).into_bytes();
        text.extend_from_slice(partner.as_os_str().as_bytes());
        text.push(b'\n');
        let written = self.file.write_all_at(&text, 0).and_then(|()| self.file.set_len(text.len() as u64));
        written.map_err(Error::io("write", self.path.display()))
    }

    fn erase(&self) -> Result<(), Error> {
        self.file.set_len(0).map_err(Error::io("write", self.path.display()))
    }
}

/// Whether a process was killed, and has not ended yet; also where it has by now.
fn is_ending(process: u32) -> bool {
    const KILL: u64 = 1 << (9 - 1);
    let Ok(status) = std::fs::read_to_string(format!("/proc/{process}/status")) else { return true };
    // proc_pid_status(5): signals that wait for its main thread, and for all of it.
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.any(|(name, value)| match name {
        "State" => value.trim_start().starts_with(['Z', 'X']),
        "SigPnd" | "ShdPnd" => u64::from_str_radix(value.trim(), 16).is_ok_and(|pending| pending & KILL != 0),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_directory() {
        assert_eq!(name(Path::new("/a")), name(Path::new("/a")));
        assert_ne!(name(Path::new("/a")), name(Path::new("/b")));
        assert_eq!(name(Path::new("/a")).len(), 6);
    }

    /// Who starts a daemon in the moment in which another was killed need not know when that has ended.
    #[test]
    fn one_that_was_killed_just_then_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        for _ in 0..20 {
            let (bond, is_free) = Bond::open(path.clone()).unwrap();
            assert!(is_free);
            let holder = bond.file.try_clone().unwrap();
            let mut child = std::process::Command::new("sleep").arg("1000").stdin(holder).spawn().unwrap();
            bond.file.write_all_at(format!("{}\n/partner\n", child.id()).as_bytes(), 0).unwrap();
            drop(bond);
            assert!(!Bond::open(path.clone()).unwrap().1, "it runs");
            child.kill().unwrap();
            let (bond, is_free) = Bond::open(path.clone()).unwrap();
            assert!(is_free);
            assert_eq!(bond.read().unwrap().partner, Some("/partner".into()));
            child.wait().unwrap();
            bond.erase().unwrap();
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_whatever_was_there_before() {
        let directory = tempfile::tempdir().unwrap();
        let (bond, is_free) = Bond::open(directory.path().join("lock")).unwrap();
        assert!(is_free);
        bond.write(Path::new("/a/longer/path")).unwrap();
        bond.write(Path::new("/b")).unwrap();
        let (other, is_free) = Bond::open(directory.path().join("lock")).unwrap();
        assert!(!is_free);
        let note = other.read().unwrap();
        assert_eq!((note.daemon, note.partner), (Some(std::process::id()), Some("/b".into())));
        bond.erase().unwrap();
        let note = Bond::open(directory.path().join("lock")).unwrap().0.read().unwrap();
        assert_eq!((note.daemon, note.partner), (None, None));
    }
}
