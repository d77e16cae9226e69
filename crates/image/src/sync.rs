//! Durability of many files at once.

use crate::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;

/// Flushes the file system that everything is on, once for all who wait: what a layer is made of are thousands of
/// files, and one `syncfs(2)` costs what the disk needs for their bytes, where an `fsync` each costs a commit of the
/// journal each.
#[derive(Debug)]
pub(crate) struct Syncer {
    root: File,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    started: u64,
    ended: u64,
    running: bool,
    failed: Option<(u64, Errno)>,
}

impl Syncer {
    pub(crate) fn new(root: &Path) -> Result<Syncer> {
        let root_file = File::open(root).map_err(|e| Error::io(format!("opening {}", root.display()), e))?;
        Ok(Syncer { root: root_file, state: Mutex::default(), ended: Condvar::new() })
    }

    /// Does something that only reads, while what was written goes to the disk: a [`sync`](Self::sync) that follows has little left to wait for.
    pub(crate) fn beside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        std::thread::scope(|scope| {
            let syncing = scope.spawn(|| self.sync());
            let done = work()?;
            syncing.join().map_err(|_| Error::Interrupted("writing layers to the disk".into()))??;
            Ok(done)
        })
    }

    /// Returns when everything written before the call is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        // One that runs already may have begun before the last of our bytes.
        let needed = state.started + 1;
        while state.ended < needed {
            if state.running {
                self.ended.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let run = state.started;
            drop(state);
            let result = rustix::fs::syncfs(&self.root);
            state = self.state.lock();
            state.running = false;
            state.ended = run;
            if let Err(errno) = result {
                state.failed = Some((run, errno));
            }
            self.ended.notify_all();
        }
        match state.failed {
            Some((run, errno)) if run >= needed => Err(Error::io("writing layers to the disk", errno)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_wait_come_back() {
        let temp = tempfile::tempdir().unwrap();
        let syncer = Syncer::new(temp.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| syncer.sync().unwrap());
            }
        });
        assert!(syncer.state.lock().started <= 8);
    }
}
