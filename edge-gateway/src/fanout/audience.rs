//! The sessions of one group in one shard that receive the same bytes, and the log they share.

use std::sync::Arc;

use shared::model::Revision;

use super::connection::Key;
use super::log::Log;
use crate::push::{Encoding, Push};
use crate::trace::Writes;
use crate::watch::GroupId;

/// Who shares a log, and how far the round to all of them has come.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) group: GroupId,
    pub(super) encoding: Encoding,
    pub(super) log: Log,
    /// Everyone; a connection knows its place here.
    pub(super) members: Vec<Key>,
    /// Those who are not served by the round: they read at their own pace.
    pub(super) slow: Vec<Key>,
    /// How many members the round has visited.
    pub(super) visited: usize,
    /// The audience waits for, or is in, a round.
    pub(super) queued: bool,
    /// Something was appended, or someone moved, behind the round's back: another one follows.
    pub(super) again: bool,
    /// Events have been appended since the last bookmark.
    pub(super) unconfirmed: bool,
    /// Traced events that are being written.
    pub(super) traced: Writes,
}

impl Audience {
    pub(super) fn new(group: GroupId, encoding: Encoding) -> Self {
        Self {
            group,
            encoding,
            log: Log::default(),
            members: Vec::new(),
            slow: Vec::new(),
            visited: 0,
            queued: false,
            again: false,
            unconfirmed: false,
            traced: Writes::default(),
        }
    }

    /// Appends an event. True when a round must be queued.
    pub(super) fn append(&mut self, push: &Arc<Push>) -> bool {
        self.log.append(Some(push), push.frame(self.encoding));
        self.unconfirmed = true;
        self.queue()
    }

    /// Appends a bookmark, if these clients understand one. True when a round must be queued.
    pub(super) fn bookmark(&mut self, rev: Revision) -> bool {
        let Some(frame) = self.encoding.bookmark(rev) else { return false };
        self.unconfirmed = false;
        self.log.append(None, &frame);
        self.queue()
    }

    fn queue(&mut self) -> bool {
        if self.queued {
            self.again |= self.visited > 0;
            return false;
        }
        self.queued = true;
        true
    }

    /// Takes a member out; names the one who moved to its place.
    pub(super) fn remove(&mut self, place: usize, key: Key) -> Option<Key> {
        self.slow.retain(|slow| *slow != key);
        self.members.swap_remove(place);
        // The last member, perhaps not yet visited, may now stand where the round has already been.
        self.again |= self.queued && place < self.visited;
        self.visited = self.visited.min(self.members.len());
        self.members.get(place).copied()
    }
}
