//! Images come and go: `create` (a pull or an import), `push`, `search`, `distribution`.

use engine::{ImportRequest, PullRequest, PulledImage, PushRequest, PushedImage};
use http::StatusCode;
use image::Reference;
use image::registry::Auth;
use serde::Serialize;
use serde_json::json;

use super::{check_platform, reference, repository_and_tag};
use crate::body::{self, Response};
use crate::call::Call;
use crate::error::{ApiError, Result};
use crate::filters;
use crate::progress::{self, Message, Words};
use crate::query::parse_integer;

pub(super) const AUTH_HEADER: &str = "x-registry-auth";

/// `POST /images/create`
pub(crate) async fn create(call: Call) -> Result<Response> {
    match call.query.given("fromImage") {
        Some(_) => pull(call).await,
        None => import(call).await,
    }
}

/// What is said about a pull at its end, which needs the names that it was asked by.
struct Pull {
    reference: Reference,
    all_tags: bool,
    pulled: Vec<PulledImage>,
}

async fn pull(call: Call) -> Result<Response> {
    let (reference, all_tags) = pulled_reference(call.query.text("fromImage"), call.query.text("tag"))?;
    let request = PullRequest {
        reference: reference.clone(),
        all_tags,
        platform: call.query.given("platform").filter(|_| call.version.at_least(32)).map(str::to_owned),
        // For a pull, credentials that can't be read are none, as in dockerd.
        auth: Auth::from_header(call.header(AUTH_HEADER)).unwrap_or_default(),
    };
    let before_events = if all_tags { Vec::new() } else { vec![pulling_from(&reference)] };
    let words = Words { first: Vec::new(), before_events, events: true, last: Pull::words };
    let engine = call.engine().clone();
    progress::respond(&call.shutdown, words, |progress| async move {
        let pulled = engine.image_pull(request, progress).await?;
        Ok(Pull { reference, all_tags, pulled })
    })
    .await
    .map_err(unasked)
}

/// A registry that wants to know who asks is told with 500, as by dockerd: at 401 docker clients before 29 ask for a name and a
/// password at the terminal, where nobody may be.
fn unasked(error: ApiError) -> ApiError {
    match error.status() {
        StatusCode::UNAUTHORIZED => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.message()),
        _ => error,
    }
}

/// What is pulled, and whether it is all tags: of a name alone.
fn pulled_reference(name: &str, tag: &str) -> Result<(Reference, bool)> {
    // `docker pull --all-tags` of old clients ends the name with a colon.
    let named = reference(name.strip_suffix(':').unwrap_or(name))?;
    if tag.is_empty() {
        let all_tags = named.is_name_only();
        return Ok((named, all_tags));
    }
    let tagged = if tag.contains(':') { named.with_digest(tag) } else { named.with_tag(tag) };
    tagged.map(|reference| (reference, false)).map_err(|error| ApiError::bad_request(error.to_string()))
}

