//! Removing images: names first, then images that nobody names or uses, by Docker's rules.

use crate::images::Inner;
use crate::naming::is_id_of;
use crate::record::{RECORD, key_of};
use crate::state::State;
use crate::{Digest, Error, ImageId, Images, Reference, Result, chain_id};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A step of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image was removed.
    Deleted(ImageId),
    /// A layer is in no image any more; by its chain id, as Docker tells it.
    LayerDeleted(Digest),
}

/// A container that was made from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// The image.
    pub image: ImageId,
    /// The container's id.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// How an image is removed.
#[derive(Clone, Debug, Default)]
pub struct RemoveOptions {
    /// Although it has several names, or a stopped container uses it.
    pub force: bool,
    /// Together with parents that have no name and no other child.
    pub prune_parents: bool,
    /// Who uses images. Containers with a root file system here count as stopped users even if they are left out.
    pub users: Vec<ImageUser>,
}

/// What is pruned.
#[derive(Clone, Debug, Default)]
pub struct PruneFilters {
    /// Also images that have names, if nobody uses them; else only those without a name.
    pub all: bool,
    /// Only what was made before.
    pub until: Option<Timestamp>,
    /// Only what has these labels.
    pub labels: Vec<LabelFilter>,
    /// Only what does not have these labels.
    pub without_labels: Vec<LabelFilter>,
}

/// A label, and its value where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    /// The label.
    pub key: String,
    /// Its value; `None` for any.
    pub value: Option<String>,
}

impl LabelFilter {
    /// Reads `KEY` or `KEY=VALUE`.
    pub fn parse(text: &str) -> LabelFilter {
        match text.split_once('=') {
            Some((key, value)) => LabelFilter { key: key.into(), value: Some(value.into()) },
            None => LabelFilter { key: text.into(), value: None },
        }
    }

    /// Whether labels have it.
    pub fn matches(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        labels.get(&self.key).is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl Images {
    /// Removes a name, and the image when it was the last; or an image by its id, with all its names in one repository.
    /// What becomes of its layers and blobs is the next [`Images::gc`]'s.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Conflict`] where somebody uses it, with what would help.
    pub async fn remove(&self, text: &str, options: RemoveOptions) -> Result<Vec<Removed>> {
        let text = text.to_owned();
        self.blocking(move |inner| {
            let _one = inner.naming.lock();
            Removal::new(inner, &options).remove(&text)
        })
        .await
    }

    /// Removes images that nobody uses. What could not be removed is left, as it came into use meanwhile.
    pub async fn prune(&self, filters: PruneFilters, users: Vec<ImageUser>) -> Result<Vec<Removed>> {
        self.blocking(move |inner| {
            let _one = inner.naming.lock();
            prune(inner, &filters, users)
        })
        .await
    }
}

fn prune(inner: &Arc<Inner>, filters: &PruneFilters, users: Vec<ImageUser>) -> Result<Vec<Removed>> {
    let candidates: Vec<(ImageId, Vec<Reference>)> = {
        let state = inner.state.lock();
        let fits = |image: &crate::record::ImageRecord| {
            let names = state.names_of(&image.id);
            let has_children = !state.children(&image.id).is_empty();
            let fits = (!has_children || (filters.all && !names.is_empty()))
                && filters.until.is_none_or(|until| image.created <= until)
                && filters.labels.iter().all(|label| label.matches(&image.labels))
                && !filters.without_labels.iter().any(|label| label.matches(&image.labels))
                && (filters.all || names.iter().all(|name| name.tag().is_none()));
            fits.then_some((image.id, names))
        };
        state.images.values().filter_map(|image| fits(image)).collect()
    };
    let options = RemoveOptions { force: false, prune_parents: true, users };
    let mut removed = Vec::new();
    for (id, names) in candidates {
        let texts: Vec<String> =
            if names.is_empty() { vec![id.to_string()] } else { names.iter().map(Reference::canonical).collect() };
        for text in texts {
            match Removal::new(inner, &options).remove(&text) {
                Ok(steps) => removed.extend(steps),
                Err(Error::Conflict(_) | Error::NoSuchImage(_)) => {}
                Err(other) => return Err(other),
            }
        }
    }
    Ok(removed)
}

/// A removal on its way. The caller holds `naming`.
struct Removal<'a> {
    inner: &'a Arc<Inner>,
    options: &'a RemoveOptions,
    users: Vec<ImageUser>,
    steps: Vec<Removed>,
}

/// What is in the way of a removal.
struct Obstacle {
    /// Whether force would help.
    soft: bool,
    /// Whether a container is it.
    used: bool,
    text: String,
}

impl<'a> Removal<'a> {
    fn new(inner: &'a Arc<Inner>, options: &'a RemoveOptions) -> Removal<'a> {
        let state = inner.state.lock();
        let mut users = options.users.clone();
        let known: BTreeSet<&str> = options.users.iter().map(|user| user.container.as_str()).collect();
        for (container, rootfs) in &state.rootfs {
            if !known.contains(container.as_str()) {
                let user = |image| ImageUser { image, container: container.clone(), running: false };
                users.extend(rootfs.images().map(user));
            }
        }
        users.sort_by(|a, b| a.container.cmp(&b.container));
        Removal { inner, options, users, steps: Vec::new() }
    }

