//! Quantities as people read them.

use std::fmt;

/// A number of bytes, written in the largest unit (of 1,024) that leaves something before the point: `0 B`, `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // 1023.95 would be written as 1024.0.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        f.pad(&format!("{value:.1} {}", UNITS[unit]))
    }
}

/// A number of seconds, written as people tell a time: `0 s`, `12 ms`, `3.5 s`, `2 min 5 s`, `3 h 0 min`, `2 d 4 h`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Seconds(pub f64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0;
        // Not a number and below zero are no times; a clock gives neither.
        let text = match seconds {
            _ if seconds.is_nan() || seconds <= 0.0 => "0 s".to_owned(),
            _ if seconds < 0.9995 => format!("{:.0} ms", (seconds * 1e3).max(1.0)),
            _ if seconds < 59.95 => format!("{seconds:.1} s"),
            _ => whole((seconds.round()) as u64),
        };
        f.pad(&text)
    }
}

/// A minute and more, in its two largest units.
fn whole(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {} min", minutes % 60),
        (days, hours, _) => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(format!("[{:>8}]", ByteSize(7)), "[     7 B]");
    }

    #[test]
    fn times_are_written_as_they_are_told() {
        let cases = [
            (0.0, "0 s"),
            (-1.0, "0 s"),
            (f64::NAN, "0 s"),
            (0.000_01, "1 ms"),
            (0.012, "12 ms"),
            (0.9999, "1.0 s"),
            (59.94, "59.9 s"),
            (59.96, "1 min 0 s"),
            (125.0, "2 min 5 s"),
            (3599.6, "1 h 0 min"),
            (187_200.0, "2 d 4 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(Seconds(seconds).to_string(), text);
        }
    }
}
