//! An audience: the sessions of one group in one shard that receive the same bytes, and the log they share.

use std::sync::Arc;

use shared::model::Revision;

use super::log::Log;
use super::session::SessionKey;
use crate::push::{Encode as _, Encoding, Push};
use crate::trace::Writes;
use crate::watch::GroupId;

/// The sessions that share a log, and the progress of the round that serves them.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) group: GroupId,
    pub(super) encoding: Encoding,
    pub(super) log: Log,
    /// All sessions; each knows its index here.
    pub(super) members: Vec<SessionKey>,
    /// The sessions that read at their own pace; rounds pass them over.
    pub(super) slow: Vec<SessionKey>,
    /// The number of members that the current round has visited.
    pub(super) visited: usize,
    /// The audience waits for a round, or is in one.
    pub(super) queued: bool,
    /// A frame was appended, or a member moved, behind the current round: another one follows.
    pub(super) again: bool,
    /// Pushes have been appended since the last bookmark.
    pub(super) unconfirmed: bool,
    /// Traced pushes that are being written.
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

    /// Appends a push. True when a round must be queued.
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
            // A round that has not begun yet writes the new frame too.
            self.again |= self.visited > 0;
            return false;
        }
        self.queued = true;
        true
    }

    /// Removes the member at `index`; returns the member that moved there, if one did.
    pub(super) fn remove(&mut self, index: usize, key: SessionKey) -> Option<SessionKey> {
        self.slow.retain(|slow| *slow != key);
        self.members.swap_remove(index);
        // The last member, perhaps not yet visited, may now stand where the round has already been.
        self.again |= self.queued && index < self.visited;
        self.visited = self.visited.min(self.members.len());
        self.members.get(index).copied()
    }
}
