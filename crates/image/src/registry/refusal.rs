//! Reads why a registry refused (distribution-spec, "Error Codes").

use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::error::Refusal;

#[derive(Deserialize)]
struct ErrorsDocument {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
    /// Token servers and some front ends have one message instead.
    #[serde(default, alias = "message", alias = "error")]
    details: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// The first reason in an answer's body, or what its status alone says, in Docker's words.
pub(super) fn parse(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Refusal {
    let document: Option<ErrorsDocument> = serde_json::from_slice(body).ok();
    let message = document.as_ref().and_then(|document| document.details.as_ref()?.as_str().map(str::to_owned));
    if let Some(first) = document.and_then(|document| document.errors.into_iter().next()) {
        return refusal(&first.code, &first.message.unwrap_or_default());
    }
    let is_html = headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let text = match (message, std::str::from_utf8(body)) {
        (Some(message), _) => message,
        (None, Ok(text)) if !is_html && text.len() < 400 => text.trim().to_owned(),
        _ => String::new(),
    };
    match status.as_u16() {
        401 => refusal("UNAUTHORIZED", if text.is_empty() { "authentication required" } else { &text }),
        403 => refusal("DENIED", if text.is_empty() { "requested access to the resource is denied" } else { &text }),
        429 => refusal("TOOMANYREQUESTS", if text.is_empty() { "too many requests" } else { &text }),
        _ if text.is_empty() || status.is_server_error() => {
            refusal("", &format!("received unexpected HTTP status: {status}"))
        }
        _ => refusal("", &format!("received unexpected HTTP status: {status}: {text}")),
    }
}

fn refusal(code: &str, message: &str) -> Refusal {
    // What a registry says ends up on terminals.
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect();
    Refusal { code: clean(code), message: clean(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(status: u16, body: &str) -> String {
        parse(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes()).to_string()
    }

    #[test]
    fn reasons_in_every_shape() {
        assert_eq!(
            text(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#),
            "manifest unknown: manifest unknown"
        );
        assert_eq!(
            text(401, r#"{"details":"incorrect username or password"}"#),
            "unauthorized: incorrect username or password"
        );
        assert_eq!(text(401, ""), "unauthorized: authentication required");
        assert_eq!(text(429, "Too Fast\n"), "toomanyrequests: Too Fast");
        assert_eq!(text(503, "<html>"), "received unexpected HTTP status: 503 Service Unavailable");
        assert_eq!(text(404, ""), "received unexpected HTTP status: 404 Not Found");
        assert_eq!(text(403, r#"{"errors":[{"code":"DENIED","message":"a\u001b[2Jb"}]}"#), "denied: a [2Jb");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(status in 400u16..600, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), &body);
        }
    }
}
