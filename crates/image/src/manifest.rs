//! Manifests, indexes and descriptors: OCI image-spec 1.1 and Docker's schema 2, which differ in media types only.
//!
//! The types are this crate's own, not `oci-spec`'s: a manifest comes from strangers and is read leniently (unknown
//! fields, Docker's media types, missing `mediaType`), its bytes are kept verbatim as its digest covers them, and only
//! the fields below are ever used.

use crate::{Digest, Error, Platform, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types by name.
pub mod media_type {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, uncompressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, uncompressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

    /// Whether it names an index of manifests.
    pub fn is_index(name: &str) -> bool {
        name == OCI_INDEX || name == DOCKER_INDEX
    }

    /// Whether it names an image manifest.
    pub fn is_manifest(name: &str) -> bool {
        name == OCI_MANIFEST || name == DOCKER_MANIFEST
    }
}

/// The most bytes a manifest, an index or an image configuration may have: 4 MiB, as registries have it.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most layers an image may have. Overlayfs takes 500; Docker 127.
pub const MAX_LAYERS: usize = 400;

/// Points at content (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where else it can be fetched from; foreign layers have it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Anything else somebody noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor without extras.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
        }
    }
}

/// An image manifest: a configuration and layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own media type; optional in OCI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Anything else somebody noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An index: manifests for several platforms, or whatever an OCI layout holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The index's own media type; optional in OCI's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it points at.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Anything else somebody noted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::<BTreeMap<String, String>>::deserialize(d)?.unwrap_or_default())
}

impl Manifest {
    /// Reads a manifest. Pure: suits a fuzzer.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        check_size("manifest", bytes)?;
        let manifest: Manifest = parse("manifest", bytes)?;
        if manifest.schema_version != 2 {
            let reason = format!("schemaVersion is {}, and only 2 is supported", manifest.schema_version);
            return Err(Error::MalformedDocument { document: "manifest", reason });
        }
        if manifest.layers.len() > MAX_LAYERS {
            let reason = format!("it has {} layers, and at most {MAX_LAYERS} are supported", manifest.layers.len());
            return Err(Error::MalformedDocument { document: "manifest", reason });
        }
        Ok(manifest)
    }
}

impl Index {
    /// Reads an index. Pure: suits a fuzzer.
    pub fn parse(bytes: &[u8]) -> Result<Index> {
        check_size("index", bytes)?;
        parse("index", bytes)
    }
}

/// Refuses a document beyond [`MAX_DOCUMENT`].
pub(crate) fn check_size(document: &'static str, bytes: &[u8]) -> Result<()> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        let reason = format!("it has {} bytes, and at most {MAX_DOCUMENT} are taken", bytes.len());
        return Err(Error::MalformedDocument { document, reason });
    }
    Ok(())
}

/// Reads JSON that somebody else wrote.
pub(crate) fn parse<T: for<'a> Deserialize<'a>>(document: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::MalformedDocument { document, reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let platform =
            ("[a-z0-9]{1,8}", "[a-z]{1,8}", prop::option::of("v[0-9]")).prop_map(|(architecture, os, variant)| {
                Platform { architecture, os, os_version: None, os_features: Vec::new(), variant }
            });
        let notes = prop::collection::btree_map("[a-z.]{1,12}", any::<String>(), 0..3);
        let urls = prop::collection::vec(any::<String>(), 0..2);
        let all = (any::<String>(), any::<Vec<u8>>(), any::<u64>(), urls, notes, prop::option::of(platform));
        all.prop_map(|(media_type, of, size, urls, annotations, platform)| Descriptor {
            media_type,
            digest: Digest::of(&of),
            size,
            urls,
            annotations,
            platform,
        })
    }

    fn descriptors() -> impl Strategy<Value = Vec<Descriptor>> {
        prop::collection::vec(descriptor(), 0..5)
    }

    fn notes() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map(any::<String>(), any::<String>(), 0..3)
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            media_type in prop::option::of(any::<String>()),
            config in descriptor(),
            layers in descriptors(),
            manifests in descriptors(),
            annotations in notes(),
        ) {
            let manifest = Manifest { schema_version: 2, media_type: media_type.clone(), config, layers, annotations: annotations.clone() };
            prop_assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
            let index = Index { schema_version: 2, media_type, manifests, annotations };
            prop_assert_eq!(Index::parse(&serde_json::to_vec(&index).unwrap()).unwrap(), index);
        }

        /// A document that was changed anywhere is read as something that can be written, or refused; what is cut short is refused.
        #[test]
        fn what_was_changed_is_read_whole_or_refused(config in descriptor(), layers in descriptors(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let manifest = Manifest { schema_version: 2, media_type: None, config, layers, annotations: BTreeMap::new() };
            let mut bytes = serde_json::to_vec(&manifest).unwrap();
            let at = at.index(bytes.len());
            prop_assert!(Manifest::parse(&bytes[..at]).is_err());
            bytes[at] = byte;
            if let Ok(read) = Manifest::parse(&bytes) {
                prop_assert_eq!(Manifest::parse(&serde_json::to_vec(&read).unwrap()).unwrap(), read);
            }
        }
    }

    #[test]
    fn other_versions_and_too_many_layers_are_refused() {
        let of = |version: u32, layers: usize| {
            let layer = Descriptor::new(media_type::OCI_LAYER, Digest::of(b""), 0);
            let config = Descriptor::new(media_type::OCI_CONFIG, Digest::of(b""), 0);
            let layers = vec![layer; layers];
            let manifest =
                Manifest { schema_version: version, media_type: None, config, layers, annotations: BTreeMap::new() };
            Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).map_err(|error| error.to_string())
        };
        assert!(of(2, MAX_LAYERS).is_ok());
        assert!(of(2, MAX_LAYERS + 1).unwrap_err().contains("401 layers"));
        assert!(of(1, 1).unwrap_err().contains("schemaVersion is 1"));
    }
}
