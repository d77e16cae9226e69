//! Attestations: what is said of an image, as statements of in-toto that refer to its manifest (OCI image-spec 1.1, `subject`).
//!
//! An image here has no manifest of its own until a push or an archive makes one of its layers. So what is kept with it are predicates,
//! and each becomes a statement, and a manifest that refers to the image's, when that is known. The image is the same with and without.

use crate::images::Inner;
use crate::manifest::{self, media_type};
use crate::record::{self, RECORD, key_of};
use crate::state::{Lease, State};
use crate::{Descriptor, Digest, Error, ImageId, ImageRecord, Images, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The media type of a statement, and of a manifest that refers to what it is about.
pub(crate) const IN_TOTO: &str = "application/vnd.in-toto+json";

/// The annotation that says which predicate a statement has.
pub(crate) const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// A configuration of nothing (OCI image-spec, "Guidance for an Empty Descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
pub(crate) const EMPTY: &[u8] = b"{}";

/// What a statement says its subject is called, where it has no name.
pub(crate) const NAMELESS: &str = "_";

/// The most bytes of a statement or a predicate.
pub(crate) const MAX_STATEMENT: u64 = 64 << 20;

/// What is said of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// What kind of thing is said, as `https://slsa.dev/provenance/v1`.
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
}

/// What is said of an image, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestationRecord {
    /// What kind of thing is said.
    pub predicate_type: String,
    /// The predicate; a blob of the content store.
    pub predicate: Digest,
    /// Its bytes.
    pub size: u64,
}

/// A statement about a manifest, and the manifest that refers to that.
#[derive(Clone, Debug)]
pub(crate) struct Referrer {
    pub(crate) statement: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    /// The manifest as an index has it.
    pub(crate) descriptor: Value,
}

impl Referrer {
    /// What is said, of this manifest. The same of the same is the same bytes.
    pub(crate) fn new(attestation: &Attestation, name: &str, subject: &Descriptor) -> Result<Referrer> {
        let kind = &attestation.predicate_type;
        let statement = bytes(&json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{ "name": name, "digest": { "sha256": subject.digest.hex() } }],
            "predicateType": kind,
            "predicate": attestation.predicate,
        }))?;
        let annotations = BTreeMap::from([(PREDICATE_TYPE.to_owned(), kind.clone())]);
        let mut layer = Descriptor::new(IN_TOTO, Digest::of(&statement), statement.len() as u64);
        layer.annotations.clone_from(&annotations);
        let manifest = bytes(&json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": IN_TOTO,
            "config": Descriptor::new(EMPTY_TYPE, Digest::of(EMPTY), EMPTY.len() as u64),
            "layers": [layer],
            "subject": Descriptor::new(&subject.media_type, subject.digest, subject.size),
            "annotations": annotations,
        }))?;
        let descriptor = json!({
            "mediaType": media_type::OCI_MANIFEST,
            "digest": Digest::of(&manifest),
            "size": manifest.len(),
            "artifactType": IN_TOTO,
            "annotations": annotations,
        });
        Ok(Referrer { statement, manifest, descriptor })
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

fn bytes(document: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| Error::MalformedDocument { document: "statement", reason: e.to_string() })
}

impl Images {
    /// Keeps what is said of an image with it, in place of all that was said of `kinds` and of its own kinds before. It goes with the
    /// image, and to a registry with it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], and where it can't be written.
    pub async fn attest(&self, id: &ImageId, kinds: &[&str], attestations: Vec<Attestation>) -> Result<()> {
        let id = *id;
        let kinds: Vec<String> = kinds.iter().map(|&kind| kind.to_owned()).collect();
        self.blocking(move |inner| {
            let lease = inner.lease();
            let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
            inner.attest(&id, &kinds, attestations, &lease)
        })
        .await
    }

    /// Takes off an image what is said of it, all of it or that of one kind. What it was.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], and where it can't be written.
    pub async fn take_off(&self, id: &ImageId, kind: Option<String>) -> Result<Vec<AttestationRecord>> {
        let id = *id;
        self.blocking(move |inner| {
            inner.note_attestations(&id, |other| kind.as_ref().is_none_or(|kind| kind == other), Vec::new())
        })
        .await
    }

    /// What is said of an image that is here, as it was kept with it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], and where it can't be read.
    pub async fn attestations(&self, id: &ImageId) -> Result<Vec<(AttestationRecord, Value)>> {
        let id = *id;
        self.blocking(move |inner| {
            let read = |(record, attestation): (AttestationRecord, Attestation)| (record, attestation.predicate);
            Ok(inner.attestations(&id)?.into_iter().map(read).collect())
        })
        .await
    }

