//! Removing trees without anybody waiting for it.

use crate::content::list;
use crate::{Error, Result, tree};
use parking_lot::{Condvar, Mutex};
use rustix::fd::AsFd as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is thrown away is renamed into a directory at once, and removed from there by a thread of its own. After a
/// restart it goes on with what was left.
#[derive(Debug)]
pub(crate) struct Reaper {
    trash: PathBuf,
    next: AtomicU64,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<String>,
    busy: bool,
    closed: bool,
}

impl Reaper {
    pub(crate) fn open(root: &Path) -> Result<Reaper> {
        let trash = root.join("trash");
        fs::create_dir_all(&trash).map_err(|e| Error::io(format!("making {}", trash.display()), e))?;
        let left: Vec<String> = list(&trash)?.iter().filter_map(|e| e.file_name().into_string().ok()).collect();
        let next = left.iter().filter_map(|name| name.parse::<u64>().ok()).max().map_or(0, |last| last + 1);
        let shared = Arc::new(Shared::default());
        shared.state.lock().waiting = left;
        let held = File::open(&trash).map_err(|e| Error::io(format!("opening {}", trash.display()), e))?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("image-reaper".into());
        thread.spawn(move || reap(&held, &theirs)).map_err(|e| Error::io("starting a thread to remove files", e))?;
        Ok(Reaper { trash, next: AtomicU64::new(next), shared })
    }

    /// Throws away whatever is at `path`. What is not there is gone already.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        match fs::rename(path, self.trash.join(&name)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format!("removing {}", path.display()), e)),
        }
        self.shared.state.lock().waiting.push(name);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until everything thrown away so far is gone.
    pub(crate) fn settle(&self) {
        let mut state = self.shared.state.lock();
        while state.busy || !state.waiting.is_empty() {
            self.shared.changed.wait(&mut state);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

fn reap(trash: &File, shared: &Shared) {
    loop {
        let name = {
            let mut state = shared.state.lock();
            state.busy = false;
            shared.changed.notify_all();
            loop {
                if state.closed {
                    return;
                }
                if let Some(name) = state.waiting.pop() {
                    state.busy = true;
                    break name;
                }
                shared.changed.wait(&mut state);
            }
        };
        if let Err(errno) = tree::remove(trash.as_fd(), name.as_bytes()) {
            tracing::warn!(%name, %errno, "something thrown away could not be removed; it is tried again at the next start");
        }
    }
}
