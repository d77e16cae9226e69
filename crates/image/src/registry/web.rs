//! Files of the web that somebody names who is not trusted: out of reach is what [`Reach`] says, what comes has a bound, and a file that
//! did not change since does not come again.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{self, HeaderName};
use hyper::{Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::auth::basic_header;
use super::error::{RegistryError, TransportCause};
use super::http::{Answer, HttpClient, Outgoing};
use super::reach::Reach;
use super::{Registries, retrying};
use crate::{Digest, Hasher};

/// The longest that all of a file may take.
const DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);
/// Pieces that wait to be written.
const QUEUE: usize = 64;

/// A file, where it is and what may come of it.
#[derive(Debug, Clone, Copy)]
pub struct WebFile<'f> {
    /// Its address; a name and a password in it are shown to its server, and in no error.
    pub url: &'f str,
    /// Which addresses may be connected to.
    pub reach: &'f Reach,
    /// What its server said of what is here already.
    pub known: Option<&'f Validators>,
    /// The most bytes that it may have.
    pub limit: u64,
}

/// What a server said of a file, for it to say whether it changed (RFC 9110 section 8.8).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// `ETag`
    pub tag: Option<String>,
    /// `Last-Modified`
    pub modified: Option<String>,
}

impl Validators {
    /// Whether its server can be asked if it changed.
    pub fn are_there(&self) -> bool {
        self.tag.is_some() || self.modified.is_some()
    }
}

/// A file that came whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many they are.
    pub size: u64,
    /// What its server said of it.
    pub validators: Validators,
}

impl Registries {
    /// Writes a file of the web into an empty file, through the proxies that registries are reached through, and `tells` how many bytes of how
    /// many have come. `None`: it is as it was when it was [known](WebFile::known).
    ///
    /// # Errors
    /// Where the address is none or out of reach, its server does not hand the file out, or it is too large.
    pub async fn download(
        &self,
        file: &WebFile<'_>,
        into: &File,
        tell: &(dyn Fn(u64, Option<u64>) + Send + Sync),
    ) -> Result<Option<Downloaded>, RegistryError> {
        let outgoing = asked(file)?;
        let host = outgoing.url.authority().map(ToString::to_string).unwrap_or_default();
        let client = HttpClient::within(self.config(), &host, true, Some(file.reach.clone()));
        let whole = retrying(self.config(), || once(&client, &outgoing, file, into, tell));
        match tokio::time::timeout(DEADLINE, whole).await {
            Ok(done) => done,
            Err(_) => Err(outgoing.failed(TransportCause::Stalled(DEADLINE))),
        }
    }
}

/// The request.
fn asked(file: &WebFile<'_>) -> Result<Outgoing, RegistryError> {
    // What is said of the address has no password in it.
    let (plain, credential) = apart(file.url);
    let malformed = |reason: String| RegistryError::Malformed { what: format!("the address {plain:?}"), reason };
    let address: Uri = plain.parse().map_err(|error: hyper::http::uri::InvalidUri| malformed(error.to_string()))?;
    if !matches!(address.scheme_str(), Some("http" | "https")) || address.host().is_none_or(str::is_empty) {
        return Err(malformed("it is not http://HOST/… or https://HOST/…".to_owned()));
    }
    let mut outgoing = Outgoing::new(Method::GET, address);
    if let Some(credential) = credential {
        outgoing = outgoing.header(header::AUTHORIZATION, &credential)?;
    }
    for (name, value) in file.known.into_iter().flat_map(conditions) {
        outgoing = outgoing.header(name, value)?;
    }
    Ok(outgoing)
}

/// The headers that ask for a file only if it changed: the date counts only where there is no tag (RFC 9110 section 13.1.3).
fn conditions(known: &Validators) -> Option<(HeaderName, &str)> {
    let by_tag = known.tag.as_deref().map(|tag| (header::IF_NONE_MATCH, tag));
    by_tag.or_else(|| known.modified.as_deref().map(|date| (header::IF_MODIFIED_SINCE, date)))
}

/// An address without the name and password in it, for people.
pub fn without_password(url: &str) -> String {
    apart(url).0
}

/// The name that a file has by its address: what is behind the last slash of the path.
pub fn file_name(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let path = rest.split(['?', '#']).next()?.split_once('/')?.1;
    let name = super::url::percent_decode(path);
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    Some(name.to_owned()).filter(|name| !matches!(&**name, "" | "." | "..") && !name.contains('\0'))
}

/// The name in an address, and the password where there is one.
pub fn name_and_password(url: &str) -> Option<(String, Option<String>)> {
    let (user, _) = split(url)?;
    let (name, password) = user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password)));
    Some((super::url::percent_decode(name), password.map(super::url::percent_decode)))
}

/// An address without the name and password in it, and the header that shows them.
fn apart(url: &str) -> (String, Option<String>) {
    let Some((_, without)) = split(url) else { return (url.to_owned(), None) };
    let header = name_and_password(url).map(|(name, password)| basic_header(&name, &password.unwrap_or_default()));
    (without, header)
}

