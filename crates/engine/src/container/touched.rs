//! What a machine touches of the snapshot or template that it goes on from, kept beside that for the next one, which has it read ahead of need. It is asked for where memory comes as it is
//! touched, and only of the first machine that goes on from there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microvm::container::Host;
use microvm::{MachinePlan, TOUCHED, WorkingSet};

use super::Container;
use crate::model::ContainerId;
use crate::{Engine, Error, Result};

/// So long after its start a machine has touched what one needs to go on; what it touches later is its work's.
const SETTLED: Duration = Duration::from_secs(5);

/// Where it is to be kept: beside what a machine goes on from, if it can tell, and nobody has told before.
pub(super) fn untold(plan: &MachinePlan, host: &Host) -> Option<PathBuf> {
    let directory = host.snapshots.last().filter(|_| plan.driver.tells_touched(&plan.backing))?;
    let is_kept = File::open(directory.join(TOUCHED)).is_ok_and(|file| WorkingSet::read(&file).is_ok());
    (!is_kept).then(|| directory.clone())
}

/// Writes the file, whole or not at all; `by` makes it, of several at once.
fn keep(directory: &Path, by: &ContainerId, bytes: &[u8]) -> io::Result<()> {
    let made = directory.join(format!("{TOUCHED}-{}", by.short()));
    let written = File::create(&made).and_then(|mut file| {
        file.write_all(bytes)?;
        // As the other files there: the machines' processes are nobody.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        fs::rename(&made, directory.join(TOUCHED))
    });
    written.inspect_err(|_| drop(fs::remove_file(&made)))
}

impl Engine {
    /// Has it kept, once a machine that was just started has touched what it needs. Nobody waits for it; should the machine have ended by then, the next one is asked.
    pub(super) fn keep_touched_beside(&self, container: &Container, directory: PathBuf) {
        let (engine, id, turns) = (self.clone(), container.id.clone(), container.turns());
        let run = turns.borrow().exits;
        tokio::spawn(async move {
            tokio::time::sleep(SETTLED).await;
            // What runs by then may have gone on from something else.
            if turns.borrow().exits != run {
                return;
            }
            let kept = crate::blocking(move || engine.keep_touched(&id, &directory)).await;
            if let Err(error) = kept {
                tracing::debug!(%error, "could not keep what a microVM touched of what it went on from");
            }
        });
    }

    fn keep_touched(&self, id: &ContainerId, directory: &Path) -> Result<()> {
        let mut machine = self.machine_connection(id)?;
        let touched = machine.touched().map_err(|error| Error::system(error.to_string()))?;
        let Some(touched) = touched.filter(|touched| touched.pages() > 0) else { return Ok(()) };
        keep(directory, id, &touched.to_bytes())
            .map_err(|error| Error::step(format!("write into {}", directory.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn it_is_there_whole_and_for_everybody_to_read() {
        let directory = tempfile::tempdir().unwrap();
        for bytes in ["first", "second"] {
            keep(directory.path(), &ContainerId::random(), bytes.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(directory.path().join(TOUCHED)).unwrap(), bytes);
        }
        assert_eq!(fs::metadata(directory.path().join(TOUCHED)).unwrap().mode() & 0o777, 0o444);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // What it was to be kept beside is gone: nothing comes back.
        let gone = directory.path().join("gone");
        assert!(keep(&gone, &ContainerId::random(), b"third").is_err());
        assert!(!gone.exists());
    }
}
