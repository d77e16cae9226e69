//! Numbers, times and lists as people read and write them.

use jiff::Timestamp;

/// Bytes in decimal units, as `12.3MB`.
pub(super) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Bytes in binary units, as `11.7MiB`.
pub(super) fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(bytes: u64, base: f64, units: [&str; 7]) -> String {
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= base && unit + 1 < units.len() {
        number /= base;
        unit += 1;
    }
    let digits = match number {
        _ if unit == 0 => 0,
        n if n < 10.0 => 2,
        n if n < 100.0 => 1,
        _ => 0,
    };
    format!("{number:.digits$}{}", units[unit])
}

/// A span of seconds in its largest unit, in the words that `docker ps` uses.
pub(super) fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".into(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        HOUR..7200 => "About an hour".into(),
        7200..172_800 => format!("{} hours", seconds / HOUR),
        172_800..1_209_600 => format!("{} days", seconds / DAY),
        1_209_600..5_184_000 => format!("{} weeks", seconds / (7 * DAY)),
        5_184_000..63_072_000 => format!("{} months", seconds / (30 * DAY)),
        _ => format!("{} years", seconds / (365 * DAY)),
    }
}

/// How long ago a second since 1970 was.
pub(super) fn ago(second: i64) -> String {
    format!("{} ago", span(Timestamp::now().as_second() - second))
}

/// How long ago a time in RFC 3339 was; the text itself where it is none.
pub(super) fn ago_rfc3339(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(|_| text.to_owned(), |time| ago(time.as_second()))
}

/// The first twelve digits of an id.
pub(super) fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// A text that is at most so many characters long; what is cut off is shown by dots.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// Bytes that are given as `512`, `64k`, `1.5g`, `10MiB`: units are powers of 1024, as for every flag of `docker run`.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is no size: give a number and a unit, such as 512m or 2g");
    let text_lower = text.trim().to_ascii_lowercase();
    if text_lower == "-1" {
        return Ok(-1);
    }
    let digits = text_lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let power = match text_lower[digits.len()..].trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let bytes = number * 1024_f64.powi(power);
    // 2^63 is the first number that does not fit.
    if !(0.0..9_223_372_036_854_775_808.0).contains(&bytes) {
        return Err(bad());
    }
    #[allow(clippy::cast_possible_truncation, reason = "checked above; a fraction of a byte is none")]
    Ok(bytes as i64)
}

/// A span of time in nanoseconds, given as `1h30m`, `5s`, `300ms`.
pub(super) fn parse_span(text: &str) -> Result<i64, String> {
    let bad = || format!("{text:?} is no span of time: give one such as 30s, 1m30s or 500ms");
    let units = [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
    let (mut rest, mut total) = (text, 0.0);
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let factor = units.iter().find(|(name, _)| *name == &after[..unit]).ok_or_else(bad)?.1;
        total += number * factor;
        rest = &after[unit..];
    }
    if text.is_empty() || !(0.0..9e18).contains(&total) {
        return Err(bad());
    }
    #[allow(clippy::cast_possible_truncation, reason = "checked above")]
    Ok(total as i64)
}

/// Seconds since 1970 as a date and a time, in UTC.
pub(super) fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// A moment for `--since` and `--until`: seconds since 1970, RFC 3339, or a span before now. Gives seconds since 1970
/// with nine decimals, as the API has it.
pub(super) fn parse_moment(text: &str) -> Result<String, String> {
    let exact = |time: Timestamp| {
        let nanoseconds = time.as_nanosecond();
        format!("{}.{:09}", nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000))
    };
    if text.parse::<f64>().is_ok_and(|number| number >= 0.0) {
        return Ok(text.to_owned());
    }
    if let Ok(nanoseconds) = parse_span(text) {
        let now = Timestamp::now();
        let span = jiff::Span::new().nanoseconds(nanoseconds);
        return now.checked_sub(span).map(exact).map_err(|error| error.to_string());
    }
    let local = || jiff::tz::TimeZone::system().to_timestamp(text.parse::<jiff::civil::DateTime>().ok()?).ok();
    let time = text.parse::<Timestamp>().ok().or_else(local);
    time.map(exact).ok_or_else(|| {
        format!(
            "{text:?} is no moment: give a span before now (10m), a time (2026-11-25T12:00:00Z) or seconds since 1970"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        assert_eq!(
            (decimal(999), decimal(1_500), decimal(77_800_000)),
            ("999B".into(), "1.50kB".into(), "77.8MB".into())
        );
        assert_eq!(binary(512 << 20), "512MiB");
        assert_eq!(parse_bytes("512m"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!((parse_bytes("64kb"), parse_bytes("7"), parse_bytes("-1")), (Ok(65536), Ok(7), Ok(-1)));
        for bad in ["", "m", "1x", "-2", "1e400", "99999999p"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_and_shown() {
        assert_eq!(parse_span("1m30s"), Ok(90_000_000_000));
        assert_eq!(
            (parse_span("500ms"), parse_span("0"), parse_span("1.5h")),
            (Ok(500_000_000), Ok(0), Ok(5_400_000_000_000))
        );
        for bad in ["", "5", "s", "1x", "1m-2s"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
        assert_eq!(
            (span(0), span(90), span(3 * 86_400)),
            ("Less than a second".into(), "About a minute".into(), "3 days".into())
        );
        assert_eq!(parse_moment("12.5"), Ok("12.5".into()));
        assert_eq!(parse_moment("1970-01-01T00:00:02.5Z"), Ok("2.500000000".into()));
        assert!(parse_moment("10m").is_ok() && parse_moment("yesterday").is_err());
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".into(), "ab…".into()));
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
