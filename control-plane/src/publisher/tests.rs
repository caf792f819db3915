//! The publisher's task: prompt publishing, and the end of a term.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

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

/// A bus that refuses its first subscriptions, like a NATS server that starts later, and messages beyond its
/// limit, like every NATS server.
struct LateBus {
    bus: LocalBus,
    refusals: AtomicUsize,
    max_payload: usize,
}

#[async_trait]
impl Bus for LateBus {
    async fn publish(&self, message: Message) -> Result<(), BusError> {
        if message.payload.len() > self.max_payload || message.subject.contains("..") {
            return Err(BusError::Refused("the message is not acceptable".into()));
        }
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
        self.max_payload
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
        let late = Arc::new(LateBus {
            bus: bus.clone(),
            refusals: AtomicUsize::new(refusals),
            max_payload: 1 << 20,
        });
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

#[tokio::test(start_paused = true)]
async fn changes_too_large_for_the_bus_stop_nothing() {
    let bus = LocalBus::new();
    let tight = Arc::new(LateBus { bus: bus.clone(), refusals: AtomicUsize::new(0), max_payload: 32 << 10 });
    let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
    writer.reset(Vec::new(), Revision::new(1));
    let (_seat, role) = watch::channel(Role::Publisher { epoch: Revision::new(1) });
    let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
    let metrics = PublisherMetrics::new(&meter, Clock::manual(1), "p");
    let publisher = Publisher::new(view, tight, "p".into(), role, metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(5)).await;

    let provider = ServiceRef::new(Tenant::default(), "s");
    // An id from which no subject can be made; only another program can store it.
    let nameless = ServiceRef::new(Tenant::new("", "p"), "s");
    let mut events = bus.subscribe(&subject::event(&provider)).await.expect("subscribed");
    let mut bookmarks = bus.subscribe(subject::BOOKMARK).await.expect("subscribed");
    let long = "x".repeat(40 << 10);
    let of_properties = format!(r#"{{"endpoints":["rest://10.0.0.1:1"],"properties":{{"k":"{long}"}}}}"#);
    let of_endpoints = format!(r#"{{"endpoints":["{long}"],"status":"UP"}}"#);
    writer.apply(vec![
        put(keys::service(&provider), r#"{"serviceName":"order"}"#, 2.into()),
        put(keys::service(&nameless), r#"{"serviceName":"order"}"#, 2.into()),
    ]);
    let written = [
        put(keys::instance(&provider, "a"), &of_properties, 3.into()),
        put(keys::instance(&provider, "b"), &of_endpoints, 4.into()),
        put(keys::instance(&nameless, "c"), "{}", 5.into()),
        put(keys::instance(&provider, "d"), r#"{"endpoints":["rest://10.0.0.2:1"]}"#, 6.into()),
    ];
    for event in written {
        writer.apply(vec![event]);
    }
    let mut received = Vec::new();
    for _ in 0..3 {
        let message = tokio::time::timeout(Duration::from_secs(1), events.next());
        let message = message.await.expect("in time").expect("an event");
        let event = shared::event::InstanceEvent::decode(&message.payload).expect("decodes");
        received.push((event.instance.instance_id.clone(), event.instance.endpoints.len(), event.at.rev));
    }
    let expected = [("a", 1, 3), ("b", 0, 4), ("d", 1, 6)];
    assert_eq!(received, expected.map(|(id, count, rev)| (id.to_owned(), count, Revision::new(rev))));

    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut reached = std::collections::BTreeMap::new();
    let mut covered = 0;
    while let Some(message) = bookmarks.next().now_or_never().flatten() {
        let bookmark = pb::Bookmark::decode(&message.payload[..]).expect("a bookmark");
        covered = covered.max(bookmark.rev);
        for entry in bookmark.providers {
            let service = ServiceRef::from(entry.service.expect("a service"));
            reached.insert(service, entry.at.expect("a position").rev);
        }
    }
    assert_eq!(covered, 6);
    // The position of the event that could not leave is named, so a gateway that follows its provider asks.
    assert_eq!(reached, [(nameless, 5), (provider, 6)].into());
    stop.cancel();
    running.await.expect("ends");
}

/// A replica with a view of its own, whose changes leave on the shared bus.
struct Replica {
    writer: view::ViewWriter,
    seat: watch::Sender<Role>,
    running: tokio::task::JoinHandle<()>,
}

impl Replica {
    fn start(bus: &LocalBus, name: &str, role: Role) -> Self {
        let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
        writer.reset(Vec::new(), 1.into());
        let (seat, follows) = watch::channel(role);
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
        let metrics = PublisherMetrics::new(&meter, Clock::manual(1), name);
        let publisher = Publisher::new(view, Arc::new(bus.clone()), name.into(), follows, metrics);
        let running = tokio::spawn(publisher.run(CancellationToken::new()));
        Self { writer, seat, running }
    }

    /// Follows a change of the provider at `rev`.
    fn follow(&mut self, provider: &ServiceRef, rev: u64) {
        let record = put(keys::service(provider), r#"{"serviceName":"order"}"#, rev.into());
        self.writer.apply(vec![record, put(keys::instance(provider, "i"), "{}", rev.into())]);
    }
}

/// The revisions of the events that have arrived.
fn arrived(events: &mut Messages) -> Vec<u64> {
    let messages = std::iter::from_fn(|| events.next().now_or_never().flatten());
    let events = messages.map(|message| shared::event::InstanceEvent::decode(&message.payload));
    events.map(|event| event.expect("decodes").at.rev.get()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_publisher_is_stood_in_for_in_turns() {
    let bus = LocalBus::new();
    let provider = ServiceRef::new(Tenant::default(), "s");
    let mut events = bus.subscribe(&subject::event(&provider)).await.expect("subscribed");
    let mut holder = Replica::start(&bus, "a", Role::Publisher { epoch: 1.into() });
    let mut others = [Replica::start(&bus, "b", Role::Standby), Replica::start(&bus, "c", Role::Standby)];
    tokio::time::sleep(Duration::from_secs(2)).await;
    for rev in 2..30 {
        holder.follow(&provider, rev);
        others.iter_mut().for_each(|replica| replica.follow(&provider, rev));
        tokio::time::sleep(Duration::from_millis(rev * 10)).await;
    }
    assert_eq!(arrived(&mut events), (2..30).collect::<Vec<u64>>(), "no work is done twice");

    // Neither its lease nor its connection ends: it is just silent.
    holder.running.abort();
    for rev in 30..40 {
        let changed = Instant::now();
        others.iter_mut().for_each(|replica| replica.follow(&provider, rev));
        let message = tokio::time::timeout(Duration::from_millis(300), events.next()).await;
        let event = message.unwrap_or_else(|_| panic!("{rev} is late")).expect("an event");
        let event = shared::event::InstanceEvent::decode(&event.payload).expect("decodes");
        assert_eq!(event.at.rev.get(), rev);
        // Only the first change waits. Afterwards a stand-in publishes at once, like a publisher.
        assert!(rev == 30 || changed.elapsed() < Duration::from_millis(20), "{:?}", changed.elapsed());
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(arrived(&mut events), [0; 0], "one of the two is enough");

    // One of them takes the seat, and the other stands by.
    others[0].seat.send_replace(Role::Publisher { epoch: 41.into() });
    tokio::time::sleep(Duration::from_secs(2)).await;
    arrived(&mut events);
    for rev in 42..50 {
        others.iter_mut().for_each(|replica| replica.follow(&provider, rev));
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    assert_eq!(arrived(&mut events), (42..50).collect::<Vec<u64>>());
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_is_bookmarked_at_once() {
    let bus = LocalBus::new();
    let (mut writer, view) = view::empty(History::new(100), Protection::default(), Clock::manual(1));
    writer.reset(Vec::new(), 1.into());
    let (_seat, role) = watch::channel(Role::Publisher { epoch: 1.into() });
    let meter = opentelemetry_sdk::metrics::SdkMeterProvider::default().meter("test");
    let metrics = PublisherMetrics::new(&meter, Clock::manual(1), "p");
    let publisher = Publisher::new(view, Arc::new(bus.clone()), "p".into(), role, metrics);
    let stop = CancellationToken::new();
    let running = tokio::spawn(publisher.run(stop.clone()));
    let mut bookmarks = bus.subscribe(subject::BOOKMARK).await.expect("subscribed");
    let mut next = async || {
        let message = bookmarks.next().await.expect("a bookmark");
        pb::Bookmark::decode(&message.payload[..]).expect("a bookmark")
    };
    let before = next().await;
    assert_ne!(before.policy_digest, 0);
    // Within a quiet second, so that no other bookmark is due.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let changed = Instant::now();
    writer.apply(vec![put("/cse-sr/accounts/peter".to_owned(), r#"{"name":"peter"}"#, 2.into())]);
    let after = next().await;
    assert!(changed.elapsed() < Duration::from_millis(20), "{:?}", changed.elapsed());
    assert_eq!((after.rev, after.policy_rev), (2, 2));
    assert_ne!(after.policy_digest, before.policy_digest);
    stop.cancel();
    running.await.expect("ends");
}

#[tokio::test(start_paused = true)]
async fn a_new_incarnation_is_bookmarked_at_once() {
    let bus = LocalBus::new();
    let mut bookmarks = bus.subscribe(subject::BOOKMARK).await.expect("subscribed");
    let mut replica = Replica::start(&bus, "p", Role::Publisher { epoch: 1.into() });
    let mut next = async || {
        let message = bookmarks.next().await.expect("a bookmark");
        pb::Bookmark::decode(&message.payload[..]).expect("a bookmark")
    };
    assert_eq!(next().await.incarnation, Some(0));
    // Within a quiet second, so that no other bookmark is due.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let changed = Instant::now();
    // The restored store has passed the revision of the view.
    let mark = KeyValue {
        key: keys::INCARNATION.to_owned(),
        value: "7".into(),
        create_rev: 2.into(),
        mod_rev: 2.into(),
        version: 1,
        lease: None,
    };
    replica.writer.reset(vec![mark], 9.into());
    let after = next().await;
    assert!(changed.elapsed() < Duration::from_millis(20), "{:?}", changed.elapsed());
    assert_eq!((after.incarnation, after.rev, after.since), (Some(7), 9, 9));
    replica.running.abort();
}
