//! Caches that a build looks into for what this machine's has not.
//!
//! They are asked for once a step is found nowhere here, all side by side, and only for their documents. A layer comes when its step
//! does, and is verified by its digest, and by that of what is in it. What is wrong with a cache is a warning: a build does without it.

use super::document::{self, DOCUMENT_TYPE, Records};
use super::layout::{self, Layout, LayoutEntry};
use crate::progress::{StepEvent, StepId};
use crate::request::Request;
use crate::solve::Builder;
use futures_util::future::join_all;
use image::registry::RemoteArtifact;
use image::{Descriptor, Digest, ImageConfig, KeptLayers, Progress, Reference, media_type};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Where a cache is.
#[derive(Clone)]
pub enum CacheFrom {
    /// In a registry: a cache, or an image that says what made its layers.
    Registry(Reference),
    /// In a directory.
    Layout {
        /// The directory, for people.
        name: String,
        /// It.
        layout: Arc<dyn Layout>,
        /// Which of what it has.
        entry: LayoutEntry,
    },
    /// An image that is here.
    Image(String),
}

impl fmt::Display for CacheFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheFrom::Registry(reference) => f.write_str(&reference.familiar()),
            CacheFrom::Layout { name, .. } | CacheFrom::Image(name) => f.write_str(name),
        }
    }
}

/// The caches of elsewhere that a build may look into.
pub(crate) struct Elsewhere<'b> {
    builder: &'b Builder,
    request: &'b Request,
    opened: OnceCell<Vec<Opened>>,
    /// Blobs of directories that were not what they are called, or could not be read.
    damaged: Mutex<BTreeSet<Digest>>,
}

/// A cache whose document has come.
struct Opened {
    name: String,
    records: Records,
    place: Place,
}

/// Where its layers are.
enum Place {
    Registry(Box<RemoteArtifact>),
    Layout {
        layout: Arc<dyn Layout>,
        layers: Vec<Descriptor>,
    },
    /// Here.
    Image {
        _layers: KeptLayers,
    },
}

/// What a step came to elsewhere.
pub(crate) struct Given {
    /// Its layer, which has come; `None`: it changed nothing.
    pub(crate) layer: Option<KeptLayers>,
    /// Where it was found, for people.
    pub(crate) from: String,
}

/// What is said elsewhere of a step.
pub(crate) struct Seen {
    /// The layer; `None`: it changed nothing.
    pub(crate) layer: Option<Digest>,
    /// Bytes in its files.
    pub(crate) size: u64,
    /// Where, for people.
    pub(crate) from: String,
}

impl<'b> Elsewhere<'b> {
    pub(crate) fn new(builder: &'b Builder, request: &'b Request) -> Elsewhere<'b> {
        Elsewhere { builder, request, opened: OnceCell::new(), damaged: Mutex::default() }
    }

    /// What a step came to, whose layer comes here if it has to.
    pub(crate) async fn find(&self, key: &Digest, step: StepId, progress: &crate::Progress) -> Option<Given> {
        for opened in self.opened(step, progress).await {
            match opened.take(key, self.builder, step, progress).await {
                None => {}
                Some(Ok(layer)) => return Some(Given { layer, from: opened.name.clone() }),
                Some(Err(why)) => {
                    self.damaged.lock().extend(opened.blob_of(key));
                    let message = format!("the step's layer of the cache {} was not taken: {why}", opened.name);
                    progress.step(step, StepEvent::Warning(message));
                }
            }
        }
        None
    }

    /// Blobs of directories of which no use could be made: who keeps such a one writes it anew.
    pub(crate) fn damaged(&self) -> BTreeSet<Digest> {
        self.damaged.lock().clone()
    }

    /// What is said of a step, for who only looks.
    pub(crate) async fn look(&self, key: &Digest, step: StepId, progress: &crate::Progress) -> Option<Seen> {
        self.opened(step, progress).await.iter().find_map(|opened| {
            let entry = opened.records.steps.get(key)?;
            let layer = entry.layer.map(|layer| opened.records.layers[layer]);
            Some(Seen { layer, size: entry.size, from: opened.name.clone() })
        })
    }

    /// Those that are there. What is said of the others is said of the step that would have had them.
    async fn opened(&self, step: StepId, progress: &crate::Progress) -> &[Opened] {
        let open = || async {
            let opening = self.request.cache_from.iter().map(|from| async move { (from, self.open(from).await) });
            let mut opened = Vec::new();
            for (from, outcome) in join_all(opening).await {
                match outcome {
                    Ok(cache) => opened.push(cache),
                    Err(why) => {
                        let message = format!("nothing is taken of the cache {from}: {why}");
                        progress.step(step, StepEvent::Warning(message));
                    }
                }
            }
            opened
        };
        self.opened.get_or_init(open).await
    }

    /// Reads a cache's document. An error is one line for people.
    async fn open(&self, from: &CacheFrom) -> Result<Opened, String> {
        let (records, place) = match from {
            CacheFrom::Registry(reference) => {
                let auth = self.request.credentials.get(reference.domain());
                let platform = &self.request.given.target_platform;
                let artifact = self.builder.engine().registries().artifact(reference, platform, auth).await;
                let artifact = artifact.map_err(|e| e.to_string())?;
                let records = records(&artifact.media_type, &artifact.document, &artifact.layers)?;
                (records, Place::Registry(Box::new(artifact)))
            }
            CacheFrom::Layout { layout, entry, .. } => {
                let found = layout::open(&**layout, entry).await?;
                let records = records(&found.media_type, &found.document, &found.layers)?;
                (records, Place::Layout { layout: Arc::clone(layout), layers: found.layers })
            }
            CacheFrom::Image(name) => {
                let images = self.builder.images();
                let id = images.resolve(name).map_err(|e| e.to_string())?;
                let config = images.config(&id).map_err(|e| e.to_string())?;
                let kept = images.keep_layers(&config.rootfs.diff_ids).ok_or("it was removed meanwhile")?;
                (of_image(&config)?, Place::Image { _layers: kept })
            }
        };
        Ok(Opened { name: from.to_string(), records, place })
    }
}

