//! What refers to a manifest (distribution-spec 1.1, "Referrers"): attestations go up with their image, and are asked for.
//!
//! A registry that knows of referrers keeps the list of them, and says so when it takes one. Of any other, the list is an index under a tag
//! that is made of the manifest's digest, and whoever adds to it reads it and writes it again. Where others do so at the same moment, only
//! the last one's is left. So it is written under a condition, for registries that know those; it is read again afterwards, and once more
//! when whoever read it before has had the time to write; and it is one at a time in this process.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::auth::Auth;
use super::error::RegistryError;
use super::http::Outgoing;
use super::repository::{Repository, next_page};
use super::url::{form, resolve, with_query};
use super::{Registries, retrying, turn_at};
use crate::attestation::{EMPTY, IN_TOTO, MAX_STATEMENT, Referrer, statement, with_entries};
use crate::manifest::{MAX_DOCUMENT, media_type};
use crate::{Attestation, Descriptor, Digest, ImageId, Images, Index, Manifest, Platform, Reference};

/// What a registry says that keeps the list by itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// How often a list is written that others write, too.
const WRITES_MAX: u32 = 12;
/// How long whoever has read a list may take to write it, until it is looked at once more.
const SETTLES: Duration = Duration::from_millis(200);
/// The most that is looked at of what strangers say.
const REFERRERS_MAX: usize = 256;
const PAGES_MAX: usize = 64;
const MANIFESTS_MAX: usize = 64;
/// Bytes of all statements together: they are held in memory.
const STATEMENTS_MAX: u64 = MAX_STATEMENT;

/// What a registry has that is said of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct SaidOf {
    /// The manifest.
    pub subject: Digest,
    /// What its image runs on, where that is known.
    pub platform: Option<Platform>,
    /// What is said, with the manifest that refers to it.
    pub said: Vec<(Digest, Said)>,
    /// Why that is not all, where it isn't: one line for people.
    pub more: Option<String>,
}

/// Something that is said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A statement about the manifest.
    Statement(Attestation),
    /// What can't be taken for one, and why: one line for people.
    Odd(String),
}

impl Registries {
    /// Pushes what is said of an image, once its manifest is there.
    pub(super) async fn push_referrers(
        &self,
        images: &Images,
        image: &ImageId,
        reference: &Reference,
        repository: &Repository,
        subject: &Descriptor,
    ) -> Result<(), RegistryError> {
        let referrers = images.referrers(image, subject, &reference.name()).await?;
        let mut unlisted = Vec::new();
        for referrer in &referrers {
            let listed = self.push_referrer(repository, referrer).await.map_err(|why| not_attested(referrer, why))?;
            if !listed {
                unlisted.push(referrer.descriptor.clone());
            }
        }
        match referrers.first().filter(|_| !unlisted.is_empty()) {
            None => Ok(()),
            Some(first) => {
                let listed = self.list(repository, &subject.digest, &unlisted).await;
                listed.map_err(|why| not_attested(first, why))
            }
        }
    }

    /// Pushes a statement, and the manifest that refers to it. Whether the registry keeps the list.
    async fn push_referrer(&self, repository: &Repository, referrer: &Referrer) -> Result<bool, RegistryError> {
        for blob in [EMPTY, &referrer.statement] {
            let bytes = Bytes::copy_from_slice(blob);
            retrying(self.config(), || repository.put_blob(&bytes)).await?;
        }
        let (version, bytes) = (referrer.digest().to_string(), Bytes::copy_from_slice(&referrer.manifest));
        retrying(self.config(), || repository.put_referrer(&version, bytes.clone())).await
    }

    /// Has a manifest's list under its tag name these, too.
    async fn list(&self, repository: &Repository, subject: &Digest, entries: &[Value]) -> Result<(), RegistryError> {
        let tag = list_tag(subject);
        let turn = turn_at(&self.0.lists, repository.url(&tag)?.to_string());
        let _one = turn.lock().await;
        let (mut writes, mut settled) = (0, true);
        loop {
            let there = retrying(self.config(), || repository.list(&tag)).await?;
            let bytes = there.as_ref().map(|(bytes, _)| &bytes[..]);
            let merged = with_entries(bytes, entries).map_err(|reason| malformed_list(&tag, reason))?;
            let Some(merged) = merged.map(Bytes::from) else {
                if settled {
                    return Ok(());
                }
                settled = true;
                tokio::time::sleep(SETTLES).await;
                continue;
            };
            if writes == WRITES_MAX {
                return Err(malformed_list(&tag, "others write it all the time: push again".to_owned()));
            }
            if writes > 0 {
                // Those who write at the same moment are not to do so again.
                tokio::time::sleep(SETTLES.mul_f64(rand::random::<f64>())).await;
            }
            writes += 1;
            settled = false;
            let known = there.as_ref().map(|(_, version)| version.as_deref());
            retrying(self.config(), || repository.write_list(&tag, merged.clone(), known)).await?;
        }
    }

