//! The records of a pax extended header: `LENGTH KEY=VALUE\n`.

use super::{Extent, Time};

/// What pax records say about the entry that follows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// What GNU's three ways of keeping sparse files in pax say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Formats 0.0 and 0.1: the map is in the records.
    pub(super) extents: Vec<Extent>,
    pub(super) has_map: bool,
    /// Format 1.0: the map is in front of the data.
    pub(super) major: Option<u64>,
}

/// Reads the records. Pure: suits a fuzzer.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Records, String> {
    let mut records = Records::default();
    let mut pending_offset = None;
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().take(21).position(|b| *b == b' ').ok_or("a pax record has no length")?;
        let length = decimal(&bytes[..space]).ok_or("the length of a pax record is no number")?;
        let length = usize::try_from(length).ok().filter(|n| *n > space + 1 && *n <= bytes.len());
        let length = length.ok_or("the length of a pax record does not fit")?;
        let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or("a pax record does not end in a line feed")?;
        let equals = record.iter().position(|b| *b == b'=').ok_or("a pax record has no value")?;
        records.take(&record[..equals], &record[equals + 1..], &mut pending_offset)?;
        bytes = &bytes[length..];
    }
    Ok(records)
}

impl Records {
    fn take(&mut self, key: &[u8], value: &[u8], pending: &mut Option<u64>) -> Result<(), String> {
        let number = || decimal(value).ok_or_else(|| format!("{} is no number", String::from_utf8_lossy(key)));
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(time(value).ok_or("mtime is no time")?),
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(number()?),
            b"GNU.sparse.major" => self.sparse.major = Some(number()?),
            b"GNU.sparse.offset" => *pending = Some(number()?),
            b"GNU.sparse.numbytes" => {
                let offset = pending.take().ok_or("a sparse extent has a length but no offset")?;
                self.sparse.extents.push(Extent { offset, length: number()? });
                self.sparse.has_map = true;
            }
            b"GNU.sparse.map" => {
                self.sparse.extents = map(value).ok_or("GNU.sparse.map is malformed")?;
                self.sparse.has_map = true;
            }
            b"GNU.sparse.numblocks" => self.sparse.has_map = true,
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.").filter(|a| !a.is_empty()) {
                    if attribute.contains(&0) {
                        return Err("the name of an extended attribute holds a NUL".into());
                    }
                    self.xattrs.retain(|(name, _)| name != attribute);
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A name; the empty one takes back what a header before said.
fn name(value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if value.contains(&0) {
        return Err("a name holds a NUL".into());
    }
    Ok(Some(value.to_vec()).filter(|v| !v.is_empty()))
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `offset,length,offset,length…`
fn map(text: &[u8]) -> Option<Vec<Extent>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = text.split(|b| *b == b',').map(decimal).collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length }).collect())
}

/// Seconds with an optional fraction, perhaps negative.
fn time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole.as_bytes())?).ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, n) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - n },
    })
}

/// One record, with the length that counts itself.
pub(super) fn write(into: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3; // blank, equals sign, line feed
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    into.extend_from_slice(length.to_string().as_bytes());
    into.push(b' ');
    into.extend_from_slice(key);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_before_1970_and_with_fractions_are_read() {
        assert_eq!(time(b"1.5"), Some(Time { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(time(b"-1.25"), Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(time(b"-3"), Some(Time { seconds: -3, nanoseconds: 0 }));
        assert_eq!(time(b"1.0000000019"), Some(Time { seconds: 1, nanoseconds: 1 }));
        assert_eq!(time(b"x"), None);
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(value in prop::collection::vec(1u8.., 1..2000)) {
            let mut bytes = Vec::new();
            write(&mut bytes, b"path", &value);
            prop_assert_eq!(parse(&bytes).unwrap().path, Some(value));
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nothing_that_looks_right_makes_it_panic(text in "([0-9]{1,3} [A-Za-z.]{1,12}=[0-9,.-]{0,9}\n){0,5}") {
            let _ = parse(text.as_bytes());
        }
    }
}
