//! Sessions that begin: their reservation in a shard, and the preface of those that resume.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use access::Grant;
use follow::resume::{ResumePoint, ResumeStep};
use follow::tracker::Preface;
use shared::model::{Revision, ServiceRef};

use super::request::Request;
use super::{Admission, Command, Joined, Receives, Upstream};
use crate::close::Reason;
use crate::fanout::{Opening, PrefaceBytes, ToShard};
use crate::policy::Right;
use crate::push::Encoding;
use crate::watch::{Full, GroupId, Selector};

/// A session that has joined its group and has no reservation yet.
pub(super) struct Joining {
    group: GroupId,
    shard: usize,
    receives: Receives,
    admission: Admission,
}

/// Sessions that resume the same group from the same point wait together. Those with the same encoding and
/// grant are sent the same preface.
pub(super) type ResumeKey = (GroupId, ResumePoint);

impl Upstream {
    pub(super) async fn on_command(&mut self, command: Command) {
        match command {
            Command::Contents(sender) => {
                // The asking task may have stopped waiting.
                let _ = sender.send(self.tracker.contents());
            }
            Command::Ask { change, asked } => {
                let _ = asked.send(self.ask_shards(change).await);
            }
            Command::Hold { consumer, lease } => self.hold(consumer, lease),
            Command::HoldTenant { tenant, reader } => self.hold_tenant(tenant, reader),
            Command::Join { watcher, selector, receives, resumes, admission } => {
                if let Err(full) = self.check_room(&watcher, &selector) {
                    let _ = admission.send(Err(full));
                    return;
                }
                let is_new = self.tracker.group(&selector).is_none();
                let (group, shard) = self.tracker.join(&selector);
                if is_new {
                    self.names.hold(group, watcher, selector.names());
                }
                let joining = Joining { group, shard, receives, admission };
                match resumes {
                    None => self.reserve(joining, Opening::default(), self.tracker.seen()).await,
                    Some(point) => {
                        let key = (group, point);
                        self.resumes.begin(key, group, point);
                        self.resuming.entry(key).or_default().push(joining);
                    }
                }
            }
        }
    }

    fn check_room(&self, watcher: &ServiceRef, selector: &Selector) -> Result<(), Full> {
        if !self.tracker.has_room(selector, self.config.topics) {
            return Err(Full::Topics);
        }
        // A group that exists holds its names already.
        if self.tracker.group(selector).is_some() {
            return Ok(());
        }
        self.names.check(watcher, selector.names())
    }

    /// Reserves the session in its shard. The reservation enters the shard's queue before any later push, and
    /// therefore the session receives exactly the pushes from now on.
    ///
    /// Its client may lack changes up to `missed`; zero if the preface and what follows contain everything.
    async fn reserve(&mut self, joining: Joining, opening: Opening, missed: Revision) {
        let Joining { group, shard, receives: Receives { encoding, right }, admission } = joining;
        let Some(shard) = self.shards.get(shard).cloned() else { return };
        let ticket = self.next_ticket;
        self.next_ticket = ticket.next();
        // A shard that has ended means that the process is ending; the session's client is refused with it.
        if !shard.send(ToShard::Reserve { ticket, group, encoding, opening, right, missed }).await {
            return;
        }
        let group_has_ended = !self.tracker.has(group);
        if group_has_ended {
            // It ended while this session was waiting, so the session missed the message that closes it.
            shard.send(ToShard::End { group, reason: Reason::NoService }).await;
        }
        let joined = Joined { shard, ticket };
        if group_has_ended || self.tracker.is_open(group) {
            // A session that has stopped waiting is released by the shard after a while.
            let _ = admission.send(Ok(joined));
        } else {
            self.opening.entry(group).or_default().push((admission, joined));
        }
    }

    /// Refuses all sessions and readers that wait for a group.
    pub(super) async fn refuse(&mut self, group: GroupId, full: Full) {
        self.holds.opened(group, Err(full));
        for (admission, joined) in self.opening.remove(&group).into_iter().flatten() {
            joined.shard.send(ToShard::Release { ticket: joined.ticket }).await;
            let _ = admission.send(Err(full));
        }
        self.resumes.remove_group(group);
        for (_, waiting) in self.resuming.extract_if(|(of, _), _| *of == group) {
            for joining in waiting {
                let _ = joining.admission.send(Err(full));
            }
        }
    }

    /// Releases the reservations of sessions that stopped waiting for their group to open.
    pub(super) async fn release_abandoned(&mut self) {
        for waiting in self.opening.values_mut() {
            for (_, joined) in waiting.extract_if(.., |(admission, _)| admission.is_closed()) {
                joined.shard.send(ToShard::Release { ticket: joined.ticket }).await;
            }
        }
    }

    /// Takes every resuming session one step further, if it can go further, and requests the events that they lack.
    pub(super) async fn advance_resumes(&mut self) {
        for key in self.resumes.keys() {
            if !self.drop_abandoned(key) {
                continue;
            }
            match self.resumes.step(key, &mut self.tracker) {
                ResumeStep::Wait => {}
                ResumeStep::RequestStoreRevision => self.start(Request::ResumeRevision),
                ResumeStep::RequestDepartures { group, since } => {
                    if let Some(selector) = self.tracker.selector(group).cloned() {
                        self.start(Request::Departures { group, selector, since });
                    }
                }
                ResumeStep::Begin { since, preface } => self.begin_resumed(key, since, preface.into()).await,
            }
        }
        while let Some(request) = self.resumes.next_request(self.config.replay_batch) {
            self.start(Request::MissedEvents(request));
        }
    }

    /// Drops the sessions that stopped waiting. Returns false when none is left under the key.
    fn drop_abandoned(&mut self, key: ResumeKey) -> bool {
        let Some(waiting) = self.resuming.get_mut(&key) else {
            self.resumes.remove(key);
            return false;
        };
        let now = Instant::now();
        for gone in waiting.extract_if(.., |joining| joining.admission.is_closed()) {
            self.tracker.sessions_closed(gone.shard, gone.group, 1, now);
        }
        if waiting.is_empty() {
            self.resuming.remove(&key);
            self.resumes.remove(key);
            return false;
        }
        true
    }

    async fn begin_resumed(&mut self, key: ResumeKey, since: Revision, preface: Arc<Preface>) {
        let mut openings: HashMap<(Encoding, Arc<Grant>), Opening> = HashMap::new();
        for joining in self.resuming.remove(&key).into_iter().flatten() {
            let encoding = joining.receives.encoding;
            let grant = Right::grant_of(joining.receives.right.as_deref());
            let opening = openings
                .entry((encoding, grant.clone()))
                .or_insert_with(|| Opening::of(PrefaceBytes::new(preface.clone(), since, grant, encoding)));
            // Each session gets a copy of the first piece, because the shard writes it from the session's own buffer.
            let opening = opening.clone();
            self.reserve(joining, opening, Revision::ZERO).await;
        }
    }
}
