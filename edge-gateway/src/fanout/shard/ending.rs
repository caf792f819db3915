//! How sessions end: drained, told to, or by themselves.

use std::time::Duration;

use super::{Alarm, DRAIN_PATIENCE, DRAIN_RECHECK, Shard};
use crate::close::Reason;
use crate::fanout::connection::{Key, Outlet};
use crate::session::Input;
use crate::timer::{Tick, ticks};
use crate::watch::GroupId;

impl Shard {
    pub(super) fn on_drain(&mut self, key: Key, since: Tick, now: Tick) {
        let pace = self.setup.pace;
        let Some(connection) = self.get(key) else { return };
        if connection.outlet.is_some() && connection.is_slow() && now < since + ticks(DRAIN_PATIENCE) {
            // What is pending goes out first, within reason: more may come as long as it is slow.
            return self.wheel.set(now + ticks(DRAIN_RECHECK), Alarm::Drain(key, since));
        }
        connection.machine.on(Input::End(Reason::Drained), now, &pace);
        if connection.outlet.is_none() {
            self.remove(key, Reason::Drained);
        } else {
            self.serve(key);
        }
    }

    /// Has a session that came too late for its place in the order end before the others have.
    pub(super) fn drain_late(&mut self, key: Key, until: Tick) {
        let now = self.wheel.now();
        let at = fastrand::u32(now..=until.max(now));
        self.wheel.set(at, Alarm::Drain(key, at));
    }

    /// Ends the sessions evenly over the time, each tick its share and not one more: whom they come to next
    /// must accept no faster than that. Their order is random, so that no consumer loses all of its at once.
    pub(super) fn drain(&mut self, over: Duration) {
        let (now, over) = (self.wheel.now(), ticks(over));
        self.draining = Some(now + over);
        let mut all: Vec<Key> = self.keys().collect();
        fastrand::shuffle(&mut all);
        let count = all.len() as u64;
        for (place, key) in all.into_iter().enumerate() {
            let share = place as u64 * u64::from(over) / count;
            let at = now + 1 + share as Tick;
            self.wheel.set(at, Alarm::Drain(key, at));
        }
    }

    pub(super) fn end(&mut self, group: GroupId, reason: Reason) {
        let Some(slots) = self.groups.get(&group) else { return };
        let audiences = slots.iter().flatten();
        let members = audiences.flat_map(|it| self.audiences[*it as usize].members.clone()).collect();
        self.end_all(members, reason);
    }

    pub(super) fn end_resumable(&mut self) {
        let audiences = self.audiences.iter().filter(|(_, audience)| audience.encoding.is_resumable());
        let members = audiences.flat_map(|(_, audience)| audience.members.clone()).collect();
        self.end_all(members, Reason::Restored);
    }

    pub(super) fn end_all(&mut self, members: Vec<Key>, reason: Reason) {
        let (now, pace) = (self.wheel.now(), self.setup.pace);
        for key in members {
            if let Some(connection) = self.get(key) {
                connection.machine.on(Input::End(reason), now, &pace);
                self.serve(key);
            }
        }
    }

    pub(super) fn remove(&mut self, key: Key, reason: Reason) {
        if self.get(key).is_none() {
            return;
        }
        let connection = self.connections.remove(key.index as usize);
        if let Some(Outlet::Stream(stream)) = &connection.outlet {
            stream.end(reason);
        }
        for task in [&connection.reader, &connection.writer].into_iter().flatten() {
            task.abort();
        }
        let index = connection.audience;
        let audience = &mut self.audiences[index as usize];
        self.tally.failed += connection.pending_events(&audience.log) as u64;
        *self.left.entry(audience.group).or_default() += 1;
        if let Some(moved) = audience.remove(connection.place as usize, key) {
            self.connections[moved.index as usize].place = connection.place;
        }
        self.tidy(index);
        self.tally.given_up += u64::from(reason == Reason::ReadTimeout);
        self.setup.metrics.closed(reason);
    }
}
