//! JSON bodies, read as Go's `encoding/json` reads them, as that is what clients were written against: field names
//! match in any case, the last of several wins, whatever its case, and objects are read one over the other; unknown
//! fields are passed over, `null` leaves what there is, and failures have Go's words.

mod document;
mod value;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use serde::de::DeserializeOwned;

use crate::error::{ApiError, Result};
pub(crate) use document::Document;
pub(crate) use value::Failure;
use value::{Path, ValueReader};

/// Reads the body of a request whose content type must be JSON. An empty body is `None`.
///
/// # Errors
/// 400 for another content type, and for a body that is not the JSON of a `T`.
pub(crate) fn body<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<Option<T>> {
    check_content_type(headers, body.is_empty())?;
    if body.is_empty() {
        return Ok(None);
    }
    document(body).map(Some)
}

/// Reads one JSON document.
///
/// # Errors
/// 400 in Go's words.
pub(crate) fn document<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<Document>();
    let value = match documents.next() {
        None => return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body")),
        Some(Err(error)) => return Err(ApiError::bad_request(format!("invalid JSON: {}", syntax_error(text, &error)))),
        Some(Ok(value)) => value,
    };
    if text[documents.byte_offset()..].iter().any(|b| !b.is_ascii_whitespace()) {
        return Err(ApiError::bad_request("unexpected content after JSON"));
    }
    read(&value).map_err(|Failure(message)| ApiError::bad_request(format!("invalid JSON: {message}")))
}

/// Reads a value, for documents that several types read a part of.
pub(crate) fn read<T: DeserializeOwned>(value: &Document) -> Result<T, Failure> {
    T::deserialize(ValueReader::new(value, &Path::root()))
}

/// Whether the content type, where there is a body, is JSON.
fn check_content_type(headers: &HeaderMap, empty: bool) -> Result<()> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given.is_empty() && empty {
        return Ok(());
    }
    let media_type = given.split(';').next().unwrap_or_default().trim();
    if media_type.is_empty() {
        let message = format!("malformed Content-Type header ({given}): mime: no media type");
        return Err(ApiError::bad_request(message));
    }
    if !media_type.eq_ignore_ascii_case("application/json") {
        let message = format!("unsupported Content-Type header ({given}): must be 'application/json'");
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// What Go says about text that is no JSON.
fn syntax_error(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let said = error.to_string();
    let line_start: usize =
        text.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let at = line_start + error.column().saturating_sub(1);
    let context = match () {
        () if said.starts_with("expected ident") => return literal_error(text, at).unwrap_or(said),
        () if said.starts_with("key must be a string") => "looking for beginning of object key string",
        () if said.starts_with("expected `:`") => "after object key",
        () if said.starts_with("expected `,` or `}`") => "after object key:value pair",
        () if said.starts_with("expected `,` or `]`") => "after array element",
        () if said.starts_with("control character") => "in string literal",
        () if said.starts_with("invalid escape") => "in string escape code",
        () if said.starts_with("invalid number") => "in numeric literal",
        () if said.starts_with("expected value") || said.starts_with("trailing comma") => {
            "looking for beginning of value"
        }
        () => return said,
    };
    match text.get(at).or(text.last()) {
        Some(byte) => format!("invalid character {} {context}", go_quote(*byte)),
        None => said,
    }
}

/// What Go says about `nul` and the like, where the byte at `at` breaks the literal.
fn literal_error(text: &[u8], at: usize) -> Option<String> {
    let start = text[..at.min(text.len())].iter().rposition(|b| !b.is_ascii_lowercase()).map_or(0, |before| before + 1);
    let literal = ["null", "true", "false"].into_iter().find(|l| l.as_bytes().first() == text.get(start))?;
    let wrong = (start..text.len()).zip(literal.bytes()).find(|(place, expected)| text[*place] != *expected);
    let (place, expected) = wrong?;
    let (byte, expected) = (go_quote(text[place]), go_quote(expected));
    Some(format!("invalid character {byte} in literal {literal} (expecting {expected})"))
}

/// A byte as Go quotes it.
fn go_quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        other => format!("'{}'", char::from(other).escape_debug()),
    }
}

#[cfg(test)]
mod tests;
