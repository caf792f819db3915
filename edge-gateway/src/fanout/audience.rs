//! An audience: the sessions of one group in one shard that receive the same bytes, and the log they share.
//! They have the same encoding, and grants that have admitted the same changes so far.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use access::Grant;
use shared::model::{Revision, ServiceKey};

use super::log::Log;
use super::rights::{Decision, Rights};
use super::session::SessionKey;
use crate::push::{Encode as _, Encoding, Push};
use crate::timer::{Tick, ticks};
use crate::trace::Writes;
use crate::watch::GroupId;

/// Marks that are kept: more than there are drains at a time.
const MOST_MARKS: usize = 32;
/// The time after which a mark is forgotten that nobody asks about.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A question about a change is asked again within this time.
const ASKED_LATELY: Duration = Duration::from_secs(10);

/// The place of a change in a log, and the members that have not acknowledged it.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) topic: u32,
    pub(super) rev: Revision,
    /// The change, if it was appended at all, lies before this offset.
    pub(super) offset: u64,
    /// The tick of the first question.
    pub(super) since: Tick,
    /// The tick of the last question.
    asked_at: Tick,
    /// The members of which it is not known that they have acknowledged the change. So a question that comes
    /// again looks at these alone, which soon are few of many.
    pub(super) waiting: HashSet<SessionKey>,
}

/// The sessions that share a log, and the progress of the round that serves them.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) group: GroupId,
    pub(super) encoding: Encoding,
    rights: Rights,
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
    /// The members wait for a bookmark: pushes have been appended that the last one does not cover.
    pub(super) unconfirmed: bool,
    /// The highest revision of a push.
    newest: Revision,
    /// The changes that were asked about.
    marks: Vec<Mark>,
    /// Traced pushes that are being written.
    pub(super) traced: Writes,
}

impl Audience {
    pub(super) fn new(group: GroupId, encoding: Encoding) -> Self {
        Self {
            group,
            encoding,
            rights: Rights::default(),
            log: Log::default(),
            members: Vec::new(),
            slow: Vec::new(),
            visited: 0,
            queued: false,
            again: false,
            unconfirmed: false,
            newest: Revision::ZERO,
            marks: Vec::new(),
            traced: Writes::default(),
        }
    }

    /// True if members with this encoding have this grant.
    pub(super) fn has(&self, encoding: Encoding, grant: &Grant) -> bool {
        self.encoding == encoding && self.rights.has(grant)
    }

    /// True if a session with this encoding and grant may join: it would have been sent the same changes.
    pub(super) fn agrees_with(&self, encoding: Encoding, grant: &Grant) -> bool {
        self.encoding == encoding && self.rights.agree_with(grant)
    }

    /// Adds a member, which is slow until it has a connection.
    pub(super) fn add(&mut self, key: SessionKey, grant: &Arc<Grant>) {
        self.rights.add(grant, self.members.len());
        self.members.push(key);
        self.marks.iter_mut().for_each(|mark| _ = mark.waiting.insert(key));
        // Slow from the start: its cursor keeps the log from being trimmed until the connection is attached.
        self.slow.push(key);
    }

    /// Decides whether the members are sent changes of this provider.
    pub(super) fn decide(&mut self, topic: u32, key: &Arc<ServiceKey>) -> Decision {
        self.rights.decide(topic, key)
    }

    /// Takes away the members whose grant does not admit this provider, into an audience with the same log:
    /// its offsets, and so all cursors and marks, stay what they are. Rounds of both begin anew, and each
    /// member must be told its place.
    pub(super) fn divide(
        &mut self,
        topic: u32,
        key: &Arc<ServiceKey>,
        grant_of: impl Fn(SessionKey) -> Arc<Grant>,
    ) -> Self {
        let rights = self.rights.divide(topic, key);
        let mut goes = |key: &mut SessionKey| rights.has(&grant_of(*key));
        let members = self.members.extract_if(.., &mut goes).collect();
        let slow = self.slow.extract_if(.., &mut goes).collect();
        let divided = |mark: &mut Mark| {
            let waiting = mark.waiting.extract_if(|key| rights.has(&grant_of(*key))).collect();
            Mark { waiting, ..*mark }
        };
        let marks = self.marks.iter_mut().map(divided).collect();
        self.visited = 0;
        Self {
            group: self.group,
            encoding: self.encoding,
            rights,
            log: self.log.clone(),
            members,
            slow,
            visited: 0,
            queued: false,
            again: false,
            unconfirmed: self.unconfirmed,
            newest: self.newest,
            marks,
            traced: Writes::default(),
        }
    }

