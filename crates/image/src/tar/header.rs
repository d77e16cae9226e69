//! The 512 bytes in front of every entry.

/// A header block, read or being made.
pub(super) struct Header(pub(super) [u8; 512]);

/// Whose idea of a header it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Gnu,
}

/// Where fields are: POSIX.1-2008, pax, "ustar Interchange Format".
pub(super) mod at {
    use std::ops::Range;
    pub(crate) const NAME: Range<usize> = 0..100;
    pub(crate) const MODE: Range<usize> = 100..108;
    pub(crate) const UID: Range<usize> = 108..116;
    pub(crate) const GID: Range<usize> = 116..124;
    pub(crate) const SIZE: Range<usize> = 124..136;
    pub(crate) const MTIME: Range<usize> = 136..148;
    pub(crate) const CHECKSUM: Range<usize> = 148..156;
    pub(crate) const TYPE: usize = 156;
    pub(crate) const LINK: Range<usize> = 157..257;
    pub(crate) const MAGIC: Range<usize> = 257..265;
    pub(crate) const MAJOR: Range<usize> = 329..337;
    pub(crate) const MINOR: Range<usize> = 337..345;
    pub(crate) const PREFIX: Range<usize> = 345..500;
    /// GNU's: four extents, then whether more follow, then the real size.
    pub(crate) const GNU_EXTENTS: Range<usize> = 386..482;
    pub(crate) const GNU_MORE: usize = 482;
    pub(crate) const GNU_REAL_SIZE: Range<usize> = 483..495;
}

impl Header {
    pub(super) fn format(&self) -> Format {
        match &self.0[at::MAGIC] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        }
    }

    /// Whether the checksum fits. Some old programs summed signed bytes.
    pub(super) fn checksum_fits(&self) -> bool {
        let Some(claimed) = number(&self.0[at::CHECKSUM]) else { return false };
        let blank = |i: usize, b: u8| if at::CHECKSUM.contains(&i) { b' ' } else { b };
        let unsigned: i64 = self.0.iter().enumerate().map(|(i, b)| i64::from(blank(i, *b))).sum();
        let signed: i64 = self.0.iter().enumerate().map(|(i, b)| i64::from(blank(i, *b) as i8)).sum();
        claimed == unsigned || claimed == signed
    }

    /// A text that ends at its first NUL or fills its field.
    pub(super) fn text(&self, field: std::ops::Range<usize>) -> &[u8] {
        let field = &self.0[field];
        &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
    }

    pub(super) fn number(&self, field: std::ops::Range<usize>) -> Option<i64> {
        number(&self.0[field])
    }

    /// A size or an offset: a number that is not negative.
    pub(super) fn length(&self, field: std::ops::Range<usize>) -> Option<u64> {
        number(&self.0[field]).and_then(|n| u64::try_from(n).ok())
    }
}

/// A number: octal digits between blanks and NULs, or GNU's big-endian binary with the first bit set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        let value = rest.iter().try_fold(start, |n, b| n.checked_mul(256)?.checked_add(i128::from(*b)))?;
        return i64::try_from(value).ok();
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    // What follows the first NUL is nobody's business.
    let digits = digits.split(['\0', ' ']).next().unwrap_or_default();
    if digits.is_empty() { Some(0) } else { i64::from_str_radix(digits, 8).ok() }
}
