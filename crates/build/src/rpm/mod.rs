//! RPM's database of installed packages, in each of the forms that it has had: a table of SQLite (since RPM 4.16, as Fedora and RHEL 9
//! have it), `ndb` (openSUSE's), and a hash of Berkeley DB (RHEL 8 and older, Amazon Linux 2). In all of them each package is one header.
//!
//! There is no library for them in Rust that does without one in C. What is read is a stranger's: every length and every reference is held
//! against the file, no more is read than a few times its bytes, and what does not fit is an error and no package.

mod berkeley;
mod header;
mod ndb;
mod sqlite;
mod wal;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The most bytes of a database: those of a machine with everything there is have some hundred millions.
const MOST_OF_A_DATABASE: u64 = 1 << 30;
/// How many times the bytes of a database may be looked at: each page once, each header once, and what is written of both.
const LOOKS: u64 = 4;
/// The most bytes of a header: those of packages with a hundred thousand files have some ten millions.
const MOST_OF_A_HEADER: usize = 64 << 20;

/// A package that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// `VERSION-RELEASE`, with `EPOCH:` before it where there is one.
    pub version: String,
    /// What it runs on; empty for what says nothing of it.
    pub architecture: String,
    /// The name of the source package's file, where that is known.
    pub source: Option<String>,
}

/// Why a database was not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk's answer.
    #[error("{0}")]
    Io(io::Error),
    /// Something in it is not what it has to be.
    #[error("RPM's database is damaged: {0}")]
    Damaged(&'static str),
    /// It has more than anybody would have.
    #[error("RPM's database has more than {0}")]
    TooMuch(&'static str),
    /// It is none, or of a form that nobody knows here.
    #[error("this is no database of RPM that is known here")]
    Unknown,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Damaged("it ends before what it leads to"),
            _ => Error::Io(error),
        }
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

/// Where the bytes of a database are.
pub trait Stored {
    /// How many there are.
    ///
    /// # Errors
    /// The disk's.
    fn size(&self) -> io::Result<u64>;

    /// Reads all of `into` from an offset on.
    ///
    /// # Errors
    /// The disk's; [`io::ErrorKind::UnexpectedEof`] where there are not so many.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Stored for File {
    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

impl Stored for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Reads the packages of a database. `log` is what SQLite has beside it under the same name with `-wal`, which holds the latest changes.
///
/// # Errors
/// [`Error`], of `each` as well.
pub fn packages(
    database: &dyn Stored,
    log: Option<&dyn Stored>,
    each: &mut dyn FnMut(Installed) -> Result<()>,
) -> Result<()> {
    if database.size()? > MOST_OF_A_DATABASE {
        return Err(Error::TooMuch("1 GiB"));
    }
    let mut head = [0; 32];
    database.read_at(&mut head, 0).map_err(|_| Error::Unknown)?;
    let read: fn(&dyn Stored, Option<&dyn Stored>, &mut Headers<'_>) -> Result<()> = match () {
        () if head.starts_with(sqlite::MAGIC) => sqlite::headers,
        () if head.starts_with(ndb::MAGIC) => |database, _, each| ndb::headers(database, each),
        () if berkeley::is_hash(&head) => |database, _, each| berkeley::headers(database, each),
        () => return Err(Error::Unknown),
    };
    read(database, log, &mut |bytes| header::package(bytes)?.map_or(Ok(()), &mut *each))
}

/// What is done with each header.
type Headers<'h> = dyn FnMut(&[u8]) -> Result<()> + 'h;

/// How many bytes may still be looked at: references that lead back, or many to the same place, never end otherwise.
struct Left(u64);

impl Left {
    /// For a database of so many bytes.
    fn of(size: u64) -> Left {
        Left(size.saturating_mul(LOOKS).saturating_add(1 << 20))
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        let left = self.0.checked_sub(bytes as u64);
        self.0 = left.ok_or(Error::Damaged("its pages lead to each other without an end"))?;
        Ok(())
    }
}

/// A number of bytes that has a type, at an offset.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).and_then(|bytes| bytes.try_into().ok());
    found.ok_or(Error::Damaged("something ends before it should"))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

fn le32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}
