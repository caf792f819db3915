//! The cost of the small steps of a delivery: reading an event, encoding it, finding the consumers it
//! concerns, handing it to the sessions, merging it for those that are behind, counting it.
//!
//! `cargo xtask bench micro`; a word after it chooses among them.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use edge_gateway::micro::{Dispatch, Lookup, Merging, grpc_message, websocket_frame};
use host::telemetry::metrics::Metrics;
use shared::event::{Action, InstanceEvent, Position};
use shared::model::{HealthCheck, Instance, Revision, ServiceKey, ServiceRef, Tenant};

const WATCHERS: usize = 10_000;
const CONSUMERS: usize = 1000;
const PROVIDERS: usize = 1000;
const EACH: usize = 5;
/// Instances whose changes are pending for a slow watcher.
const INSTANCES: u64 = 100;

/// An event of the usual size: some 500 bytes as a frame.
fn event(rev: u64) -> InstanceEvent {
    let id = format!("250f71272bdd407fab31cd795da1{:04}", rev % INSTANCES);
    let provider = ServiceRef::new(Tenant::default(), "fbea2bc127083b9ff68bfec75301b0e695e44f35");
    let instance = Instance {
        instance_id: id,
        service_id: provider.id.clone(),
        endpoints: vec!["rest://10.0.0.1:8080".to_owned()],
        host_name: "node-1".to_owned(),
        status: "UP".to_owned(),
        properties: [("stamp".to_owned(), "000000-0000000001-1700000000123456".to_owned())].into(),
        health_check: Some(HealthCheck {
            mode: "push".to_owned(),
            interval: 30,
            times: 3,
            ..HealthCheck::default()
        }),
        timestamp: "1700000000".to_owned(),
        mod_timestamp: "1700000000".to_owned(),
        version: "1.0.0".to_owned(),
        ..Instance::default()
    };
    let key = ServiceKey {
        tenant: "default/default".to_owned(),
        app_id: "default".to_owned(),
        service_name: "provider".to_owned(),
        version: "1.0.0".to_owned(),
        ..ServiceKey::default()
    };
    InstanceEvent {
        provider,
        at: Position::first_of(Revision::new(rev)),
        prev: Position::first_of(Revision::new(rev.saturating_sub(1))),
        action: Action::Update,
        key: Arc::new(key),
        instance: Arc::new(instance),
        mod_rev: Revision::new(rev),
        committed_at: 1_700_000_000_000_000,
        via: shared::event::Via::default(),
    }
}

fn codec(c: &mut Criterion) {
    let event = event(1);
    let bytes = event.encode();
    let mut group = c.benchmark_group("codec");
    group.bench_function("decode an event of the bus", |b| {
        b.iter(|| InstanceEvent::decode(black_box(&bytes)))
    });
    group.bench_function("encode an event for the bus", |b| b.iter(|| black_box(&event).encode()));
    group.bench_function("encode a WebSocket frame", |b| b.iter(|| websocket_frame(black_box(&event))));
    group.bench_function("encode a gRPC message", |b| b.iter(|| grpc_message(black_box(&event))));
    group.finish();
}

fn interest(c: &mut Criterion) {
    let mut lookup = Lookup::new(CONSUMERS, PROVIDERS, EACH);
    let like = event(1);
    let mut rev = 1;
    c.bench_function("interest/an event finds five groups of a thousand", |b| {
        b.iter(|| {
            rev += 1;
            assert_eq!(lookup.event(rev as usize % PROVIDERS, rev, &like), EACH);
        })
    });
}

fn dispatch(c: &mut Criterion) {
    let metrics = Metrics::new([]).expect("sets up");
    let event = event(1);
    let one = Dispatch::new(1, &metrics.meter("one"));
    let frames = one.event(&event);
    let dispatch = Dispatch::new(WATCHERS, &metrics.meter("micro"));
    let expected = dispatch.event(&event);
    let mut group = c.benchmark_group("hub");
    group.bench_function("an event for an audience of one stream", |b| {
        b.iter(|| assert_eq!(one.event(black_box(&event)), frames))
    });
    group.throughput(Throughput::Elements(WATCHERS as u64));
    group.bench_function("an event for ten thousand streams", |b| {
        b.iter(|| assert_eq!(dispatch.event(black_box(&event)), expected))
    });
    group.throughput(Throughput::Elements(dispatch.count() as u64));
    group.bench_function("metrics of a chunk of sessions", |b| b.iter(|| dispatch.count()));
    group.finish();
}

fn merge(c: &mut Criterion) {
    let events: Vec<_> = (0..10 * INSTANCES).map(event).collect();
    let mut group = c.benchmark_group("merge");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("a thousand events of a hundred instances", |b| {
        b.iter(|| {
            let mut merging = Merging::default();
            events.iter().filter(|event| merging.add(event)).count()
        })
    });
    group.finish();
}

criterion_group!(micro, codec, interest, dispatch, merge);
criterion_main!(micro);
