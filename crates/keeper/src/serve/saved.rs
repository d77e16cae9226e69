//! The state that a program hands to the next one: how it is written, and read of the version before too.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::entry::{StartMode, Waiting};
use super::slots::Key;
use super::{Ending, KeeperError};
use crate::logs::lines::LineSplitter;
use crate::logs::writer::SavedLog;
use crate::protocol::{AttachOptions, Exit, Recovery, State, Stats, TerminalSize, UnixNanos};
use crate::records::Identity;

/// The version of the state's format.
const STATE: u32 = 3;
/// The one before: an entry does not say what it ends with.
const FORMER_STATE: u32 = 2;

/// Everything that the keeper holds, with descriptors as numbers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved<E> {
    pub(super) run_dir: PathBuf,
    pub(super) listener: RawFd,
    pub(super) lock: RawFd,
    pub(super) journal: RawFd,
    pub(super) entries: Vec<(u32, Option<E>)>,
    pub(super) sinks: Vec<(u32, Option<SavedSink>)>,
    pub(super) connections: Vec<(u32, Option<SavedConnection>)>,
    pub(super) stats: Stats,
    pub(super) ending: Ending,
    pub(super) requester: Key,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedEntry {
    pub(super) held: Held,
    pub(super) own: bool,
    pub(super) bound_to: Option<Key>,
}

/// An entry as the state before has it.
#[derive(Debug, Serialize, Deserialize)]
struct FormerEntry {
    held: Held,
    own: bool,
}

/// What the states have in common.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) id: String,
    pub(super) sandbox: Option<String>,
    pub(super) identity: Identity,
    pub(super) pidfd: Option<RawFd>,
    pub(super) state: State,
    pub(super) created: UnixNanos,
    pub(super) started: Option<UnixNanos>,
    pub(super) exit: Option<Exit>,
    pub(super) sync: Option<RawFd>,
    pub(super) start: StartMode,
    pub(super) waiting: Option<Waiting>,
    pub(super) warnings: Vec<String>,
    pub(super) stdin: Option<RawFd>,
    pub(super) stdin_once: bool,
    pub(super) terminal: Option<TerminalSize>,
    pub(super) outputs: [Option<SavedOutput>; 2],
    pub(super) log: Option<SavedLog>,
    pub(super) sinks: Vec<Key>,
    pub(super) recovery: Recovery,
    pub(super) forgotten: bool,
    pub(super) end_pending: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedOutput {
    pub(super) fd: RawFd,
    pub(super) lines: LineSplitter,
    pub(super) paused: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedSink {
    pub(super) entry: Option<Key>,
    pub(super) fd: RawFd,
    pub(super) options: AttachOptions,
    pub(super) rest: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedConnection {
    pub(super) socket: RawFd,
    pub(super) greeted: bool,
    pub(super) queue: Vec<(Vec<u8>, Vec<RawFd>)>,
}

/// Writes the state.
pub(super) fn encode(saved: &Saved<SavedEntry>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(saved, STATE.to_le_bytes().to_vec())
}

/// Reads the state, of this version or of the one before.
pub(super) fn decode(bytes: &[u8]) -> Result<Saved<SavedEntry>, KeeperError> {
    let damaged = |error: postcard::Error| KeeperError::State(error.to_string());
    match bytes.split_first_chunk::<4>().map(|(version, body)| (u32::from_le_bytes(*version), body)) {
        Some((STATE, body)) => postcard::from_bytes(body).map_err(damaged),
        Some((FORMER_STATE, body)) => {
            postcard::from_bytes::<Saved<FormerEntry>>(body).map(Saved::from).map_err(damaged)
        }
        _ => Err(KeeperError::State(format!("it is of no version up to {STATE}"))),
    }
}

impl From<Saved<FormerEntry>> for Saved<SavedEntry> {
    fn from(former: Saved<FormerEntry>) -> Saved<SavedEntry> {
        let entry = |FormerEntry { held, own }| SavedEntry { held, own, bound_to: None };
        let entries = former.entries.into_iter().map(|(generation, slot)| (generation, slot.map(entry)));
        Saved {
            run_dir: former.run_dir,
            listener: former.listener,
            lock: former.lock,
            journal: former.journal,
            entries: entries.collect(),
            sinks: former.sinks,
            connections: former.connections,
            stats: former.stats,
            ending: former.ending,
            requester: former.requester,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_before_held_is_understood() {
        let held = |id: &str, sandbox: Option<&str>| Held {
            id: id.to_owned(),
            sandbox: sandbox.map(str::to_owned),
            identity: Identity::around(|| Ok::<_, std::io::Error>((7, ()))).unwrap().0,
            pidfd: Some(9),
            state: State::Running,
            created: UnixNanos(1),
            started: Some(UnixNanos(2)),
            exit: None,
            sync: None,
            start: StartMode::AtOnce,
            waiting: None,
            warnings: Vec::new(),
            stdin: None,
            stdin_once: false,
            terminal: None,
            outputs: [None, None],
            log: None,
            sinks: Vec::new(),
            recovery: Recovery::default(),
            forgotten: false,
            end_pending: true,
        };
        let former = Saved {
            run_dir: "/run".into(),
            listener: 3,
            lock: 4,
            journal: 5,
            entries: vec![
                (0, Some(FormerEntry { held: held("box", None), own: false })),
                (7, None),
                (1, Some(FormerEntry { held: held("check", Some("box")), own: true })),
                (2, Some(FormerEntry { held: held("1", Some("box")), own: false })),
            ],
            sinks: Vec::new(),
            connections: Vec::new(),
            stats: Stats::default(),
            ending: Ending::No,
            requester: Key::from_bits(6),
        };
        let bytes = |version: u32| postcard::to_extend(&former, version.to_le_bytes().to_vec()).unwrap();
        let read = decode(&bytes(FORMER_STATE)).unwrap();
        let told = |entry: &SavedEntry| (entry.held.id.clone(), entry.own, entry.held.end_pending);
        let entries: Vec<_> = read.entries.iter().map(|(at, slot)| (*at, slot.as_ref().map(told))).collect();
        let some = |id: &str, own| Some((id.to_owned(), own, true));
        assert_eq!(entries, [(0, some("box", false)), (7, None), (1, some("check", true)), (2, some("1", false))]);
        assert_eq!((read.listener, read.requester), (3, Key::from_bits(6)));
        assert!(decode(&bytes(STATE + 1)).is_err());
        assert!(decode(&bytes(FORMER_STATE)[..20]).is_err());
    }
}
