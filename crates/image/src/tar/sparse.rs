//! Maps of sparse files.

use super::header::{Header, at, number};
use super::{BLOCK, Extent, padding, pax};

/// The most extents of one file. Each costs 16 bytes of memory here and a system call later.
pub(super) const MAX_EXTENTS: usize = 1 << 18;

/// Extents of a GNU header (four) or of one of the blocks that follow it (twenty-one). An all-zero one ends them.
pub(super) fn gnu_extents(field: &[u8], into: &mut Vec<Extent>) -> Option<()> {
    for pair in field.as_chunks::<24>().0 {
        if pair[0] == 0 {
            break;
        }
        let (offset, length) = (number(&pair[..12])?, number(&pair[12..])?);
        into.push(Extent { offset: u64::try_from(offset).ok()?, length: u64::try_from(length).ok()? });
    }
    (into.len() <= MAX_EXTENTS).then_some(())
}

/// The extents in a GNU header, and whether blocks with more of them follow.
pub(super) fn of_header(header: &Header) -> Option<(Vec<Extent>, bool)> {
    let mut extents = Vec::new();
    gnu_extents(&header.0[at::GNU_EXTENTS], &mut extents)?;
    Some((extents, header.0[at::GNU_MORE] != 0))
}

/// Format 1.0: decimal numbers, each on a line, in front of the data, filled up to whole blocks. `next` yields the
/// bytes one by one; returns the extents and how many bytes were taken.
pub(super) fn map_in_data<E: From<String>>(mut next: impl FnMut() -> Result<u8, E>) -> Result<(Vec<Extent>, u64), E> {
    let mut taken = 0;
    let mut line = || -> Result<u64, E> {
        let mut digits = Vec::new();
        loop {
            let byte = next()?;
            taken += 1;
            match byte {
                b'\n' => break,
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err("the map of a sparse file is malformed".to_owned().into()),
            }
        }
        pax::decimal(&digits).ok_or_else(|| "the map of a sparse file is malformed".to_owned().into())
    };
    let count = line()?;
    if count > MAX_EXTENTS as u64 {
        return Err(format!("a sparse file has {count} extents, and at most {MAX_EXTENTS} are taken").into());
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        extents.push(Extent { offset: line()?, length: line()? });
    }
    for _ in 0..padding(taken) {
        next()?;
    }
    Ok((extents, taken.next_multiple_of(BLOCK)))
}

/// Whether extents are in order, apart, within the file, and hold as many bytes as are stored.
pub(super) fn check(extents: &[Extent], real_size: u64, stored: u64) -> Result<(), String> {
    let (mut end, mut sum) = (0u64, 0u64);
    for extent in extents {
        if extent.offset < end {
            return Err("extents of a sparse file overlap or are out of order".into());
        }
        end = extent.offset.checked_add(extent.length).ok_or("an extent of a sparse file is too long")?;
        sum += extent.length; // cannot overflow: no two overlap
    }
    if end > real_size {
        return Err("an extent of a sparse file ends after the file".into());
    }
    if sum != stored {
        return Err(format!("extents of a sparse file hold {sum} bytes, but {stored} are stored"));
    }
    Ok(())
}
