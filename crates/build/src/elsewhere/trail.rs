//! The steps that a build carried out or found, for who keeps them elsewhere.

use super::document::{Document, MOST_STEPS, StepEntry};
use crate::{Error, Result};
use image::{Digest, KeptLayers};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};

/// A step that makes a layer, or may.
pub(crate) struct Passed {
    /// The stage's index in the file.
    pub(crate) stage: usize,
    pub(crate) key: Digest,
    /// The key of the step that it followed.
    pub(crate) parent: Option<Digest>,
    /// The instruction, for people.
    pub(crate) what: String,
    /// What it came to; `None`: it changed nothing.
    pub(crate) layer: Option<KeptLayers>,
}

/// What a build came by so far.
#[derive(Default)]
pub(crate) struct Trail(Mutex<Vec<Passed>>);

impl Trail {
    pub(crate) fn note(&self, passed: Passed) {
        self.0.lock().push(passed);
    }

    /// All of it, and which stages the result builds upon, itself among them.
    pub(crate) fn end(&self, result: Vec<usize>) -> Steps {
        let mut passed = std::mem::take(&mut *self.0.lock());
        // Stages go on side by side: in the order of the file the same steps are the same document.
        passed.sort_by_key(|passed| passed.stage);
        Steps { passed, result }
    }
}

/// What a build came by. Its layers stay while this lives.
pub(crate) struct Steps {
    passed: Vec<Passed>,
    /// The stages whose layers the result has.
    result: Vec<usize>,
}

/// Which steps are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// Those whose layers the result has.
    Result,
    /// All that were carried out or found.
    All,
}

impl Steps {
    fn chosen(&self, mode: CacheMode) -> impl Iterator<Item = &Passed> {
        self.passed.iter().filter(move |passed| mode == CacheMode::All || self.result.contains(&passed.stage))
    }

    /// Those of an image, as it tells them of itself; `None`: it has none.
    pub(crate) fn within(&self, diff_ids: &[Digest]) -> Option<serde_json::Value> {
        let mut steps = Vec::new();
        for passed in self.chosen(CacheMode::Result) {
            let layer = match &passed.layer {
                None => None,
                // What the result has not, as its layers were merged, nobody gets with it.
                Some(kept) => match diff_ids.iter().position(|own| Some(own) == diff_id(kept).as_ref()) {
                    None => continue,
                    place => place,
                },
            };
            steps.push(passed.entry(layer));
        }
        // What a document of digests, numbers and texts becomes is a value.
        (!steps.is_empty()).then(|| serde_json::to_value(Document { layers: Vec::new(), steps }).ok()).flatten()
    }
}

/// The document of builds, one for each platform, whose layers lie beside it.
pub(super) fn document<'s>(builds: impl Iterator<Item = &'s Steps>, mode: CacheMode) -> Result<Document> {
    let mut document = Document::default();
    let (mut keys, mut places) = (HashSet::new(), HashMap::new());
    for passed in builds.flat_map(|steps| steps.chosen(mode)) {
        if !keys.insert(passed.key) {
            continue;
        }
        let layer = passed.layer.as_ref().and_then(diff_id).map(|diff_id| {
            *places.entry(diff_id).or_insert_with(|| {
                document.layers.push(diff_id);
                document.layers.len() - 1
            })
        });
        document.steps.push(passed.entry(layer));
    }
    match document.steps.len() {
        steps if steps > MOST_STEPS => {
            Err(Error::Invalid(format!("a cache has at most {MOST_STEPS} steps, and these are {steps}: use mode=min")))
        }
        _ => Ok(document),
    }
}

impl Passed {
    fn entry(&self, layer: Option<usize>) -> StepEntry {
        let size = self.layer.as_ref().and_then(|kept| kept.layers.first()).map_or(0, |layer| layer.size);
        StepEntry::new(self.key, layer, &self.what, size, self.parent)
    }
}

fn diff_id(kept: &KeptLayers) -> Option<Digest> {
    kept.layers.first().map(|layer| layer.diff_id)
}
