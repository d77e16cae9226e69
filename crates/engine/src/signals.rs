//! Signals by number or name, in dockerd's words where they are neither.

use sandbox::signal::{HIGHEST, by_name};

use crate::{Error, Result};

/// The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, ….
pub(crate) fn parse(text: &str) -> Result<i32> {
    let invalid = || Error::invalid(format!("invalid signal: {text}"));
    match text.parse::<i32>() {
        Ok(number @ 1..=HIGHEST) => Ok(number),
        Ok(0) => Err(invalid()),
        Ok(number) => Err(Error::invalid(format!("the linux daemon does not support signal {number}"))),
        Err(_) => by_name(text).ok_or_else(invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in [("SIGTERM", 15), ("kill", 9), ("1", 1), ("64", 64), ("RTMAX-1", 63)] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGWHAT", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
