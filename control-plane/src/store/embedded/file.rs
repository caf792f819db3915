//! The file: its tables, and the atomic write of a batch of commits.
//!
//! In: batches from the writer. Out: the state and the log when the file is opened. One batch is one durable
//! transaction of the database, so after a crash the file contains whole batches only. `batch` counts them,
//! which shows after a failed write whether it happened, and with the [`Head`] whether the file holds all
//! that was acknowledged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, StorageError, TableDefinition};
use shared::model::Revision;
use tracing::{info, warn};

use super::contents::{self, Contents, corrupt, guarded};
use super::head::{Acknowledged, Head};
use super::log::{CommitLog, LoggedCommit};
use super::record;
use super::state::StoreState;
use crate::store::LeaseId;

pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");
pub(super) const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
pub(super) const LEASES: TableDefinition<i64, &[u8]> = TableDefinition::new("lease-records");
/// The leases of the first format.
pub(super) const BARE_LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");

/// The format of the file. Raised whenever an older program could misread the file.
pub(super) const FORMAT: u64 = 2;
/// The format whose records have no checksums. It is read, and rewritten in the present one.
pub(super) const FIRST_FORMAT: u64 = 1;
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
    /// A directory, a pipe or a device has the name of a file of the store.
    #[error("{0} is not an ordinary file; move it away")]
    NotAFile(PathBuf),
    /// Another process has the file open.
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
    /// A store is to be made where one is.
    #[error("{0} exists already and is not overwritten; name a new directory")]
    Exists(PathBuf),
    /// The file has no contents, which no store of ours ever had.
    #[error(
        "{0} is empty: its contents were lost, or it was made by hand; put a copy back, or remove it to begin \
         with an empty registry"
    )]
    Empty(PathBuf),
    /// The file is gone, but its head shows that there was one.
    #[error(
        "{path} is missing, though it held revision {acknowledged}; put it back, or remove {head} to begin with \
         an empty registry"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The file beside it.
        head: PathBuf,
        /// The last revision that was acknowledged.
        acknowledged: Revision,
    },
    /// The file is sound, but older than what was acknowledged.
    #[error(
        "{path} ends at revision {found}, but writes up to revision {acknowledged} were acknowledged; if it is a \
         copy that was put back on purpose, remove {head}"
    )]
    Behind {
        /// The file.
        path: PathBuf,
        /// The file beside it.
        head: PathBuf,
        /// The last revision in the file.
        found: Revision,
        /// The last revision that was acknowledged.
        acknowledged: Revision,
    },
    /// The file is not a Muster store, or it is damaged.
    #[error(
        "{path} is damaged or not a Muster store: {reason}; put a copy back, or save what is whole with `muster \
         store salvage`"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The finding.
        reason: String,
    },
    /// The file has a format that this program does not read.
    #[error("{path} has the format {found}; this program reads {FIRST_FORMAT} and {FORMAT}")]
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
    head: Head,
    /// The number of batches in the file.
    pub(super) batch: u64,
    /// The last revision in the file.
    rev: Revision,
}

impl StoreFile {
    /// Verifies and opens the file at `path`, or creates it. A file that is not sound is left as it is.
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
            return Err(corrupt(path, reason));
        }
        Ok(file)
    }

    /// Creates a file at `path` with these contents but without their history, because nobody may continue a
    /// watch from before.
    pub(super) fn create_with(path: &Path, state: &StoreState) -> Result<(), OpenError> {
        guarded(path, || {
            expect_nothing(path)?;
            let head = locked_head(path)?;
            create(path, state)?;
            let acknowledged = Acknowledged { batch: 0, rev: state.rev };
            head.write(acknowledged).and_then(|()| head.sync()).map_err(|source| io_error(path, source))
        })
    }

    fn open_checked(path: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(directory(path)).map_err(|source| io_error(path, source))?;
        expect_file(path)?;
        let head = locked_head(path)?;
        let acknowledged = head.read();
        if acknowledged.is_none() && path.exists() {
            let trouble = if head.is_damaged() { "is damaged" } else { "is missing" };
            warn!(head = %Head::path(path).display(), "the head of the store {trouble}, so nothing shows whether the \
                store holds all that was acknowledged");
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() == 0 => return Err(OpenError::Empty(path.into())),
            Ok(_) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(path, error)),
            Err(_) => match acknowledged {
                Some(Acknowledged { rev, .. }) => {
                    let head = Head::path(path);
                    return Err(OpenError::Missing { path: path.into(), head, acknowledged: rev });
                }
                None => create(path, &StoreState::new())?,
            },
        }
        let Contents { state, batch, format, .. } = contents::verify(path)?;
        refuse_behind(path, &state, batch, acknowledged)?;
        let mut builder = Database::builder();
        let builder = builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.open(path).map_err(|error| open_error(path, error))?;
        let mut file = Self { path: path.into(), database, head, batch, rev: state.rev };
        if format == FIRST_FORMAT {
            file.upgrade().map_err(|WriteError(error)| read_error(path, error))?;
            info!(path = %path.display(), "the store's file was rewritten with checksums");
        }
        file.acknowledge();
        file.head.sync().map_err(|source| io_error(path, source))?;
        Ok(file)
    }

    /// Reads the whole file.
    pub(super) fn load(&self) -> Result<(StoreState, CommitLog), OpenError> {
        guarded(&self.path, || contents::read(&self.path, &self.database))
            .map(|Contents { state, log, .. }| (state, log))
    }

    /// Rewrites every record of the first format in the present one, in one transaction.
    fn upgrade(&mut self) -> Result<(), WriteError> {
        let contents = contents::read(&self.path, &self.database)
            .map_err(|error| WriteError(redb::Error::Corrupted(error.to_string())))?;
        let transaction = self.database.begin_write()?;
        {
            fill(&transaction, &contents.state)?;
            let mut log = transaction.open_table(LOG)?;
            // Older commits may still lie there. The present format does not know their records.
            log.retain(|_, _| false)?;
            for commit in contents.log.since(contents.log.compacted().next(), usize::MAX).unwrap_or_default()
            {
                log.insert(commit.rev.get(), record::encode_commit(&commit).as_slice())?;
            }
        }
        transaction.delete_table(BARE_LEASES)?;
        transaction.commit()?;
        Ok(())
    }

    /// Tells the head that everything in the file was acknowledged.
    fn acknowledge(&self) {
        // A head that stays behind shows less, but nothing wrong.
        if let Err(error) = self.head.write(Acknowledged { batch: self.batch, rev: self.rev }) {
            warn!(%error, "the head of the store cannot be written");
        }
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
                        Some(kv) => keys.insert(&*change.key, record::encode_key(kv).as_slice())?,
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
                leases.insert(lease.get(), record::encode_lease(*lease, *ttl).as_slice())?;
            }
            for lease in &batch.ended {
                leases.remove(lease.get())?;
            }
            meta.insert("batch", self.batch + 1)?;
        }
        transaction.commit()?;
        self.batch += 1;
        self.rev = batch.commits.last().map_or(self.rev, |last| last.rev);
        self.acknowledge();
        Ok(())
    }
}