    /// What a registry has that is said of an image: of all that its name stands for, where it is an index.
    ///
    /// # Errors
    /// Where the image is not there, or can't be asked for.
    pub async fn said_of(&self, reference: &Reference, auth: Option<&Auth>) -> Result<Vec<SaidOf>, RegistryError> {
        let reference = reference.clone().with_default_tag();
        let version = reference.version().to_owned();
        // A mirror need not have what refers to an image.
        let repository = self.repository(reference.domain(), &reference, auth, "pull").await?;
        let found = retrying(self.config(), || repository.manifest(&version)).await;
        let raw = found.map_err(|error| error.of_pull(&reference))?;
        let mut subjects = vec![(raw.digest, None)];
        let mut cut = None;
        if media_type::is_index(&raw.media_type) {
            let entries = Index::parse(&raw.bytes)?.manifests;
            let number = entries.len();
            cut = (number > MANIFESTS_MAX)
                .then(|| format!("the index has {number} manifests, of which the first {MANIFESTS_MAX} are looked at"));
            subjects.extend(entries.into_iter().map(|entry| (entry.digest, entry.platform)).take(MANIFESTS_MAX));
        }
        let mut all = Vec::new();
        let mut left = STATEMENTS_MAX;
        for (subject, platform) in subjects {
            let (entries, more) = self.referrers_of(&repository, &subject).await?;
            let mut said = Vec::new();
            for entry in entries {
                said.push((entry.digest, self.said_by(&repository, &entry, &subject, &mut left).await?));
            }
            let more = more.then(|| {
                format!(
                    "more is said than is looked at: that of {REFERRERS_MAX} manifests, and {PAGES_MAX} pages of them"
                )
            });
            all.push(SaidOf { subject, platform, said, more: cut.take().or(more) });
        }
        Ok(all)
    }

    /// The statements about a manifest, and whether there are more than are looked at.
    async fn referrers_of(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<(Vec<Entry>, bool), RegistryError> {
        let (mut entries, more) = match retrying(self.config(), || repository.referrers(subject)).await? {
            Some(found) => found,
            None => {
                let tag = list_tag(subject);
                let list = retrying(self.config(), || repository.list(&tag)).await?;
                (list.map_or_else(|| Ok(Vec::new()), |(bytes, _)| read_entries(&bytes))?, false)
            }
        };
        let more = more || entries.len() > REFERRERS_MAX;
        entries.truncate(REFERRERS_MAX);
        Ok((entries, more))
    }

    /// What a manifest says of the one that it refers to, in `left` bytes at most.
    async fn said_by(
        &self,
        repository: &Repository,
        entry: &Entry,
        subject: &Digest,
        left: &mut u64,
    ) -> Result<Said, RegistryError> {
        let version = entry.digest.to_string();
        let raw = match retrying(self.config(), || repository.manifest(&version)).await {
            Err(error) if error.is_not_found() => return Ok(Said::Odd("it is listed, and not there".to_owned())),
            raw => raw?,
        };
        let layer = match Manifest::parse(&raw.bytes) {
            Ok(manifest) => manifest.layers.into_iter().find(|layer| layer.media_type == IN_TOTO),
            Err(error) => return Ok(Said::Odd(error.to_string())),
        };
        let Some(layer) = layer else { return Ok(Said::Odd("it has no statement".to_owned())) };
        let digest = layer.digest;
        let what = "what is said of the image, all together,";
        let document = retrying(self.config(), || repository.document(what, &digest, *left)).await;
        let document = document.map_err(|error| match error {
            RegistryError::TooLarge { what, .. } => RegistryError::TooLarge { what, limit: STATEMENTS_MAX },
            error => error,
        })?;
        *left -= document.len() as u64;
        let actual = Digest::of(&document);
        if actual != digest {
            return Err(RegistryError::WrongDigest { expected: digest.to_string(), actual: actual.to_string() });
        }
        Ok(statement(&document, subject).map_or_else(Said::Odd, Said::Statement))
    }
}

fn not_attested(referrer: &Referrer, why: RegistryError) -> RegistryError {
    let kind = referrer.descriptor["annotations"][crate::attestation::PREDICATE_TYPE].as_str().unwrap_or_default();
    RegistryError::NotAttested { predicate_type: kind.to_owned(), why: Box::new(why) }
}

/// The tag of a manifest's list.
fn list_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

fn malformed_list(tag: &str, reason: String) -> RegistryError {
    RegistryError::Malformed { what: format!("the list of referrers {tag}"), reason }
}

/// What refers to a manifest, as a list has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: Digest,
    #[serde(default)]
    artifact_type: Option<String>,
}