    fn state<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.inner.state.lock())
    }

    fn remove(mut self, text: &str) -> Result<Vec<Removed>> {
        let id = self.state(|state| state.resolve(text))?;
        let names = self.state(|state| state.names_of(&id));
        if is_id_of(&id, text) {
            if is_single(&names) {
                if let Some(obstacle) = self.obstacle(&id, !self.options.force, false) {
                    return Err(refusal(&id, &obstacle));
                }
                self.untag(&names)?;
            }
            self.delete(&id, self.options.force, false)?;
            return Ok(self.steps);
        }
        let name = Reference::parse(text)?.with_default_tag();
        if !self.options.force
            && is_single(&names)
            && let Some(user) = self.users.iter().find(|user| user.image == id)
        {
            return Err(Error::Conflict(format!(
                "unable to remove repository reference {text:?} (must force) - container {} is using its referenced image {}",
                short(&user.container),
                id.short()
            )));
        }
        // Where a tag and a digest were given, the digest was found.
        let name = if names.contains(&name) { name } else { name.with_digest(name.digest().unwrap_or_default())? };
        self.untag(std::slice::from_ref(&name))?;
        let mut left = self.state(|state| state.names_of(&id));
        // With the last tag of a repository go its digests.
        let same = |other: &&Reference| other.name() == name.name();
        if name.digest().is_none() && !left.iter().filter(same).any(|other| other.tag().is_some()) {
            let digests: Vec<Reference> = left.iter().filter(same).cloned().collect();
            self.untag(&digests)?;
            left.retain(|other| other.name() != name.name());
        }
        if left.is_empty() {
            self.delete(&id, self.options.force, true)?;
        }
        Ok(self.steps)
    }

    fn untag(&mut self, names: &[Reference]) -> Result<()> {
        self.inner.remove_names(names)?;
        self.steps.extend(names.iter().cloned().map(Removed::Untagged));
        Ok(())
    }

    /// Removes an image that has lost its names. `quiet`: it may stay where something else still needs it.
    fn delete(&mut self, id: &ImageId, force: bool, quiet: bool) -> Result<()> {
        let mut next = Some((*id, force, quiet));
        while let Some((id, force, quiet)) = next.take() {
            if let Some(obstacle) = self.obstacle(&id, !force, !force) {
                let dangling = self.state(|state| state.names_of(&id).is_empty() && state.children(&id).is_empty());
                if quiet && (!dangling || obstacle.used) {
                    return Ok(());
                }
                return Err(refusal(&id, &obstacle));
            }
            let parent = self.state(|state| state.image(&id)).map(|image| image.parent)?;
            let names = self.state(|state| state.names_of(&id));
            self.untag(&names)?;
            self.forget(&id)?;
            if self.options.prune_parents
                && let Some(parent) = parent
                && self.state(|state| state.images.contains_key(&parent))
            {
                next = Some((parent, false, true));
            }
        }
        Ok(())
    }

    /// Takes the record away, and tells which layers are in no image any more.
    fn forget(&mut self, id: &ImageId) -> Result<()> {
        self.inner.store.txn().delete(key_of(RECORD, &id.0)).commit()?;
        let mut state = self.inner.state.lock();
        let image = state.images.remove(id).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        self.inner.forget_config(id);
        self.steps.push(Removed::Deleted(*id));
        for end in (1..=image.diff_ids.len()).rev() {
            let chain = &image.diff_ids[..end];
            let used = state.images.values().any(|other| other.diff_ids.starts_with(chain))
                || state.rootfs.values().any(|rootfs| rootfs.stacks().any(|layers| layers.starts_with(chain)));
            if used {
                break;
            }
            // A build may find it again.
            if state.retained.values().any(|retained| *retained == image.diff_ids[end - 1]) {
                continue;
            }
            self.steps.extend(chain_id(chain).map(Removed::LayerDeleted));
        }
        Ok(())
    }

    /// What is in the way. `soft` asks for what force would overcome, too; `names` counts several names as that.
    fn obstacle(&self, id: &ImageId, soft: bool, names: bool) -> Option<Obstacle> {
        if self.state(|state| !state.children(id).is_empty()) {
            return Some(Obstacle { soft: false, used: false, text: "image has dependent child images".into() });
        }
        let user = |running| self.users.iter().find(|user| user.image == *id && user.running == running);
        if let Some(user) = user(true) {
            let text = format!("image is being used by running container {}", short(&user.container));
            return Some(Obstacle { soft: false, used: true, text });
        }
        if let Some((owner, _)) =
            self.state(|s| s.holds.iter().find(|(_, held)| *held == id).map(|(o, i)| (o.clone(), *i)))
        {
            return Some(Obstacle { soft: false, used: true, text: format!("image is being used by {owner}") });
        }
        if soft && names && self.state(|state| !state.names_of(id).is_empty()) {
            let text = "image is referenced in multiple repositories".into();
            return Some(Obstacle { soft: true, used: false, text });
        }
        if soft && let Some(user) = user(false) {
            let text = format!("image is being used by stopped container {}", short(&user.container));
            return Some(Obstacle { soft: true, used: true, text });
        }
        None
    }
}

/// Whether all names together are one: at most one tag, and digests of that repository only.
fn is_single(names: &[Reference]) -> bool {
    let tags = names.iter().filter(|name| name.tag().is_some()).count();
    let repositories: BTreeSet<String> = names.iter().map(Reference::name).collect();
    tags <= 1 && repositories.len() <= 1
}

fn refusal(id: &ImageId, obstacle: &Obstacle) -> Error {
    let way = if obstacle.soft { "must be forced" } else { "cannot be forced" };
    Error::Conflict(format!("unable to delete {} ({way}) - {}", id.short(), obstacle.text))
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
