//! What was built, for programs: the keys are BuildKit's.

use build::Built;
use image::Reference;
use serde_json::{Value, json};

/// What the image is called: its id; that of the index of several.
pub(super) fn digest(built: &Built) -> String {
    match &built.descriptor {
        Some(descriptor) if built.platforms.len() > 1 => descriptor.digest.to_string(),
        _ => built.id.to_string(),
    }
}

/// What was built, and was asked to have these names: an archive has them, and the daemon does not know of them.
pub(super) fn document(built: &Built, asked: &[Reference]) -> Value {
    let mut document = json!({ "stratus.platforms": built.platforms });
    let mut add = |key: &str, value: Value| document[key] = value;
    match &built.descriptor {
        Some(descriptor) => {
            add("containerimage.digest", json!(descriptor.digest));
            add("containerimage.descriptor", json!(descriptor));
        }
        // Without a manifest, the image is known by its configuration.
        None => add("containerimage.digest", json!(built.id)),
    }
    if built.platforms.len() == 1 {
        add("containerimage.config.digest", json!(built.id));
    }
    let names = if built.names.is_empty() { asked } else { &built.names };
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(Reference::canonical).collect();
        add("image.name", json!(names.join(",")));
    }
    document
}
