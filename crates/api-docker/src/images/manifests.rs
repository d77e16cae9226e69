//! The manifests of an image, as lists and inspection show them since 1.47.

use engine::ImageManifest;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename = "ManifestSummary")]
pub(super) struct ManifestBody {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Descriptor")]
    descriptor: image::Descriptor,
    #[serde(rename = "Available")]
    available: bool,
    #[serde(rename = "Size")]
    size: SizeBody,
    #[serde(rename = "Kind")]
    kind: &'static str,
    #[serde(rename = "ImageData")]
    image: ImageBody,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SizeBody {
    content: u64,
    total: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageBody {
    platform: Option<image::Platform>,
    size: UnpackedBody,
    containers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UnpackedBody {
    unpacked: u64,
}

impl From<ImageManifest> for ManifestBody {
    fn from(manifest: ImageManifest) -> Self {
        let ImageManifest { content, unpacked, containers } = manifest;
        Self {
            id: content.descriptor.digest.to_string(),
            available: content.complete,
            size: SizeBody { content: content.size, total: content.size + unpacked },
            kind: "image",
            image: ImageBody {
                platform: content.descriptor.platform.clone(),
                size: UnpackedBody { unpacked },
                containers,
            },
            descriptor: content.descriptor,
        }
    }
}
