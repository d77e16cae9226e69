//! Steps of builds: containers of images that are being built, of which only what they changed is wanted.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use image::{Digest, NewLayer};
use oci_spec::runtime::{Mount, Spec};
use sandbox::CompileOptions;

use crate::model::ContainerId;
use crate::{Engine, Error, Result};

pub use sandbox::apart::{Access, file as file_in_memory, socket as socket_in_memory};

/// What a container has while it runs, and no record, no store and no log: secrets.
#[derive(Debug, Default)]
pub struct Lent {
    /// What is mounted.
    pub mounts: Vec<LentMount>,
    /// `NAME=value`, with whatever value.
    pub environment: Vec<Secret>,
}

/// Something that is mounted.
#[derive(Debug)]
pub struct LentMount {
    /// Where.
    pub target: String,
    /// It: a detached tree, as those of [`file_in_memory`] and [`socket_in_memory`].
    pub tree: OwnedFd,
    /// Nobody may write to it.
    pub read_only: bool,
}

/// A text that nobody prints by accident.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Lent {
    /// Adds it to what a container would have without it.
    pub(super) fn add_to(
        self,
        spec: &mut Spec,
        options: &mut CompileOptions,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<()> {
        if let Some(process) = spec.process_mut() {
            process.env_mut().get_or_insert_default().extend(self.environment.into_iter().map(|Secret(text)| text));
        }
        for LentMount { target, tree, read_only } in self.mounts {
            let slot = u8::try_from(descriptors.len()).map_err(|_| Error::invalid("too many things to mount"))?;
            let access = if read_only { "ro" } else { "rw" };
            let flags = ["bind", "rprivate", "nosuid", "nodev", "noexec", access].map(str::to_owned);
            let mut mount = Mount::default();
            mount
                .set_destination(PathBuf::from(&target))
                .set_typ(Some("bind".to_owned()))
                .set_source(Some(PathBuf::from("memory")))
                .set_options(Some(flags.to_vec()));
            spec.mounts_mut().get_or_insert_default().push(mount);
            options.mount_fds.insert(PathBuf::from(target), slot);
            descriptors.push(tree);
        }
        Ok(())
    }
}

impl Engine {
    /// Gives the next start of a container what it has beside its record.
    ///
    /// # Errors
    /// Where there is no such container.
    pub fn lend(&self, reference: &str, lent: Lent) -> Result<()> {
        *self.0.containers.find(reference)?.lent.lock() = lent;
        Ok(())
    }

    /// Takes what a container changed, which does not run any more, to make a layer of it. It has changed nothing afterwards.
    pub async fn take_changes(&self, reference: &str) -> Result<NewLayer> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        if life.record().state.phase.is_live() {
            return Err(Error::conflict(format!("container {reference} is running: what it changes is not whole yet")));
        }
        life.files.settle(&life).await?;
        let (images, id) = (self.0.images.clone(), life.id.to_string());
        crate::blocking(move || images.take_changes(&id).map_err(crate::images::error)).await
    }

    /// Leaves a step's container, which does not run any more, to whoever wants to look at it: from here on it is a container like any other, and
    /// no build removes it. It has nothing of what its build had mounted or lent it. `made` are the layers that its changes became, if they
    /// were [taken](Self::take_changes): whoever builds keeps them meanwhile.
    ///
    /// # Errors
    /// Where there is no such container, where it runs, and where it can't be written down.
    pub async fn leave_step(&self, reference: &str, made: Vec<Digest>) -> Result<()> {
        let container = self.0.containers.find(reference)?;
        let life = container.life(reference).await?;
        if life.record().state.phase.is_live() {
            return Err(Error::conflict(format!("container {reference} is running: it is its build's until it ends")));
        }
        life.files.settle(&life).await?;
        drop(std::mem::take(&mut *container.lent.lock()));
        let (images, id) = (self.0.images.clone(), life.id.to_string());
        crate::blocking(move || images.raise_rootfs(&id, &made).map_err(crate::images::error)).await?;
        let left = self.change(&life, |record| {
            record.step = false;
            record.mounts.clear();
            record.host.mounts.clear();
        });
        left.await.map(drop)
    }

    /// Containers that are steps of builds. Right after the daemon's start they belong to builds that ended with it.
    pub fn steps(&self) -> Vec<ContainerId> {
        let all = self.0.containers.all();
        all.iter().filter(|container| container.record().step).map(|container| container.id.clone()).collect()
    }
}