    /// What is said of an image, as statements about its manifest under a name.
    pub(crate) async fn referrers(&self, id: &ImageId, subject: &Descriptor, name: &str) -> Result<Vec<Referrer>> {
        let (id, subject, name) = (*id, subject.clone(), name.to_owned());
        self.blocking(move |inner| {
            let said = inner.attestations(&id)?;
            said.iter().map(|(_, attestation)| Referrer::new(attestation, &name, &subject)).collect()
        })
        .await
    }
}

impl Inner {
    /// As [`Images::attest`]; blocks.
    fn attest(&self, id: &ImageId, kinds: &[&str], attestations: Vec<Attestation>, lease: &Lease) -> Result<()> {
        let said = attestations.into_iter().map(|attestation| self.keep_predicate(attestation, lease));
        self.keep_said(id, kinds, said.collect::<Result<_>>()?)
    }

    /// Keeps what is said of an image, in place of what was said of the same kinds, and of these `kinds`, before.
    pub(crate) fn keep_said(&self, id: &ImageId, kinds: &[&str], said: Vec<AttestationRecord>) -> Result<()> {
        let new: Vec<String> = said.iter().map(|said| said.predicate_type.clone()).collect();
        let replaced = |kind: &str| kinds.contains(&kind) || new.iter().any(|new| new == kind);
        self.note_attestations(id, replaced, said).map(drop)
    }

    /// Writes a predicate down, for the record of an image.
    pub(crate) fn keep_predicate(&self, attestation: Attestation, lease: &Lease) -> Result<AttestationRecord> {
        let predicate = bytes(&attestation.predicate)?;
        if predicate.len() as u64 > MAX_STATEMENT {
            let kind = attestation.predicate_type;
            return Err(Error::Invalid(format!(
                "what is said of the image ({kind}) has more than {MAX_STATEMENT} bytes"
            )));
        }
        lease.pin(&Digest::of(&predicate));
        let digest = self.content.put(&predicate)?;
        let size = predicate.len() as u64;
        Ok(AttestationRecord { predicate_type: attestation.predicate_type, predicate: digest, size })
    }

    fn note_attestations(
        &self,
        id: &ImageId,
        replaced: impl Fn(&str) -> bool,
        said: Vec<AttestationRecord>,
    ) -> Result<Vec<AttestationRecord>> {
        let _one = self.naming.lock();
        let mut image = ImageRecord::clone(&*self.state.lock().image(id)?);
        let gone = image.attestations.extract_if(.., |old| replaced(&old.predicate_type)).collect();
        if said == gone {
            return Ok(gone);
        }
        image.attestations.extend(said);
        image.attestations.sort_by(|a, b| a.predicate_type.cmp(&b.predicate_type));
        let key = key_of(RECORD, &id.0);
        self.store.txn().put(&key, record::encode(&key, &image)?).commit()?;
        self.state.lock().images.insert(*id, Arc::new(image));
        Ok(gone)
    }

    /// What is said of an image, read; blocks.
    pub(crate) fn attestations(self: &Arc<Inner>, id: &ImageId) -> Result<Vec<(AttestationRecord, Attestation)>> {
        let lease = self.lease();
        // Found and held in one step, so that no collection comes between.
        let pin = |state: &State| state.images.get(id).map(Arc::clone);
        let image = lease.pin_if(&id.0, pin).ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
        image.attestations.iter().for_each(|said| lease.pin(&said.predicate));
        let read = |said: &AttestationRecord| {
            let bytes = self.content.read(&said.predicate, MAX_STATEMENT)?;
            let predicate = manifest::parse("predicate", &bytes)?;
            Ok((said.clone(), Attestation { predicate_type: said.predicate_type.clone(), predicate }))
        };
        image.attestations.iter().map(read).collect()
    }
}

/// An index of what refers to a manifest, as somebody else has it, with further entries; `None`: it has them all. Whatever else is in it
/// stays as it is.
///
/// # Errors
/// One line for people, where it is no such index.
pub(crate) fn with_entries(existing: Option<&[u8]>, entries: &[Value]) -> std::result::Result<Option<Vec<u8>>, String> {
    let mut index = match existing {
        None => json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| e.to_string())?,
    };
    if index.get("mediaType").is_some_and(|kind| kind != media_type::OCI_INDEX) {
        return Err(format!("it is {}, and no index", index["mediaType"]));
    }
    let document = index.as_object_mut().ok_or("it is no object")?;
    let manifests = document.entry("manifests").or_insert_with(|| json!([]));
    if manifests.is_null() {
        *manifests = json!([]);
    }
    let manifests = manifests.as_array_mut().ok_or("it has no list of manifests")?;
    let is_there = |entry: &Value| manifests.iter().any(|known| known.get("digest") == entry.get("digest"));
    let lacks: Vec<Value> = entries.iter().filter(|entry| !is_there(entry)).cloned().collect();
    if lacks.is_empty() {
        return Ok(None);
    }
    manifests.extend(lacks);
    let bytes = serde_json::to_vec(&index).map_err(|e| e.to_string())?;
    match bytes.len() as u64 > manifest::MAX_DOCUMENT {
        true => Err(format!("it would have more than {} bytes", manifest::MAX_DOCUMENT)),
        false => Ok(Some(bytes)),
    }
}

