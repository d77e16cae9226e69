//! RFC 3339 timestamps with nanoseconds, as Go's `time.RFC3339Nano` in UTC prints them: without trailing zeros.

use crate::protocol::UnixNanos;

const DAY: i64 = 86_400;
const SECOND: i64 = 1_000_000_000;

/// Appends `2026-01-02T03:04:05.123456789Z`. Years before 0 and after 9999 do not occur: 64 bits of nanoseconds end in 2262.
pub fn format(at: UnixNanos, out: &mut Vec<u8>) {
    let seconds = at.0.div_euclid(SECOND);
    let nanos = at.0.rem_euclid(SECOND);
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    digits(year, 4, out);
    out.push(b'-');
    digits(month, 2, out);
    out.push(b'-');
    digits(day, 2, out);
    out.push(b'T');
    digits(second / 3600, 2, out);
    out.push(b':');
    digits(second / 60 % 60, 2, out);
    out.push(b':');
    digits(second % 60, 2, out);
    if nanos != 0 {
        out.push(b'.');
        digits(nanos, 9, out);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    out.push(b'Z');
}

/// Reads what [`format()`] writes, and any other RFC 3339 time whose offset is `Z` or `±hh:mm`. More than nine digits of a fraction are
/// cut. `None`: it is not such a time, or out of range.
pub fn parse(text: &[u8]) -> Option<UnixNanos> {
    let field = |from: usize, to: usize| number(text.get(from..to)?);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let separated = separators.iter().all(|(at, byte)| text.get(*at) == Some(byte));
    if !separated || !matches!(text.get(10)?, b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !in_range {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let [b'.', fraction @ ..] = rest {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let used = &fraction[..length.min(9)];
        nanos = number(used)? * 10i64.pow(9 - u32::try_from(used.len()).ok()?);
        rest = &fraction[length..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    Some(UnixNanos(seconds.checked_mul(SECOND)?.checked_add(nanos)?))
}

fn digits(value: i64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + u8::try_from(value / 10i64.pow(place) % 10).unwrap_or(0));
    }
}

fn number(text: &[u8]) -> Option<i64> {
    let mut value = 0;
    for byte in text {
        value = value * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    (!text.is_empty()).then_some(value)
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years begin in March here, so that the
/// leap day is a year's last one; an era is the calendar's period of 400 years.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let march_month = (month + 9) % 12;
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(nanos: i64) -> String {
        let mut out = Vec::new();
        format(UnixNanos(nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_look_as_go_prints_them() {
        assert_eq!(text(0), "1970-01-01T00:00:00Z");
        assert_eq!(text(1_767_323_045_123_456_789), "2026-01-02T03:04:05.123456789Z");
        assert_eq!(text(1_767_323_045_120_000_000), "2026-01-02T03:04:05.12Z");
        assert_eq!(text(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(text(-1), "1969-12-31T23:59:59.999999999Z");
    }

    #[test]
    fn offsets_are_understood() {
        assert_eq!(parse(b"2026-01-02T04:04:05+01:00"), parse(b"2026-01-02T03:04:05Z"));
        assert_eq!(parse(b"2026-01-02T03:04:05"), None);
        assert_eq!(parse(b"2026-13-02T03:04:05Z"), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn every_time_is_read_as_it_was_written(nanos in any::<i64>()) {
            prop_assert_eq!(parse(text(nanos).as_bytes()), Some(UnixNanos(nanos)));
        }

        #[test]
        fn nothing_makes_the_parser_fall_over(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            _ = parse(&text);
        }
    }
}
