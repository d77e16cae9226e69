//! The query of a request, read as Go's `net/url` and moby's `httputils` read it.

use percent_encoding::percent_decode_str;

use crate::error::{ApiError, Result};

/// The parameters of a query, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// From the part of a URI after `?`.
    ///
    /// # Errors
    /// 400 for a broken escape, and for text that is not UTF-8.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((unescape(key)?, unescape(value)?))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    /// The first value of a parameter; `None` where it is not given.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a parameter; empty where it is not given.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// A value that counts as not given when it is empty.
    pub(crate) fn given(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|value| !value.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    /// A yes or no: everything but an empty text, `0`, `no`, `false` and `none` is yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        let value = self.text(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A yes or no with a value for "not given".
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.get(key).is_some() { self.flag(key) } else { default }
    }
}

/// A whole number as Go's `strconv.ParseInt` and `strconv.Atoi` (named in the error) take it.
pub(crate) fn parse_integer(function: &str, text: &str) -> Result<i64> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let reason = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        ApiError::bad_request(format!("strconv.{function}: parsing {text:?}: {reason}"))
    })
}

/// Takes `%XX` and `+` back.
fn unescape(text: &str) -> Result<String> {
    check_escapes(text)?;
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|decoded| decoded.into_owned())
        .map_err(|_| ApiError::bad_request(format!("the query is not UTF-8: {text}")))
}

/// Refuses `%` that is not followed by two hexadecimal digits.
pub(crate) fn check_escapes(text: &str) -> Result<()> {
    let bytes = text.as_bytes();
    for at in (0..bytes.len()).filter(|at| bytes[*at] == b'%') {
        let escape = &bytes[at..bytes.len().min(at + 3)];
        if escape.len() < 3 || !escape[1..].iter().all(u8::is_ascii_hexdigit) {
            let shown = String::from_utf8_lossy(escape);
            return Err(ApiError::bad_request(format!("invalid URL escape {shown:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).expect("a query")
    }

    #[test]
    fn parameters_are_unescaped() {
        let query = query("name=a%20b+c&filters=%7B%22x%22%3A1%7D&empty");
        assert_eq!(query.text("name"), "a b c");
        assert_eq!(query.text("filters"), "{\"x\":1}");
        assert_eq!((query.get("empty"), query.given("empty"), query.get("none")), (Some(""), None, None));
    }

    #[test]
    fn flags_read_as_in_moby() {
        for (text, yes) in
            [("a=1", true), ("a=True", true), ("a=x", true), ("a=0", false), ("a=No", false), ("a=", false)]
        {
            assert_eq!(query(text).flag("a"), yes, "{text}");
        }
        assert!(query("").flag_or("a", true) && !query("a=0").flag_or("a", true));
    }

    #[test]
    fn repeated_parameters_are_kept() {
        assert_eq!(query("names=a&x=1&names=b").all("names"), ["a", "b"]);
    }

    #[test]
    fn numbers_fail_in_gos_words() {
        let error = parse_integer("Atoi", "abc").expect_err("no number");
        assert_eq!(error.message(), "strconv.Atoi: parsing \"abc\": invalid syntax");
        assert_eq!(parse_integer("Atoi", "-1").expect("a number"), -1);
    }

    #[test]
    fn broken_escapes_are_refused() {
        assert_eq!(Query::parse("a=%zz").expect_err("broken").message(), "invalid URL escape \"%zz\"");
        assert_eq!(Query::parse("a=%4").expect_err("broken").message(), "invalid URL escape \"%4\"");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = Query::parse(&text);
        }
    }
}
