//! What a start looks at first: the files of the host that the container is to have mounted.
//!
//! Their file system may take as long as it likes to answer, where its server is gone, and nobody can have a thread that waits for it return. So
//! a start looks there before it makes anything: whoever wants the container's end has it given up, and only the thread goes on
//! waiting. What hangs only after that is waited for.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Container;
use crate::model::{ContainerRecord, MountPointKind};
use crate::{Engine, Error, Result};

/// How long a start is waited for by whoever wants the container's end: none that is answered takes as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who wants a container's end, and what its start waits for.
#[derive(Default)]
pub(super) struct Sources {
    /// How many want its end, and may have to wait for a start.
    enders: watch::Sender<usize>,
    /// The source that is being looked at: one thread at most is kept by a file system that does not answer.
    looked_at: Arc<parking_lot::Mutex<Option<String>>>,
}

/// Somebody wants the container's end.
pub(super) struct Ender<'a>(&'a Sources);

impl Drop for Ender<'_> {
    fn drop(&mut self) {
        self.0.enders.send_modify(|enders| *enders -= 1);
    }
}

/// A thread that looks.
struct Look(Arc<parking_lot::Mutex<Option<String>>>);

impl Drop for Look {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

impl Sources {
    /// Until what is returned is dropped, a start that waits for a file system is given up.
    pub(super) fn want_end(&self) -> Ender<'_> {
        self.enders.send_modify(|enders| *enders += 1);
        Ender(self)
    }

    /// Returns once somebody has waited for the end in vain.
    async fn given_up(&self) {
        tokio::time::sleep(PATIENCE).await;
        // The sender is this one's own.
        let _ = self.enders.subscribe().wait_for(|enders| *enders > 0).await;
    }
}

impl Engine {
    /// Waits until all files of the host that are to be mounted were looked at.
    pub(super) async fn look_at_sources(&self, container: &Arc<Container>, record: &ContainerRecord) -> Result<()> {
        let binds = record.mounts.iter().filter(|mount| mount.kind == MountPointKind::Bind);
        let sources: Vec<String> = binds.map(|mount| mount.source.clone()).collect();
        if sources.is_empty() {
            return Ok(());
        }
        let looked_at = container.sources.looked_at.clone();
        if let Some(source) = looked_at.lock().clone() {
            return Err(silent(&source, "it has not answered a start before this one"));
        }
        let look = Look(looked_at.clone());
        let looked = crate::blocking(move || {
            sources.iter().try_for_each(|source| {
                *look.0.lock() = Some(source.clone());
                has_answered(source)
            })
        });
        tokio::select! {
            biased;
            result = looked => result,
            () = container.sources.given_up() => {
                let source = looked_at.lock().clone().unwrap_or_default();
                Err(silent(&source, "the start was given up, as the container is to end"))
            }
        }
    }
}

/// What is not there is made, or missed, by whoever needs it.
fn has_answered(source: &str) -> Result<()> {
    match std::fs::metadata(source) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::step(format!("look at the mount source {source}"), error))
        }
        _ => Ok(()),
    }
}

fn silent(source: &str, what: &str) -> Error {
    Error::system(format!("the file system of the mount source {source} does not answer: {what}"))
}
