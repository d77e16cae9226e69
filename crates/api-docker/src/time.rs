//! Points in time as Go's clients write and read them.

use engine::model::Timestamp;
use jiff::fmt::strtime;

use crate::error::{ApiError, Result};
use crate::query::parse_integer;

/// What Go prints for "never".
pub(crate) const ZERO: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 with as many digits of the second as there are (`2024-01-01T00:00:00.12Z`).
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.to_string()
}

/// [`rfc3339`], or Go's zero time.
pub(crate) fn rfc3339_or_zero(time: Option<Timestamp>) -> String {
    time.map_or_else(|| ZERO.to_owned(), rfc3339)
}

/// RFC 3339 with all nine digits of the second, as log lines carry it.
pub(crate) fn rfc3339_fixed(time: Timestamp) -> String {
    strtime::format("%Y-%m-%dT%H:%M:%S.%9fZ", time).unwrap_or_else(|_| time.to_string())
}

/// RFC 3339 without parts of a second.
pub(crate) fn rfc3339_seconds(time: Timestamp) -> String {
    strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_else(|_| time.to_string())
}

/// Reads `since` and `until` as clients send them: `SECONDS[.FRACTION]`, where the fraction has up to nine digits.
/// An empty text means "not given".
///
/// # Errors
/// 400 in the words of Go's `strconv`.
pub(crate) fn parse_seconds(text: &str) -> Result<Option<Timestamp>> {
    if text.is_empty() {
        return Ok(None);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = parse_integer("ParseInt", seconds)?;
    let nanos = match fraction {
        "" => 0,
        digits => {
            let padded: String = digits.chars().chain(std::iter::repeat('0')).take(9).collect();
            i32::try_from(parse_integer("ParseInt", &padded)?).unwrap_or_default()
        }
    };
    let out_of_range =
        |_| ApiError::bad_request(format!("{text:?} is no time: the year must be between -9999 and 9999"));
    Timestamp::new(seconds, nanos.max(0)).map(Some).map_err(out_of_range)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_print_as_in_go() {
        let time: Timestamp = "2024-03-01T10:20:30.120Z".parse().expect("a time");
        assert_eq!(rfc3339(time), "2024-03-01T10:20:30.12Z");
        assert_eq!(rfc3339_fixed(time), "2024-03-01T10:20:30.120000000Z");
        assert_eq!(rfc3339_seconds(time), "2024-03-01T10:20:30Z");
        assert_eq!(rfc3339_or_zero(None), ZERO);
    }

    #[test]
    fn seconds_with_a_fraction_are_read() {
        let time = parse_seconds("1709288430.12").expect("read").expect("given");
        assert_eq!(rfc3339(time), "2024-03-01T10:20:30.12Z");
        assert_eq!(parse_seconds("0").expect("read"), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(parse_seconds("").expect("read"), None);
    }

    #[test]
    fn nonsense_fails_in_gos_words() {
        let error = parse_seconds("yesterday").expect_err("no number");
        assert_eq!(error.message(), "strconv.ParseInt: parsing \"yesterday\": invalid syntax");
        assert!(parse_seconds("9223372036854775807").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9.+-]{0,30}|.*") {
            let _ = parse_seconds(&text);
        }
    }
}
