//! `remove`: the record goes first, then what it named.

use std::sync::Arc;
use std::time::Duration;

use super::stop::SIGKILL;
use super::{Container, Life};
use crate::model::{ContainerRecord, MountPoint, Phase};
use crate::volumes::Leaving;
use crate::{Engine, Error, ErrorKind, Result};

/// How long copies of a removed container's files may take, before they are no longer a part of its removal.
const COPIES: Duration = Duration::from_secs(3);

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// A running one is killed first.
    pub force: bool,
    /// Its anonymous volumes go with it.
    pub volumes: bool,
    /// Remove a link, not a container.
    pub link: bool,
}

impl Engine {
    /// Removes a container. When it returns, nobody sees it any more.
    pub async fn remove(&self, reference: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return self.remove_link(reference).await;
        }
        let container = self.0.containers.find(reference)?;
        let _doom = options.force.then(|| container.doom());
        let _ender = options.force.then(|| container.sources.want_end());
        let life = loop {
            if options.force {
                self.end_by_force(&container).await?;
            }
            let life = match container.life(reference).await {
                Ok(life) => life,
                // Its end may have removed it meanwhile, where it was to be removed by itself.
                Err(_) if options.force => return Ok(()),
                Err(error) => return Err(error),
            };
            let phase = life.record().state.phase;
            // A start that was under way may have come between; another can't begin.
            if !options.force || !(phase.is_live() || phase == Phase::Restarting) {
                break life;
            }
        };
        let record = life.record();
        match record.state.phase {
            Phase::Removing => {
                return Err(Error::conflict(format!("removal of container {reference} is already in progress")));
            }
            phase if phase.is_live() || phase == Phase::Restarting => {
                let what = match phase {
                    Phase::Paused => "container is paused and must be unpaused first",
                    Phase::Restarting => "container is restarting: stop the container before removing or force remove",
                    _ => "container is running: stop the container before removing or force remove",
                };
                return Err(Error::conflict(format!("cannot remove container \"/{}\": {what}", record.name)));
            }
            _ => {}
        }
        self.remove_locked(life, options.volumes).await
    }

    /// Kills it and waits for its end, without its policies.
    async fn end_by_force(&self, container: &Arc<Container>) -> Result<()> {
        container.files.end_writing();
        self.cancel_restart(container).await?;
        let record = container.settled().await;
        if !record.state.phase.is_live() {
            return Ok(());
        }
        let mut turns = container.turns();
        let before = turns.borrow_and_update().exits;
        self.note_stopped_by_hand(container).await;
        self.let_go(container, &record).await?;
        self.signal(&record, SIGKILL).await?;
        match self.is_over(&record, &mut turns, before).await? {
            true => Ok(()),
            false => Err(Error::system(format!(
                "cannot remove container {}: could not kill it: its process is stuck in the kernel",
                container.id.short()
            ))),
        }
    }

    /// Removes a container that does not run.
    pub(super) async fn remove_locked(&self, life: Life<'_>, volumes: bool) -> Result<()> {
        life.abort_tasks();
        let record = life.record();
        let wanted = record.mounts.iter().filter(|mount| volumes && mount.anonymous).filter_map(MountPoint::volume);
        let volumes = if volumes { self.anonymous_volumes(&record) } else { Vec::new() };
        let shared = wanted.filter(|name| volumes.iter().all(|volume| volume.name != **name));
        let shared: Vec<String> = shared.map(str::to_owned).collect();
        self.delete_record(&life.id, &volumes, None).await?;
        self.removed(life, volumes).await;
        self.drop_shared_volumes(shared).await;
        Ok(())
    }

    /// Removes anonymous volumes that others used as well when their container began to go: if those went in the same moment, each has left them to the other.
    async fn drop_shared_volumes(&self, names: Vec<String>) {
        for name in names {
            match self.volume_remove(&name, true).await {
                Ok(()) => {}
                // Somebody uses it, and takes it along.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => tracing::warn!(volume = name, %error, "could not remove an anonymous volume"),
            }
        }
    }

    /// A container's record is deleted, and those of `volumes`: nobody sees them any more, and their files go.
    pub(super) async fn removed(&self, life: Life<'_>, volumes: Vec<Leaving>) {
        let container = life.container();
        container.pending.lock().clear();
        container.files.end_writing();
        let record = container.record();
        // Before anybody hears of it, who may remove its image next.
        let mut leaving = Some(self.0.leaving.clone().read_owned().await);
        self.0.containers.remove(container);
        container.tell_removed();
        self.forget_execs(&record.id);
        self.tell_container(&record, "destroy", []);
        // Who hears that the container is gone does not see its volumes either.
        if !volumes.is_empty() {
            let engine = self.clone();
            let forgotten = crate::blocking(move || {
                engine.forget_volumes(&volumes);
                Ok(())
            });
            let _ = forgotten.await;
        }
        let (engine, container) = (self.clone(), container.clone());
        // Only who removes images waits for files to go: a daemon that is killed meanwhile sweeps them at its next start.
        tokio::spawn(async move {
            let mut unused = std::pin::pin!(async {
                engine.remove_file_machine(&container, &record).await;
                container.files.unused().await;
            });
            if tokio::time::timeout(COPIES, &mut unused).await.is_err() {
                // Somebody copies them, who may take as long as he likes: nobody else need wait for that.
                leaving = None;
                unused.await;
            }
            engine.discard_rootfs(&record.id).await;
            if record.is_machine() {
                engine.collect_snapshots_beside();
            }
            drop(leaving);
        });
    }

    fn forget_volumes(&self, volumes: &[Leaving]) {
        for volume in volumes {
            match self.0.volumes.forget(volume) {
                Ok(()) => self.tell_volume("destroy", volume),
                Err(error) => tracing::warn!(volume = volume.name, %error, "could not remove an anonymous volume"),
            }
        }
    }

    /// The anonymous volumes that nobody else uses: from here on nobody else will.
    pub(super) fn anonymous_volumes(&self, record: &ContainerRecord) -> Vec<Leaving> {
        let names = record.mounts.iter().filter(|mount| mount.anonymous).filter_map(MountPoint::volume);
        let others = |name: &str| self.volume_users(name).iter().any(|user| user != record.id.as_str());
        names.filter_map(|name| self.0.volumes.leave(name, || others(name))).collect()
    }

    /// `docker rm --link NAME/ALIAS`
    async fn remove_link(&self, reference: &str) -> Result<()> {
        let bare = reference.trim_start_matches('/');
        let Some((name, alias)) = bare.split_once('/') else {
            return Err(Error::invalid("Conflict, cannot remove the default link name of the container"));
        };
        let container = self.0.containers.find(name)?;
        let life = container.life(name).await?;
        let is_link = |link: &String| link.rsplit(':').next() == Some(alias);
        if !life.record().host.links.iter().any(is_link) {
            return Err(Error::not_found(format!("Cannot get parent /{name} for name /{bare}")));
        }
        self.change(&life, |record| record.host.links.retain(|link| !is_link(link))).await?;
        Ok(())
    }
}
