//! The database file: made whole or not at all, opened only if it is whole, opened again after the disk failed.

use crate::disk::{Relief, ReservedFile};
use crate::header;
use crate::schema::{self, CHANGES, KEYS, META};
use crate::{CommitError, OpenError, Options, ReadError, Revision};
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, backends::InMemoryBackend};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Where the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    File,
    Memory,
}

/// The database, and how to get it back.
#[derive(Debug)]
pub(crate) struct DatabaseFile {
    path: PathBuf,
    medium: Medium,
    options: Options,
    relief: Relief,
    backup: Mutex<()>,
    /// `None` only while the disk fails: between the failure and the next time that opening succeeds.
    database: RwLock<Option<Database>>,
}

/// What an opened file says about itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    /// The revision that the store has reached.
    pub(crate) revision: Revision,
    /// The revision of its last change: the same, unless changes were lost.
    pub(crate) last_change: Revision,
    /// Where its history begins.
    pub(crate) oldest: Revision,
}

impl DatabaseFile {
    /// Opens the file at `path`, making it where there is none.
    pub(crate) fn open(path: &Path, options: Options) -> Result<(DatabaseFile, State), OpenError> {
        let relief = Relief::default();
        let (database, state) = open_or_create(path, &options, &relief)?;
        let database = RwLock::new(Some(database));
        let backup = Mutex::default();
        Ok((DatabaseFile { path: path.to_owned(), medium: Medium::File, options, relief, backup, database }, state))
    }

    /// A database in memory.
    pub(crate) fn in_memory(options: Options) -> Result<(DatabaseFile, State), OpenError> {
        let path = PathBuf::from("(in memory)");
        let backend = InMemoryBackend::new();
        let database = builder(&options).create_with_backend(backend).map_err(|error| refused(&path, error.into()))?;
        initialise(&database).map_err(|error| refused(&path, error))?;
        let state = inspect(&path, &database)?;
        let (relief, backup, database) = (Relief::default(), Mutex::default(), RwLock::new(Some(database)));
        Ok((DatabaseFile { path, medium: Medium::Memory, options, relief, backup, database }, state))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether the space that is kept back may be spent; for the one thread that writes.
    pub(crate) fn relief(&self) -> &Relief {
        &self.relief
    }

    /// Where the backup lies, for a store that has a file.
    pub(crate) fn backup_path(&self) -> Option<PathBuf> {
        (self.medium == Medium::File).then(|| backup_path(&self.path))
    }

    /// Keeps others from writing the backup: two would write into the same file.
    pub(crate) fn lock_backup(&self) -> MutexGuard<'_, ()> {
        self.backup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on a snapshot. `what` is read, for the error.
    pub(crate) fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, ReadError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else {
            let source = Arc::new(io::Error::other("the disk failed, and the store could not be opened again yet"));
            return Err(ReadError::Io { path: self.path.clone(), what: what.to_owned(), source });
        };
        let outcome = database.begin_read().map_err(redb::Error::from).and_then(|txn| read(&txn));
        outcome.map_err(|error| match Failure::of(error) {
            Failure::Io(source) => {
                ReadError::Io { path: self.path.clone(), what: what.to_owned(), source: Arc::new(source) }
            }
            Failure::Corrupt(reason) => ReadError::Corrupt { path: self.path.clone(), what: what.to_owned(), reason },
        })
    }

