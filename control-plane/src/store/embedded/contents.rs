//! The contents of a file, read as a whole and verified: nothing is taken from a file that is not sound.
//!
//! In: a path or an open database. Out: the state and the log, or the reason why the file cannot be trusted.
//! The database's checksums cover each of its pages, the records' own cover each record, and the history must
//! not have a hole. A file is verified before the database may write to it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};
use shared::model::Revision;

use super::file::{
    BARE_LEASES, FIRST_FORMAT, FORMAT, KEYS, LEASES, LOG, META, OpenError, io_error, open_error,
};
use super::log::CommitLog;
use super::overlay::Overlay;
use super::record;
use super::state::{LeaseEntry, StoreState};
use crate::store::LeaseId;

/// Everything that a file holds.
pub(super) struct Contents {
    pub(super) state: StoreState,
    pub(super) log: CommitLog,
    /// The number of batches in the file.
    pub(super) batch: u64,
    /// The format in which the file holds them.
    pub(super) format: u64,
}

/// An error of the database, or of a record.
type ReadError = Box<dyn std::error::Error>;

/// Verifies and reads the file at `path` without changing it.
pub(super) fn verify(path: &Path) -> Result<Contents, OpenError> {
    guarded(path, || {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        let overlay = Overlay::over(file).map_err(|source| io_error(path, source))?;
        through(path, overlay)
    })
}

/// Verifies and reads the file at `path` as if the fixed part of its header were sound.
pub(super) fn verify_with_mended_header(path: &Path) -> Result<Contents, OpenError> {
    guarded(path, || {
        let file = File::open(path).map_err(|source| io_error(path, source))?;
        let overlay = Overlay::over(file).map_err(|source| io_error(path, source))?;
        let mended = overlay.mend_header();
        mended.map_err(|error| corrupt(path, error))?;
        through(path, overlay)
    })
}

fn through(path: &Path, overlay: Overlay) -> Result<Contents, OpenError> {
    let mut builder = Database::builder();
    let builder = builder.set_check_integrity_on_open(true);
    let database = builder.create_with_backend(overlay).map_err(|error| open_error(path, error))?;
    read(path, &database)
}

/// Reads an open database.
pub(super) fn read(path: &Path, database: &Database) -> Result<Contents, OpenError> {
    let transaction = database.begin_read().map_err(|error| corrupt(path, error))?;
    let format = number(&transaction, "format").map_err(|error| corrupt(path, error))?;
    if format != FORMAT && format != FIRST_FORMAT {
        return Err(OpenError::UnknownFormat { path: path.into(), found: format });
    }
    records(&transaction, format).map_err(|error| corrupt(path, error))
}

fn records(transaction: &ReadTransaction, format: u64) -> Result<Contents, ReadError> {
    let mut state = StoreState { rev: Revision::new(number(transaction, "revision")?), ..StoreState::new() };
    let mut log = CommitLog::new(Revision::new(number(transaction, "compacted")?));
    if format == FIRST_FORMAT {
        for entry in transaction.open_table(BARE_LEASES)?.iter()? {
            let (lease, ttl) = entry?;
            add_lease(
                &mut state,
                LeaseId::new(lease.value()).ok_or("a lease has the number 0")?,
                ttl.value(),
            );
        }
    } else {
        for entry in transaction.open_table(LEASES)?.iter()? {
            let (number, bytes) = entry?;
            let (lease, ttl) = record::decode_lease(number.value(), bytes.value())?;
            add_lease(&mut state, lease, ttl);
        }
    }
    for entry in transaction.open_table(KEYS)?.iter()? {
        let (key, bytes) = entry?;
        let decode = if format == FIRST_FORMAT { record::decode_bare_value } else { record::decode_key };
        state.restore(decode(key.value(), bytes.value())?);
    }
    for entry in transaction.open_table(LOG)?.range(log.compacted().next().get()..)? {
        let (rev, bytes) = entry?;
        let rev = Revision::new(rev.value());
        let decode = if format == FIRST_FORMAT { record::decode_bare_commit } else { record::decode_commit };
        // A new store begins at revision 1 without a commit.
        let expected = log.last().max(log.compacted()).max(StoreState::new().rev).next();
        if rev != expected {
            return Err(format!("the history lacks revision {expected}").into());
        }
        log.push(Arc::new(decode(rev, bytes.value())?));
    }
    let reached = log.last().max(log.compacted()).max(StoreState::new().rev);
    if reached != state.rev {
        return Err(format!("the history ends at revision {reached}, the keys at {}", state.rev).into());
    }
    Ok(Contents { state, log, batch: number(transaction, "batch")?, format })
}

pub(super) fn add_lease(state: &mut StoreState, lease: LeaseId, ttl: i64) {
    state.leases.insert_mut(lease, LeaseEntry { ttl, keys: rpds::RedBlackTreeSetSync::new_sync() });
}

fn number(transaction: &ReadTransaction, name: &str) -> Result<u64, ReadError> {
    let meta: TableDefinition<'_, &str, u64> = META;
    let found = transaction.open_table(meta)?.get(name)?;
    Ok(found.map_or(0, |found| found.value()))
}

/// Turns a panic into an error. The database panics on some damaged files, which it takes for its own.
pub(super) fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    // Nothing of the database is used after a panic, so no broken state can be seen.
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt(path, "the database panicked while it read the file")))
}

pub(super) fn corrupt(path: &Path, reason: impl ToString) -> OpenError {
    OpenError::Corrupt { path: path.into(), reason: reason.to_string() }
}
