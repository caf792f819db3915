//! The publisher's task: prompt publishing, and the end of a term.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bus::{Link, LocalBus};
use futures_util::FutureExt as _;
use opentelemetry::metrics::MeterProvider as _;
use shared::clock::Clock;
use shared::model::{ServiceRef, Tenant};

use super::*;
use crate::keys;
use crate::store::{KeyValue, KvEvent};
use crate::view::{self, History, Protection};

/// A bus that refuses its first subscriptions, like a NATS server that starts later.
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
        let refusal =
            self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        if refusal.is_ok() { Err(BusError::Disconnected) } else { self.bus.subscribe(subject).await }
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
async fn a_change_leaves_at_once_even_if_the_bus_came_late() {
    for refusals in [0, 1, 3] {
        let bus = LocalBus::new();
        let late = Arc::new(LateBus { bus: bus.clone(), refusals: AtomicUsize::new(refusals) });
        let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
        writer.reset(Vec::new(), 1.into());
        let (_seat, role) = watch::channel(Role::Publisher { epoch: 1.into() });
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let metrics = PublisherMetrics::new(&meter, Clock::manual(1), "p");
        let publisher = Publisher::new(view, late, "p".into(), role, metrics);
        let stop = CancellationToken::new();
        let running = tokio::spawn(publisher.run(stop.clone()));
        // Longer than all retries, so that the subscription has succeeded.
        tokio::time::sleep(Duration::from_secs(5)).await;

        let provider = ServiceRef::new(Tenant::default(), "s");
        let mut events = bus.subscribe(&subject::event(&provider)).await.expect("subscribed");
        for rev in 2..12 {
            let record = put(keys::service(&provider), r#"{"serviceName":"order"}"#, Revision::new(rev));
            let changed = Instant::now();
            writer.apply(vec![record, put(keys::instance(&provider, "i"), "{}", Revision::new(rev))]);
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

#[tokio::test(start_paused = true)]
async fn a_stopped_publisher_has_published_and_bookmarked_its_view() {
    let bus = LocalBus::new();
    let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
    writer.reset(Vec::new(), 1.into());
    let (_seat, role) = watch::channel(Role::Publisher { epoch: 1.into() });
    let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
    let metrics = PublisherMetrics::new(&meter, Clock::manual(1), "p");
    let publisher = Publisher::new(view, Arc::new(bus.clone()), "p".into(), role, metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;

    let provider = ServiceRef::new(Tenant::default(), "s");
    let mut events = bus.subscribe(&subject::event(&provider)).await.expect("subscribed");
    let mut bookmarks = bus.subscribe(subject::BOOKMARK).await.expect("subscribed");
    // Without a wait in between, so that the publisher sees the change and the stop at once.
    let record = put(keys::service(&provider), r#"{"serviceName":"order"}"#, 2.into());
    writer.apply(vec![record, put(keys::instance(&provider, "i"), "{}", 2.into())]);
    stop.cancel();
    running.await.expect("ends");
    let event = tokio::time::timeout(Duration::from_secs(1), events.next());
    event.await.expect("in time").expect("the event has left");
    let mut last = None;
    while let Some(message) = bookmarks.next().now_or_never().flatten() {
        last = Some(pb::Bookmark::decode(&message.payload[..]).expect("a bookmark").rev);
    }
    assert_eq!(last, Some(2), "the next publisher continues from here");
}
