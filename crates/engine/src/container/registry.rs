//! All containers, by identifier and by name.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use super::Container;
use crate::model::ContainerId;
use crate::{Error, Result};

/// All containers, by identifier and by name.
#[derive(Default)]
pub(crate) struct Registry {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Sorted, so that the containers whose identifiers begin alike stand together.
    by_id: BTreeMap<String, Arc<Container>>,
    /// Names, also of containers that are being made.
    names: HashMap<String, ContainerId>,
}

/// A name that nobody else can take until this is dropped; [`keep`](Self::keep) makes it last.
pub(crate) struct NameReservation<'a> {
    registry: &'a Registry,
    name: String,
    kept: bool,
}

impl Registry {
    /// Takes `name` for `id`.
    pub(crate) fn reserve(&self, name: &str, id: &ContainerId) -> Result<NameReservation<'_>> {
        let mut inner = self.inner.write();
        if let Some(holder) = inner.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            )));
        }
        inner.names.insert(name.to_owned(), id.clone());
        Ok(NameReservation { registry: self, name: name.to_owned(), kept: false })
    }

    /// Frees `name`.
    pub(crate) fn release(&self, name: &str) {
        self.inner.write().names.remove(name);
    }

    /// Makes `container` visible. Its name is reserved, or taken now.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut inner = self.inner.write();
        inner.names.insert(container.record().name.clone(), container.id.clone());
        inner.by_id.insert(container.id.as_str().to_owned(), container);
    }

    /// Takes `container` and its name away.
    pub(crate) fn remove(&self, container: &Container) {
        let mut inner = self.inner.write();
        inner.names.remove(&container.record().name);
        inner.by_id.remove(container.id.as_str());
    }

    /// All containers, in the order of their identifiers.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.inner.read().by_id.values().cloned().collect()
    }

    /// Whether a container of this identifier is being made, or is there.
    pub(crate) fn is_reserved(&self, id: &str) -> bool {
        self.inner.read().names.values().any(|holder| holder.as_str() == id)
    }

    /// The container of exactly this identifier.
    pub(crate) fn by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.inner.read().by_id.get(id).cloned()
    }

    /// The container that `reference` names: a whole identifier, a name, or an identifier's unique beginning.
    pub(crate) fn find(&self, reference: &str) -> Result<Arc<Container>> {
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if name.is_empty() {
            return Err(Error::no_such_container(reference));
        }
        let inner = self.inner.read();
        if let Some(container) = inner.by_id.get(name) {
            return Ok(container.clone());
        }
        if let Some(container) = inner.names.get(name).and_then(|id| inner.by_id.get(id.as_str())) {
            return Ok(container.clone());
        }
        let mut beginning = inner.by_id.range(name.to_owned()..).take_while(|(id, _)| id.starts_with(name));
        match (beginning.next(), beginning.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!("multiple IDs found with provided prefix: {name}"))),
            (None, _) => Err(Error::no_such_container(reference)),
        }
    }
}

impl NameReservation<'_> {
    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The name stays taken.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NameReservation<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.release(&self.name);
        }
    }
}
