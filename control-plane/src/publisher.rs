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

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::bus::{Bus, BusError, Message, Messages};
use shared::event::Position;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::election::Role;
use crate::metrics::PublisherMetrics;
use crate::trace;
use crate::view::{Change, View};

/// How often a bookmark is sent when nothing happens.
const IDLE_BOOKMARK: Duration = Duration::from_secs(1);
/// How soon after a burst a bookmark follows; also the pause between bookmarks of a long burst.
const BUSY_BOOKMARK: Duration = Duration::from_millis(50);
/// Wait before the bus is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Services named in one interest message: some 200 KB.
const SERVICES_PER_MESSAGE: usize = 2000;
/// Services named in one bookmark: some 200 KB.
const REACHED_PER_BOOKMARK: usize = 2000;

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
}

/// One replica's time in the seat.
struct Term {
    epoch: Revision,
    since: Revision,
    cursor: Revision,
    settled: Revision,
    /// The bus connection that the cursor was made on.
    generation: u64,
    bookmark_at: Instant,
    /// What was published after `settled`: how far each provider, and each consumer's interest, has come. As
    /// long as the history at most.
    providers: HashMap<ServiceRef, Position>,
    consumers: HashMap<ServiceRef, Position>,
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
        Self { view, bus, name, role, metrics, heard: 0, term: None }
    }

    /// Runs until `stop`; then flushes what was published.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut revisions = self.view.revisions();
        let mut bookmarks: Option<Messages> = None;
        let mut retry_at = None;
        loop {
            if bookmarks.is_none() && retry_at.is_none() {
                bookmarks = self.bus.subscribe(subject::BOOKMARK).await.ok();
            }
            let due = retry_at.or(self.term.as_ref().map(|term| term.bookmark_at));
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
        self.start_term(epoch, link.generation);
        self.publish_until(snapshot.revision).await?;
        if self.term.as_ref().is_some_and(|term| Instant::now() >= term.bookmark_at) {
            self.bookmark().await?;
        }
        Ok(())
    }

    fn start_term(&mut self, epoch: Revision, generation: u64) {
        match &mut self.term {
            Some(term) if term.epoch == epoch => {
                if term.generation != generation {
                    // What was on its way may be lost: once more from what is known to have left.
                    term.cursor = term.settled;
                    term.generation = generation;
                }
            }
            term => {
                let since = self.heard.max(self.view.history().complete_since());
                self.metrics.takes_over(epoch);
                let bookmark_at = Instant::now();
                *term = Some(Term {
                    epoch,
                    since,
                    cursor: since,
                    settled: since,
                    generation,
                    bookmark_at,
                    providers: HashMap::new(),
                    consumers: HashMap::new(),
                });
            }
        }
    }

    async fn publish_until(&mut self, revision: Revision) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        if revision <= term.cursor {
            return Ok(());
        }
        let news = self.view.history().since(term.cursor, revision, |_| true);
        if !news.complete {
            // Slower than the history is long: gateways are told to ask for what is missing.
            term.since = self.view.history().complete_since();
        }
        for change in &news.changes {
            for message in messages(change, self.metrics.now()) {
                self.bus.publish(message).await?;
            }
            match change {
                Change::Instance(event) => {
                    term.providers.insert(event.provider.clone(), event.at);
                }
                Change::Interest(it) => {
                    let consumer = it.consumer.clone().map(ServiceRef::from);
                    term.consumers.extend(consumer.map(|consumer| (consumer, Position::end_of(it.rev))));
                }
            }
        }
        if !news.changes.is_empty() {
            term.bookmark_at = term.bookmark_at.min(Instant::now() + BUSY_BOOKMARK);
            self.metrics.published(&news.changes);
        }
        term.cursor = revision;
        self.metrics.reached(revision);
        Ok(())
    }

    async fn bookmark(&mut self) -> Result<(), BusError> {
        let Some(term) = &mut self.term else { return Ok(()) };
        for mut bookmark in bookmarks(term, &self.name) {
            bookmark.sent_at = self.metrics.now();
            self.bus.publish(Message::new(subject::BOOKMARK, bookmark.encode_to_vec())).await?;
        }
        self.bus.flush().await?;
        // Flushed on the connection that the cursor was made on: all of it has left.
        if self.bus.link().borrow().generation == term.generation {
            term.settled = term.cursor;
            (term.providers, term.consumers) = Default::default();
        }
        term.bookmark_at = Instant::now() + IDLE_BOOKMARK;
        self.metrics.bookmarked(term.cursor);
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

/// The term's progress since the last bookmark that has left: who missed that one finds it starts too late.
fn bookmarks(term: &Term, publisher: &str) -> Vec<pb::Bookmark> {
    let since = term.settled.max(term.since).min(term.cursor);
    let reached = |(service, at): (&ServiceRef, &Position)| pb::Reached {
        service: Some(service.into()),
        at: Some((*at).into()),
    };
    let empty = || pb::Bookmark {
        epoch: term.epoch,
        rev: since,
        since,
        publisher: publisher.to_owned(),
        ..pb::Bookmark::default()
    };
    let providers: Vec<_> = term.providers.iter().map(reached).collect();
    let consumers: Vec<_> = term.consumers.iter().map(reached).collect();
    let providers =
        providers.chunks(REACHED_PER_BOOKMARK).map(|it| pb::Bookmark { providers: it.to_vec(), ..empty() });
    let consumers =
        consumers.chunks(REACHED_PER_BOOKMARK).map(|it| pb::Bookmark { consumers: it.to_vec(), ..empty() });
    let mut all: Vec<_> = providers.chain(consumers).collect();
    match &mut all[..] {
        [] => all.push(pb::Bookmark { rev: term.cursor, ..empty() }),
        [.., last] => last.rev = term.cursor,
    }
    all
}

/// The messages that tell of a change, handed to the bus at `now`, unix microseconds.
fn messages(change: &Change, now: u64) -> Vec<Message> {
    match change {
        Change::Instance(event) => {
            let told = pb::InstanceEvent { published_at: now, ..event.to_proto() };
            let traceparent =
                event.via.trace.as_deref().and_then(|cause| trace::published(cause, event, &told));
            let message = Message::new(subject::event(&event.provider), told.encode_to_vec());
            vec![Message { traceparent, ..message }]
        }
        Change::Interest(change) => {
            let Some(consumer) = change.consumer.clone().map(ServiceRef::from) else { return Vec::new() };
            let subject = subject::interest(&consumer);
            split(change)
                .into_iter()
                .map(|part| Message::new(subject.clone(), part.encode_to_vec()))
                .collect()
        }
    }
}

/// A consumer of everything may gain more services at once than one message holds.
fn split(change: &pb::InterestChange) -> Vec<pb::InterestChange> {
    let parts = change.added.len().max(change.removed.len()).div_ceil(SERVICES_PER_MESSAGE).max(1);
    let part = |all: &[pb::ServiceRef], index: usize| -> Vec<pb::ServiceRef> {
        all.chunks(SERVICES_PER_MESSAGE).nth(index).unwrap_or_default().to_vec()
    };
    (0..parts)
        .map(|index| pb::InterestChange {
            added: part(&change.added, index),
            removed: part(&change.removed, index),
            ..change.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use opentelemetry::metrics::MeterProvider as _;
    use shared::bus::{Link, LocalBus};
    use shared::clock::Clock;
    use shared::model::Tenant;

    use super::*;
    use crate::keys;
    use crate::store::{KeyValue, KvEvent};
    use crate::view::{self, History, Protection};

    /// A bus that is not there yet when it is first asked, as a NATS that starts later.
    struct LateBus {
        bus: LocalBus,
        refusals: AtomicUsize,
    }

    #[async_trait]
    impl Bus for LateBus {
        async fn publish(&self, message: Message) -> Result<(), BusError> {
            self.bus.publish(message).await
        }

        async fn flush(&self) -> Result<(), BusError> {
            self.bus.flush().await
        }

        async fn subscribe(&self, subject: &str) -> Result<Messages, BusError> {
            let left =
                self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            if left.is_ok() { Err(BusError::Disconnected) } else { self.bus.subscribe(subject).await }
        }

        async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
            self.bus.serve(subject, group).await
        }

        async fn request(&self, message: Message, timeout: Duration) -> Result<Messages, BusError> {
            self.bus.request(message, timeout).await
        }

        fn link(&self) -> watch::Receiver<Link> {
            self.bus.link()
        }

        fn max_payload(&self) -> usize {
            self.bus.max_payload()
        }
    }

    fn put(key: String, value: &str, rev: Revision) -> KvEvent {
        let value = value.to_owned().into();
        KvEvent::Put(KeyValue { key, value, create_rev: rev, mod_rev: rev, version: 1, lease: None })
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_leaves_at_once_also_when_the_bus_came_late() {
        for refusals in [0, 1, 3] {
            let bus = LocalBus::new();
            let late = Arc::new(LateBus { bus: bus.clone(), refusals: AtomicUsize::new(refusals) });
            let (mut writer, view) = view::view(History::new(100), Protection::default(), Clock::manual(1));
            writer.reset(Vec::new(), 1);
            let (_seat, role) = watch::channel(Role::Publisher { epoch: 1 });
            let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
            let metrics = PublisherMetrics::new(&meter, Clock::manual(1), "p");
            let publisher = Publisher::new(view, late, "p".into(), role, metrics);
            let stop = CancellationToken::new();
            let running = tokio::spawn(publisher.run(stop.clone()));
            tokio::time::sleep(Duration::from_secs(5)).await;

            let provider = ServiceRef::new(Tenant::default(), "s");
            let mut events = bus.subscribe(&subject::event(&provider)).await.expect("subscribed");
            for rev in 2..12 {
                let record = put(keys::service(&provider), r#"{"serviceName":"order"}"#, rev);
                let changed = Instant::now();
                writer.apply(vec![record, put(keys::instance(&provider, "i"), "{}", rev)]);
                events.next().await.expect("an event");
                assert!(
                    changed.elapsed() < Duration::from_millis(20),
                    "{:?} after {refusals}",
                    changed.elapsed()
                );
            }
            stop.cancel();
            running.await.expect("ends");
        }
    }
}
