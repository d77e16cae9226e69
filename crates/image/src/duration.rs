//! Spans of time as Go writes them.

/// Nanoseconds of `1h30m`, `90s`, `1.5h`, `100ms`; `None`: it is none, or longer than 292 years.
pub fn go_duration(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0f64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let scale = match &rest[..unit] {
            "ns" => 1.0,
            // Two characters that look alike, and Go reads both.
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        sum += number * scale;
        rest = &rest[unit..];
    }
    (sum < i64::MAX as f64).then(|| sum.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        assert_eq!(go_duration("1h30m"), Some(5_400_000_000_000));
        assert_eq!(go_duration("1m.5s"), Some(60_500_000_000));
        assert_eq!(
            (go_duration("1.5s"), go_duration("2µs"), go_duration("2μs")),
            (Some(1_500_000_000), Some(2000), Some(2000))
        );
        for none in ["", "15", "s", "1x", "-1s", "1s2", "9999999h"] {
            assert_eq!(go_duration(none), None, "{none}");
        }
    }
}