/// What stands before the host of an address, and the address without it.
fn split(url: &str) -> Option<(&str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (user, host) = rest[..end].rsplit_once('@')?;
    Some((user, format!("{scheme}://{host}{}", &rest[end..])))
}

async fn once(
    client: &HttpClient,
    outgoing: &Outgoing,
    file: &WebFile<'_>,
    into: &File,
    tell: &(dyn Fn(u64, Option<u64>) + Send + Sync),
) -> Result<Option<Downloaded>, RegistryError> {
    let answer = client.send(outgoing.clone()).await?;
    if answer.status == StatusCode::NOT_MODIFIED && file.known.is_some() {
        return Ok(None);
    }
    if answer.status != StatusCode::OK {
        return Err(outgoing.failed(TransportCause::Answered(answer.status.as_u16())));
    }
    let text = |name: HeaderName| answer.header(&name).map(str::to_owned);
    let validators = Validators { tag: text(header::ETAG), modified: text(header::LAST_MODIFIED) };
    let into = into.try_clone().map_err(failed)?;
    let (to, from) = mpsc::channel(QUEUE);
    let writing = tokio::task::spawn_blocking(move || write(&into, from));
    let fed = feed(answer, file, to, tell).await;
    let written = writing.await.map_err(|error| RegistryError::Task(error.to_string()))?;
    // Whoever writes learns only that there is no more; where it could not be written, that is why.
    let (digest, size) = written.map_err(failed)?;
    fed?;
    Ok(Some(Downloaded { digest, size, validators }))
}

fn failed(error: std::io::Error) -> RegistryError {
    RegistryError::Task(format!("writing what is downloaded: {error}"))
}

/// Hands pieces to whoever writes them. Ends where nobody does any more.
async fn feed(
    mut answer: Answer,
    file: &WebFile<'_>,
    to: mpsc::Sender<Bytes>,
    tell: &(dyn Fn(u64, Option<u64>) + Send + Sync),
) -> Result<(), RegistryError> {
    let too_large = || RegistryError::TooLarge { what: "the file".into(), limit: file.limit };
    let whole = answer.number(&header::CONTENT_LENGTH);
    if whole.is_some_and(|whole| whole > file.limit) {
        return Err(too_large());
    }
    let mut come = 0;
    while let Some(piece) = answer.chunk().await? {
        come += piece.len() as u64;
        if come > file.limit {
            return Err(too_large());
        }
        if to.send(piece).await.is_err() {
            return Ok(());
        }
        tell(come, whole);
    }
    Ok(())
}

/// Writes pieces into a file from its begin. Blocks.
fn write(mut into: &File, mut pieces: mpsc::Receiver<Bytes>) -> std::io::Result<(Digest, u64)> {
    use std::io::{Seek as _, SeekFrom};
    into.set_len(0)?;
    into.seek(SeekFrom::Start(0))?;
    let (mut hasher, mut size) = (Hasher::new(), 0);
    while let Some(piece) = pieces.blocking_recv() {
        hasher.update(&piece);
        into.write_all(&piece)?;
        size += piece.len() as u64;
    }
    Ok((hasher.finish(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_shown_to_the_server_and_in_no_error() {
        let plain = without_password;
        assert_eq!(plain("https://ann:p%40ss@x.example:1/a@b?c@d"), "https://x.example:1/a@b?c@d");
        assert_eq!(apart("http://ann:p%40ss@x/").1.as_deref(), Some("Basic YW5uOnBAc3M="));
        assert_eq!(apart("http://x/a@b"), ("http://x/a@b".into(), None));
        let reach = Reach::default();
        for url in ["ftp://ann:secret@x/", "http://ann:secret@/", "http://ann:secret@a b/"] {
            let error = asked(&WebFile { url, reach: &reach, known: None, limit: 0 }).err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_last_part_of_the_path_is_the_name() {
        let name = |url: &str| file_name(url).unwrap_or_default();
        assert_eq!(name("http://x/a/b.txt?c=/d#e/f"), "b.txt");
        assert_eq!(name("http://x/a%20b"), "a b");
        assert_eq!(name("http://x/a/b/"), "b");
        assert_eq!(name("http://x/a%2Fb"), "b");
        for none in ["http://x", "http://x/", "http://x/a/..", "http://x/%00", "http://x/?a/b"] {
            assert_eq!(file_name(none), None, "{none}");
        }
    }

    #[test]
    fn a_tag_says_more_than_a_date() {
        let known = Validators { tag: Some("\"a\"".into()), modified: Some("then".into()) };
        assert_eq!(conditions(&known), Some((header::IF_NONE_MATCH, "\"a\"")));
        let known = Validators { tag: None, ..known };
        assert_eq!(conditions(&known), Some((header::IF_MODIFIED_SINCE, "then")));
        assert_eq!(conditions(&Validators::default()), None);
    }
}
