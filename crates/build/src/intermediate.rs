//! Images that a build was on its way to: what a step's identifier stands for.
//!
//! ```text
//! build/image/<id>    the configuration that an image of that id has
//! ```
//! A build says after each step what the image would be called if it ended there, and whoever looks for the mistake of the next step runs that. None of them is an image
//! before somebody asks for it: they would be one more for each step of each build, and written on its way. What they are made of is in the cache; once
//! it is not, they are nothing.

use crate::state::State;
use crate::{Error, Result};
use engine::{Engine, Intermediates};
use futures_util::future::BoxFuture;
use image::{Digest, ImageConfig, ImageId, Images};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use store::Collection;

/// As many as this are remembered.
pub(crate) const MOST: usize = 1000;

/// The fewest digits of an identifier that one is looked for by.
const DIGITS: usize = 6;

/// What is remembered of them.
#[derive(Clone)]
pub(crate) struct Steps(Arc<Shared>);

struct Shared {
    /// Handles of the engine are not kept, as it has one of this.
    images: Images,
    configs: Collection<String>,
    /// Written already.
    known: Mutex<HashSet<ImageId>>,
}

impl Steps {
    /// Those of a store, of which the latest are known once [`bound`](Self::bound) has looked.
    pub(crate) fn new(images: &Images, store: &store::Store) -> Steps {
        let configs = Collection::new(store, "build/image/");
        Steps(Arc::new(Shared { images: images.clone(), configs, known: Mutex::default() }))
    }

    /// Remembers what an image would be if it ended here. Not written before this returns: who is killed has not been told of it for long.
    pub(crate) fn note(&self, state: &State) {
        let Ok(id) = state.id() else { return };
        if state.untouched().is_some() || !self.0.known.lock().insert(id) {
            return;
        }
        let (steps, config) = (self.clone(), state.config.clone());
        tokio::task::spawn_blocking(move || {
            let json = config.to_json().ok().and_then(|json| String::from_utf8(json).ok());
            let Some(json) = json else { return };
            if let Err(error) = steps.0.configs.put_relaxed(&id.0.hex(), &json) {
                tracing::warn!(%error, "could not write down what a step comes to");
            }
        });
    }

    /// Forgets those that no image can be made of any more, and those that are more than so many. Blocks.
    pub(crate) fn bound(&self, most: usize) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::failed("reading what steps came to", e);
        let mut left = most;
        for item in self.0.configs.list().map_err(|e| failed(&e))? {
            let config = ImageConfig::parse(item.value.as_bytes()).ok();
            let whole = config.is_some_and(|config| self.0.images.keep_layers(&config.rootfs.diff_ids).is_some());
            let Ok(id) = Digest::from_hex(&item.id).map(ImageId) else { continue };
            if whole && left > 0 {
                left -= 1;
                self.0.known.lock().insert(id);
            } else {
                self.0.known.lock().remove(&id);
                self.0.configs.delete(&item.id).map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    /// The configuration of the only one whose id begins so.
    fn find(&self, digits: &str) -> Option<ImageConfig> {
        let digits = digits.strip_prefix("sha256:").unwrap_or(digits);
        if digits.len() < DIGITS || !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let ids: Vec<String> =
            self.0.known.lock().iter().map(|id| id.0.hex()).filter(|id| id.starts_with(digits)).collect();
        let [id] = &ids[..] else { return None };
        let json = self.0.configs.get(id).ok()??.value;
        ImageConfig::parse(json.as_bytes()).ok()
    }
}

impl Intermediates for Steps {
    fn make<'a>(&'a self, engine: &'a Engine, digits: &'a str) -> BoxFuture<'a, Option<ImageId>> {
        Box::pin(async move {
            let config = self.find(digits)?;
            let _kept = self.0.images.keep_layers(&config.rootfs.diff_ids)?;
            engine.image_assemble(config, &[]).await.ok()
        })
    }
}
