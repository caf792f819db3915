//! One replica's time in the seat: what is to be sent next, and what bookmarks say. Asks and sends nothing itself.
//!
//! ```text
//! begin(heard) ──▶ due ──sent──▶ published ──▶ bookmarks ──flushed──▶ flushed
//!                   ▲                                                    │
//!                   └────── continue_on (the link was lost: from what has left) ◀┘
//! ```

use std::collections::HashMap;

use bus::Message;
use proto::event::v1 as pb;
use shared::event::Position;
use shared::model::{Revision, ServiceRef, Tenant};

use super::messages;
use crate::view::{Change, History};

/// The state of a term.
#[derive(Debug)]
pub struct Term {
    epoch: Revision,
    since: Revision,
    /// What was handed to the bus.
    cursor: Revision,
    /// What the bus has taken, as the bookmarks say.
    settled: Revision,
    /// The bus connection that the cursor was made on.
    generation: u64,
    /// What was published after `settled`: how far each provider, each consumer's interest and each tenant's
    /// services have come. As long as the history at most.
    reached: Reached,
}

/// How far things have come.
#[derive(Debug, Default)]
pub(super) struct Reached {
    pub(super) providers: HashMap<ServiceRef, Position>,
    pub(super) consumers: HashMap<ServiceRef, Position>,
    pub(super) tenants: HashMap<Tenant, Position>,
}

/// Changes that are to be sent now.
#[derive(Debug)]
pub struct Batch {
    changes: Vec<Change>,
    until: Revision,
}

impl Batch {
    /// What gateways are told, handed to the bus at `now`, unix microseconds.
    pub fn messages(&self, now: u64) -> impl Iterator<Item = Message> + '_ {
        self.changes.iter().flat_map(move |change| messages::of(change, now))
    }

    /// The changes, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }
}

impl Term {
    /// A term that goes on where the bookmarks that were heard end, or where the history begins.
    pub fn begin(epoch: Revision, heard: Revision, history: &History, generation: u64) -> Self {
        // Whoever had the seat before published nothing after the epoch, at which it was taken. A bookmark that
        // says so is of a history that a backup has undone.
        let heard = if heard <= epoch { heard } else { 0 };
        let since = heard.max(history.complete_since());
        Self { epoch, since, cursor: since, settled: since, generation, reached: Reached::default() }
    }

    /// Grows from term to term.
    pub fn epoch(&self) -> Revision {
        self.epoch
    }

    /// What was handed to the bus.
    pub fn cursor(&self) -> Revision {
        self.cursor
    }

    /// The view has fallen behind what was published: the store was restored, and this term is of another history.
    pub fn is_undone(&self, view: Revision) -> bool {
        view < self.cursor
    }

    /// Another connection of the bus: what was on its way may be lost, so once more from what has left.
    pub fn continue_on(&mut self, generation: u64) {
        if self.generation != generation {
            self.cursor = self.settled;
            self.generation = generation;
        }
    }

    /// What is to be sent when the view has reached `until`; `None` when nothing is new.
    pub fn due(&mut self, history: &History, until: Revision) -> Option<Batch> {
        if until <= self.cursor {
            return None;
        }
        let news = history.since(self.cursor, until, |_| true);
        if !news.complete {
            // Slower than the history is long: gateways are told to ask for what is missing.
            self.since = history.complete_since();
        }
        Some(Batch { changes: news.changes, until })
    }

    /// All of it was handed to the bus.
    pub fn published(&mut self, batch: Batch) {
        for change in &batch.changes {
            self.reached.note(change);
        }
        self.cursor = batch.until;
    }

    /// The progress since the last bookmark that has left: who missed that one finds it starts too late.
    pub fn bookmarks(&self, publisher: &str) -> Vec<pb::Bookmark> {
        let since = self.settled.max(self.since).min(self.cursor);
        let head = || pb::Bookmark {
            epoch: self.epoch,
            rev: since,
            since,
            publisher: publisher.to_owned(),
            ..pb::Bookmark::default()
        };
        messages::bookmarks(&self.reached, self.cursor, head)
    }

    /// The bus has taken everything that was sent on this connection, bookmarks too.
    pub fn flushed(&mut self, generation: u64) {
        // On another one than the cursor was made on, it says nothing.
        if generation == self.generation {
            self.settled = self.cursor;
            self.reached = Reached::default();
        }
    }
}

impl Reached {
    fn note(&mut self, change: &Change) {
        match change {
            Change::Instance(event) => {
                self.providers.insert(event.provider.clone(), event.at);
            }
            Change::Interest(it) => {
                let consumer = it.consumer.clone().map(ServiceRef::from);
                self.consumers.extend(consumer.map(|consumer| (consumer, Position::end_of(it.rev))));
            }
            Change::Services(it) => {
                let tenant = Tenant::new(&it.domain, &it.project);
                self.tenants.insert(tenant, Position::end_of(it.rev));
            }
        }
    }
}