/// The statements of a list. What is of another type, as signatures are, is nothing of ours, and neither is what has another kind of digest.
fn read_entries(bytes: &[u8]) -> Result<Vec<Entry>, RegistryError> {
    #[derive(Deserialize)]
    struct List {
        manifests: Option<Vec<Value>>,
    }
    let list: List = serde_json::from_slice(bytes).map_err(|error| RegistryError::Malformed {
        what: "the list of referrers".into(),
        reason: error.to_string(),
    })?;
    let entries = list.manifests.unwrap_or_default().into_iter();
    let entries = entries.filter_map(|entry| serde_json::from_value::<Entry>(entry).ok());
    Ok(entries.filter(|entry| entry.artifact_type.as_deref() == Some(IN_TOTO)).collect())
}

impl Repository {
    /// Puts a manifest that refers to another. Whether the registry keeps the list of those.
    async fn put_referrer(&self, version: &str, bytes: Bytes) -> Result<bool, RegistryError> {
        let outgoing = Outgoing::new(Method::PUT, self.url(&format!("manifests/{version}"))?)
            .body(bytes)
            .header(header::CONTENT_TYPE, media_type::OCI_MANIFEST)?;
        let answer = self.send(outgoing).await?;
        match answer.status.is_success() {
            true => Ok(answer.header(&SUBJECT).is_some()),
            false => Err(answer.refusal().await),
        }
    }

    /// The list under a tag, and by what the registry knows this version of it.
    async fn list(&self, tag: &str) -> Result<Option<(Bytes, Option<String>)>, RegistryError> {
        let outgoing = Outgoing::new(Method::GET, self.url(&format!("manifests/{tag}"))?)
            .header(header::ACCEPT, media_type::OCI_INDEX)?;
        let mut answer = self.send(outgoing).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(answer.refusal().await),
        }
        let version = answer.header(&header::ETAG).filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        Ok(Some((answer.bytes("the list of referrers", MAX_DOCUMENT).await?, version)))
    }

    /// Writes a list, where it is still what it was: a registry that knows of conditions does nothing else.
    async fn write_list(&self, tag: &str, bytes: Bytes, known: Option<Option<&str>>) -> Result<(), RegistryError> {
        let mut outgoing = Outgoing::new(Method::PUT, self.url(&format!("manifests/{tag}"))?)
            .body(bytes)
            .header(header::CONTENT_TYPE, media_type::OCI_INDEX)?;
        outgoing = match known {
            None => outgoing.header(header::IF_NONE_MATCH, "*")?,
            Some(Some(version)) => outgoing.header(header::IF_MATCH, version)?,
            Some(None) => outgoing,
        };
        let answer = self.send(outgoing).await?;
        match answer.status {
            // It is read again in any case.
            StatusCode::PRECONDITION_FAILED => Ok(()),
            status if status.is_success() => Ok(()),
            _ => Err(answer.refusal().await),
        }
    }

    /// The statements about a manifest that the registry knows of, and whether there may be more; `None`: it knows nothing of referrers.
    async fn referrers(&self, subject: &Digest) -> Result<Option<(Vec<Entry>, bool)>, RegistryError> {
        let first = with_query(&format!("referrers/{subject}"), &form([("artifactType", IN_TOTO)]));
        let (mut entries, mut next, mut pages) = (Vec::new(), Some(self.url(&first)?), 0);
        while pages < PAGES_MAX
            && entries.len() <= REFERRERS_MAX
            && let Some(url) = next.take()
        {
            pages += 1;
            let outgoing = Outgoing::new(Method::GET, url.clone()).header(header::ACCEPT, media_type::OCI_INDEX)?;
            let mut answer = self.send(outgoing).await?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND if pages == 1 => return Ok(None),
                _ => return Err(answer.refusal().await),
            }
            next = answer.header(&header::LINK).and_then(next_page).and_then(|link| resolve(&url, link));
            entries.extend(read_entries(&answer.bytes("the list of referrers", MAX_DOCUMENT).await?)?);
        }
        Ok(Some((entries, next.is_some())))
    }
}
