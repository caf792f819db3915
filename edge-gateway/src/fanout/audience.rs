//! An audience: the sessions of one group in one shard that receive the same bytes, and the log they share.
//! They have the same encoding and the same grant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use access::Grant;
use shared::model::{Revision, ServiceKey};

use super::log::Log;
use super::session::SessionKey;
use crate::policy::labels_of;
use crate::push::{Encode as _, Encoding, Push};
use crate::timer::{Tick, ticks};
use crate::trace::Writes;
use crate::watch::GroupId;

/// Providers whose decision a filter remembers. Beyond it all are forgotten.
const REMEMBERED: usize = 4096;

/// Marks that are kept: more than there are drains at a time.
const MOST_MARKS: usize = 32;
/// The time after which a mark is forgotten that nobody asks about.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// A question about a change is asked again within this time.
const ASKED_LATELY: Duration = Duration::from_secs(10);

/// The place of a change in a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) topic: u32,
    pub(super) rev: Revision,
    /// The change, if it was appended at all, lies before this offset.
    pub(super) offset: u64,
    /// The tick of the first question.
    pub(super) since: Tick,
    /// The tick of the last question.
    asked_at: Tick,
}

/// The decision for each provider whether an audience is sent its changes.
#[derive(Debug)]
pub(super) struct Filter {
    grant: Arc<Grant>,
    /// The last decision for each topic, and the name for which it was made.
    decided: HashMap<u32, (Arc<ServiceKey>, bool)>,
}

impl Filter {
    /// The filter of a grant. `None` for one that admits everything.
    fn new(grant: &Arc<Grant>) -> Option<Box<Self>> {
        let is_needed = **grant != Grant::All;
        is_needed.then(|| Box::new(Self { grant: grant.clone(), decided: HashMap::new() }))
    }

    fn admits(&mut self, topic: u32, of: &Arc<ServiceKey>) -> bool {
        if let Some((key, admitted)) = self.decided.get(&topic)
            && (Arc::ptr_eq(key, of) || labels_of(key) == labels_of(of))
        {
            return *admitted;
        }
        if self.decided.len() >= REMEMBERED {
            self.decided.clear();
        }
        let admitted = self.grant.admits(labels_of(of));
        self.decided.insert(topic, (of.clone(), admitted));
        admitted
    }
}

/// The sessions that share a log, and the progress of the round that serves them.
#[derive(Debug)]
pub(super) struct Audience {
    pub(super) group: GroupId,
    pub(super) encoding: Encoding,
    /// `None` for sessions that are sent everything.
    filter: Option<Box<Filter>>,
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
    /// The changes that were asked about.
    marks: Vec<Mark>,
    /// Traced pushes that are being written.
    pub(super) traced: Writes,
}

impl Audience {
    pub(super) fn new(group: GroupId, encoding: Encoding, grant: &Arc<Grant>) -> Self {
        Self {
            group,
            encoding,
            filter: Filter::new(grant),
            log: Log::default(),
            members: Vec::new(),
            slow: Vec::new(),
            visited: 0,
            queued: false,
            again: false,
            unconfirmed: false,
            marks: Vec::new(),
            traced: Writes::default(),
        }
    }

    /// True for the audience of sessions with this encoding and grant.
    pub(super) fn is_for(&self, encoding: Encoding, grant: &Grant) -> bool {
        let own = self.filter.as_ref().map_or(&Grant::All, |filter| &*filter.grant);
        self.encoding == encoding && own == grant
    }

    /// True when the sessions may be sent this change.
    pub(super) fn admits(&mut self, push: &Push) -> bool {
        self.admits_service(push.topic, &push.key)
    }

    /// True when the sessions may be sent changes of this provider.
    pub(super) fn admits_service(&mut self, topic: u32, key: &Arc<ServiceKey>) -> bool {
        self.filter.as_mut().is_none_or(|filter| filter.admits(topic, key))
    }

    /// The place in the log behind a change that has been appended, from the first question about it on.
    pub(super) fn mark(&mut self, topic: u32, rev: Revision, now: Tick) -> Mark {
        let is_it = |mark: &&mut Mark| (mark.topic, mark.rev) == (topic, rev);
        if let Some(mark) = self.marks.iter_mut().find(is_it) {
            mark.asked_at = now;
            return *mark;
        }
        self.marks.retain(|mark| now < mark.asked_at + ticks(FORGOTTEN_AFTER));
        // A mark that is made again lies further on, which only delays a proof.
        if self.marks.len() >= MOST_MARKS {
            self.marks.remove(0);
        }
        let mark = Mark { topic, rev, offset: self.log.end(), since: now, asked_at: now };
        self.marks.push(mark);
        mark
    }

    /// The changes about which there were questions in the last seconds.
    pub(super) fn asked_lately(&self, now: Tick) -> impl Iterator<Item = &Mark> {
        self.marks.iter().filter(move |mark| now < mark.asked_at + ticks(ASKED_LATELY))
    }

    /// Forgets every mark.
    pub(super) fn forget_marks(&mut self) {
        self.marks.clear();
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

#[cfg(test)]
mod tests {
    use shared::event::{Action, Position};

    use super::*;

    fn push(topic: u32, name: &str) -> Push {
        let key = ServiceKey { service_name: name.to_owned(), ..ServiceKey::default() };
        Push::difference(topic, Position::default(), Action::Update, Arc::new(key), Arc::default())
    }

    #[test]
    fn a_renamed_service_is_decided_about_anew() {
        let label = ("serviceName".to_owned(), "shop*".to_owned());
        let grant = Arc::new(Grant::Labelled([[label].into()].into()));
        let mut audience = Audience::new(GroupId::new(1), Encoding::Plain, &grant);
        for (topic, name, admitted) in [
            (1, "shop-a", true),
            (2, "bank", false),
            (1, "shop-a", true),
            (1, "bank", false),
            (2, "shop-b", true),
            (1, "shop-a", true),
        ] {
            assert_eq!(audience.admits(&push(topic, name)), admitted, "{topic} {name}");
        }
        assert!(audience.is_for(Encoding::Plain, &grant) && !audience.is_for(Encoding::Plain, &Grant::All));
        for topic in 0..2 * REMEMBERED as u32 {
            audience.admits(&push(topic, "bank"));
        }
        assert!(audience.filter.is_some_and(|filter| filter.decided.len() <= REMEMBERED));
        let whole = Audience::new(GroupId::new(1), Encoding::Plain, &Arc::default());
        assert!(whole.filter.is_none(), "whole rights cost nothing");
    }
}
