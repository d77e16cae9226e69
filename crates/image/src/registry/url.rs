//! The few things about addresses that talking to registries takes: escaping, query strings, relative locations.

use hyper::http::Uri;

/// Escapes everything but the characters that need no escaping anywhere (RFC 3986, "unreserved").
pub(super) fn percent_encode(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Undoes [`percent_encode`]; leaves what is no valid escape as it stands.
pub(super) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// `name=value` pairs as a query string or form.
pub(super) fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> =
        pairs.into_iter().map(|(k, v)| format!("{}={}", percent_encode(k), percent_encode(v))).collect();
    pairs.join("&")
}

/// An address with more pairs in its query.
pub(super) fn with_query(address: &str, query: &str) -> String {
    match (query.is_empty(), address.contains('?')) {
        (true, _) => address.to_owned(),
        (false, true) => format!("{address}&{query}"),
        (false, false) => format!("{address}?{query}"),
    }
}

/// Where a `Location` or `Link` leads, seen from the address that sent it (RFC 3986 section 5.2, without dot segments).
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn locations_are_resolved() {
        let base: Uri = "https://reg:5/v2/a/blobs/uploads/?x=1".parse().unwrap();
        let to = |location: &str| resolve(&base, location).unwrap().to_string();
        assert_eq!(to("http://other/x?y=1"), "http://other/x?y=1");
        assert_eq!(to("/v2/u/1?s=2"), "https://reg:5/v2/u/1?s=2");
        assert_eq!(to("//cdn/x"), "https://cdn/x");
        assert_eq!(to("1?s=2"), "https://reg:5/v2/a/blobs/uploads/1?s=2");
        assert_eq!(to("?n=2"), "https://reg:5/v2/a/blobs/uploads/?n=2");
        assert_eq!(with_query("/x?a=1", &form([("digest", "sha256:ab")])), "/x?a=1&digest=sha256%3Aab");
    }

    proptest! {
        #[test]
        fn escapes_come_back(text in "\\PC*") { prop_assert_eq!(percent_decode(&percent_encode(&text)), text); }
        #[test]
        fn no_escape_makes_the_reader_panic(text in "[%0-9a-fé]*") { percent_decode(&text); }
    }
}
