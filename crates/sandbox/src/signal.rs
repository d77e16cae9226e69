//! Signals by name.

/// Names and numbers of Linux' signals on x86 and ARM (signal(7)).
const NAMES: &[(&str, i32)] = &[
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

const LOWEST_REALTIME: i32 = 34;
/// No signal has a higher number.
pub const HIGHEST: i32 = 64;

/// The number of `SIGTERM`, `term`, `SIGRTMIN+3`, ….
pub fn by_name(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| realtime(name))
}

fn realtime(name: &str) -> Option<i32> {
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => LOWEST_REALTIME,
        (Some(offset), _) => LOWEST_REALTIME.checked_add(offset.strip_prefix('+')?.parse().ok()?)?,
        (_, Some("")) => HIGHEST,
        (_, Some(offset)) => HIGHEST.checked_sub(offset.strip_prefix('-')?.parse().ok()?)?,
        _ => return None,
    };
    (LOWEST_REALTIME..=HIGHEST).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_their_beginning() {
        for (text, number) in
            [("SIGTERM", 15), ("kill", 9), ("SIGRTMIN+3", 37), ("RTMIN", 34), ("RTMAX-1", 63), ("SIGXFSZ", 25)]
        {
            assert_eq!(by_name(text), Some(number), "{text}");
        }
        for text in ["", "SIG", "SIGWHAT", "RTMIN+99", "RTMIN-1", "RTMIN+", "RTMAX-2147483649", "RTMIN+2147483647"] {
            assert_eq!(by_name(text), None, "{text}");
        }
    }
}
