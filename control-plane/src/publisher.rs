//! Publishes each change once and in order. It knows nothing about the subscribers.
//!
//! ```text
//! History ──after the cursor──▶ bus        cursor: everything up to it was handed to the bus
//!                                          flushed: everything up to it has left, bookmarks included
//! ```
//!
//! Every replica keeps the history and receives the bookmarks; the holder of the seat publishes. Its term
//! starts after the last bookmark it received, and goes back to the last flush when the bus lost its
//! connection: sending twice is harmless, not sending is not. A bookmark that does not join the previous one
//! shows gateways that they may have missed something, and its entries show them whether they did.
//!
//! When the holder is silent, a replica that stands by *stands in*: it publishes after the last bookmark, as
//! a new holder would, until it hears the holder or takes the seat. So no change waits for a lease to end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use access::{Bundle, Policy};
use bus::{Bus, BusError, Link, Message, Messages};
use futures_util::{FutureExt as _, StreamExt};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::maybe::or_pending;
use shared::model::{Incarnation, PolicyVersion, Revision, ServiceRef};
use shared::subject;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::carriage::Room;
use crate::election::Role;
use crate::metrics::{PublishedBatch, PublisherMetrics};
use crate::view::{Change, View};

mod messages;
mod silence;
pub mod term;

use messages::Omitted;
use silence::Silence;
use term::Term;

/// The interval of bookmarks while nothing happens.
const IDLE_BOOKMARK: Duration = Duration::from_secs(1);
/// The shortest time between two bookmarks. The first change after a quiet time is bookmarked at once, so
/// that nobody takes the publisher for silent.
const BUSY_BOOKMARK: Duration = Duration::from_millis(50);
/// The pause before a failed call of the bus is repeated.
const RETRY: Duration = Duration::from_millis(200);
/// The epoch of a replica that stands in. The seat's holder has a higher one.
const STAND_IN: Revision = Revision::ZERO;
/// The shortest time between two log lines about standing in, because a publisher may be silent many times.
const STAND_IN_LOG: Duration = Duration::from_secs(60);
/// Oversized instances that are remembered so that each is logged once. Beyond it all are forgotten.
const REMEMBERED_OVERSIZED: usize = 1000;

/// The task that publishes while this replica holds the seat.
pub struct Publisher {
    view: View,
    bus: Arc<dyn Bus>,
    name: String,
    role: watch::Receiver<Role>,
    metrics: PublisherMetrics,
    bookmarks: Option<Messages>,
    /// The highest revision in a bookmark of any publisher.
    bookmarked: Revision,
    /// The revision of the view at the last step.
    viewed: Revision,
    /// The incarnation of the store in the view; `None` before the first list.
    incarnation: Option<Incarnation>,
    /// The view's access policy, and its version, which bookmarks name.
    policy: (Arc<Policy>, PolicyVersion),
    silence: Silence,
    /// The last time at which a log line said that this replica stands in.
    stand_in_logged: Option<Instant>,
    term: Option<Term>,
    /// The time at which the next bookmark of the term is due.
    bookmark_at: Instant,
    /// The earliest time of a bookmark after a change.
    busy_bookmark_at: Instant,
    /// Instances, by service and id, about whose size a log line was written.
    oversized: HashSet<(ServiceRef, String)>,
}

impl Publisher {
    /// A publisher that follows `role`. `name` identifies this replica in its bookmarks.
    pub fn new(
        view: View,
        bus: Arc<dyn Bus>,
        name: String,
        role: watch::Receiver<Role>,
        metrics: PublisherMetrics,
    ) -> Self {
        Self {
            view,
            bus,
            name,
            role,
            metrics,
            bookmarks: None,
            bookmarked: Revision::ZERO,
            viewed: Revision::ZERO,
            incarnation: None,
            policy: (Arc::default(), Bundle::of(&Policy::default()).version),
            silence: Silence::default(),
            stand_in_logged: None,
            term: None,
            bookmark_at: Instant::now(),
            busy_bookmark_at: Instant::now(),
            oversized: HashSet::new(),
        }
    }