    /// The place in the log behind a change that has been appended, from the first question about it on.
    pub(super) fn mark(&mut self, topic: u32, rev: Revision, now: Tick) -> &Mark {
        let known = self.marks.iter().position(|mark| (mark.topic, mark.rev) == (topic, rev));
        let index = known.unwrap_or_else(|| self.new_mark(topic, rev, now));
        let mark = &mut self.marks[index];
        mark.asked_at = now;
        mark
    }

    /// Makes a mark at the end of the log, and gives its index.
    fn new_mark(&mut self, topic: u32, rev: Revision, now: Tick) -> usize {
        self.marks.retain(|mark| now < mark.asked_at + ticks(FORGOTTEN_AFTER));
        // A mark that is made again lies further on, which only delays a proof.
        if self.marks.len() >= MOST_MARKS {
            self.marks.remove(0);
        }
        let waiting = self.members.iter().copied().collect();
        self.marks.push(Mark { topic, rev, offset: self.log.end(), since: now, asked_at: now, waiting });
        self.marks.len() - 1
    }

    /// A member has acknowledged a change.
    pub(super) fn acknowledged(&mut self, topic: u32, rev: Revision, key: SessionKey) {
        if let Some(mark) = self.marks.iter_mut().find(|mark| (mark.topic, mark.rev) == (topic, rev)) {
            mark.waiting.remove(&key);
        }
    }

    /// The changes about which there were questions in the last seconds.
    pub(super) fn asked_lately(&self, now: Tick) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |mark| now < mark.asked_at + ticks(ASKED_LATELY))
    }

    /// Forgets everything that is of a history of the store which was undone.
    pub(super) fn forget_history(&mut self) {
        self.marks.clear();
        self.log.forget_bookmark();
        self.newest = Revision::ZERO;
    }

    /// Appends a push. True when a round must be queued.
    pub(super) fn append(&mut self, push: &Arc<Push>) -> bool {
        self.log.append(push, push.frame(self.encoding));
        self.unconfirmed = true;
        self.newest = self.newest.max(push.at.rev);
        self.queue()
    }

    /// Appends a bookmark, if these clients understand one. True when a round must be queued.
    pub(super) fn bookmark(&mut self, rev: Revision) -> bool {
        let Some(frame) = self.encoding.bookmark(rev) else { return false };
        // A push may have overtaken it: each subject of the bus has a queue of its own.
        self.unconfirmed = rev < self.newest;
        self.log.append_bookmark(rev, &frame);
        self.queue()
    }

    /// Appends a bookmark of a group that is behind, if it says anything new. The next one follows soon.
    pub(super) fn bookmark_behind(&mut self, rev: Revision) -> bool {
        if rev <= self.log.bookmarked() {
            return false;
        }
        let must_queue = self.bookmark(rev);
        self.unconfirmed = true;
        must_queue
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
    pub(super) fn remove(&mut self, index: usize, key: SessionKey, grant: &Grant) -> Option<SessionKey> {
        self.rights.remove(grant);
        self.slow.retain(|slow| *slow != key);
        self.members.swap_remove(index);
        self.marks.iter_mut().for_each(|mark| _ = mark.waiting.remove(&key));
        // The last member, perhaps not yet visited, may now stand where the round has already been.
        self.again |= self.queued && index < self.visited;
        self.visited = self.visited.min(self.members.len());
        self.members.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use shared::event::{Action, Position};

    use super::*;

    #[test]
    fn a_group_that_is_behind_is_told_its_own_revision_once() {
        let mut audience = Audience::new(GroupId::new(1), Encoding::Resumable);
        assert!(!audience.bookmark_behind(Revision::ZERO), "nothing is confirmed");
        assert!(audience.bookmark_behind(Revision::new(7)));
        let told = audience.log.end();
        audience.bookmark_behind(Revision::new(7));
        assert_eq!(audience.log.end(), told);
        assert!(audience.unconfirmed, "the next bookmark is for it, too");
        audience.bookmark(Revision::new(9));
        assert!(!audience.unconfirmed && audience.log.end() > told);
        let at = Position::first_of(Revision::new(12));
        audience.append(&Arc::new(Push::difference(1, at, Action::Update, Arc::default(), Arc::default())));
        audience.bookmark(Revision::new(11));
        assert!(audience.unconfirmed, "a push that overtook the bookmark waits for the next one");
        audience.bookmark(Revision::new(12));
        assert!(!audience.unconfirmed);
        audience.forget_history();
        let told = audience.log.end();
        audience.bookmark_behind(Revision::new(5));
        assert!(audience.log.end() > told, "of another history");
    }
}
