//! The table `Packages` of an SQLite database (sqlite.org/fileformat2.html): pages of B-trees, found from the first page on. Its rows are a
//! number and a header.

use super::wal::{self, Wal};
use super::{Error, Headers, Left, MOST_OF_A_HEADER, Result, Stored, array, be16, be32};

pub(super) const MAGIC: &[u8] = b"SQLite format 3\0";

/// What the first page has before its B-tree page.
const FILE_HEADER: usize = 100;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
/// Levels of a B-tree: each page of one leads to hundreds.
const DEEPEST: usize = 20;

struct Database<'d> {
    file: &'d dyn Stored,
    log: Option<Wal<'d>>,
    page_size: usize,
    /// Of a page, without what is reserved at its end.
    usable: usize,
    left: Left,
}

/// Goes through all headers.
pub(super) fn headers(file: &dyn Stored, log: Option<&dyn Stored>, each: &mut Headers<'_>) -> Result<()> {
    let mut head = [0; FILE_HEADER];
    file.read_at(&mut head, 0).map_err(|_| Error::Unknown)?;
    let page_size = match be16(&head, 16)? {
        1 => 65536,
        size => usize::from(size),
    };
    if !page_size.is_power_of_two() || page_size < 512 {
        return Err(Error::Damaged("its pages have a size that there is not"));
    }
    let usable = page_size - usize::from(head[20]);
    if usable < 480 {
        return Err(Error::Damaged("its pages have no room"));
    }
    let log = log.map(|log| wal::read(log, page_size)).transpose()?.flatten();
    let logged = log.as_ref().map_or(0, Wal::pages).saturating_mul(page_size as u64);
    let left = Left::of(file.size()?.saturating_add(logged));
    let mut database = Database { file, log, page_size, usable, left };
    let mut root = None;
    database.walk(1, 0, &mut |row| {
        let columns = columns(row)?;
        if let [Column::Bytes(b"table"), Column::Bytes(b"Packages"), _, Column::Integer(page), ..] = columns[..] {
            root = u32::try_from(page).ok();
        }
        Ok(())
    })?;
    let root = root.ok_or(Error::Unknown)?;
    database.walk(root, 0, &mut |row| match columns(row)?[..] {
        [_, Column::Bytes(header), ..] => each(header),
        _ => Err(Error::Damaged("a row has no header of a package")),
    })
}

impl Database<'_> {
    fn page(&mut self, number: u32) -> Result<Vec<u8>> {
        self.left.take(self.page_size)?;
        let index = number.checked_sub(1).ok_or(Error::Damaged("it leads to a page that there is not"))?;
        let mut page = vec![0; self.page_size];
        if !self.log.as_ref().map_or(Ok(false), |log| log.page(number, &mut page))? {
            self.file.read_at(&mut page, u64::from(index) * self.page_size as u64)?;
        }
        Ok(page)
    }

    /// Goes through the rows of a table whose B-tree has this page.
    fn walk(&mut self, number: u32, depth: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::Damaged("its pages lead to each other without an end"));
        }
        let page = self.page(number)?;
        let start = if number == 1 { FILE_HEADER } else { 0 };
        let (kind, cells) = (page[start], usize::from(be16(&page, start + 3)?));
        let first = match kind {
            LEAF => start + 8,
            INTERIOR => start + 12,
            _ => return Err(Error::Damaged("a page is none of a table")),
        };
        for cell in 0..cells {
            let at = usize::from(be16(&page, first + 2 * cell)?);
            if kind == INTERIOR {
                self.walk(be32(&page, at)?, depth + 1, each)?;
            } else {
                each(&self.payload(&page, at)?)?;
            }
        }
        if kind == INTERIOR { self.walk(be32(&page, start + 8)?, depth + 1, each) } else { Ok(()) }
    }

    /// A row, of which what does not fit into its page is in others.
    fn payload(&mut self, page: &[u8], at: usize) -> Result<Vec<u8>> {
        let (size, at) = varint(page, at)?;
        let (_row, at) = varint(page, at)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= MOST_OF_A_HEADER + 64);
        let size = size.ok_or(Error::Damaged("a row is longer than any header"))?;
        self.left.take(size)?;
        let here = self.held(size);
        let own = page.get(at..at + here).ok_or(Error::Damaged("a row is longer than its page"))?;
        let mut payload = own.to_vec();
        let mut next = if here < size { be32(page, at + here)? } else { 0 };
        while payload.len() < size {
            let page = self.page(next)?;
            next = be32(&page, 0)?;
            let more = (size - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(&page[4..4 + more]);
        }
        Ok(payload)
    }

    /// How much of a row of this size is in the page of its B-tree.
    fn held(&self, size: usize) -> usize {
        let most = self.usable - 35;
        if size <= most {
            return size;
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let wanted = least + (size - least) % (self.usable - 4);
        if wanted <= most { wanted } else { least }
    }
}

/// A value of a row, as far as anybody wants to know.
enum Column<'r> {
    Integer(i64),
    Bytes(&'r [u8]),
    Other,
}

/// The columns of a row ("Record Format").
fn columns(row: &[u8]) -> Result<Vec<Column<'_>>> {
    let (head, mut kinds) = varint(row, 0)?;
    let head = usize::try_from(head).ok().filter(|head| *head <= row.len());
    let head = head.ok_or(Error::Damaged("a row ends before its values"))?;
    let (mut value, mut columns) = (head, Vec::new());
    while kinds < head {
        let (kind, next) = varint(row, kinds)?;
        kinds = next;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(Error::Damaged("a value is of a kind that there is not")),
            _ => usize::try_from((kind - 12) / 2).unwrap_or(usize::MAX),
        };
        let end = value.checked_add(size).filter(|end| *end <= row.len());
        let bytes = &row[value..end.ok_or(Error::Damaged("a row ends before its values"))?];
        value += size;
        columns.push(match kind {
            1..=6 => Column::Integer(integer(bytes)),
            8 | 9 => Column::Integer(i64::from(kind == 9)),
            0 | 7 => Column::Other,
            _ => Column::Bytes(bytes),
        });
    }
    Ok(columns)
}

/// A signed integer of up to eight bytes, the highest first.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|first| first & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

/// An integer of one to nine bytes, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Result<(u64, usize)> {
    let mut number = 0;
    for index in 0..8 {
        let [byte] = array(bytes, at + index)?;
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((number, at + index + 1));
        }
    }
    let [byte] = array(bytes, at + 8)?;
    Ok((number << 8 | u64::from(byte), at + 9))
}