    /// Runs `write` on the database; for the one thread that writes. Opens it again first where that is due.
    pub(crate) fn write<T>(&self, write: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, CommitError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.reopen()?;
        }
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = database.as_ref() else { return Err(CommitError::Closed { path: self.path.clone() }) };
        match catch_unwind(AssertUnwindSafe(|| write(database))) {
            Ok(outcome) => outcome.map_err(|error| self.commit_error(error)),
            // redb asserts what no file it wrote can violate: one that violates it was damaged.
            Err(panic) => Err(CommitError::Corrupt { path: self.path.clone(), reason: panic_text(&panic) }),
        }
    }

    /// Closes the database and opens it again, as is needed after any failed write: redb refuses everything then. What
    /// was committed is there again, what was not is not.
    pub(crate) fn reopen(&self) -> Result<State, CommitError> {
        if self.medium == Medium::Memory {
            return Err(CommitError::Closed { path: self.path.clone() });
        }
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = slot.take() {
            // It has nothing to say that the failure did not.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(failed)));
        }
        match open_existing(&self.path, &self.options, &self.relief) {
            Ok((database, state)) => {
                *slot = Some(database);
                Ok(state)
            }
            Err(OpenError::Io { source, .. }) if is_full(&source) => Err(CommitError::Full { path: self.path.clone() }),
            Err(OpenError::Corrupt { reason, .. }) => Err(CommitError::Corrupt { path: self.path.clone(), reason }),
            Err(OpenError::Io { source, .. }) => {
                Err(CommitError::Io { path: self.path.clone(), source: Arc::new(source) })
            }
            Err(other) => {
                Err(CommitError::Io { path: self.path.clone(), source: Arc::new(io::Error::other(other.to_string())) })
            }
        }
    }

    fn commit_error(&self, error: redb::Error) -> CommitError {
        let path = self.path.clone();
        match Failure::of(error) {
            Failure::Io(source) if is_full(&source) => CommitError::Full { path },
            Failure::Io(source) => CommitError::Io { path, source: Arc::new(source) },
            Failure::Corrupt(reason) => CommitError::Corrupt { path, reason },
        }
    }
}

/// Where the backup of the store at `path` lies: beside it.
pub(crate) fn backup_path(path: &Path) -> PathBuf {
    beside(path, ".backup")
}

/// `path` with `suffix` at the end of its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn builder(options: &Options) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(options.cache_bytes);
    // Every page is checked against its checksum at each opening: a damaged file is found then, and not in the middle
    // of something. It costs a few milliseconds, as the file is small by design.
    builder.set_check_integrity_on_open(true);
    builder
}

fn open_or_create(path: &Path, options: &Options, relief: &Relief) -> Result<(Database, State), OpenError> {
    match open_existing(path, options, relief) {
        Err(OpenError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        done => return done,
    }
    let backup = backup_path(path);
    if backup.exists() {
        return Err(OpenError::Missing { path: path.to_owned(), backup });
    }
    create(path, options)?;
    open_existing(path, options, relief)
}

/// Opens the file at `path`, which must be a whole store.
fn open_existing(path: &Path, options: &Options, relief: &Relief) -> Result<(Database, State), OpenError> {
    let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
    let file = fs::OpenOptions::new().read(true).write(true).open(path).map_err(io("open"))?;
    let length = file.metadata().map_err(io("examine"))?.len();
    if length == 0 {
        // redb would take an empty file for a new one. This program makes stores under another name and gives them
        // theirs when they are whole, so an empty one has lost its contents.
        return Err(corrupt(path, "it is empty".to_owned()));
    }
    if let Some(reason) = header::damage(&file).map_err(io("read"))? {
        return Err(corrupt(path, reason));
    }
    let backend = ReservedFile::new(file, Some(relief.clone())).map_err(|error| refused(path, error))?;
    let opened = catch_unwind(AssertUnwindSafe(|| builder(options).create_with_backend(backend)));
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => return Err(refused(path, error.into())),
        Err(panic) => return Err(corrupt(path, panic_text(&panic))),
    };
    let mut state = inspect(path, &database)?;
    // What changes nothing but numbers must be possible on a full disk.
    let spend = relief.is_allowed();
    relief.allow(true);
    let settled = settle(&database, &mut state);
    relief.allow(spend);
    settled.map_err(|error| refused(path, error))?;
    Ok((database, state))
}

/// Skips the revisions that relaxed changes may have had which are lost: none is ever given out twice. Whoever was told
/// of such a change has to look anew.
fn settle(database: &Database, state: &mut State) -> Result<(), redb::Error> {
    let reserved = {
        let txn = database.begin_read()?;
        schema::number(&txn.open_table(META)?, schema::META_RESERVED)?
    };
    if reserved <= state.revision {
        return Ok(());
    }
    // One more is skipped, so that even a watch that was told of the last of them is behind.
    let reached = reserved.next();
    let txn = database.begin_write()?;
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(schema::META_REVISION, reached.0)?;
        meta.insert(schema::META_SINCE, reached.next().0)?;
        meta.remove(schema::META_RESERVED)?;
    }
    txn.commit()?;
    state.revision = reached;
    Ok(())
}

