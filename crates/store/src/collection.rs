//! A typed view of the keys below a prefix: values of one type, kept as JSON.

use crate::{CommitError, Durability, Error, Expect, Revision, Store, Txn, Watch, WatchError};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::marker::PhantomData;

/// Values of type `T` under `prefix` + id, as JSON. A view: making one is cheap and touches nothing.
pub struct Collection<T> {
    store: Store,
    prefix: String,
    item: PhantomData<fn() -> T>,
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Collection { store: self.store.clone(), prefix: self.prefix.clone(), item: PhantomData }
    }
}

impl<T> fmt::Debug for Collection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// A value of a collection, and the revision of its last change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// The key, without the collection's prefix.
    pub id: String,
    /// The value.
    pub value: T,
    /// The revision of its last change.
    pub revision: Revision,
}

/// What a collection holds, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items<T> {
    /// The values in the order of their ids.
    pub items: Vec<Item<T>>,
    /// The store's revision at that moment: a watch after it continues without a gap.
    pub revision: Revision,
}

impl<T> IntoIterator for Items<T> {
    type Item = Item<T>;
    type IntoIter = std::vec::IntoIter<Item<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

/// What [`Collection::update`] shall do with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update<T> {
    /// Put this in its place, or make it where there was none.
    Put(T),
    /// Delete it.
    Delete,
    /// Leave everything as it is.
    Keep,
}

impl<T: Serialize + DeserializeOwned> Collection<T> {
    /// The collection under `prefix`, which ends with `/` by custom: `Collection::new(&store, "net/network/")`.
    pub fn new(store: &Store, prefix: impl Into<String>) -> Collection<T> {
        Collection { store: store.clone(), prefix: prefix.into(), item: PhantomData }
    }

    /// The key under which `id` is stored, for transactions over several collections.
    pub fn key(&self, id: &str) -> String {
        format!("{}{id}", self.prefix)
    }