    /// Runs until `stop`, then publishes and flushes the rest of the view.
    ///
    /// The next publisher continues after this one's last bookmark. It may have listed the store a moment
    /// ago, and then it has no history from which it could publish the rest itself.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut revisions = self.view.revisions();
        let mut retry_at = None;
        loop {
            if self.bookmarks.is_none() && retry_at.is_none() {
                self.bookmarks = self.bus.subscribe(subject::BOOKMARK).await.ok();
            }
            let due =
                retry_at.or(if self.term.is_some() { Some(self.bookmark_at) } else { self.silence.ends() });
            tokio::select! {
                // In this order, so that a busy view puts off neither the end nor a change of role.
                biased;
                () = stop.cancelled() => break,
                Ok(()) = self.role.changed() => {}
                message = or_pending(self.bookmarks.as_mut().map(StreamExt::next)) => match message {
                    Some(message) => self.on_bookmark(&message),
                    None => self.bookmarks = None,
                },
                Ok(()) = revisions.changed(), if retry_at.is_none() => {}
                () = or_pending(due.map(tokio::time::sleep_until)) => {}
            }
            let waited = retry_at.is_some_and(|at| at <= Instant::now());
            retry_at = match self.step().await {
                // After the pause the subscription must be tried again. If each event set a new pause
                // instead, it never would be, and every change would wait.
                Ok(()) if self.bookmarks.is_some() || waited => None,
                Ok(()) => Some(Instant::now() + RETRY),
                Err(error) => {
                    debug!(%error, "publishing waits for the bus");
                    Some(Instant::now() + RETRY)
                }
            };
        }
        self.finish().await;
    }

    async fn finish(mut self) {
        if self.term.is_some() {
            let _ = self.step().await;
        }
        // Asked again: the step ends the term when this replica has lost the seat.
        if self.term.is_some() {
            let _ = self.bookmark().await;
            if self.bus.flush().await.is_err() {
                debug!("the last messages may not have left; the next publisher sends them again");
            }
        }
    }

    fn on_bookmark(&mut self, message: &Message) {
        let bookmark = match pb::Bookmark::decode(&message.payload[..]) {
            Ok(bookmark) => bookmark,
            Err(error) => return warn!(%error, "a bookmark cannot be decoded; ignoring it"),
        };
        // Revisions of another incarnation count other changes.
        let is_other = bookmark.incarnation.map(Incarnation::new).is_some_and(|said| self.is_other(said));
        if self.bookmarked.get() < bookmark.rev && !is_other {
            self.bookmarked = Revision::new(bookmark.rev);
            self.silence.broken();
        }
        // The seat's holder publishes again. Or two replicas stand in, and one of them is enough.
        let is_relieved = bookmark.epoch > STAND_IN.get() || bookmark.publisher < self.name;
        if is_relieved && self.stands_in() {
            debug!(publisher = bookmark.publisher, "a publisher is heard; standing by again");
            self.end_term();
        }
    }

    /// Begins or ends the term by the role, and publishes the view's progress during a term.
    async fn step(&mut self) -> Result<(), BusError> {
        let epoch = match *self.role.borrow_and_update() {
            Role::Publisher { epoch } => epoch,
            Role::Standby => STAND_IN,
        };
        if self.term.as_ref().is_some_and(|term| term.epoch() != epoch) {
            self.end_term();
        }
        let Ok(snapshot) = self.view.now() else { return Ok(()) };
        if snapshot.revision < self.viewed || self.is_other(snapshot.incarnation) {
            // The store was restored from a backup. The term, and the bookmarks received so far, belong to
            // the history that was undone.
            self.bookmarked = Revision::ZERO;
            self.end_term();
        }
        self.viewed = snapshot.revision;
        self.incarnation = Some(snapshot.incarnation);
        self.note_policy(&snapshot.policy);
        let link = *self.bus.link().borrow();
        if epoch == STAND_IN {
            // Another replica may stand in while this one cannot, so a new connection begins with listening.
            if !link.connected {
                self.end_term();
            }
            if self.term.is_none() && !self.is_publisher_silent(link).await? {
                return Ok(());
            }
        }
        if !link.connected {
            return Err(BusError::Disconnected);
        }
        self.start_term(epoch, link.generation);
        self.publish_until(snapshot.revision).await?;
        if self.term.is_some() && Instant::now() >= self.bookmark_at {
            self.bookmark().await?;
        }
        Ok(())
    }

    fn is_other(&self, incarnation: Incarnation) -> bool {
        self.incarnation.is_some_and(|known| known != incarnation)
    }

    /// A changed policy is bookmarked at once, because gateways decide by it.
    fn note_policy(&mut self, policy: &Arc<Policy>) {
        if Arc::ptr_eq(&self.policy.0, policy) {
            return;
        }
        let version = Bundle::of(policy).version;
        if version != self.policy.1 {
            self.bookmark_at = self.bookmark_at.min(self.busy_bookmark_at);
        }
        self.policy = (policy.clone(), version);
    }

    fn stands_in(&self) -> bool {
        self.term.as_ref().is_some_and(|term| term.epoch() == STAND_IN)
    }

    fn end_term(&mut self) {
        if self.term.take().is_some_and(|term| term.epoch() != STAND_IN) {
            self.metrics.stands_by();
        }
    }

    /// True when the view holds changes about which no bookmark has come in time.
    async fn is_publisher_silent(&mut self, link: Link) -> Result<bool, BusError> {
        if !self.lasts_silence(link) {
            return Ok(false);
        }
        // Perhaps this process stood still, and not the publisher. After a flush everything that the bus had
        // for this replica has arrived.
        self.bus.flush().await?;
        while let Some(message) = self.received_bookmark() {
            self.on_bookmark(&message);
        }
        Ok(self.lasts_silence(link))
    }

    fn lasts_silence(&mut self, link: Link) -> bool {
        let history = self.view.history();
        let is_unheard = link.connected
            && self.bookmarks.is_some()
            // With a hole in its history this replica could not continue after the last bookmark. Another one
            // may, and if none can, the next holder of the seat shows gateways the hole.
            && history.complete_since() <= self.bookmarked
            && history.has_after(self.bookmarked);
        self.silence.lasts(is_unheard, link.generation, Instant::now())
    }

    /// A bookmark that has arrived already.
    fn received_bookmark(&mut self) -> Option<Message> {
        self.bookmarks.as_mut()?.next().now_or_never().flatten()
    }

    fn start_term(&mut self, epoch: Revision, generation: u64) {
        match &mut self.term {
            Some(term) if term.epoch() == epoch => return term.continue_on(generation),
            _ => {}
        }
        if epoch == STAND_IN {
            self.metrics.stands_in();
            self.log_stand_in();
        } else {
            self.metrics.takes_over(epoch);
        }
        // A bookmark may be ahead of a view that is slower than the publisher's.
        let bookmarked = self.bookmarked.min(self.viewed);
        self.silence.broken();
        self.bookmark_at = Instant::now();
        self.term = Some(Term::begin(epoch, bookmarked, self.view.history(), generation));
    }

    fn log_stand_in(&mut self) {
        let now = Instant::now();
        if self.stand_in_logged.is_none_or(|at| now.duration_since(at) >= STAND_IN_LOG) {
            self.stand_in_logged = Some(now);
            info!(after = self.bookmarked.get(), "the publisher is silent; publishing in its place");
        }
    }

    async fn publish_until(&mut self, revision: Revision) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        let Some(due) = term.due(self.view.history(), revision) else { return Ok(()) };
        let mut omitted = Vec::new();
        for (change, outgoing) in due.outgoing(self.metrics.now(), Room::new(self.bus.max_payload())) {
            for message in outgoing.messages {
                self.bus.publish(message).await?;
            }
            omitted.extend(outgoing.omitted.map(|part| (change.clone(), part)));
        }
        if let Some(oldest) = due.changes().first() {
            self.bookmark_at = self.bookmark_at.min(self.busy_bookmark_at);
            let of_instances = due.changes().iter().filter(|change| matches!(change, Change::Instance(_)));
            self.metrics.published(PublishedBatch {
                changes: due.changes().len() as u64,
                of_instances: of_instances.count() as u64,
                oldest_committed_at: oldest.committed_at(),
            });
        }
        // Only now: after an error above, the same changes are due again.
        term.published(due);
        self.metrics.reached(term.cursor());
        for (change, part) in omitted {
            self.report_omitted(&change, part);
        }
        Ok(())
    }

    /// Counts a change that the bus cannot carry whole, and logs it once for each instance.
    fn report_omitted(&mut self, change: &Change, omitted: Omitted) {
        self.metrics.omitted(omitted == Omitted::Properties);
        let Change::Instance(event) = change else {
            warn!(
                revision = change.rev().get(),
                "a change of a consumer's providers or a tenant's services does not fit on the bus; gateways \
                 request the state in its place"
            );
            return;
        };
        if self.oversized.len() >= REMEMBERED_OVERSIZED {
            self.oversized.clear();
        }
        if self.oversized.insert((event.provider.clone(), event.instance.instance_id.clone())) {
            warn!(
                service = %event.provider,
                instance.id = event.instance.instance_id,
                "the changes of an instance are too large for the bus; watchers receive them without its \
                 properties, or not at all. Another program has stored it: make it smaller"
            );
        }
    }

    async fn bookmark(&mut self) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        for mut bookmark in term.bookmarks(&self.name, Room::new(self.bus.max_payload())) {
            bookmark.sent_at = self.metrics.now();
            bookmark.policy_rev = self.policy.1.revision.get();
            bookmark.policy_digest = self.policy.1.digest;
            bookmark.incarnation = self.incarnation.map(Incarnation::get);
            self.bus.publish(Message::new(subject::BOOKMARK, bookmark.encode_to_vec())).await?;
        }
        self.bus.flush().await?;
        // Read after the flush: a connection that was replaced meanwhile has another generation, and the term
        // then takes no credit for the flush.
        let generation = self.bus.link().borrow().generation;
        term.flushed(generation);
        let now = Instant::now();
        self.bookmark_at = now + IDLE_BOOKMARK;
        self.busy_bookmark_at = now + BUSY_BOOKMARK;
        self.metrics.bookmarked(term.cursor());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
