//! The file: its tables, and the atomic write of a batch of commits.
//!
//! In: batches from the writer. Out: the state and the log when the file is opened. One batch is one durable
//! transaction of the database, so after a crash the file contains whole batches only. `batch` counts them,
//! which shows after a failed write whether it happened.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use shared::model::Revision;

use super::log::{CommitLog, LoggedCommit};
use super::record;
use super::state::{LeaseEntry, StoreState};
use crate::store::LeaseId;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");

/// The format of the file. Raised whenever an older program could misread the file.
const FORMAT: u64 = 1;
/// The size of the database's own cache. Reads are served from memory, so it only has to hold the writer's
/// pages.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The reason why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file could not be created or opened.
    #[error("{path} cannot be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Another process has the file open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// The file is not a Muster store, or it is damaged.
    #[error("{path} is damaged or not a Muster store: {reason}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The finding.
        reason: String,
    },
    /// The file has a format that this program does not read.
    #[error("{path} has the format {found}; this program reads {FORMAT}")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u64,
    },
}

/// A batch could not be written. The file must be opened again before its next use.
#[derive(Debug, thiserror::Error)]
#[error("the store's file cannot be written: {0}")]
pub(super) struct WriteError(#[source] pub(super) redb::Error);

impl<E: Into<redb::Error>> From<E> for WriteError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The changes between two states, written together.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteBatch {
    pub(super) commits: Vec<Arc<LoggedCommit>>,
    pub(super) granted: Vec<(LeaseId, i64)>,
    pub(super) ended: Vec<LeaseId>,
    /// The revision up to which history is dropped.
    pub(super) forget: Option<Revision>,
}

impl WriteBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.granted.is_empty() && self.ended.is_empty() && self.forget.is_none()
    }
}

/// An open file. Its calls block on the disk.
pub(super) struct StoreFile {
    path: PathBuf,
    database: Database,
    /// The number of batches in the file.
    pub(super) batch: u64,
}

