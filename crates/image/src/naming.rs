//! Names of images: who has which, and what somebody means by one.

use crate::images::Inner;
use crate::record::{self, HOLD, ImageRecord, RECORD, TAG, key_of};
use crate::state::State;
use crate::{Descriptor, Digest, Error, ImageConfig, ImageId, Images, Reference, Result};
use jiff::Timestamp;
use std::sync::Arc;

/// An image whose layers are here.
pub(crate) struct NewImage<'a> {
    pub(crate) config_json: &'a [u8],
    pub(crate) config: &'a ImageConfig,
    pub(crate) parent: Option<ImageId>,
    pub(crate) manifest: Option<Descriptor>,
    pub(crate) names: &'a [Reference],
    /// Whether somebody here gives it the names, rather than that they come with it.
    pub(crate) by_hand: bool,
    /// Whether it is made now, whatever its configuration says: that may be of a fixed time.
    pub(crate) now: bool,
}

impl Inner {
    /// Makes an image visible, with its names, in one step. The caller holds a lease on all it consists of.
    pub(crate) fn add_image(&self, new: NewImage<'_>) -> Result<Arc<ImageRecord>> {
        let id = ImageId(self.content.put(new.config_json)?);
        let _one = self.naming.lock();
        let (known, size) = {
            let state = self.state.lock();
            let size = state.layers_of(&new.config.rootfs.diff_ids)?.iter().map(|layer| layer.size).sum();
            (state.images.get(&id).map(Arc::clone), size)
        };
        let mut image = ImageRecord::of(id, new.config, size);
        image.parent = new.parent.or_else(|| known.as_ref()?.parent);
        image.manifest = new.manifest.or_else(|| known.as_ref()?.manifest.clone());
        image.tagged = known.as_ref().and_then(|known| known.tagged);
        image.attestations = known.as_ref().map_or_else(Vec::new, |known| known.attestations.clone());
        if new.by_hand && !new.names.is_empty() {
            image.tagged = Some(Timestamp::now());
        }
        let known_since = known.as_ref().map(|known| known.created).filter(|time| record::says_when(*time));
        if let Some(since) = known_since {
            image.created = since;
        } else if new.now || !record::says_when(image.created) {
            image.created = Timestamp::now();
        }
        let key = key_of(RECORD, &id.0);
        let mut txn = self.store.txn().put(&key, record::encode(&key, &image)?);
        for name in new.names {
            let key = format!("{TAG}{}", name.canonical());
            txn = txn.put(&key, record::encode(&key, &id)?);
        }
        txn.commit()?;
        let image = Arc::new(image);
        let mut state = self.state.lock();
        state.images.insert(id, Arc::clone(&image));
        state.names.extend(new.names.iter().map(|name| (name.clone(), id)));
        Ok(image)
    }

    /// Gives an image another name, taking it from whoever had it.
    pub(crate) fn add_name(&self, id: &ImageId, name: &Reference) -> Result<()> {
        let _one = self.naming.lock();
        let mut image = ImageRecord::clone(&*self.state.lock().image(id)?);
        image.tagged = Some(Timestamp::now());
        let (key, of_name) = (key_of(RECORD, &id.0), format!("{TAG}{}", name.canonical()));
        let txn = self.store.txn().put(&key, record::encode(&key, &image)?);
        txn.put(&of_name, record::encode(&of_name, id)?).commit()?;
        let mut state = self.state.lock();
        state.images.insert(*id, Arc::new(image));
        state.names.insert(name.clone(), *id);
        Ok(())
    }

    /// Takes names away. The caller holds `naming`.
    pub(crate) fn remove_names(&self, names: &[Reference]) -> Result<()> {
        let txn = self.store.txn();
        let txn = names.iter().fold(txn, |txn, name| txn.delete(format!("{TAG}{}", name.canonical())));
        if !txn.is_empty() {
            txn.commit()?;
        }
        let mut state = self.state.lock();
        state.names.retain(|name, _| !names.contains(name));
        Ok(())
    }
}

