//! Patterns within variables, as in `${NAME%.*}`: `*` is any text, `?` any character.

/// A pattern: what stands between its `*`, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// At least one; those that a `*` begins or ends with are empty.
    pieces: Vec<Piece>,
}

/// Characters in a row.
type Piece = Vec<Element>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Character(char),
    Any,
}

impl Element {
    fn fits(self, c: char) -> bool {
        match self {
            Element::Character(own) => own == c,
            Element::Any => true,
        }
    }
}

/// The most bytes of a pattern: looking for one takes time by its length and the text's.
const LONGEST: usize = 1024;

impl Pattern {
    /// Reads a pattern in which `*`, `?`, `/`, `}`, quotes and the escape character itself may be escaped.
    pub(super) fn parse(text: &str, escape: char) -> Result<Pattern, String> {
        if text.len() > LONGEST {
            return Err(format!("it has more than {LONGEST} bytes"));
        }
        let (mut pieces, mut piece) = (Vec::new(), Vec::new());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '*' => pieces.push(std::mem::take(&mut piece)),
                '?' => piece.push(Element::Any),
                c if c == escape => match chars.next() {
                    Some(c @ ('*' | '?' | '/' | '}' | '"' | '$')) => piece.push(Element::Character(c)),
                    Some(c) if c == escape => piece.push(Element::Character(c)),
                    Some(c) => return Err(format!("invalid escape '{escape}{c}'")),
                    None => return Err(format!("'{escape}' at its end escapes nothing")),
                },
                c => piece.push(Element::Character(c)),
            }
        }
        pieces.push(piece);
        Ok(Pattern { pieces })
    }

    /// A value without the shortest or longest begin that fits.
    pub(super) fn without_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let from = self.end_of_match(&chars, 0, longest).unwrap_or(0);
        chars[from..].iter().collect()
    }

    /// A value without the shortest or longest end that fits.
    pub(super) fn without_suffix(&self, value: &str, longest: bool) -> String {
        let backwards = |piece: &Piece| piece.iter().rev().copied().collect();
        let mirrored = Pattern { pieces: self.pieces.iter().rev().map(backwards).collect() };
        let chars: Vec<char> = value.chars().rev().collect();
        let from = mirrored.end_of_match(&chars, 0, longest).unwrap_or(0);
        chars[from..].iter().rev().collect()
    }

    /// A value with another text for the first part that fits, the longest one there, or for all of them. None: it gets
    /// longer than `most` bytes.
    pub(super) fn replace(&self, value: &str, text: &str, all: bool, most: usize) -> Option<String> {
        let chars: Vec<char> = value.chars().collect();
        let (mut replaced, mut at) = (String::new(), 0);
        while at < chars.len() {
            match self.end_of_match(&chars, at, true).filter(|end| *end > at) {
                Some(end) => {
                    replaced.push_str(text);
                    at = end;
                    if !all {
                        break;
                    }
                }
                // Once its first piece fits and the rest does not fit behind it, neither does it behind a later place.
                None if self.pieces.len() > 1 && self.begins(&chars, at) => break,
                None => {
                    replaced.push(chars[at]);
                    at += 1;
                }
            }
            if replaced.len() > most {
                return None;
            }
        }
        replaced.extend(&chars[at..]);
        (replaced.len() <= most).then_some(replaced)
    }

    fn begins(&self, chars: &[char], at: usize) -> bool {
        self.pieces.first().is_some_and(|piece| fits(piece, chars, at))
    }

    /// Where a part ends that begins at a place and fits: every piece is taken as early as can be, but the last of the
    /// longest part.
    fn end_of_match(&self, chars: &[char], from: usize, longest: bool) -> Option<usize> {
        let (first, rest) = self.pieces.split_first()?;
        if !fits(first, chars, from) {
            return None;
        }
        let mut at = from + first.len();
        let Some((last, middle)) = rest.split_last() else { return Some(at) };
        for piece in middle {
            at = (at..=chars.len()).find(|at| fits(piece, chars, *at))? + piece.len();
        }
        let mut places = at..=chars.len();
        let place = if longest {
            places.rev().find(|at| fits(last, chars, *at))
        } else {
            places.find(|at| fits(last, chars, *at))
        };
        place.map(|place| place + last.len())
    }
}

fn fits(piece: &[Element], chars: &[char], at: usize) -> bool {
    chars.get(at..at + piece.len()).is_some_and(|chars| piece.iter().zip(chars).all(|(own, c)| own.fits(*c)))
}
