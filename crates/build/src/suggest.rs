//! What somebody who misspelt a word likely meant.

/// The one of the known words that comes closest, if it is close enough to be meant: capitals do not count, two letters
/// that changed places are one slip, and a word may have one slip, or one for each three letters. A word that is known as it is
/// was not misspelt.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let letters = lower.chars().count();
    // One letter for another is another word.
    let most = ((letters + 1) / 3).clamp(1, 3).min(letters.saturating_sub(1));
    // Whoever wrote a novel meant none of a list of short words, and a distance takes time by the product of the lengths.
    if lower.len() > 100 {
        return None;
    }
    let distance = |other: &str| strsim::osa_distance(&lower, &other.to_lowercase());
    let near = known.into_iter().filter(|other| other.len() <= 100).map(|other| (distance(other), other));
    let (_, found) = near.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance)?;
    (found != word).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_corrected_and_other_words_are_not() {
        let known = ["FROM", "RUN", "COPY", "ENTRYPOINT", "WORKDIR"];
        for (word, meant) in [
            ("FORM", Some("FROM")),
            ("form", Some("FROM")),
            ("RUM", Some("RUN")),
            ("ENTRIPOINT", Some("ENTRYPOINT")),
            ("WORKDIRR", Some("WORKDIR")),
            ("FROM", None),
            ("BADCMD", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word:?}");
        }
    }
}