/// Makes a new, empty store at `path`, which appears there when it is whole.
fn create(path: &Path, options: &Options) -> Result<(), OpenError> {
    let fresh = beside(path, &format!(".new.{}", std::process::id()));
    let made = write_fresh(&fresh, options, initialise).map_err(|error| refused(path, error)).and_then(|()| {
        // A link, not a rename: it fails where another process was faster, and then that one's store is the store.
        match fs::hard_link(&fresh, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            Err(source) => Err(OpenError::Io { action: "create", path: path.to_owned(), source }),
            Ok(()) => sync_directory(path).map_err(|source| OpenError::Io {
                action: "sync the directory of",
                path: path.to_owned(),
                source,
            }),
        }
    });
    let _ = fs::remove_file(&fresh);
    made
}

/// Writes a database from nothing into the file at `path`, and closes it; it is on the disk then.
pub(crate) fn write_fresh(
    path: &Path,
    options: &Options,
    fill: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let synced = file.try_clone()?;
    let database = builder(options).create_with_backend(ReservedFile::new(file, None)?)?;
    fill(&database)?;
    database.close()?;
    synced.sync_all()?;
    Ok(())
}

/// Makes the directory's entry for `path` durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Gives a new database its tables and its version.
pub(crate) fn initialise(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    {
        let mut tables = schema::Tables::open(&txn)?;
        tables.meta.insert(schema::META_VERSION, schema::VERSION)?;
        tables.meta.insert(schema::META_OLDEST, 1)?;
    }
    txn.commit()?;
    Ok(())
}

/// Reads what an opened database says about itself; refuses one that is no store, or a newer program's.
fn inspect(path: &Path, database: &Database) -> Result<State, OpenError> {
    let read = || -> Result<Result<State, u64>, redb::Error> {
        let txn = database.begin_read()?;
        let meta = txn.open_table(META)?;
        let version = meta.get(schema::META_VERSION)?.map(|version| version.value());
        match version {
            Some(version) if version > schema::VERSION => return Ok(Err(version)),
            Some(_) => {}
            None => return Err(redb::Error::Corrupted("it has no schema version".to_owned())),
        }
        txn.open_table(KEYS)?;
        let changes = txn.open_table(CHANGES)?;
        Ok(Ok(State {
            revision: schema::revision(&changes, &meta)?,
            last_change: schema::last_change(&changes)?,
            oldest: schema::number(&meta, schema::META_OLDEST)?,
        }))
    };
    match read() {
        Ok(Ok(state)) => Ok(state),
        Ok(Err(found)) => Err(OpenError::Newer { path: path.to_owned(), found, supported: schema::VERSION }),
        Err(redb::Error::TableDoesNotExist(table)) => Err(corrupt(path, format!("it has no table {table:?}"))),
        Err(error) => Err(refused(path, error)),
    }
}

fn corrupt(path: &Path, reason: String) -> OpenError {
    let backup = Some(backup_path(path)).filter(|backup| backup.exists());
    OpenError::Corrupt { path: path.to_owned(), reason, backup }
}

fn refused(path: &Path, error: redb::Error) -> OpenError {
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::Locked { path: path.to_owned() }
        }
        error => match Failure::of(error) {
            Failure::Io(source) => OpenError::Io { action: "open", path: path.to_owned(), source },
            Failure::Corrupt(reason) => corrupt(path, reason),
        },
    }
}

/// The two ways in which redb fails.
enum Failure {
    /// The operating system refused.
    Io(io::Error),
    /// The file is not as redb left it.
    Corrupt(String),
}

impl Failure {
    fn of(error: redb::Error) -> Failure {
        match error {
            // Not a database, or one that ends too early.
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                Failure::Corrupt(error.to_string())
            }
            redb::Error::Io(error) => Failure::Io(error),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                Failure::Io(io::Error::other("the disk failed before"))
            }
            redb::Error::Corrupted(reason) => Failure::Corrupt(reason),
            other => Failure::Corrupt(other.to_string()),
        }
    }
}

/// Whether the answer says that there is no space: of the disk, or of the user's quota.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it does not fit together".to_owned())
}
