//! What is on disk about each sandbox, so that a killed keeper's sandboxes are found and its exit records are not lost.
//!
//! `RUN_DIR/keeper/records` is a journal: one frame for each birth, end and farewell, appended by one write each and never synced, as
//! nothing in it means anything after a reboot. A frame is the payload's length and checksum (little-endian `u32` each) and the payload.
//! `RUN_DIR/keeper/lock` is locked by the living keeper; the lock is a process's own (`F_SETLK`), so that no sandbox inherits it, and
//! it survives `execve`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Flock, FlockType};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::protocol::{Exit, ExitStatus, Recovery, UnixNanos, Usage};

/// The version of the journal's records.
const VERSION: u32 = 1;
/// The journal is rewritten when it has more frames than this, and most of them are of the past.
const FRAMES: usize = 4096;

/// A process, told from a later one with the same id by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// It started between these two, in nanoseconds of `CLOCK_BOOTTIME`. Taking the time around the clone costs no system call, where
    /// reading the start time from `/proc` costs three.
    born: (u64, u64),
}

impl Identity {
    /// Clones a process, and remembers when.
    pub(crate) fn around<T, E>(clone: impl FnOnce() -> Result<(u32, T), E>) -> Result<(Identity, T), E> {
        let before = boottime();
        let (pid, cloned) = clone()?;
        Ok((Identity { pid, born: (before, boottime()) }, cloned))
    }

    /// Whether this very process still lives, were it without its main thread, and is no mere remains.
    pub(crate) fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // The second field is the program's name in parentheses, which may hold anything.
        let Some((_, fields)) = stat.rsplit_once(')') else { return false };
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let [state, .., threads, _, started] = fields[..fields.len().min(20)] else { return false };
        let Ok(started) = started.parse::<u64>() else { return false };
        // The state is the main thread's, which may have ended long before the others.
        let has_ended = matches!(state, "Z" | "X") && matches!(threads, "0" | "1");
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let (after, before) = self.born;
        (after / tick..=before / tick).contains(&started) && !has_ended
    }
}

fn boottime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.cast_unsigned().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.cast_unsigned())
}

/// What is known of a sandbox or exec on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) sandbox: Option<String>,
    pub(crate) identity: Identity,
    pub(crate) created: UnixNanos,
    pub(crate) exit: Option<Exit>,
    pub(crate) recovery: Recovery,
}

#[derive(Serialize, Deserialize)]
enum Frame {
    /// The first one of a journal.
    Opened {
        version: u32,
        boot: String,
    },
    Born(Record),
    Ended {
        id: String,
        exit: Exit,
    },
    Forgotten {
        id: String,
    },
}

/// The journal, open for appending.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    file: OwnedFd,
    size: u64,
    frames: usize,
    /// A write has failed: the file lacks something, and must be written anew.
    broken: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Starts a new journal that holds these records.
    pub(crate) fn create(run_dir: &Path, records: impl Iterator<Item = Record>) -> io::Result<Journal> {
        let dir = dir(run_dir);
        let (file, size, frames) = write_anew(&dir, records)?;
        Ok(Journal { dir, file, size, frames, broken: false, buffer: Vec::new() })
    }

    /// Takes up a journal whose descriptor was kept over an exec. It is to be written anew ([`mend`](Self::mend)), but goes on as it
    /// is where that can't be done: everything that runs depends on whoever holds it.
    pub(crate) fn resume(run_dir: &Path, file: OwnedFd) -> io::Result<Journal> {
        let size = rustix::fs::fstat(&file)?.st_size.cast_unsigned();
        Ok(Journal { dir: dir(run_dir), file, size, frames: 0, broken: true, buffer: Vec::new() })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(crate) fn born(&mut self, record: Record) -> io::Result<()> {
        self.append(&Frame::Born(record))
    }

    pub(crate) fn ended(&mut self, id: &str, exit: Exit) -> io::Result<()> {
        self.append(&Frame::Ended { id: id.to_owned(), exit })
    }

    pub(crate) fn forgotten(&mut self, id: &str) -> io::Result<()> {
        self.append(&Frame::Forgotten { id: id.to_owned() })
    }

    /// Whether it should be written anew, with `live` things to be remembered.
    pub(crate) fn needs_mending(&self, live: usize) -> bool {
        self.broken || (self.frames > FRAMES && self.frames / 4 > live)
    }

    /// Writes it anew.
    pub(crate) fn mend(&mut self, records: impl Iterator<Item = Record>) -> io::Result<()> {
        (self.file, self.size, self.frames) = write_anew(&self.dir, records)?;
        self.broken = false;
        Ok(())
    }

    fn append(&mut self, frame: &Frame) -> io::Result<()> {
        self.buffer.clear();
        encode(frame, &mut self.buffer)?;
        match write_all(&self.file, &self.buffer) {
            Ok(()) => {
                self.size += self.buffer.len() as u64;
                self.frames += 1;
                Ok(())
            }
            Err(error) => {
                // Half a frame would hide the later ones.
                if rustix::fs::ftruncate(&self.file, self.size).is_err() {
                    self.broken = true;
                }
                if !matches!(frame, Frame::Born(_)) {
                    self.broken = true;
                }
                Err(error)
            }
        }
    }
}