impl StoreFile {
    /// Opens the file at `path`, or creates it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        guarded(path, || Self::open_checked(path))
    }

    /// Opens the file at `path` again after a failed write. `tried` is the number of the failed batch; a file
    /// without this batch or the one before is another file, and refused. A file that was removed is not
    /// created again, because an empty one would be missing everything that is now only in memory.
    pub(super) fn reopen(path: &Path, tried: u64) -> Result<Self, OpenError> {
        if !path.exists() {
            return Err(OpenError::Io { path: path.into(), source: io::ErrorKind::NotFound.into() });
        }
        let file = Self::open(path)?;
        if file.batch != tried && file.batch + 1 != tried {
            let reason =
                format!("the file was replaced: it has batch {}, not {tried} or the one before", file.batch);
            return Err(OpenError::Corrupt { path: path.into(), reason });
        }
        Ok(file)
    }

    fn open_checked(path: &Path) -> Result<Self, OpenError> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(|source| io_error(path, source))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| open_error(path, error))?;
        // The name of a new file survives a crash only once its directory is synced.
        let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| io_error(path, source))?;
        let mut file = Self { path: path.into(), database, batch: 0 };
        file.prepare().map_err(|error| read_error(path, error))?;
        match file.number("format").map_err(|error| read_error(path, error))? {
            FORMAT => {}
            found => return Err(OpenError::UnknownFormat { path: path.into(), found }),
        }
        file.batch = file.number("batch").map_err(|error| read_error(path, error))?;
        Ok(file)
    }

    /// Creates the tables of a new file.
    fn prepare(&mut self) -> Result<(), redb::Error> {
        // A file with tables is not new. The caller checks its format.
        if self.database.begin_read()?.list_tables()?.next().is_some() {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            for (name, value) in [("format", FORMAT), ("revision", StoreState::new().rev.get())] {
                meta.insert(name, value)?;
            }
            transaction.open_table(KEYS)?;
            transaction.open_table(LOG)?;
            transaction.open_table(LEASES)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn number(&self, name: &str) -> Result<u64, redb::Error> {
        let found = self.database.begin_read()?.open_table(META)?.get(name)?;
        Ok(found.map_or(0, |found| found.value()))
    }

    /// Reads the whole file.
    pub(super) fn load(&self) -> Result<(StoreState, CommitLog), OpenError> {
        guarded(&self.path, || {
            let corrupt =
                |error: LoadError| OpenError::Corrupt { path: self.path.clone(), reason: error.to_string() };
            self.load_checked().map_err(corrupt)
        })
    }

    fn load_checked(&self) -> Result<(StoreState, CommitLog), LoadError> {
        let mut state = StoreState { rev: Revision::new(self.number("revision")?), ..StoreState::new() };
        let mut log = CommitLog::new(Revision::new(self.number("compacted")?));
        let transaction = self.database.begin_read()?;
        for entry in transaction.open_table(LEASES)?.iter()? {
            let (number, ttl) = entry?;
            let id = LeaseId::new(number.value()).ok_or("a lease has the number 0")?;
            let lease = LeaseEntry { ttl: ttl.value(), keys: rpds::RedBlackTreeSetSync::new_sync() };
            state.leases.insert_mut(id, lease);
        }
        for entry in transaction.open_table(KEYS)?.iter()? {
            let (key, value) = entry?;
            state.restore(record::decode_value(key.value(), value.value())?);
        }
        for entry in transaction.open_table(LOG)?.range(log.compacted().next().get()..)? {
            let (rev, commit) = entry?;
            log.push(Arc::new(record::decode_commit(Revision::new(rev.value()), commit.value())?));
        }
        Ok((state, log))
    }

    /// Writes a batch. When the call returns, the batch survives a crash.
    pub(super) fn write(&mut self, batch: &WriteBatch) -> Result<(), WriteError> {
        let transaction = self.database.begin_write()?;
        // The block closes the tables, which the commit requires.
        {
            let mut keys = transaction.open_table(KEYS)?;
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            for commit in &batch.commits {
                for change in &commit.changes {
                    match &change.after {
                        Some(kv) => keys.insert(&*change.key, record::encode_value(kv).as_slice())?,
                        None => keys.remove(&*change.key)?,
                    };
                }
                log.insert(commit.rev.get(), record::encode_commit(commit).as_slice())?;
            }
            if let Some(last) = batch.commits.last() {
                meta.insert("revision", last.rev.get())?;
            }
            // In the same transaction as the commits, so that a crash cannot leave a log with a hole.
            if let Some(upto) = batch.forget {
                log.retain_in(..=upto.get(), |_, _| false)?;
                meta.insert("compacted", upto.get())?;
            }
            let mut leases = transaction.open_table(LEASES)?;
            for (lease, ttl) in &batch.granted {
                leases.insert(lease.get(), ttl)?;
            }
            for lease in &batch.ended {
                leases.remove(lease.get())?;
            }
            meta.insert("batch", self.batch + 1)?;
        }
        transaction.commit()?;
        self.batch += 1;
        Ok(())
    }
}

/// An error of the database, or of a record.
type LoadError = Box<dyn std::error::Error>;

/// Turns a panic into an error. The database panics on some damaged files, which it takes for its own.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    // Nothing of the database is used after a panic, so no broken state can be seen.
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(OpenError::Corrupt {
            path: path.into(),
            reason: "the database panicked while it read the file".into(),
        })
    })
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.into(), source }
}

fn read_error(path: &Path, error: redb::Error) -> OpenError {
    open_error(path, DatabaseError::Storage(storage(error)))
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_path_buf();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked(path),
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() != io::ErrorKind::InvalidData => {
            OpenError::Io { path, source }
        }
        error => OpenError::Corrupt { path, reason: error.to_string() },
    }
}

/// The storage error in a general one. Reads have no other kind of error.
fn storage(error: redb::Error) -> StorageError {
    match error {
        redb::Error::Io(source) => StorageError::Io(source),
        error => StorageError::Corrupted(error.to_string()),
    }
}
