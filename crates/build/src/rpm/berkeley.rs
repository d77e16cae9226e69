//! `Packages`: a hash of Berkeley DB, whose pages have keys and values in turns; what is too long for a page is in a chain of others
//! (src/dbinc/db_page.h of Berkeley DB 5.3 has the only description). Numbers are in the byte order of who wrote them.

use super::{Error, Headers, Left, MOST_OF_A_HEADER, Result, Stored, array};

const MAGIC: u32 = 0x0006_1561;
/// Kinds of pages: of a hash, of one whose keys are not sorted, and of what is too long for one.
const HASH: u8 = 13;
const UNSORTED: u8 = 2;
const OVERFLOW: u8 = 7;
/// Kinds of items: here, and in other pages.
const HERE: u8 = 1;
const ELSEWHERE: u8 = 3;
/// What each page has before its items.
const HEAD: usize = 26;

/// Whether a file begins as one does.
pub(super) fn is_hash(head: &[u8]) -> bool {
    order(head).is_some()
}

fn order(head: &[u8]) -> Option<Order> {
    let magic = array(head, 12).ok()?;
    let little = u32::from_le_bytes(magic) == MAGIC;
    (little || u32::from_be_bytes(magic) == MAGIC).then_some(Order { little })
}

/// How numbers are written.
#[derive(Clone, Copy)]
struct Order {
    little: bool,
}

impl Order {
    fn u32(self, bytes: &[u8], at: usize) -> Result<u32> {
        let read = if self.little { u32::from_le_bytes } else { u32::from_be_bytes };
        array(bytes, at).map(read)
    }

    fn u16(self, bytes: &[u8], at: usize) -> Result<usize> {
        let read = if self.little { u16::from_le_bytes } else { u16::from_be_bytes };
        array(bytes, at).map(read).map(usize::from)
    }
}

struct Database<'d> {
    file: &'d dyn Stored,
    order: Order,
    page_size: usize,
    left: Left,
}

/// Goes through all headers.
pub(super) fn headers(file: &dyn Stored, each: &mut Headers<'_>) -> Result<()> {
    let mut head = [0; 32];
    file.read_at(&mut head, 0)?;
    let order = order(&head).ok_or(Error::Unknown)?;
    let page_size = order.u32(&head, 20)? as usize;
    if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return Err(Error::Damaged("its pages have a size that there is not"));
    }
    if head[24] != 0 {
        return Err(Error::Damaged("it is encrypted"));
    }
    let pages = file.size()? / page_size as u64;
    let mut database = Database { file, order, page_size, left: Left::of(file.size()?) };
    for number in 1..u32::try_from(pages).unwrap_or(u32::MAX) {
        let page = database.page(number)?;
        if matches!(page[25], HASH | UNSORTED) {
            database.items(&page, each)?;
        }
    }
    Ok(())
}

impl Database<'_> {
    fn page(&mut self, number: u32) -> Result<Vec<u8>> {
        self.left.take(self.page_size)?;
        let mut page = vec![0; self.page_size];
        self.file.read_at(&mut page, u64::from(number) * self.page_size as u64)?;
        Ok(page)
    }

    /// The values of a page: the second of each two items, which fill it from its end on.
    fn items(&mut self, page: &[u8], each: &mut Headers<'_>) -> Result<()> {
        let place = |index: usize| self.order.u16(page, HEAD + 2 * index);
        let items = self.order.u16(page, 20)?;
        let places = (0..items).map(place).collect::<Result<Vec<usize>>>()?;
        for pair in places.chunks_exact(2) {
            let (key, value) = (pair[0], pair[1]);
            let bytes = page.get(value..key).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or(Error::Damaged("an item has no place in its page"))?;
            self.left.take(bytes.len())?;
            match bytes[0] {
                // Under the key of nought is the number of the next package.
                HERE if bytes.len() <= 1 + 4 => {}
                HERE => each(&bytes[1..])?,
                ELSEWHERE => {
                    let (first, size) = (self.order.u32(bytes, 4)?, self.order.u32(bytes, 8)?);
                    each(&self.chain(first, size as usize)?)?;
                }
                _ => return Err(Error::Damaged("an item is of a kind that there is not")),
            }
        }
        Ok(())
    }

    /// A value that is in pages of its own.
    fn chain(&mut self, first: u32, size: usize) -> Result<Vec<u8>> {
        if size > MOST_OF_A_HEADER {
            return Err(Error::Damaged("a value is longer than any header"));
        }
        let (mut value, mut next) = (Vec::new(), first);
        while value.len() < size {
            let page = self.page(next)?;
            let held = self.order.u16(&page, 22)?;
            let bytes = page.get(HEAD..HEAD + held).filter(|_| page[25] == OVERFLOW && held > 0);
            value.extend_from_slice(bytes.ok_or(Error::Damaged("a value goes on in no page"))?);
            next = self.order.u32(&page, 16)?;
        }
        value.truncate(size);
        Ok(value)
    }
}