fn pulling_from(reference: &Reference) -> Message {
    // A digest is told with the name, a tag without.
    let version = match reference.digest() {
        Some(_) => reference.canonical(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    Message::status_of(&version, format!("Pulling from {}", reference.path()))
}

impl Pull {
    fn words(self) -> Vec<Message> {
        let mut messages = Vec::new();
        for pulled in &self.pulled {
            if self.all_tags
                && let Ok(tagged) = self.reference.with_tag(&pulled.tag)
            {
                messages.push(pulling_from(&tagged));
            }
            messages.push(Message::status(format!("Digest: {}", pulled.digest)));
        }
        let updated = self.pulled.iter().any(|pulled| pulled.updated);
        let name = self.reference.familiar();
        messages.push(Message::status(match updated {
            true => format!("Status: Downloaded newer image for {name}"),
            false => format!("Status: Image is up to date for {name}"),
        }));
        let mismatches = self.pulled.iter().filter_map(|pulled| pulled.mismatch.as_ref());
        messages.extend(mismatches.map(|mismatch| Message::status(format!("WARNING: {mismatch}"))));
        messages
    }
}

async fn import(call: Call) -> Result<Response> {
    let query = &call.query;
    let source = query.text("fromSrc").to_owned();
    if source.is_empty() {
        return Err(ApiError::bad_request("nothing to create an image from: give fromImage or fromSrc"));
    }
    let request = ImportRequest {
        reference: repository_and_tag(query.text("repo"), query.text("tag"))?,
        message: query.text("message").to_owned(),
        changes: query.all("changes"),
        platform: query.given("platform").filter(|_| call.version.at_least(32)).map(str::to_owned),
    };
    let is_sent = source == "-";
    // A name without a scheme is a web server's.
    let url = if source.contains("://") { source } else { format!("http://{source}") };
    let words = Words {
        first: if is_sent { Vec::new() } else { vec![Message::status(format!("Downloading from {url}"))] },
        before_events: Vec::new(),
        events: !is_sent,
        last: |id: String| vec![Message::status(id)],
    };
    let (engine, shutdown) = (call.engine().clone(), call.shutdown.clone());
    if !is_sent {
        let work = |progress| async move { engine.image_import_from(request, &url, progress).await };
        return progress::respond(&shutdown, words, work).await;
    }
    let body = call.into_stream();
    progress::respond(&shutdown, words, |_| async move { engine.image_import(request, body).await }).await
}

/// `POST /images/{name}/push`
pub(crate) async fn push(mut call: Call) -> Result<Response> {
    let auth = match call.header(AUTH_HEADER) {
        // Clients from before the header send their credentials as the body.
        "" => {
            let body = call.bytes().await?;
            let bad = |error| ApiError::bad_request(format!("bad parameters and missing X-Registry-Auth: {error}"));
            if body.is_empty() { None } else { Auth::from_json(&body).map_err(bad)? }
        }
        header => Auth::from_header(header).unwrap_or_default(),
    };
    let named = reference(&call.name)?;
    if named.digest().is_some() {
        return Err(ApiError::bad_request("cannot push a digest reference"));
    }
    let named = match call.query.text("tag") {
        "" => named,
        tag => named.with_tag(tag).map_err(|error| ApiError::bad_request(error.to_string()))?,
    };
    if named.tag().is_some() {
        check_platform(&call, &named.familiar(), 46)?;
    }
    // Without a tag all of the repository go: clients that mean one name it.
    let all_tags = named.tag().is_none();
    let words = Words {
        first: vec![Message::status(format!("The push refers to repository [{}]", named.name()))],
        before_events: Vec::new(),
        events: true,
        last: |pushed: Vec<PushedImage>| pushed.iter().flat_map(pushed_words).collect(),
    };
    let request = PushRequest { reference: named, all_tags, auth };
    let engine = call.engine().clone();
    progress::respond(&call.shutdown, words, |progress| async move { engine.image_push(request, progress).await }).await
}

fn pushed_words(pushed: &PushedImage) -> [Message; 2] {
    let PushedImage { tag, digest, size } = pushed;
    [
        Message::status(format!("{tag}: digest: {digest} size: {size}")),
        Message::aux(json!({"Tag": tag, "Digest": digest, "Size": size})),
    ]
}

#[derive(Serialize)]
struct SearchBody {
    star_count: i64,
    is_official: bool,
    name: String,
    is_automated: bool,
    description: String,
}

/// `GET /images/search`
pub(crate) async fn search(call: Call) -> Result<Response> {
    let limit = match call.query.given("limit") {
        None => None,
        Some(text) => Some(
            u32::try_from(parse_integer("Atoi", text)?)
                .map_err(|_| ApiError::bad_request("invalid limit specified: it must not be negative"))?,
        ),
    };
    let auth = Auth::from_header(call.header(AUTH_HEADER)).unwrap_or_default();
    let filters = filters::from_query(&call.query)?;
    let term = call.query.text("term");
    let found = call.engine().image_search(term, limit, &filters, auth.as_ref()).await?;
    let body = |result: image::registry::SearchResult| SearchBody {
        star_count: result.star_count,
        is_official: result.is_official,
        name: result.name,
        is_automated: result.is_automated,
        description: result.description,
    };
    body::ok_json(&found.into_iter().map(body).collect::<Vec<_>>())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DistributionBody {
    descriptor: image::Descriptor,
    platforms: Vec<image::Platform>,
}

/// `GET /distribution/{name}/json`
pub(crate) async fn distribution(call: Call) -> Result<Response> {
    let auth = Auth::from_header(call.header(AUTH_HEADER)).unwrap_or_default();
    let found = call.engine().distribution_inspect(&call.name, auth.as_ref()).await?;
    body::ok_json(&DistributionBody { descriptor: found.descriptor, platforms: found.platforms })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn asked(name: &str, tag: &str) -> (String, bool) {
        let (reference, all_tags) = pulled_reference(name, tag).expect("a reference");
        (reference.familiar(), all_tags)
    }

    #[test]
    fn a_pull_is_named_in_many_ways() {
        assert_eq!(asked("docker.io/library/alpine", "latest"), ("alpine:latest".to_owned(), false));
        assert_eq!(asked("alpine", ""), ("alpine".to_owned(), true));
        assert_eq!(asked("alpine:", ""), ("alpine".to_owned(), true));
        assert_eq!(asked("alpine:3", ""), ("alpine:3".to_owned(), false));
        assert_eq!(asked("alpine", DIGEST), (format!("alpine@{DIGEST}"), false));
        assert!(pulled_reference("Alpine", "").is_err() && pulled_reference("alpine", "-").is_err());
    }

    #[test]
    fn a_pull_ends_with_dockerds_words() {
        let pulled = vec![PulledImage {
            tag: "3".to_owned(),
            digest: DIGEST.to_owned(),
            id: DIGEST.parse().expect("an id"),
            updated: true,
            mismatch: Some("it is for another".to_owned()),
        }];
        let reference = reference("alpine:3").expect("a reference");
        assert_eq!(pulling_from(&reference), Message::status_of("3", "Pulling from library/alpine"));
        let words = Pull { reference, all_tags: false, pulled }.words();
        assert_eq!(
            words,
            [
                Message::status(format!("Digest: {DIGEST}")),
                Message::status("Status: Downloaded newer image for alpine:3"),
                Message::status("WARNING: it is for another"),
            ]
        );
    }

    #[test]
    fn a_push_ends_with_a_line_for_people_and_one_for_programs() {
        let pushed = PushedImage { tag: "1".to_owned(), digest: DIGEST.to_owned(), size: 528 };
        let [people, programs] = pushed_words(&pushed);
        assert_eq!(people, Message::status(format!("1: digest: {DIGEST} size: 528")));
        assert_eq!(programs.aux, Some(json!({"Tag": "1", "Digest": DIGEST, "Size": 528})));
    }
}
