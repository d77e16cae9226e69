//! The log of an SQLite database: pages as they became, which the database's own file does not have yet
//! (sqlite.org/fileformat2.html, "The Write-Ahead Log"). What was written up to the last whole transaction counts.

use super::{Result, Stored, array, be32};
use std::collections::HashMap;

const HEADER: usize = 32;
const FRAME: usize = 24;
/// The most bytes of it that are read.
const MOST: u64 = 256 << 20;

/// Where the latest version of each page is.
pub(super) struct Wal<'w> {
    log: &'w dyn Stored,
    pages: HashMap<u32, u64>,
}

/// Reads a log; `None` where it says nothing.
pub(super) fn read(log: &dyn Stored, page_size: usize) -> Result<Option<Wal<'_>>> {
    let size = log.size()?.min(MOST);
    let mut head = [0; HEADER];
    if size < HEADER as u64 {
        return Ok(None);
    }
    log.read_at(&mut head, 0)?;
    let big = match be32(&head, 0)? {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Ok(None),
    };
    let mut sum = Sum { big, state: (0, 0) };
    sum.add(&head[..24])?;
    if be32(&head, 8)? as usize != page_size || !sum.is(&head[24..])? {
        return Ok(None);
    }
    let salts: [u8; 8] = array(&head, 16)?;
    let (mut whole, mut begun) = (HashMap::new(), HashMap::new());
    let mut frame = vec![0; FRAME + page_size];
    let mut at = HEADER as u64;
    while at + frame.len() as u64 <= size {
        log.read_at(&mut frame, at)?;
        let (head, page) = frame.split_at(FRAME);
        sum.add(&head[..8])?;
        sum.add(page)?;
        // What comes behind is of an earlier round, or was cut off.
        if head[8..16] != salts || !sum.is(&head[16..])? {
            break;
        }
        begun.insert(be32(head, 0)?, at + FRAME as u64);
        if be32(head, 4)? != 0 {
            whole.extend(begun.drain());
        }
        at += frame.len() as u64;
    }
    Ok(Some(Wal { log, pages: whole }))
}

impl Wal<'_> {
    /// How many pages it has.
    pub(super) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Reads a page, if it has that.
    pub(super) fn page(&self, number: u32, into: &mut [u8]) -> Result<bool> {
        let Some(at) = self.pages.get(&number) else { return Ok(false) };
        self.log.read_at(into, *at)?;
        Ok(true)
    }
}

/// The sum over all that was read so far, of words in the byte order of who wrote them.
struct Sum {
    big: bool,
    state: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let word = if self.big { u32::from_be_bytes } else { u32::from_le_bytes };
        for pair in bytes.chunks_exact(8) {
            self.state.0 = self.state.0.wrapping_add(word(array(pair, 0)?)).wrapping_add(self.state.1);
            self.state.1 = self.state.1.wrapping_add(word(array(pair, 4)?)).wrapping_add(self.state.0);
        }
        Ok(())
    }

    fn is(&self, written: &[u8]) -> Result<bool> {
        Ok(self.state == (be32(written, 0)?, be32(written, 4)?))
    }
}
