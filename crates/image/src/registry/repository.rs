//! One repository on one registry: the requests of the OCI distribution-spec 1.1 ("Endpoints"), each once.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::error::RegistryError;
use super::http::{Answer, Outgoing, Pieces};
use super::session::{Access, Session};
use super::url::{form, resolve, with_query};
use crate::manifest::{MAX_DOCUMENT, media_type};
use crate::{Descriptor, Digest};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const MANIFESTS: [&str; 4] =
    [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST];
/// Asked for only so that an image that has nothing else can be told from one that doesn't exist.
const OLD_MANIFESTS: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];
const TAGS_PAGE_MAX: u64 = 8 << 20;
const TAGS_PAGES_MAX: usize = 10_000;

/// A repository, as somebody who may do certain things there.
#[derive(Clone)]
pub(super) struct Repository {
    pub(super) session: Arc<Session>,
    pub(super) path: String,
    pub(super) access: Access,
}

/// A manifest or index as it came. Its digest is that of the bytes.
#[derive(Debug, Clone)]
pub(super) struct RawManifest {
    pub(super) bytes: Bytes,
    pub(super) media_type: String,
    pub(super) digest: Digest,
}

/// What came of asking to upload a blob.
pub(super) enum UploadStart {
    /// The registry has it, from the other repository.
    Mounted,
    /// It is to be sent.
    Open(Upload),
}

/// A blob on its way up.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    location: Uri,
    /// The least bytes that a chunk before the last may have, where the registry asks for chunks.
    pub(super) chunk_min: Option<u64>,
}

impl Repository {
    pub(super) fn url(&self, rest: &str) -> Result<Uri, RegistryError> {
        self.session.url(&format!("/v2/{}/{rest}", self.path))
    }

    pub(super) async fn send(&self, outgoing: Outgoing) -> Result<Answer, RegistryError> {
        self.session.send(outgoing, &self.access).await
    }

    fn manifest_request(&self, method: Method, version: &str) -> Result<Outgoing, RegistryError> {
        let accept = [&MANIFESTS[..], &OLD_MANIFESTS[..]].concat().join(", ");
        Outgoing::new(method, self.url(&format!("manifests/{version}"))?).header(header::ACCEPT, &accept)
    }

    /// Fetches a manifest by tag or digest. A digest asked for is verified, as is one that the registry names.
    pub(super) async fn manifest(&self, version: &str) -> Result<RawManifest, RegistryError> {
        let mut answer = self.send(self.manifest_request(Method::GET, version)?).await?;
        if answer.status != StatusCode::OK {
            return Err(answer.refusal().await);
        }
        let bytes = answer.bytes("the manifest", MAX_DOCUMENT).await?;
        let digest = Digest::of(&bytes);
        let named = answer.header(&CONTENT_DIGEST).filter(|named| named.starts_with("sha256:"));
        for expected in [version.contains(':').then_some(version), named].into_iter().flatten() {
            if expected != digest.to_string() {
                return Err(RegistryError::WrongDigest { expected: expected.to_owned(), actual: digest.to_string() });
            }
        }
        let media_type = document_type(&bytes, answer.header(&header::CONTENT_TYPE));
        Ok(RawManifest { bytes, media_type, digest })
    }

