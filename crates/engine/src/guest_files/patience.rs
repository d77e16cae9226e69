//! How long a guest may take for all of its answers: one that takes its time with each of a million would have whoever copies its files wait for as many times as long as one answer may take.

use std::time::Duration;

use microvm::control::PATIENCE;

use crate::{Error, Result};

/// How long an answer may take when there are many: several times what one does in a guest that is emulated on a busy host.
const EACH: Duration = Duration::from_millis(100);
/// How much longer all of them together may take: some may be long, as that of a disk that is slow.
const BEYOND: Duration = PATIENCE.saturating_mul(2);

/// What is left of the patience with a guest.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// How much longer than may be on average its answers have taken.
    behind: Duration,
}

impl Patience {
    /// An answer took so long.
    ///
    /// # Errors
    /// All of them have taken too long.
    pub(super) fn answered(&mut self, after: Duration) -> Result<()> {
        self.behind = (self.behind + after).saturating_sub(EACH);
        if self.behind <= BEYOND {
            return Ok(());
        }
        let (each, beyond) = (EACH.as_millis(), BEYOND.as_secs());
        Err(Error::system(format!(
            "the microVM takes more than {each} ms for each answer, and has taken {beyond} seconds longer for all of them: try again when it has less to do"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_answers_may_be_slow_and_not_all() {
        let mut patience = Patience::default();
        patience.answered(PATIENCE).unwrap();
        // Whoever answers in time makes up for that.
        (0..10_000).for_each(|_| patience.answered(EACH / 2).unwrap());
        patience.answered(BEYOND).unwrap();
        let mut patience = Patience::default();
        let taken = (0..1_000_000).take_while(|_| patience.answered(EACH * 2).is_ok()).count();
        assert_eq!(taken, 2400);
    }
}
