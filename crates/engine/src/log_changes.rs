//! Who follows logs hears of what is written to them.
//!
//! All followers share one instance of inotify, as a user has few of these for all programs together; it has one watch for
//! each container's directory, whatever the number of its followers. It is there while somebody follows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use keeper::logs::reader::{Changed, ReadError, Watch, Watcher};
use keeper::protocol::LogConfig;
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::{Error, Result};

/// Where one can hear of changes of logs.
#[derive(Default)]
pub(crate) struct LogChanges(Mutex<Weak<Instance>>);

/// The shared instance, and a task that listens to it.
struct Instance {
    watcher: Arc<AsyncFd<Watcher>>,
    followers: Mutex<HashMap<Watch, watch::Sender<()>>>,
    listener: tokio::task::AbortHandle,
}

/// Hears of the changes of one log.
pub(crate) struct LogFollower {
    instance: Arc<Instance>,
    watch: Watch,
    changed: watch::Receiver<()>,
}

impl LogChanges {
    /// Hears of all changes of a log from now on.
    pub(crate) fn follow(&self, config: &LogConfig) -> Result<LogFollower> {
        let instance = {
            let mut shared = self.0.lock();
            match shared.upgrade() {
                Some(instance) => instance,
                None => {
                    let instance = Instance::start()?;
                    *shared = Arc::downgrade(&instance);
                    instance
                }
            }
        };
        let (watch, changed) = instance.subscribe(config).map_err(|error| Error::system(error.to_string()))?;
        Ok(LogFollower { instance, watch, changed })
    }
}

impl Instance {
    fn start() -> Result<Arc<Self>> {
        let failed = |error| {
            Error::step(
                "follow a log (a user may have fs.inotify.max_user_instances followers of files: raise it)",
                error,
            )
        };
        let watcher = Watcher::new().map_err(failed)?;
        #[expect(
            deprecated,
            reason = "its descriptor is the same as long as it lives, which is what the newer, unsafe form asks for"
        )]
        let watcher = Arc::new(AsyncFd::new(watcher).map_err(|error| Error::step("watch logs", error))?);
        Ok(Arc::new_cyclic(|instance| {
            let listener = tokio::spawn(listen(watcher.clone(), instance.clone())).abort_handle();
            Self { watcher, followers: Mutex::default(), listener }
        }))
    }

    fn subscribe(&self, config: &LogConfig) -> Result<(Watch, watch::Receiver<()>), ReadError> {
        // The list is held, so that nobody ends the watch meanwhile who was its last follower.
        let mut followers = self.followers.lock();
        let watch = self.watcher.get_ref().watch(config)?;
        Ok((watch, followers.entry(watch).or_insert_with(|| watch::Sender::new(())).subscribe()))
    }

    fn tell(&self, changed: &Changed) {
        let followers = self.followers.lock();
        match changed {
            Changed::These(watches) => {
                watches.iter().filter_map(|watch| followers.get(watch)).for_each(|log| log.send_replace(()));
            }
            Changed::Any => followers.values().for_each(|log| log.send_replace(())),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Tells followers of changes, as long as there are any.
async fn listen(watcher: Arc<AsyncFd<Watcher>>, instance: Weak<Instance>) {
    while let Ok(mut ready) = watcher.readable().await {
        ready.clear_ready();
        let changed = watcher.get_ref().changed();
        let Some(instance) = instance.upgrade() else { return };
        match changed {
            Ok(changed) => instance.tell(&changed),
            Err(error) => {
                tracing::warn!(%error, "could not read which logs have changed");
                instance.tell(&Changed::Any);
            }
        }
    }
}

impl LogFollower {
    /// Waits until the log has changed since this was asked last.
    pub(crate) async fn changed(&mut self) {
        // Its sender lives in the instance, which this holds.
        let _ = self.changed.changed().await;
    }
}

impl Drop for LogFollower {
    fn drop(&mut self) {
        let mut followers = self.instance.followers.lock();
        // This one is still counted.
        if followers.get(&self.watch).is_some_and(|log| log.receiver_count() == 1) {
            followers.remove(&self.watch);
            self.instance.watcher.get_ref().forget(self.watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn log(directory: &Path, name: &str) -> LogConfig {
        let directory = directory.join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        LogConfig::Local { path: directory.join("log"), rotation: None }
    }

    #[tokio::test]
    async fn followers_share_one_instance_and_hear_of_their_own_log_only() {
        let place = tempfile::tempdir().expect("a directory");
        let changes = LogChanges::default();
        let (first, second) = (log(place.path(), "first"), log(place.path(), "second"));
        // More than a user may have instances.
        let mut followers: Vec<_> = (0..300).map(|_| changes.follow(&first).expect("a follower")).collect();
        let mut other = changes.follow(&second).expect("a follower");
        std::fs::write(place.path().join("first/log"), "line").expect("written");
        for follower in &mut followers {
            follower.changed().await;
        }
        std::fs::write(place.path().join("second/log"), "line").expect("written");
        other.changed().await;
        assert!(followers.iter().all(|follower| !follower.changed.has_changed().expect("its sender lives")));
        followers.truncate(1);
        assert_eq!(other.instance.followers.lock().len(), 2);
        followers.clear();
        assert_eq!(other.instance.followers.lock().len(), 1);
        // The next one begins anew where nobody had followed any more.
        let mut again = changes.follow(&first).expect("a follower");
        std::fs::write(place.path().join("first/log"), "line 2").expect("written");
        again.changed().await;
        drop((other, again));
        assert!(changes.0.lock().upgrade().is_none());
    }
}
