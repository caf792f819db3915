//! The push itself: an event goes to the logs of its audiences, and their members write what is pending.

use std::sync::Arc;

use super::{CHUNK, Shard};
use crate::fanout::audience::Audience;
use crate::fanout::connection::{Key, Pumped, Reading};
use crate::push::Push;
use crate::session::Input;
use crate::watch::GroupId;

impl Shard {
    pub(super) fn append(&mut self, push: &Arc<Push>, groups: &[GroupId]) {
        let now = self.wheel.now();
        let micros = self.setup.clock.micros();
        self.setup.metrics.queued(push.committed_at, micros);
        for group in groups {
            let Some(slots) = self.groups.get(group) else { continue };
            for index in slots.iter().flatten() {
                let audience = &mut self.audiences[*index as usize];
                if let Some(cause) = push.dispatched() {
                    audience.traced.begin(cause, audience.encoding.label(), micros);
                }
                if audience.append(push) {
                    self.rounds.push_back(*index);
                }
                for key in &audience.slow {
                    let connection = &mut self.connections[key.index as usize];
                    match &mut connection.reading {
                        Reading::Merging(merged) => self.tally.merged += u64::from(merged.add(push)),
                        Reading::Live(cursor) | Reading::Behind(cursor) => {
                            if audience.log.end() - *cursor > self.setup.slow_after as u64 {
                                self.tally.merged += connection.start_merging(&audience.log);
                                self.setup.metrics.began_merging();
                            }
                        }
                    }
                    if connection.outlet.is_some() {
                        connection.machine.on(Input::Blocked, now, &self.setup.pace);
                    }
                }
            }
        }
    }

    /// Serves members of the audiences whose turn it is; true when more of them wait.
    pub(super) fn walk(&mut self) -> bool {
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
                if !self.connections[key.index as usize].is_slow() {
                    budget -= 1;
                    let first = audience.visited == 1 && !audience.traced.is_empty();
                    self.serve(key);
                    if first && let Some(audience) = self.audiences.get_mut(index as usize) {
                        audience.traced.first(self.setup.clock.micros());
                    }
                }
                continue;
            }
            self.rounds.pop_front();
            audience.visited = 0;
            audience.queued = std::mem::take(&mut audience.again);
            if audience.queued {
                self.rounds.push_back(index);
            } else {
                if !audience.traced.is_empty() {
                    audience.traced.last(audience.members.len(), self.setup.clock.micros());
                }
                self.tidy(index);
            }
        }
        if let Some((committed_at, received_at)) = last {
            self.setup.metrics.lag(committed_at, received_at, self.setup.clock.micros());
        }
        !self.rounds.is_empty()
    }

    /// Trims the log of an audience that is not in a round, or forgets the audience.
    pub(super) fn tidy(&mut self, index: u32) {
        let Some(audience) = self.audiences.get_mut(index as usize) else { return };
        if audience.queued {
            return;
        }
        if audience.members.is_empty() {
            let Audience { group, encoding, .. } = self.audiences.remove(index as usize);
            if let Some(slots) = self.groups.get_mut(&group) {
                slots[encoding.index()] = None;
                if slots.iter().all(Option::is_none) {
                    self.groups.remove(&group);
                }
            }
            return;
        }
        let slowest =
            audience.slow.iter().filter_map(|key| match self.connections[key.index as usize].reading {
                Reading::Live(cursor) | Reading::Behind(cursor) => Some(cursor),
                Reading::Merging(_) => None,
            });
        let cursor = slowest.min().unwrap_or(audience.log.end());
        audience.log.trim(cursor, audience.members.len());
    }

    /// Lets a connection write what is pending and draws the conclusions. False when it is gone.
    pub(super) fn serve(&mut self, key: Key) -> bool {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        let Some(connection) =
            self.connections.get_mut(key.index as usize).filter(|it| it.serial == key.serial)
        else {
            return false;
        };
        let index = connection.audience;
        let audience = &mut self.audiences[index as usize];
        let pumped = connection.pump(&audience.log, audience.encoding, now, &pace, &mut self.tally.delivered);
        match pumped {
            Pumped::Over(reason) => {
                self.remove(key, reason);
                return false;
            }
            Pumped::Idle if connection.is_slow() => {
                connection.reading = Reading::Live(audience.log.end());
                connection.machine.on(Input::Drained, now, &pace);
                audience.slow.retain(|slow| *slow != key);
                self.tidy(index);
            }
            Pumped::Idle => {}
            Pumped::Blocked | Pumped::Yielded => {
                if let Reading::Live(cursor) = connection.reading {
                    connection.reading = Reading::Behind(cursor);
                    audience.slow.push(key);
                    self.setup.metrics.became_slow();
                    if audience.log.end() - cursor > self.setup.slow_after as u64 {
                        self.tally.merged += connection.start_merging(&audience.log);
                        self.setup.metrics.began_merging();
                    }
                }
                connection.machine.on(Input::Blocked, now, &pace);
                self.write_on(key);
            }
        }
        self.arm(key);
        true
    }
}
