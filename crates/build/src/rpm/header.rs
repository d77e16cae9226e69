//! A package's header: an index of typed fields, and their values (rpm.org, "RPM V4 Package format", "Header format"). In a database it
//! has no magic before it.

use super::{Error, Installed, Result, be32};

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;

const TYPE_INT32: u32 = 4;
const TYPE_STRING: u32 = 6;

/// Bytes of an entry of the index: the field, its type, where its value is, and how many there are.
const ENTRY: usize = 16;
/// The most bytes of a field that is kept.
const LONGEST: usize = 4096;

/// The package that a header describes; `None` for what is none: the keys that packages are signed with are kept among them.
pub(super) fn package(bytes: &[u8]) -> Result<Option<Installed>> {
    let count = be32(bytes, 0)? as usize;
    let values = count.checked_mul(ENTRY).and_then(|index| index.checked_add(8)).ok_or(OUTSIDE)?;
    let (index, values) = bytes.split_at_checked(values).ok_or(OUTSIDE)?;
    let header = Header { index: &index[8..], values };
    let Some(name) = header.text(NAME)? else { return Ok(None) };
    if name == "gpg-pubkey" {
        return Ok(None);
    }
    let (version, release) = (header.text(VERSION)?.unwrap_or_default(), header.text(RELEASE)?.unwrap_or_default());
    let epoch = header.number(EPOCH)?.map(|epoch| format!("{epoch}:")).unwrap_or_default();
    Ok(Some(Installed {
        name,
        version: format!("{epoch}{version}-{release}"),
        architecture: header.text(ARCHITECTURE)?.unwrap_or_default(),
        source: header.text(SOURCE)?,
    }))
}

const OUTSIDE: Error = Error::Damaged("a package's header ends before its fields do");

struct Header<'h> {
    index: &'h [u8],
    values: &'h [u8],
}

impl<'h> Header<'h> {
    /// The values from a field's on, if it is there and of this type.
    fn field(&self, field: u32, of: u32) -> Result<Option<&'h [u8]>> {
        for entry in self.index.chunks_exact(ENTRY) {
            if (be32(entry, 0)?, be32(entry, 4)?) == (field, of) {
                let value = self.values.get(be32(entry, 8)? as usize..);
                return value.map(Some).ok_or(OUTSIDE);
            }
        }
        Ok(None)
    }

    fn text(&self, field: u32) -> Result<Option<String>> {
        let Some(value) = self.field(field, TYPE_STRING)? else { return Ok(None) };
        let end = value.iter().take(LONGEST).position(|byte| *byte == 0);
        let text = &value[..end.ok_or(Error::Damaged("a field of a package's header has no end"))?];
        Ok(Some(String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()))
    }

    fn number(&self, field: u32) -> Result<Option<u32>> {
        self.field(field, TYPE_INT32)?.map(|value| be32(value, 0)).transpose()
    }
}
