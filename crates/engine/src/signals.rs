//! Signals by number or name.

use crate::{Error, Result};

/// Names and numbers of Linux' signals on x86 and ARM (signal(7)).
const NAMES: [(&str, i32); 33] = [
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
];

const LOWEST_REALTIME: i32 = 34;
const HIGHEST_REALTIME: i32 = 64;

/// The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, ….
pub(crate) fn parse(text: &str) -> Result<i32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return match number {
            1..=HIGHEST_REALTIME => Ok(number),
            0 => Err(invalid()),
            _ => Err(Error::invalid(format!("the linux daemon does not support signal {number}"))),
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if name == "XFSZ" {
        return Ok(25);
    }
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    realtime(name).ok_or_else(invalid)
}

fn realtime(name: &str) -> Option<i32> {
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(""), _) => LOWEST_REALTIME,
        (Some(offset), _) => LOWEST_REALTIME + offset.strip_prefix('+')?.parse::<i32>().ok()?,
        (_, Some("")) => HIGHEST_REALTIME,
        (_, Some(offset)) => HIGHEST_REALTIME - offset.strip_prefix('-')?.parse::<i32>().ok()?,
        _ => return None,
    };
    (LOWEST_REALTIME..=HIGHEST_REALTIME).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("SIGTERM", 15), ("kill", 9), ("1", 1), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGXFSZ", 25)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGWHAT", "RTMIN+99", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
