//! Rounds: a push goes to the logs of its audiences, and their members write what is pending.

use std::sync::Arc;

use shared::model::ServiceKey;
use tracing::debug;

use super::{CHUNK, Shard};
use crate::fanout::audience::Audience;
use crate::fanout::rights::Decision;
use crate::fanout::session::{Pumped, Reading, SessionKey};
use crate::policy::Right;
use crate::push::Push;
use crate::session::Input;
use crate::watch::GroupId;

impl Shard {
    /// Appends a push to the logs of the groups' audiences, and to the merged pushes of sessions that left
    /// them.
    pub(super) fn append(&mut self, push: &Arc<Push>, groups: &[GroupId]) {
        let now = self.wheel.now();
        let micros = self.setup.clock.micros();
        self.setup.metrics.queued(push.committed_at, micros);
        for group in groups {
            let mut next = 0;
            // By place: an audience that is divided adds another one.
            while let Some(index) = self.audience_of(*group, next) {
                next += 1;
                // Once for all of its sessions.
                if !self.admits(index, push.topic, &push.key) {
                    continue;
                }
                let audience = &mut self.audiences[index as usize];
                if let Some(cause) = push.dispatch_span() {
                    audience.traced.begin(cause, audience.encoding.label(), micros);
                }
                if audience.append(push) {
                    self.rounds.push_back(index);
                }
                // Only slow sessions need work now; all others are served by the round, with one write each.
                for key in &audience.slow {
                    let session = &mut self.sessions[key.index as usize];
                    match &mut session.reading {
                        Reading::Merging(merged) => self.tally.merged += u64::from(merged.add(push)),
                        Reading::Live(cursor) | Reading::Behind(cursor) => {
                            if audience.log.end() - *cursor > self.setup.slow_after as u64 {
                                self.tally.merged += session.start_merging(&audience.log);
                                self.setup.metrics.began_merging();
                            }
                        }
                    }
                    if session.outlet.is_some() {
                        session.protocol.on(Input::Blocked, now, &self.setup.pace);
                    }
                }
            }
        }
    }

    /// The audience at a place among those of a group.
    pub(super) fn audience_of(&self, group: GroupId, place: usize) -> Option<u32> {
        self.groups.get(&group)?.get(place).copied()
    }

    /// True when the members of an audience are sent changes of a provider. Those that are not, while others
    /// are, become an audience of their own behind all others of the group.
    pub(super) fn admits(&mut self, index: u32, topic: u32, key: &Arc<ServiceKey>) -> bool {
        match self.audiences[index as usize].decide(topic, key) {
            Decision::Admitted => true,
            Decision::Denied => false,
            Decision::Divided => {
                self.divide(index, topic, key);
                true
            }
        }
    }

    fn divide(&mut self, index: u32, topic: u32, key: &Arc<ServiceKey>) {
        // Not a method: the audience is borrowed beside the sessions.
        let sessions = &self.sessions;
        let grant_of = |key: SessionKey| Right::grant_of(sessions[key.index as usize].right.as_deref());
        let audience = &mut self.audiences[index as usize];
        let group = audience.group;
        let apart = audience.divide(topic, key, grant_of);
        let is_queued = audience.queued;
        let new = self.audiences.insert(apart) as u32;
        self.groups.entry(group).or_default().push(new);
        for index in [index, new] {
            for (member, key) in self.audiences[index as usize].members.iter().enumerate() {
                let session = &mut self.sessions[key.index as usize];
                (session.audience, session.member) = (index, member as u32);
            }
        }
        // Frames that were appended before still have to be written to both.
        if is_queued {
            self.audiences[new as usize].queued = true;
            self.rounds.push_back(new);
        }
    }