/// The statement of a stranger about a manifest.
///
/// # Errors
/// One line for people, where it is none, or about something else.
pub(crate) fn statement(bytes: &[u8], subject: &Digest) -> std::result::Result<Attestation, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        #[serde(rename = "_type")]
        kind: String,
        subject: Vec<Subject>,
        predicate_type: String,
        #[serde(default)]
        predicate: Value,
    }
    #[derive(Deserialize)]
    struct Subject {
        #[serde(default)]
        digest: BTreeMap<String, String>,
    }
    let read: Statement = serde_json::from_slice(bytes).map_err(|e| format!("it is no statement: {e}"))?;
    if !read.kind.starts_with("https://in-toto.io/Statement/") {
        return Err(format!("it is no statement of in-toto: its type is {:?}", read.kind));
    }
    let wanted = subject.hex();
    let is_it = |one: &Subject| one.digest.get("sha256").is_some_and(|hex| hex.eq_ignore_ascii_case(&wanted));
    match read.subject.iter().any(is_it) {
        true => Ok(Attestation { predicate_type: read.predicate_type, predicate: read.predicate }),
        false => Err("it is a statement about something else".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use proptest::prelude::*;

    fn entry(name: &str) -> Value {
        json!({ "digest": Digest::of(name.as_bytes()), "size": 1 })
    }

    fn subject() -> Descriptor {
        Descriptor::new(media_type::DOCKER_MANIFEST, Digest::of(b"image"), 5)
    }

    #[test]
    fn a_statement_is_about_its_manifest_and_is_the_same_each_time() {
        let said =
            Attestation { predicate_type: "https://slsa.dev/provenance/v1".into(), predicate: json!({ "a": 1 }) };
        let referrer = Referrer::new(&said, "reg/app", &subject()).unwrap();
        assert_eq!(statement(&referrer.statement, &subject().digest).unwrap(), said);
        let other = statement(&referrer.statement, &Digest::of(b"other")).unwrap_err();
        assert_eq!(other, "it is a statement about something else");
        let manifest = Manifest::parse(&referrer.manifest).unwrap();
        assert_eq!(manifest.layers[0].digest, Digest::of(&referrer.statement));
        assert_eq!(manifest.annotations[PREDICATE_TYPE], said.predicate_type);
        let document: Value = serde_json::from_slice(&referrer.manifest).unwrap();
        assert_eq!(
            (&document["artifactType"], &document["subject"]["digest"]),
            (&json!(IN_TOTO), &json!(subject().digest))
        );
        let again = Referrer::new(&said, "reg/app", &subject()).unwrap();
        assert_eq!((again.manifest, again.statement), (referrer.manifest, referrer.statement));
    }

    #[test]
    fn what_others_have_in_an_index_stays() {
        let theirs = json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "x": [1],
            "manifests": [{ "digest": "sha512:0", "size": 3, "data": "e30=" }],
        });
        let theirs = theirs.to_string();
        let merged = with_entries(Some(theirs.as_bytes()), &[entry("a"), entry("b")]).unwrap().unwrap();
        let read: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!((&read["x"], &read["manifests"][0]["data"]), (&json!([1]), &json!("e30=")));
        assert_eq!(read["manifests"].as_array().unwrap().len(), 3);
        assert_eq!(with_entries(Some(&merged), &[entry("b")]).unwrap(), None);
        for odd in ["[]", "{", "7", r#"{"manifests":7}"#, r#"{"mediaType":"x/y"}"#] {
            with_entries(Some(odd.as_bytes()), &[entry("a")]).expect_err(odd);
        }
        assert!(with_entries(Some(br#"{"manifests":null}"#), &[entry("a")]).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn no_document_of_a_stranger_is_a_panic(text in r#"(\{|\}|\[|\]|"(manifests|digest|mediaType|_type|subject|predicateType|x)"|:|,|null|1){0,40}"#) {
            let _ = with_entries(Some(text.as_bytes()), &[entry("a")]);
            let _ = statement(text.as_bytes(), &subject().digest);
        }
    }
}