impl Opened {
    /// The blob of a step's layer, where it lies in a directory.
    fn blob_of(&self, key: &Digest) -> Option<Digest> {
        let Place::Layout { layers, .. } = &self.place else { return None };
        Some(layers[self.records.steps.get(key)?.layer?].digest)
    }

    /// The layer of a step; the outer `None`: it has no such step. An error is one line for people.
    async fn take(
        &self,
        key: &Digest,
        builder: &Builder,
        step: StepId,
        progress: &crate::Progress,
    ) -> Option<Result<Option<KeptLayers>, String>> {
        let entry = self.records.steps.get(key)?;
        let Some(number) = entry.layer else { return Some(Ok(None)) };
        let diff_id = self.records.layers[number];
        let images = builder.images();
        if let Some(kept) = images.keep_layers(&[diff_id]) {
            return Some(Ok(Some(kept)));
        }
        let telling = progress.clone();
        let layers = Progress::new(move |event| telling.step(step, StepEvent::Layer(event)));
        let fetched = match &self.place {
            Place::Registry(artifact) => {
                progress.step(step, StepEvent::Fetching(self.name.clone()));
                let fetched = artifact.fetch_layer(images, &artifact.layers[number], &diff_id, layers).await;
                fetched.map_err(|e| e.to_string())
            }
            Place::Layout { layout, layers: descriptors } => {
                progress.step(step, StepEvent::Fetching(self.name.clone()));
                layout::fetch(&**layout, images, &descriptors[number], &diff_id, layers).await
            }
            Place::Image { .. } => Err("it was removed meanwhile".to_owned()),
        };
        Some(fetched.map(Some))
    }
}

/// What a document says that has come with layers. An error is one line for people.
fn records(media_type: &str, document: &[u8], layers: &[Descriptor]) -> Result<Records, String> {
    let records = match media_type {
        DOCUMENT_TYPE => document::read(document)?,
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => {
            of_image(&ImageConfig::parse(document).map_err(|e| e.to_string())?)?
        }
        "application/vnd.buildkit.cacheconfig.v0" => {
            return Err("it is BuildKit's, which knows its steps by other things than stratus does".to_owned());
        }
        other => return Err(format!("it is of the type {other:?}, and no cache of stratus")),
    };
    match records.layers.len() == layers.len() {
        true => Ok(records),
        false => Err(format!("its document speaks of {} layers, and it has {}", records.layers.len(), layers.len())),
    }
}

fn of_image(config: &ImageConfig) -> Result<Records, String> {
    let why = "it is an image that does not say what made its layers: build it with --cache-to type=inline";
    document::of_image(config)?.ok_or_else(|| why.to_owned())
}