    /// Serves a chunk of the members of the audiences that wait for a round. True when more of them wait.
    pub(super) fn run_rounds(&mut self) -> bool {
        let mut budget = CHUNK;
        let mut last = None;
        while budget > 0
            && let Some(&index) = self.rounds.front()
        {
            let audience = &mut self.audiences[index as usize];
            if let Some(&key) = audience.members.get(audience.visited) {
                audience.visited += 1;
                if let Some(push) = audience.log.last() {
                    last = Some((push.committed_at, push.via.received_at));
                }
                // A slow session has a task of its own that writes when its client takes more, or no
                // connection yet.
                if !self.sessions[key.index as usize].is_slow() {
                    budget -= 1;
                    let is_first_traced = audience.visited == 1 && !audience.traced.is_empty();
                    self.pump(key);
                    // The audience may have gone with its last session.
                    if is_first_traced && let Some(audience) = self.audiences.get_mut(index as usize) {
                        audience.traced.first(self.setup.clock.micros());
                    }
                }
                continue;
            }
            self.end_round(index);
        }
        // Once per chunk: a histogram per session would cost more than its write.
        if let Some((committed_at, received_at)) = last {
            self.setup.metrics.lag(committed_at, received_at, self.setup.clock.micros());
        }
        !self.rounds.is_empty()
    }

    /// Ends the first round in the queue, which has visited all members.
    fn end_round(&mut self, index: u32) {
        self.rounds.pop_front();
        let audience = &mut self.audiences[index as usize];
        audience.visited = 0;
        audience.queued = std::mem::take(&mut audience.again);
        if audience.queued {
            // At the end of the queue, so that an audience with constant changes does not keep the
            // others waiting.
            self.rounds.push_back(index);
            return;
        }
        if !audience.traced.is_empty() {
            audience.traced.last(audience.members.len(), self.setup.clock.micros());
        }
        self.trim_or_forget(index);
    }

    /// Trims the log of an audience that is in no round, or forgets the audience if it has no members.
    pub(super) fn trim_or_forget(&mut self, index: u32) {
        let Some(audience) = self.audiences.get_mut(index as usize) else { return };
        // A queued round still has the index; it comes here again at its end.
        if audience.queued {
            return;
        }
        if audience.members.is_empty() {
            let Audience { group, .. } = self.audiences.remove(index as usize);
            if let Some(audiences) = self.groups.get_mut(&group) {
                audiences.retain(|audience| *audience != index);
                if audiences.is_empty() {
                    self.groups.remove(&group);
                }
            }
            return;
        }
        let cursors =
            audience.slow.iter().filter_map(|key| match self.sessions[key.index as usize].reading {
                Reading::Live(cursor) | Reading::Behind(cursor) => Some(cursor),
                Reading::Merging(_) => None,
            });
        let slowest = cursors.min().unwrap_or(audience.log.end());
        audience.log.trim(slowest, audience.members.len());
    }

    /// Lets a session write what is pending and acts on the result. False when the session is gone.
    pub(super) fn pump(&mut self, key: SessionKey) -> bool {
        let now = self.wheel.now();
        let pace = self.setup.pace;
        // Not `self.session`: the tally and the audience are borrowed beside it.
        let session = self.sessions.get_mut(key.index as usize);
        let Some(session) = session.filter(|session| session.serial == key.serial) else { return false };
        let index = session.audience;
        let audience = &mut self.audiences[index as usize];
        match session.pump(&audience.log, audience.encoding, now, &pace, &mut self.tally.delivered) {
            Pumped::Over(reason) => {
                self.remove_session(key, reason);
                return false;
            }
            Pumped::Idle if session.is_merging() => {
                session.resting = true;
                session.protocol.on(Input::Drained, now, &pace);
            }
            Pumped::Idle if session.is_slow() => {
                session.reading = Reading::Live(audience.log.end());
                session.protocol.on(Input::Drained, now, &pace);
                // It may have merged over bookmarks, and waits for the next one as for a push.
                audience.unconfirmed = true;
                audience.slow.retain(|slow| *slow != key);
                self.trim_or_forget(index);
            }
            Pumped::Idle => {}
            Pumped::Blocked | Pumped::Yielded => {
                if let Reading::Live(cursor) = session.reading {
                    session.reading = Reading::Behind(cursor);
                    audience.slow.push(key);
                    self.setup.metrics.became_slow();
                    if audience.log.end() - cursor > self.setup.slow_after as u64 {
                        self.tally.merged += session.start_merging(&audience.log);
                        self.setup.metrics.began_merging();
                        if let Some(span) = &session.span {
                            span.in_scope(|| debug!("the watcher is too far behind; merging its pushes"));
                        }
                    }
                }
                session.protocol.on(Input::Blocked, now, &pace);
                self.spawn_writer(key);
            }
        }
        self.arm_deadline(key);
        true
    }
}