/// Refuses what has the name of a file and is none. A pipe would be waited for, perhaps for ever. Whatever does not
/// exist is told about by the call that opens it.
pub(super) fn expect_file(path: &Path) -> Result<(), OpenError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(OpenError::NotAFile(path.into())),
        _ => Ok(()),
    }
}

/// Refuses to make a file where something is, which may also be a link to something that does not exist.
pub(super) fn expect_nothing(path: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(OpenError::Exists(path.into())),
        Err(_) => Ok(()),
    }
}

/// The head of the store at `path`, locked. It is created if there is none.
pub(super) fn locked_head(path: &Path) -> Result<Head, OpenError> {
    let own = Head::path(path);
    expect_file(&own)?;
    match Head::open(path) {
        Ok(Some(head)) => Ok(head),
        Ok(None) => Err(OpenError::Locked(path.into())),
        Err(source) => Err(io_error(&own, source)),
    }
}

/// Refuses a file that ends before what its head saw acknowledged.
pub(super) fn refuse_behind(
    path: &Path,
    state: &StoreState,
    batch: u64,
    acknowledged: Option<Acknowledged>,
) -> Result<(), OpenError> {
    match acknowledged {
        Some(acknowledged) if batch < acknowledged.batch || state.rev < acknowledged.rev => {
            Err(OpenError::Behind {
                path: path.into(),
                head: Head::path(path),
                found: state.rev,
                acknowledged: acknowledged.rev,
            })
        }
        _ => Ok(()),
    }
}

/// Creates a file with these contents. It has its name only once it is whole, so a crash leaves no part of
/// one. The caller holds the head's lock.
fn create(path: &Path, state: &StoreState) -> Result<(), OpenError> {
    let unfinished = path.with_extension("unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&unfinished, error)),
        _ => {}
    }
    let database = Database::create(&unfinished).map_err(|error| open_error(path, error))?;
    let written = (|| {
        let transaction = database.begin_write()?;
        {
            fill(&transaction, state)?;
            transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            meta.insert("revision", state.rev.get())?;
            // A new store has no history to miss; every other one that is created here has lost it.
            let compacted = if state.rev == StoreState::new().rev { Revision::ZERO } else { state.rev };
            meta.insert("compacted", compacted.get())?;
        }
        Ok::<_, WriteError>(transaction.commit()?)
    })();
    written.map_err(|WriteError(error)| read_error(path, error))?;
    drop(database);
    // The name of a new file survives a crash only once its directory is synced.
    fs::rename(&unfinished, path)
        .and_then(|()| fs::File::open(directory(path))?.sync_all())
        .map_err(|source| io_error(path, source))
}

/// Writes the keys and leases of a state in the present format.
fn fill(transaction: &redb::WriteTransaction, state: &StoreState) -> Result<(), WriteError> {
    transaction.open_table(META)?.insert("format", FORMAT)?;
    let mut keys = transaction.open_table(KEYS)?;
    for (key, kv) in &state.keys {
        keys.insert(&**key, record::encode_key(kv).as_slice())?;
    }
    let mut leases = transaction.open_table(LEASES)?;
    for (lease, entry) in state.leases.iter() {
        leases.insert(lease.get(), record::encode_lease(*lease, entry.ttl).as_slice())?;
    }
    Ok(())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.into(), source }
}

fn read_error(path: &Path, error: redb::Error) -> OpenError {
    open_error(path, DatabaseError::Storage(storage(error)))
}

pub(super) fn open_error(path: &Path, error: DatabaseError) -> OpenError {
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
