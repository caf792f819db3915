//! The moves of the store and of the replicas: commits, the seat, death and return, publishing.

use bus::Message;
use control_plane::keys;
use control_plane::publisher::term::Term;
use control_plane::store::{KeyValue, KvEvent};
use prost::Message as _;
use shared::model::{Revision, ServiceRef};
use shared::subject;

use super::replica::{self, Replica};
use super::{SERVICES, Sim, service};

impl Sim {
    /// Commits a change to the store, or changes of several services at one revision: a store may commit
    /// together what comes within one moment.
    pub(super) fn commit(&mut self) {
        if self.consumer.is_some() {
            return self.commit_for_consumer();
        }
        self.rev = self.rev.next();
        let first = self.dice.u8(0..SERVICES);
        let several = if self.commits_together && self.dice.u8(0..3) == 0 { SERVICES } else { 1 };
        let mut events = Vec::new();
        for number in first..first + several {
            self.change(&service(number % SERVICES), &mut events);
        }
        self.note(events, false);
    }

    /// Changes an instance, or a service with all of its instances.
    fn change(&mut self, service: &ServiceRef, events: &mut Vec<KvEvent>) {
        let record = keys::service(service);
        let id = self.dice.u8(0..2).to_string();
        let instance = keys::instance(service, &id);
        if !self.keys.contains_key(&record) {
            self.put(record, r#"{"serviceName":"s","appId":"shop","version":"1.0.0"}"#.into(), events);
        } else if self.dice.u8(0..12) == 0 {
            let gone: Vec<String> =
                self.keys.keys().filter(|key| key.contains(&service.id)).cloned().collect();
            for key in gone {
                self.keys.remove(&key);
                events.push(KvEvent::Delete { key, rev: self.rev });
            }
        } else if self.keys.contains_key(&instance) && self.dice.u8(0..3) == 0 {
            self.keys.remove(&instance);
            events.push(KvEvent::Delete { key: instance, rev: self.rev });
        } else {
            // The host name is the revision of the write, by which the judge recognises it.
            self.put(instance, format!(r#"{{"hostName":"{}"}}"#, self.rev), events);
        }
    }

    pub(super) fn put(&mut self, key: String, value: String, events: &mut Vec<KvEvent>) {
        let rev = self.rev;
        let before = self.keys.get(&key);
        let create_rev = before.map_or(rev, |kv| kv.create_rev);
        let version = before.map_or(1, |kv| kv.version + 1);
        let kv = KeyValue {
            key: key.clone(),
            value: value.into(),
            create_rev,
            mod_rev: rev,
            version,
            lease: None,
        };
        self.keys.insert(key, kv.clone());
        events.push(KvEvent::Put(kv));
    }

    /// A replica follows the store by one revision.
    pub(super) fn follow(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if let (true, Some(events)) = (replica.alive, self.log.get(replica.followed)) {
            replica.followed += 1;
            // A revision outside the registry's root reaches a watch only as progress.
            if events.is_empty() {
                replica.writer.progress(replica.rev().next())
            } else {
                replica.writer.apply(events.clone())
            }
        }
    }

    /// The seat changes: a revision in which nothing happens under the registry's root.
    fn touch_seat(&mut self) -> Revision {
        self.rev = self.rev.next();
        self.note(Vec::new(), false);
        self.rev
    }

    pub(super) fn campaign(&mut self, number: usize) {
        if self.holder.is_none() && self.replicas[number].alive && self.replicas[number].seat.is_none() {
            let epoch = self.touch_seat();
            self.holder = Some(number);
            self.replicas[number].seat = Some(epoch);
        }
    }

    /// The seat's lease ends. Its holder may not have noticed yet.
    pub(super) fn expire(&mut self) {
        if self.holder.take().is_some() {
            self.touch_seat();
        }
    }

    /// A replica that does not hold the seat any more notices.
    pub(super) fn step_down(&mut self, number: usize) {
        if self.holder != Some(number) {
            self.replicas[number].seat = None;
            self.replicas[number].term = None;
        }
    }

    pub(super) fn die(&mut self, number: usize) {
        if self.replicas_last {
            return;
        }
        let replica = &mut self.replicas[number];
        replica.alive = false;
        replica.seat = None;
        replica.term = None;
        // Messages that had not left its process are lost with it.
        let sent = self.dice.usize(0..=self.bus[number].len());
        self.bus[number].truncate(sent);
    }

    /// The changes that a replica has not followed are compacted away: it lists the store, and keeps its
    /// role.
    pub(super) fn list_again(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.alive && replica.followed < self.log.len() && !self.replicas_last {
            replica.writer.reset(self.keys.values().cloned().collect(), self.rev);
            replica.followed = self.log.len();
        }
    }

    pub(super) fn restart(&mut self, number: usize) {
        if !self.replicas[number].alive {
            self.replicas[number] = Replica::start(&self.keys, self.rev, self.log.len());
        }
    }

    /// The seat's holder publishes what is due. It dies when that is more than `most` messages.
    pub(super) fn publish(&mut self, number: usize, most: usize) {
        if let Some(epoch) = self.replicas[number].seat {
            self.publish_as(number, epoch, most);
        }
    }

    /// A replica without the seat has heard nothing for a while, and publishes. Production has reasons for
    /// it; the simulation needs none, to be stricter.
    pub(super) fn stand_in(&mut self, number: usize, most: usize) {
        let replica = &self.replicas[number];
        let continues = replica.view.history().complete_since() <= replica.last_bookmark;
        if replica.alive && replica.seat.is_none() && continues {
            self.publish_as(number, Revision::ZERO, most);
        }
    }

    /// A replica that stands in hears a publisher.
    pub(super) fn be_relieved(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.seat.is_none() {
            replica.term = None;
        }
    }

    fn publish_as(&mut self, number: usize, epoch: Revision, most: usize) {
        let replica = &mut self.replicas[number];
        let rev = replica.rev();
        if replica.term.as_ref().is_none_or(|term| term.epoch() != epoch) {
            let bookmarked = replica.last_bookmark.min(rev);
            replica.term = Some(Term::begin(epoch, bookmarked, replica.view.history(), 0));
        }
        let history = replica.view.history().clone();
        let Some(term) = &mut replica.term else { return };
        let Some(batch) = term.due(&history, rev) else { return };
        let messages: Vec<Message> = batch.messages(0, replica::ROOM).collect();
        let dies = messages.len() > most;
        // Production does this after the last message. Here the order does not matter, because a death loses
        // the term.
        term.published(batch);
        self.bus[number].extend(messages.into_iter().take(most));
        if dies {
            self.die(number);
        }
    }

    pub(super) fn bookmark(&mut self, number: usize) {
        let Some(term) = &mut self.replicas[number].term else { return };
        let bookmarks = term.bookmarks("p", replica::ROOM);
        // Another gateway, which misses nothing, confirms this revision to its watchers.
        self.confirmed.extend(bookmarks.last().map(|bookmark| Revision::new(bookmark.rev)));
        for bookmark in bookmarks {
            self.bus[number].push_back(Message::new(subject::BOOKMARK, bookmark.encode_to_vec()));
        }
        term.flushed(0);
    }
}
