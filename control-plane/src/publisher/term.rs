//! The state of one term in the seat, or of a stand-in: the changes that are due, and the content of
//! bookmarks. It does no I/O.
//!
//! ```text
//! begin ──▶ due ──handed to the bus──▶ published ──▶ bookmarks ──bus flushed──▶ flushed
//!            ▲                                                                    │
//!            └──────────── continue_on: the link was lost, from `flushed` ◀───────┘
//! ```

use std::collections::HashMap;

use bus::Message;
use proto::event::v1 as pb;
use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::messages::{self, Outgoing};
use crate::carriage::Room;
use crate::view::{Change, History};

/// One replica's time as publisher.
#[derive(Debug)]
pub struct Term {
    epoch: Revision,
    /// Bookmarks claim completeness only after this revision.
    since: Revision,
    /// Everything up to here was handed to the bus.
    cursor: Revision,
    /// Everything up to here has left for the bus' server, bookmarks included.
    flushed: Revision,
    /// The bus connection to which `cursor` refers.
    generation: u64,
    /// The progress after `flushed`. It has at most as many entries as the history has changes.
    progress: Progress,
}

/// The last published positions.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The position of each provider's last event.
    pub(super) providers: HashMap<ServiceRef, Position>,
    /// The position of the last change of each consumer's interest.
    pub(super) consumers: HashMap<ServiceRef, Position>,
    /// The position of the last change of each tenant's services.
    pub(super) tenants: HashMap<Tenant, Position>,
}

/// The changes that are to be handed to the bus now.
#[derive(Debug)]
pub struct DueChanges {
    changes: Vec<Change>,
    until: Revision,
}

impl DueChanges {
    /// Each change with its messages, handed at `now`, in unix microseconds, to a bus that has this room.
    pub fn outgoing(&self, now: u64, room: Room) -> impl Iterator<Item = (&Change, Outgoing)> {
        self.changes.iter().map(move |change| (change, messages::of(change, now, room)))
    }

    /// The messages of all changes.
    pub fn messages(&self, now: u64, room: Room) -> impl Iterator<Item = Message> {
        self.outgoing(now, room).flat_map(|(_, outgoing)| outgoing.messages)
    }

    /// The changes, in order. Empty when the view advanced without a change.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl Term {
    /// Begins a term after `bookmarked`, the highest revision in a received bookmark, or at the beginning of
    /// the history if that is later. The view must have reached `bookmarked`.
    pub fn begin(epoch: Revision, bookmarked: Revision, history: &History, generation: u64) -> Self {
        let since = bookmarked.max(history.complete_since());
        Self { epoch, since, cursor: since, flushed: since, generation, progress: Progress::default() }
    }

    /// The number of the term. It grows from term to term, and is zero for a replica that stands in.
    pub fn epoch(&self) -> Revision {
        self.epoch
    }

    /// The revision up to which everything was handed to the bus.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Continues on the bus connection `generation`. On a new connection everything after the last flush is
    /// published again, because it may have been lost with the old one.
    pub fn continue_on(&mut self, generation: u64) {
        if self.generation != generation {
            self.cursor = self.flushed;
            self.generation = generation;
        }
    }

    /// The changes to publish when the view has reached `until`, or `None` when the view has not advanced.
    pub fn due(&mut self, history: &History, until: Revision) -> Option<DueChanges> {
        if until <= self.cursor {
            return None;
        }
        let found = history.since(self.cursor, until, |_| true);
        if !found.complete {
            // This term was too slow: the history has dropped changes that were never published. Bookmarks
            // then begin later, so that gateways notice the hole and request a replay.
            self.since = history.complete_since();
        }
        Some(DueChanges { changes: found.changes, until })
    }

    /// Notes that all of `due` was handed to the bus.
    pub fn published(&mut self, due: DueChanges) {
        for change in &due.changes {
            self.progress.note(change);
        }
        self.cursor = due.until;
    }

    /// The bookmarks for the progress since the last flushed bookmark. A gateway that missed that one sees
    /// that these start too late for it.
    pub fn bookmarks(&self, publisher: &str, room: Room) -> Vec<pb::Bookmark> {
        // `since` may be ahead of the cursor: the history has dropped changes, and later ones are not
        // published yet.
        let since = self.flushed.max(self.since).min(self.cursor);
        let head = pb::Bookmark {
            epoch: self.epoch.get(),
            rev: since.get(),
            since: since.get(),
            publisher: publisher.to_owned(),
            by_find: true,
            ..pb::Bookmark::default()
        };
        messages::bookmarks(&self.progress, self.cursor, &head, room)
    }

    /// Notes that the bus connection `generation` has been flushed, bookmarks included.
    pub fn flushed(&mut self, generation: u64) {
        // The flush of another connection says nothing about messages of this one.
        if generation == self.generation {
            self.flushed = self.cursor;
            self.progress = Progress::default();
        }
    }
}

impl Progress {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Instance(event) => {
                self.providers.insert(event.provider.clone(), event.at);
            }
            Change::Interest(change) => {
                if let Some(consumer) = change.consumer.clone() {
                    self.consumers.insert(consumer.into(), Position::end_of(Revision::new(change.rev)));
                }
            }
            Change::Services(change) => {
                let tenant = Tenant::new(&change.domain, &change.project);
                self.tenants.insert(tenant, Position::end_of(Revision::new(change.rev)));
            }
        }
    }
}
