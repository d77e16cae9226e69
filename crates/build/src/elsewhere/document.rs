//! The document of a cache: which steps it has, by their keys, and which of its layers each came to.
//!
//! ```text
//! {"layers": ["sha256:…", …],                 diff ids, in the order of the layers beside the document
//!  "steps":  [{"key": "sha256:…",             what the step is found by
//!              "layer": 0,                    which of the layers; without it, the step changed nothing
//!              "what": "RUN make",            for people
//!              "size": 1500,                  bytes in the layer's files
//!              "parent": "sha256:…"}, …]}     the key of the step that it followed
//! ```
//! In an image (`ImageConfig::build_cache`) it has no `layers`, as these are the image's.

use image::manifest::MAX_DOCUMENT;
use image::{Digest, ImageConfig};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The type of the artifact that a cache is.
pub(super) const ARTIFACT_TYPE: &str = "application/vnd.stratus.build-cache.v1+json";

/// The media type of its document.
pub(super) const DOCUMENT_TYPE: &str = "application/vnd.stratus.build-cache.config.v1+json";

/// As many steps are taken of one.
pub(super) const MOST_STEPS: usize = 10_000;

/// Characters of an instruction that it tells people.
const MOST_TEXT: usize = 200;

/// A document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Digest>,
    pub(super) steps: Vec<StepEntry>,
}

/// A step in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StepEntry {
    pub(super) key: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) layer: Option<usize>,
    #[serde(default)]
    pub(super) what: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Digest>,
}

/// What a step came to, as a document says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Which of the layers; `None`: it changed nothing.
    pub(super) layer: Option<usize>,
    /// Bytes in the layer's files.
    pub(super) size: u64,
}

/// A document that was read: its layers' diff ids, and its steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) layers: Vec<Digest>,
    pub(super) steps: HashMap<Digest, Entry>,
}

impl StepEntry {
    /// A step, of which people are told the beginning.
    pub(super) fn new(key: Digest, layer: Option<usize>, what: &str, size: u64, parent: Option<Digest>) -> StepEntry {
        StepEntry { key, layer, what: what.chars().take(MOST_TEXT).collect(), size, parent }
    }
}

/// Reads what a stranger says that a cache has. An error is one line for people.
pub(super) fn read(bytes: &[u8]) -> Result<Records, String> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(format!("its document has {} bytes, and at most {MAX_DOCUMENT} are taken", bytes.len()));
    }
    let document = serde_json::from_slice(bytes).map_err(|e| format!("its document is malformed: {e}"))?;
    records(document)
}

/// Reads what an image says of the steps that made it; `None`: nothing.
pub(super) fn of_image(config: &ImageConfig) -> Result<Option<Records>, String> {
    let Some(value) = &config.build_cache else { return Ok(None) };
    let document = Document::deserialize(value).map_err(|e| format!("its document is malformed: {e}"))?;
    records(Document { layers: config.rootfs.diff_ids.clone(), ..document }).map(Some)
}

fn records(Document { layers, steps }: Document) -> Result<Records, String> {
    if steps.len() > MOST_STEPS {
        return Err(format!("it has {} steps, and at most {MOST_STEPS} are taken", steps.len()));
    }
    if let Some(beyond) = steps.iter().filter_map(|step| step.layer).find(|layer| *layer >= layers.len()) {
        return Err(format!("a step of it came to layer {beyond}, and there are {}", layers.len()));
    }
    let entry = |step: StepEntry| (step.key, Entry { layer: step.layer, size: step.size });
    Ok(Records { steps: steps.into_iter().map(entry).collect(), layers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest() -> impl Strategy<Value = Digest> {
        any::<u64>().prop_map(|number| Digest::of(&number.to_le_bytes()))
    }

    fn document() -> impl Strategy<Value = Document> {
        let layers = proptest::collection::vec(digest(), 1..6);
        layers.prop_flat_map(|layers| {
            let step = (digest(), proptest::option::of(0..layers.len()), ".{0,300}", any::<u64>(), any::<bool>());
            let step = step.prop_map(|(key, layer, what, size, follows)| {
                StepEntry::new(key, layer, &what, size, follows.then_some(key))
            });
            let steps = proptest::collection::vec(step, 0..8);
            steps.prop_map(move |steps| Document { layers: layers.clone(), steps })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(document in document()) {
            let read = read(&serde_json::to_vec(&document).unwrap()).unwrap();
            prop_assert_eq!(&read.layers, &document.layers);
            for step in &document.steps {
                prop_assert!(step.what.chars().count() <= MOST_TEXT);
                prop_assert!(read.steps.contains_key(&step.key));
            }
        }

        #[test]
        fn in_an_image_its_layers_are_the_image_s(document in document()) {
            let mut config = ImageConfig::default();
            prop_assert_eq!(of_image(&config), Ok(None));
            config.rootfs.diff_ids.clone_from(&document.layers);
            let within = Document { layers: Vec::new(), ..document.clone() };
            config.build_cache = Some(serde_json::to_value(&within).unwrap());
            let again = ImageConfig::parse(&config.to_json().unwrap()).unwrap();
            prop_assert_eq!(of_image(&again), records(document).map(Some));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let key = Digest::of(b"a step");
        let step = |layer: Option<usize>| StepEntry::new(key, layer, "RUN true", 0, None);
        let says = |document: &Document| read(&serde_json::to_vec(document).unwrap()).unwrap_err();
        let beyond = Document { layers: vec![key], steps: vec![step(Some(1))] };
        assert_eq!(says(&beyond), "a step of it came to layer 1, and there are 1");
        let many = Document { layers: Vec::new(), steps: vec![step(None); MOST_STEPS + 1] };
        assert_eq!(says(&many), "it has 10001 steps, and at most 10000 are taken");
        let large = vec![b' '; usize::try_from(MAX_DOCUMENT).unwrap() + 1];
        assert!(read(&large).unwrap_err().contains("bytes, and at most"));
        assert!(read(b"{\"steps\":[{\"key\":\"../etc\"}]}").unwrap_err().starts_with("its document is malformed"));
    }
}