    /// Whether the registry has a manifest, and which.
    pub(super) async fn head_manifest(&self, version: &str) -> Result<Option<Descriptor>, RegistryError> {
        let answer = self.send(self.manifest_request(Method::HEAD, version)?).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(answer.refusal().await),
        }
        // Registries may leave either header out; the document itself then tells.
        let digest = answer.header(&CONTENT_DIGEST).and_then(|text| text.parse().ok());
        if let (Some(digest), Some(size)) = (digest, answer.number(&header::CONTENT_LENGTH)) {
            let media_type = answer.header(&header::CONTENT_TYPE).unwrap_or_default();
            return Ok(Some(Descriptor::new(media_type, digest, size)));
        }
        let manifest = self.manifest(version).await?;
        Ok(Some(Descriptor::new(manifest.media_type, manifest.digest, manifest.bytes.len() as u64)))
    }

    /// Fetches a small blob in whole; the caller verifies it.
    pub(super) async fn document(&self, what: &str, digest: &Digest, limit: u64) -> Result<Bytes, RegistryError> {
        self.blob(digest, 0).await?.bytes(what, limit).await
    }

    /// Opens a blob, at an offset where the registry can do that: a status of 200 means that it begins at 0 all the same.
    pub(super) async fn blob(&self, digest: &Digest, offset: u64) -> Result<Answer, RegistryError> {
        let outgoing = Outgoing::new(Method::GET, self.url(&format!("blobs/{digest}"))?);
        self.open(outgoing, offset).await
    }

    /// Opens content at an address that a descriptor itself names.
    pub(super) async fn foreign(&self, url: Uri, offset: u64) -> Result<Answer, RegistryError> {
        self.open(Outgoing::new(Method::GET, url), offset).await
    }

    async fn open(&self, mut outgoing: Outgoing, offset: u64) -> Result<Answer, RegistryError> {
        if offset > 0 {
            outgoing = outgoing.header(header::RANGE, &format!("bytes={offset}-"))?;
        }
        let answer = self.send(outgoing).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::PARTIAL_CONTENT if range_start(&answer) == Some(offset) => Ok(answer),
            StatusCode::PARTIAL_CONTENT => Err(RegistryError::Malformed {
                what: "a part of a blob".into(),
                reason: format!(
                    "asked for bytes from {offset} on, the registry sent {:?}",
                    answer.header(&header::CONTENT_RANGE).unwrap_or_default()
                ),
            }),
            _ => Err(answer.refusal().await),
        }
    }

    /// Whether the registry has a blob in this repository.
    pub(super) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let answer = self.send(Outgoing::new(Method::HEAD, self.url(&format!("blobs/{digest}"))?)).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(answer.refusal().await),
        }
    }

    /// Begins an upload; with `from`, asks to take the blob from another repository of the registry instead.
    pub(super) async fn start_upload(&self, digest: &Digest, from: Option<&str>) -> Result<UploadStart, RegistryError> {
        let url = self.session.url(&format!("/v2/{}/blobs/uploads/", self.path))?;
        let (url, access) = match from {
            None => (url, self.access.clone()),
            Some(from) => {
                let query = form([("mount", &*digest.to_string()), ("from", from)]);
                let mut access = self.access.clone();
                access.scopes.insert(format!("repository:{from}:pull"));
                (self.session.url(&with_query(&format!("/v2/{}/blobs/uploads/", self.path), &query))?, access)
            }
        };
        let answer = self.session.send(Outgoing::new(Method::POST, url), &access).await?;
        match answer.status {
            StatusCode::CREATED => Ok(UploadStart::Mounted),
            StatusCode::ACCEPTED => Ok(UploadStart::Open(Upload {
                location: location(&answer)?,
                chunk_min: answer.number(&CHUNK_MIN_LENGTH),
            })),
            _ => Err(answer.refusal().await),
        }
    }

    /// Sends bytes of a blob. Without `offset` they are all of it; with it, a chunk that begins there.
    pub(super) async fn send_chunk(
        &self,
        upload: &Upload,
        offset: Option<u64>,
        length: u64,
        pieces: Pieces,
    ) -> Result<Upload, RegistryError> {
        let mut outgoing = Outgoing::new(Method::PATCH, upload.location.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")?;
        if let Some(offset) = offset {
            let last = (offset + length).saturating_sub(1);
            outgoing = outgoing.header(header::CONTENT_RANGE, &format!("{offset}-{last}"))?;
        }
        let answer = self.session.send_stream(outgoing, &self.access, length, pieces).await?;
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::CREATED => {
                Ok(Upload { location: location(&answer)?, chunk_min: upload.chunk_min })
            }
            _ => Err(answer.refusal().await),
        }
    }

    /// How many bytes of an upload the registry has, and where to send the next; `None` where it forgot the upload.
    pub(super) async fn upload_offset(&self, upload: &Upload) -> Result<Option<(Upload, u64)>, RegistryError> {
        let answer = self.send(Outgoing::new(Method::GET, upload.location.clone())).await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
            _ => return Err(answer.refusal().await),
        }
        let last = answer.header(&header::RANGE).and_then(|range| range.rsplit_once('-')?.1.parse::<u64>().ok());
        // `0-0` is what an empty upload and one of a single byte both look like: there is nothing worth resuming.
        let Some(offset) = last.filter(|last| *last > 0).map(|last| last + 1) else { return Ok(None) };
        let location =
            if answer.headers.contains_key(header::LOCATION) { location(&answer)? } else { upload.location.clone() };
        Ok(Some((Upload { location, chunk_min: upload.chunk_min }, offset)))
    }

    /// Ends an upload: all its bytes were sent, and they are this blob.
    pub(super) async fn finish_upload(&self, upload: &Upload, digest: &Digest) -> Result<(), RegistryError> {
        let address = with_query(&upload.location.to_string(), &form([("digest", &*digest.to_string())]));
        let url = address.parse().map_err(|error| malformed_location(&address, error))?;
        let outgoing = Outgoing::new(Method::PUT, url).header(header::CONTENT_TYPE, "application/octet-stream")?;
        let answer = self.session.send_patiently(outgoing, &self.access).await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK => Ok(()),
            _ => Err(answer.refusal().await),
        }
    }

    /// Sends a small blob in whole, where the registry does not have it.
    pub(super) async fn put_blob(&self, bytes: &Bytes) -> Result<(), RegistryError> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest).await? {
            return Ok(());
        }
        let UploadStart::Open(upload) = self.start_upload(&digest, None).await? else { return Ok(()) };
        let once = futures_util::stream::once(std::future::ready(Ok(bytes.clone())));
        let upload = self.send_chunk(&upload, None, bytes.len() as u64, Box::pin(once)).await?;
        self.finish_upload(&upload, &digest).await
    }

    /// Gives an upload up, so that the registry needn't keep it.
    pub(super) async fn cancel_upload(&self, upload: &Upload) -> Result<(), RegistryError> {
        self.send(Outgoing::new(Method::DELETE, upload.location.clone())).await.map(drop)
    }

    /// Puts a manifest under a tag or digest.
    pub(super) async fn put_manifest(
        &self,
        version: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(), RegistryError> {
        let outgoing = Outgoing::new(Method::PUT, self.url(&format!("manifests/{version}"))?)
            .body(bytes)
            .header(header::CONTENT_TYPE, media_type)?;
        let answer = self.send(outgoing).await?;
        match answer.status {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(answer.refusal().await),
        }
    }

    /// All tags, in the registry's order, page after page.
    pub(super) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next = Some(self.url("tags/list")?);
        while let Some(url) = next.filter(|url| seen.len() < TAGS_PAGES_MAX && seen.insert(url.to_string())) {
            let mut answer = self.send(Outgoing::new(Method::GET, url.clone())).await?;
            if answer.status != StatusCode::OK {
                return Err(answer.refusal().await);
            }
            let body = answer.bytes("the list of tags", TAGS_PAGE_MAX).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|error| RegistryError::Malformed {
                what: "the list of tags".into(),
                reason: error.to_string(),
            })?;
            tags.extend(page.tags.unwrap_or_default());
            next = answer.header(&header::LINK).and_then(next_page).and_then(|link| resolve(&url, link));
        }
        Ok(tags)
    }
}