/// What the journal of a run directory says; nothing, if there is none. What follows a damaged frame is not read. Of an earlier boot
/// nothing lives any more, whatever it says.
pub(crate) fn read(run_dir: &Path) -> io::Result<Vec<Record>> {
    let bytes = match fs::read(dir(run_dir).join("records")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut rest = bytes.as_slice();
    let boot = match decode(&mut rest) {
        Some(Frame::Opened { version: VERSION, boot }) => boot,
        Some(Frame::Opened { version, .. }) => {
            let why = format!("its version is {version}, and this program reads version {VERSION}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        _ => return Ok(Vec::new()),
    };
    let mut records = BTreeMap::new();
    while let Some(frame) = decode(&mut rest) {
        match frame {
            Frame::Opened { .. } => {}
            Frame::Born(record) => _ = records.insert(record.id.clone(), record),
            Frame::Ended { id, exit } => {
                if let Some(record) = records.get_mut(&id) {
                    record.exit = Some(exit);
                }
            }
            Frame::Forgotten { id } => _ = records.remove(&id),
        }
    }
    let mut records: Vec<Record> = records.into_values().collect();
    if boot != boot_id()? {
        for record in &mut records {
            let unknown = Exit { status: ExitStatus::Unknown, at: record.created, usage: Usage::default() };
            record.exit.get_or_insert(unknown);
        }
    }
    Ok(records)
}

/// Takes the lock that belongs to the one keeper of a run directory. `None`: another one has it.
pub(crate) fn lock(run_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let dir = dir(run_dir);
    match rustix::fs::mkdir(&dir, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(dir.join("lock"), flags, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Who has the lock of a run directory: its keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The process of this id.
    Process(u32),
    /// A process that has no id here: it is outside of this process's PID namespace.
    Elsewhere,
}

/// Who has the lock of a run directory. Never call it in the keeper itself: it would lose its lock.
pub(crate) fn holder(run_dir: &Path) -> io::Result<Option<Holder>> {
    let file = match rustix::fs::open(dir(run_dir).join("lock"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let whole = Flock::from(FlockType::WriteLock);
    let held = rustix::process::fcntl_getlk(&file, &whole)?;
    Ok(held.map(|held| match held.pid {
        Some(pid) => Holder::Process(pid.as_raw_nonzero().get().unsigned_abs()),
        None => Holder::Elsewhere,
    }))
}

fn dir(run_dir: &Path) -> PathBuf {
    run_dir.join("keeper")
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn write_anew(dir: &Path, records: impl Iterator<Item = Record>) -> io::Result<(OwnedFd, u64, usize)> {
    let mut bytes = Vec::new();
    let mut frames = 1;
    encode(&Frame::Opened { version: VERSION, boot: boot_id()? }, &mut bytes)?;
    for record in records {
        encode(&Frame::Born(record), &mut bytes)?;
        frames += 1;
    }
    let new = dir.join("records.new");
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&new, flags, Mode::RUSR | Mode::WUSR)?;
    write_all(&file, &bytes)?;
    fs::rename(&new, dir.join("records"))?;
    Ok((file, bytes.len() as u64, frames))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
}

fn encode(frame: &Frame, out: &mut Vec<u8>) -> io::Result<()> {
    let from = out.len();
    out.extend_from_slice(&[0; 8]);
    let encoded = postcard::to_extend(frame, std::mem::take(out)).map_err(io::Error::other)?;
    *out = encoded;
    let payload = &out[from + 8..];
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_le_bytes();
    let checksum = checksum(payload).to_le_bytes();
    out[from..from + 4].copy_from_slice(&length);
    out[from + 4..from + 8].copy_from_slice(&checksum);
    Ok(())
}

fn decode(rest: &mut &[u8]) -> Option<Frame> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (sum, after) = after.split_first_chunk::<4>()?;
    let (payload, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    if checksum(payload) != u32::from_le_bytes(*sum) {
        return None;
    }
    *rest = after;
    postcard::from_bytes(payload).ok()
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            id: id.to_owned(),
            sandbox: None,
            identity: Identity { pid: std::process::id(), born: (0, u64::MAX) },
            created: UnixNanos(1),
            exit: None,
            recovery: Recovery::default(),
        }
    }

    fn exit(code: u8) -> Exit {
        Exit { status: ExitStatus::Code(code), at: UnixNanos(2), usage: Usage::default() }
    }

    #[test]
    fn a_keeper_of_another_pid_namespace_is_one() {
        const RUN_DIR: &str = "KEEPER_TEST_LOCKED_RUN_DIR";
        const NAME: &str = "records::tests::a_keeper_of_another_pid_namespace_is_one";
        if let Some(run_dir) = std::env::var_os(RUN_DIR) {
            assert_eq!(holder(Path::new(&run_dir)).unwrap(), Some(Holder::Elsewhere));
            assert!(crate::client::recover_orphans(Path::new(&run_dir)).is_err());
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let _lock = lock(dir.path()).unwrap().unwrap();
        // The same test once more, where this process has no id.
        let mut inside = std::process::Command::new("unshare");
        inside.args(["--pid", "--fork", "--kill-child"]).arg(std::env::current_exe().unwrap());
        let output = inside.args(["--exact", NAME]).env(RUN_DIR, dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    }

    #[test]
    fn a_journal_tells_what_happened() {
        let dir = tempfile::tempdir().unwrap();
        let _lock = lock(dir.path()).unwrap().unwrap();
        let mut journal = Journal::create(dir.path(), std::iter::once(record("old"))).unwrap();
        for id in ["a", "b", "c"] {
            journal.born(record(id)).unwrap();
        }
        journal.ended("b", exit(3)).unwrap();
        journal.forgotten("c").unwrap();
        let read = read(dir.path()).unwrap();
        let told: Vec<_> = read.iter().map(|record| (record.id.as_str(), record.exit)).collect();
        assert_eq!(told, [("a", None), ("b", Some(exit(3))), ("old", None)]);
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let spawned = || std::process::Command::new("sleep").arg("1000").spawn().map(|child| (child.id(), child));
        let (identity, mut child) = Identity::around(spawned).unwrap();
        assert!(identity.is_alive());
        assert!(!Identity { born: (0, 1), ..identity }.is_alive());
        child.kill().unwrap();
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        waitid(WaitId::Pid(Pid::from_child(&child)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(!identity.is_alive());
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_damaged_journal_is_read_up_to_the_damage(cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("keeper")).unwrap();
            let mut journal = Journal::create(dir.path(), std::iter::empty()).unwrap();
            for id in ["a", "b", "c"] {
                journal.born(record(id)).unwrap();
            }
            let path = dir.path().join("keeper/records");
            let mut bytes = fs::read(&path).unwrap();
            let cut = cut.index(bytes.len());
            bytes.truncate(cut);
            bytes.push(byte);
            fs::write(&path, &bytes).unwrap();
            let ids: Vec<String> = read(dir.path()).unwrap().into_iter().map(|record| record.id).collect();
            prop_assert!(["a", "b", "c"].iter().zip(&ids).all(|(expected, id)| expected == id));
        }
    }
}