    /// The value's JSON, for transactions over several collections: `txn.put(c.key(id), c.encode(id, &value)?)`.
    pub fn encode(&self, id: &str, value: &T) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(value).map_err(|source| Error::Encode { key: self.key(id), source })
    }

    /// The value of a [`crate::Change`] or [`crate::Entry`] under `key` (the whole one, as those tell it).
    pub fn decode(&self, key: &str, value: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(value).map_err(|source| Error::Decode { key: key.to_owned(), source })
    }

    /// The store that this is in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// A transaction of the store that this is in.
    pub fn txn(&self) -> Txn<'_> {
        self.store.txn()
    }

    /// Adds a put of `value` to a transaction over several collections.
    pub fn put_in<'a>(&self, txn: Txn<'a>, id: &str, value: &T) -> Result<Txn<'a>, Error> {
        Ok(txn.put(self.key(id), self.encode(id, value)?))
    }

    /// The value of `id`, if there is one.
    pub fn get(&self, id: &str) -> Result<Option<Item<T>>, Error> {
        let key = self.key(id);
        let Some(entry) = self.store.get(&key)? else { return Ok(None) };
        let value = self.decode(&key, &entry.value)?;
        Ok(Some(Item { id: id.to_owned(), value, revision: entry.revision }))
    }

    /// All values, as of one moment.
    pub fn list(&self) -> Result<Items<T>, Error> {
        let listing = self.store.list(&self.prefix)?;
        let mut items = Vec::with_capacity(listing.entries.len());
        for (key, entry) in listing.entries {
            let value = self.decode(&key, &entry.value)?;
            items.push(Item { id: key[self.prefix.len()..].to_owned(), value, revision: entry.revision });
        }
        Ok(Items { items, revision: listing.revision })
    }

    /// Puts `value`, whatever was there. Blocks until it is on the disk.
    pub fn put(&self, id: &str, value: &T) -> Result<Revision, Error> {
        self.put_if(id, Expect::Any, value)
    }

    /// Puts `value` if `id` is as expected. Blocks until it is on the disk.
    pub fn put_if(&self, id: &str, expect: Expect, value: &T) -> Result<Revision, Error> {
        let key = self.key(id);
        let value = self.encode(id, value)?;
        Ok(self.store.txn().expect(key.clone(), expect).put(key, value).commit()?)
    }

    /// Puts `value`, and returns when it is visible; it is on the disk a second later: see [`Durability::Relaxed`].
    pub fn put_relaxed(&self, id: &str, value: &T) -> Result<Revision, Error> {
        let value = self.encode(id, value)?;
        Ok(self.store.txn().durability(Durability::Relaxed).put(self.key(id), value).commit()?)
    }

    /// As [`Collection::put_if`], for asynchronous tasks.
    pub async fn put_if_async(&self, id: &str, expect: Expect, value: &T) -> Result<Revision, Error> {
        let key = self.key(id);
        let value = self.encode(id, value)?;
        let commit = self.store.txn().expect(key.clone(), expect).put(key, value).commit_async();
        Ok(commit.await?)
    }

    /// As [`Collection::put`], for asynchronous tasks.
    pub async fn put_async(&self, id: &str, value: &T) -> Result<Revision, Error> {
        self.put_if_async(id, Expect::Any, value).await
    }

    /// Deletes `id`; whether there was one to delete is not told. Blocks until it is on the disk.
    pub fn delete(&self, id: &str) -> Result<Revision, Error> {
        Ok(self.store.txn().delete(self.key(id)).commit()?)
    }

    /// As [`Collection::delete`], for asynchronous tasks.
    pub async fn delete_async(&self, id: &str) -> Result<Revision, Error> {
        let commit = self.store.txn().delete(self.key(id)).commit_async();
        Ok(commit.await?)
    }

    /// Changes the value of `id` by `change`, which is given the present one and says what shall become of it; it is
    /// called again where somebody else changed the value meanwhile, so it must be free of side effects. Returns the
    /// value as it is afterwards. Blocks until it is on the disk.
    pub fn update(&self, id: &str, mut change: impl FnMut(Option<T>) -> Update<T>) -> Result<Option<Item<T>>, Error> {
        let key = self.key(id);
        loop {
            let Attempt { request, outcome } = self.attempt(id, &mut change)?;
            let Some(txn) = request else { return Ok(outcome.map(|value| value.item(id))) };
            match txn.expecting(self.store.txn(), &key).commit() {
                Ok(revision) => return Ok(outcome.map(|value| value.at(id, revision))),
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Collection::update`], for asynchronous tasks.
    pub async fn update_async(
        &self,
        id: &str,
        mut change: impl FnMut(Option<T>) -> Update<T>,
    ) -> Result<Option<Item<T>>, Error> {
        let key = self.key(id);
        loop {
            let Attempt { request, outcome } = self.attempt(id, &mut change)?;
            let Some(txn) = request else { return Ok(outcome.map(|value| value.item(id))) };
            let commit = txn.expecting(self.store.txn(), &key).commit_async();
            match commit.await {
                Ok(revision) => return Ok(outcome.map(|value| value.at(id, revision))),
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Every change after `after` below the collection's prefix; see [`Store::watch`]. [`Collection::decode`] reads
    /// the values.
    pub fn watch(&self, after: Revision) -> Result<Watch, WatchError> {
        self.store.watch(&self.prefix, after)
    }

    /// One round of an update: reads, asks, and says what to commit.
    fn attempt(&self, id: &str, change: &mut impl FnMut(Option<T>) -> Update<T>) -> Result<Attempt<T>, Error> {
        let present = self.store.get(&self.key(id))?;
        let expect = present.as_ref().map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        let decode = || present.as_ref().map(|entry| self.decode(&self.key(id), &entry.value)).transpose();
        Ok(match change(decode()?) {
            Update::Keep => {
                let revision = present.as_ref().map_or(Revision::ZERO, |entry| entry.revision);
                let outcome = decode()?.map(|value| Outcome { value, revision });
                Attempt { request: None, outcome }
            }
            Update::Put(value) => {
                let bytes = self.encode(id, &value)?;
                let outcome = Some(Outcome { value, revision: Revision::ZERO });
                Attempt { request: Some(Swap { expect, value: Some(bytes) }), outcome }
            }
            Update::Delete => Attempt { request: Some(Swap { expect, value: None }), outcome: None },
        })
    }
}

/// What one round of an update came to.
struct Attempt<T> {
    request: Option<Swap>,
    outcome: Option<Outcome<T>>,
}

/// A compare-and-swap of one key.
struct Swap {
    expect: Expect,
    value: Option<Vec<u8>>,
}

impl Swap {
    fn expecting<'a>(self, txn: Txn<'a>, key: &str) -> Txn<'a> {
        let txn = txn.expect(key, self.expect);
        match self.value {
            Some(value) => txn.put(key, value),
            None => txn.delete(key),
        }
    }
}

/// The value after an update.
struct Outcome<T> {
    value: T,
    revision: Revision,
}

impl<T> Outcome<T> {
    fn item(self, id: &str) -> Item<T> {
        Item { id: id.to_owned(), value: self.value, revision: self.revision }
    }

    fn at(self, id: &str, revision: Revision) -> Item<T> {
        Item { id: id.to_owned(), value: self.value, revision }
    }
}