/// The media type that a document names itself, else the one it was sent with, without parameters.
fn document_type(bytes: &[u8], header: Option<&str>) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let sent = header.and_then(|value| value.split(';').next()).map(str::trim).unwrap_or_default();
    let Ok(head) = serde_json::from_slice::<Head>(bytes) else { return sent.to_owned() };
    match head {
        Head { media_type: Some(named), .. } if !named.is_empty() => named,
        Head { schema_version: Some(1), .. } => OLD_MANIFESTS[0].to_owned(),
        _ if MANIFESTS.contains(&sent) || OLD_MANIFESTS.contains(&sent) => sent.to_owned(),
        Head { manifests: Some(_), .. } => media_type::OCI_INDEX.to_owned(),
        Head { config: Some(_), .. } => media_type::OCI_MANIFEST.to_owned(),
        _ => sent.to_owned(),
    }
}

/// Whether a media type is one of Docker's schema 1.
pub(super) fn is_old_manifest(media_type: &str) -> bool {
    OLD_MANIFESTS.contains(&media_type)
}

fn range_start(answer: &Answer) -> Option<u64> {
    answer.header(&header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn location(answer: &Answer) -> Result<Uri, RegistryError> {
    location_from(&answer.url, answer.header(&header::LOCATION).unwrap_or_default())
}

/// Where an upload goes on, as the answer from `base` has it.
fn location_from(base: &Uri, text: &str) -> Result<Uri, RegistryError> {
    let url = resolve(base, text)
        .filter(|url| url.host().is_some() && !text.is_empty())
        .ok_or_else(|| malformed_location(text, "it is no address"))?;
    if base.scheme_str() == Some("https") && url.scheme_str() != Some("https") {
        let reason = "it is not protected by TLS, as the registry is: a proxy before it may have to tell it so (X-Forwarded-Proto)";
        return Err(malformed_location(text, reason));
    }
    Ok(url)
}

fn malformed_location(text: &str, reason: impl std::fmt::Display) -> RegistryError {
    RegistryError::Malformed { what: format!("the location {text:?} of an upload"), reason: reason.to_string() }
}

/// The target of `rel="next"` in a `Link` header (RFC 8288).
pub(super) fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.replace([' ', '"'], "");
            parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_page(r#"</v2/a/tags/list?last=b&n=2>; rel="next""#), Some("/v2/a/tags/list?last=b&n=2"));
        assert_eq!(next_page(r#"<x>; rel=prev, <y>; a=b; rel=next"#), Some("y"));
        assert_eq!(next_page("nothing"), None);
    }

    #[test]
    fn an_upload_does_not_leave_tls() {
        let base: Uri = "https://reg.example/v2/app/blobs/uploads/".parse().unwrap();
        assert_eq!(location_from(&base, "/v2/u/1").unwrap().to_string(), "https://reg.example/v2/u/1");
        assert_eq!(location_from(&base, "https://store.example/1").unwrap().to_string(), "https://store.example/1");
        let error = location_from(&base, "http://reg.example/v2/u/1").unwrap_err().to_string();
        assert!(error.contains("http://reg.example/v2/u/1") && error.contains("not protected by TLS"), "{error}");
        let plain: Uri = "http://127.0.0.1:5000/v2/app/blobs/uploads/".parse().unwrap();
        assert_eq!(
            location_from(&plain, "http://127.0.0.1:5000/u/1").unwrap().to_string(),
            "http://127.0.0.1:5000/u/1"
        );
    }

    #[test]
    fn documents_say_what_they_are() {
        let sent = Some("application/json; charset=utf-8");
        assert_eq!(document_type(br#"{"schemaVersion":2,"mediaType":"x/y"}"#, sent), "x/y");
        assert_eq!(document_type(br#"{"schemaVersion":2,"config":{}}"#, sent), media_type::OCI_MANIFEST);
        assert_eq!(document_type(br#"{"schemaVersion":2,"manifests":[]}"#, None), media_type::OCI_INDEX);
        assert_eq!(document_type(br#"{"schemaVersion":2}"#, Some(media_type::DOCKER_INDEX)), media_type::DOCKER_INDEX);
        assert!(is_old_manifest(&document_type(br#"{"schemaVersion":1,"fsLayers":[]}"#, sent)));
    }
}
