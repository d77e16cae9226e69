//! Times and spans as clients write them.

use image::go_duration;

use crate::model::Timestamp;

/// A time: RFC 3339, a date with or without time, seconds since 1970 with or without a fraction, or a span back from
/// now as Go writes durations (`1h30m`).
pub fn time(text: &str) -> Option<Timestamp> {
    if let Some(span) = go_duration(text) {
        return Timestamp::now().checked_sub(jiff::SignedDuration::from_nanos(i64::try_from(span).ok()?)).ok();
    }
    if let Some(seconds) = unix(text) {
        return Some(seconds);
    }
    text.parse().ok().or_else(|| civil(text))
}

/// `1700000000.123456789`
fn unix(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanos).ok()
}

/// `2026-01-02`, `2026-01-02T03:04`, `2026-01-02T03:04:05.678`: UTC, as the daemon has no time zone of its own.
fn civil(text: &str) -> Option<Timestamp> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    let zoned = if whole.ends_with('Z') { whole } else { whole + "Z" };
    zoned.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times() {
        assert_eq!(time("1700000000.5").unwrap().as_millisecond(), 1_700_000_000_500);
        assert_eq!(time("2026-01-02").unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(time("2026-01-02T03:04:05Z").unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert!(time("yesterday").is_none());
    }
}
