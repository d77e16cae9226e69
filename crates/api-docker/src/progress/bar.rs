//! The bar that goes with a counter: `[====>    ]  1.5MB/3MB`. Clients draw their own; programs print this one.

use serde::Serialize;

/// How far something is. A zero is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counter {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Signs within the brackets.
const WIDTH: u64 = 50;

impl Counter {
    /// The bar; `None` where there is nothing to show.
    pub(super) fn bar(self) -> Option<String> {
        let Self { current, total } = self;
        if current == 0 && total == 0 {
            return None;
        }
        let current_text = human_size(current);
        if total == 0 {
            return Some(format!("{current_text:>8}"));
        }
        let done = (u128::from(current) * u128::from(WIDTH) / u128::from(total)).min(u128::from(WIDTH));
        let done = usize::try_from(done).unwrap_or_default();
        let left = 50 - done;
        let numbers = match current > total {
            true => format!("{current_text:>8}"),
            false => format!("{current_text:>8}/{}", human_size(total)),
        };
        Some(format!("[{}>{}] {numbers}", "=".repeat(done), " ".repeat(left)))
    }
}

/// Bytes with decimal units and four digits, as Docker's clients print them: `1.234MB`.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        ..10.0 => 3,
        ..100.0 => 2,
        ..1000.0 => 1,
        _ => 0,
    };
    let text = format!("{size:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_234_567, "1.235MB"), (66_000_000, "66MB"), (12_345, "12.35kB")]
        {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn bars_grow() {
        let bar = |current, total| Counter { current, total }.bar();
        assert_eq!(bar(0, 0), None);
        assert_eq!(bar(1500, 0).as_deref(), Some("   1.5kB"));
        let half = bar(500, 1000).expect("a bar");
        assert_eq!(half, format!("[{}>{}]     500B/1kB", "=".repeat(25), " ".repeat(25)));
        assert_eq!(bar(1000, 1000).expect("a bar"), format!("[{}>]      1kB/1kB", "=".repeat(50)));
        assert!(bar(2000, 1000).expect("a bar").ends_with("]      2kB"));
    }
}
