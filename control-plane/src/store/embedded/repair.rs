//! Checking a file without changing it, and saving what is whole in a damaged one.
//!
//! In: the path of a store that no process uses. Out: its size and state, or a new file. The damaged file
//! stays as it is, since a later attempt may know better.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use shared::model::Revision;

use super::contents::{self, Contents, add_lease};
use super::file::{OpenError, StoreFile, expect_file, expect_nothing, io_error, locked_head, refuse_behind};
use super::head::{Acknowledged, Head};
use super::record::{self, Record};
use super::state::StoreState;
use crate::store::KeyValue;

/// The time in seconds of a lease whose own time is lost: the registry's usual one.
const USUAL_TTL: i64 = 120;
/// The distance between the last revision that was found and the first one of a saved store. A batch has
/// fewer commits, so no revision that a client has seen is used again for something else.
const REVISION_GAP: u64 = 1_000;

/// The contents of a store, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSummary {
    /// The last revision.
    pub revision: u64,
    /// The number of keys.
    pub keys: usize,
    /// The number of leases.
    pub leases: usize,
    /// True if the head beside the file shows that nothing that was acknowledged is missing. False without a head, as
    /// in a copy of the file alone, or with one that is damaged.
    pub witnessed: bool,
}

impl StoreSummary {
    fn of(state: &StoreState, acknowledged: Option<Acknowledged>) -> Self {
        let (keys, leases) = (state.keys.size(), state.leases.size());
        Self { revision: state.rev.get(), keys, leases, witnessed: acknowledged.is_some() }
    }
}

/// The way in which a store was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SalvageWay {
    /// The file proved sound as a whole.
    Whole,
    /// The file held an older state than was acknowledged, and that state is whole.
    Older,
    /// Only single records could be read. Some may be missing, and some that were deleted may be back.
    Records,
}

/// A store that was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// The way in which it was saved.
    pub way: SalvageWay,
    /// The contents of the new file.
    pub summary: StoreSummary,
}

/// Verifies the store at `path`. Changes nothing. Blocks while the file is read.
///
/// # Errors
/// If the store would be refused: it is in use, damaged, or older than what was acknowledged.
pub fn check(path: &Path) -> Result<StoreSummary, OpenError> {
    let (_lock, acknowledged) = head_of(path)?;
    if fs::metadata(path).map_err(|source| io_error(path, source))?.len() == 0 {
        return Err(OpenError::Empty(path.into()));
    }
    let Contents { state, batch, .. } = contents::verify(path)?;
    refuse_behind(path, &state, batch, acknowledged)?;
    Ok(StoreSummary::of(&state, acknowledged))
}

/// Saves what is whole in the store at `from` to a new file at `to`. Blocks while the files are read and
/// written.
///
/// # Errors
/// If nothing can be read, `to` exists, or it cannot be written.
pub fn salvage(from: &Path, to: &Path) -> Result<Salvage, OpenError> {
    // Before anything is locked: the damaged store itself may be named, and is not in use.
    expect_nothing(to)?;
    let (_lock, acknowledged) = head_of(from)?;
    let (mut state, way) = match contents::verify(from).or_else(|_| contents::verify_with_mended_header(from))
    {
        Ok(Contents { state, batch, .. }) => {
            let is_behind = refuse_behind(from, &state, batch, acknowledged).is_err();
            (state, if is_behind { SalvageWay::Older } else { SalvageWay::Whole })
        }
        Err(error) => (scan(from)?.ok_or(error)?, SalvageWay::Records),
    };
    let known = acknowledged.map_or(Revision::ZERO, |acknowledged| acknowledged.rev);
    state.rev = state.rev.max(known).plus(REVISION_GAP);
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).map_err(|source| io_error(to, source))?;
    }
    StoreFile::create_with(to, &state)?;
    Ok(Salvage { way, summary: check(to)? })
}

/// The head of a store, locked, with what it says. A copy without its head is no mistake.
fn head_of(path: &Path) -> Result<(Option<Head>, Option<Acknowledged>), OpenError> {
    expect_file(path)?;
    if !Head::path(path).exists() {
        return Ok((None, None));
    }
    let head = locked_head(path)?;
    let acknowledged = head.read();
    Ok((Some(head), acknowledged))
}

/// The state that the whole records of a file add up to, wherever they lie. `None` if there is none.
///
/// Pages that the database does not use any more still hold old records. The newest record of a key counts,
/// and the commits of the history say which keys were deleted.
fn scan(path: &Path) -> Result<Option<StoreState>, OpenError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, source))?;
    let mut newest: BTreeMap<Arc<str>, (Revision, Option<Arc<KeyValue>>)> = BTreeMap::new();
    let mut found = |key: Arc<str>, rev: Revision, kv: Option<Arc<KeyValue>>| {
        let entry = newest.entry(key).or_insert((Revision::ZERO, None));
        if entry.0 < rev {
            *entry = (rev, kv);
        }
    };
    let mut state = StoreState::new();
    for record in record::scan(&bytes) {
        match record {
            Record::Key(kv) => found(kv.key.as_str().into(), kv.mod_rev, Some(kv)),
            Record::Commit(commit) => {
                for change in commit.changes {
                    if let Some(before) = change.before {
                        found(change.key.clone(), before.mod_rev, Some(before));
                    }
                    found(change.key, commit.rev, change.after);
                }
            }
            Record::Lease(lease, ttl) => add_lease(&mut state, lease, ttl),
        }
    }
    if newest.is_empty() {
        return Ok(None);
    }
    state.rev = newest.values().map(|(rev, _)| *rev).max().unwrap_or(state.rev);
    for kv in newest.into_values().filter_map(|(_, kv)| kv) {
        // A key without its lease would stay for ever.
        if let Some(lease) = kv.lease.filter(|lease| !state.leases.contains_key(lease)) {
            add_lease(&mut state, lease, USUAL_TTL);
        }
        state.restore(kv);
    }
    Ok(Some(state))
}