impl State {
    /// The image somebody means: a name, a digest or an id, whole or its beginning.
    pub(crate) fn resolve(&self, text: &str) -> Result<ImageId> {
        if let Some(id) = whole_id(text) {
            return self.image(&id).map(|image| image.id);
        }
        let reference = Reference::parse(text)?.with_default_tag();
        if let Some(id) = self.by_name(&reference) {
            return Ok(id);
        }
        match self.by_prefix(text)? {
            Some(id) => Ok(id),
            None => Err(Error::NoSuchImage(reference.familiar())),
        }
    }

    /// The image of that name. A name with a tag and a digest is the digest's, in Docker's way.
    fn by_name(&self, reference: &Reference) -> Option<ImageId> {
        let found = self.names.get(reference).copied();
        found.or_else(|| self.names.get(&reference.with_digest(reference.digest()?).ok()?).copied())
    }

    /// The image whose id begins so.
    fn by_prefix(&self, text: &str) -> Result<Option<ImageId>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(None);
        }
        let mut found = self.images.keys().filter(|id| id.0.hex().starts_with(digits));
        let first = found.next().copied();
        if found.next().is_some() {
            return Err(Error::AmbiguousId(text.into()));
        }
        Ok(first)
    }
}

/// Whether the text means an image by its id (or the beginning of it), not by a name.
pub(crate) fn is_id_of(id: &ImageId, text: &str) -> bool {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    !digits.is_empty() && id.0.hex().starts_with(digits)
}

fn whole_id(text: &str) -> Option<ImageId> {
    text.parse::<Digest>().or_else(|_| Digest::from_hex(text)).ok().map(ImageId)
}

impl Images {
    /// The image somebody means: a name with a tag (or `latest`) or a digest, an id, or the beginning of an id that is
    /// no other's.
    pub fn resolve(&self, text: &str) -> Result<ImageId> {
        self.0.state.lock().resolve(text)
    }

    /// The names of an image, in order: with tags, and with digests.
    pub fn references(&self, id: &ImageId) -> Vec<Reference> {
        self.0.state.lock().names_of(id)
    }

    /// All names that have a tag in a repository (`domain/path`), with their images.
    pub fn tags_of(&self, repository: &Reference) -> Vec<(Reference, ImageId)> {
        let name = repository.name();
        let state = self.0.state.lock();
        let mine = state.names.iter().filter(|(r, _)| r.tag().is_some() && r.name() == name);
        mine.map(|(reference, id)| (reference.clone(), *id)).collect()
    }

    /// Gives an image a name, taking it from whoever had it. Without a tag, `latest` is meant.
    pub async fn tag(&self, id: &ImageId, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".into()));
        }
        let (id, name) = (*id, name.clone().with_default_tag());
        self.blocking(move |inner| inner.add_name(&id, &name)).await
    }

    /// Notes durably that `owner` needs the image: it is not removed, whatever names it has, until released. For users
    /// that are no containers with a root file system of this crate's.
    pub async fn hold(&self, owner: &str, id: &ImageId) -> Result<()> {
        let (owner, id) = (owner.to_owned(), *id);
        self.blocking(move |inner| {
            let _one = inner.naming.lock();
            inner.state.lock().image(&id)?;
            let key = format!("{HOLD}{owner}");
            inner.store.txn().put(&key, record::encode(&key, &id)?).commit()?;
            inner.state.lock().holds.insert(owner, id);
            Ok(())
        })
        .await
    }

    /// Ends what [`Images::hold`] began.
    pub async fn release(&self, owner: &str) -> Result<()> {
        let owner = owner.to_owned();
        self.blocking(move |inner| {
            let _one = inner.naming.lock();
            inner.store.txn().delete(format!("{HOLD}{owner}")).commit()?;
            inner.state.lock().holds.remove(&owner);
            Ok(())
        })
        .await
    }
}
