//! Publishes each change once, in order, whoever consumes it.
//!
//! ```text
//! History ──after the cursor──▶ bus        cursor: what was handed to the bus
//!                                          settled: what the bus has taken, as the bookmarks say
//! ```
//!
//! Every replica keeps the history and hears the bookmarks; only the one with the seat publishes. It starts
//! after the last bookmark it heard, and starts again from what was settled when the bus lost its connection:
//! sending twice is harmless, not sending is not. A bookmark that starts after the last one heard tells gateways
//! that something may have been missed; what it names tells them whether it was.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use futures_util::StreamExt;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::Revision;
use shared::subject;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::election::Role;
use crate::metrics::PublisherMetrics;
use crate::view::View;

mod messages;
pub mod term;

use term::Term;

/// How often a bookmark is sent when nothing happens.
const IDLE_BOOKMARK: Duration = Duration::from_secs(1);
/// How soon after a burst a bookmark follows; also the pause between bookmarks of a long burst.
const BUSY_BOOKMARK: Duration = Duration::from_millis(50);
/// Wait before the bus is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The publisher's task. Owns the cursor.
pub struct Publisher {
    view: View,
    bus: Arc<dyn Bus>,
    name: String,
    role: watch::Receiver<Role>,
    metrics: PublisherMetrics,
    /// The newest revision that a bookmark of anyone has covered.
    heard: Revision,
    term: Option<Term>,
    /// When the term's next bookmark is due.
    bookmark_at: Instant,
}

impl Publisher {
    /// A publisher that follows `role`.
    pub fn new(
        view: View,
        bus: Arc<dyn Bus>,
        name: String,
        role: watch::Receiver<Role>,
        metrics: PublisherMetrics,
    ) -> Self {
        Self { view, bus, name, role, metrics, heard: 0, term: None, bookmark_at: Instant::now() }
    }

    /// Runs until `stop`; then publishes what the view knows, and flushes it, so that the next publisher goes on from
    /// there: it may have read the store for the first time a moment ago, and know nothing of what was before.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut revisions = self.view.revisions();
        let mut bookmarks: Option<Messages> = None;
        let mut retry_at = None;
        loop {
            if bookmarks.is_none() && retry_at.is_none() {
                bookmarks = self.bus.subscribe(subject::BOOKMARK).await.ok();
            }
            let due = retry_at.or(self.term.as_ref().map(|_| self.bookmark_at));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = self.role.changed() => {}
                message = next(&mut bookmarks) => match message {
                    Some(message) => self.hear(&message),
                    None => bookmarks = None,
                },
                Ok(()) = revisions.changed(), if retry_at.is_none() => {}
                () = sleep_until(due) => {}
            }
            let waited = retry_at.is_some_and(|at| at <= Instant::now());
            retry_at = match self.step().await {
                // After the wait the subscription is tried again; put off each time, it never would be, and every
                // change would wait.
                Ok(()) if bookmarks.is_some() || waited => None,
                Ok(()) => Some(Instant::now() + RETRY),
                Err(error) => {
                    debug!(%error, "publishing waits for the bus");
                    Some(Instant::now() + RETRY)
                }
            };
        }
        if self.term.is_some() {
            let _ = self.step().await;
        }
        if self.term.is_some() {
            let _ = self.bookmark().await;
            if self.bus.flush().await.is_err() {
                debug!("the last messages may not have left; the next publisher sends them again");
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        match pb::Bookmark::decode(&message.payload[..]) {
            Ok(bookmark) => self.heard = self.heard.max(bookmark.rev),
            Err(error) => warn!(%error, "a bookmark cannot be read; ignored"),
        }
    }

    /// Does what the role asks for now.
    async fn step(&mut self) -> Result<(), BusError> {
        let role = *self.role.borrow_and_update();
        let Role::Publisher { epoch } = role else {
            if self.term.take().is_some() {
                self.metrics.stands_by();
            }
            return Ok(());
        };
        let Ok(snapshot) = self.view.now() else { return Ok(()) };
        let link = *self.bus.link().borrow();
        if !link.connected {
            return Err(BusError::Disconnected);
        }
        if self.term.as_ref().is_some_and(|term| term.is_undone(snapshot.revision)) {
            self.heard = 0;
            self.term = None;
        }
        self.start_term(epoch, link.generation);
        self.publish_until(snapshot.revision).await?;
        if self.term.is_some() && Instant::now() >= self.bookmark_at {
            self.bookmark().await?;
        }
        Ok(())
    }

    fn start_term(&mut self, epoch: Revision, generation: u64) {
        match &mut self.term {
            Some(term) if term.epoch() == epoch => term.continue_on(generation),
            term => {
                self.metrics.takes_over(epoch);
                self.bookmark_at = Instant::now();
                *term = Some(Term::begin(epoch, self.heard, self.view.history(), generation));
            }
        }
    }

    async fn publish_until(&mut self, revision: Revision) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        let Some(batch) = term.due(self.view.history(), revision) else { return Ok(()) };
        for message in batch.messages(self.metrics.now()) {
            self.bus.publish(message).await?;
        }
        if !batch.changes().is_empty() {
            self.bookmark_at = self.bookmark_at.min(Instant::now() + BUSY_BOOKMARK);
            self.metrics.published(batch.changes());
        }
        term.published(batch);
        self.metrics.reached(term.cursor());
        Ok(())
    }

    async fn bookmark(&mut self) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        for mut bookmark in term.bookmarks(&self.name) {
            bookmark.sent_at = self.metrics.now();
            self.bus.publish(Message::new(subject::BOOKMARK, bookmark.encode_to_vec())).await?;
        }
        self.bus.flush().await?;
        let generation = self.bus.link().borrow().generation;
        term.flushed(generation);
        self.bookmark_at = Instant::now() + IDLE_BOOKMARK;
        self.metrics.bookmarked(term.cursor());
        Ok(())
    }
}

async fn next(messages: &mut Option<Messages>) -> Option<Message> {
    match messages {
        Some(messages) => messages.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
