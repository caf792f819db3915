//! Drains in virtual time: the number of sessions that end in each tick.

use std::future::poll_fn;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use shared::model::{ServiceRef, Tenant};
use tokio::task::JoinSet;

use super::*;
use crate::close::Reason;
use crate::fanout::stream::{Next, stream};
use crate::fanout::{Attached, Opening};
use crate::limits::{Limits, LimitsConfig};
use crate::metrics::{Metrics, SessionMetrics};
use crate::push::Encoding;
use crate::session::SessionConfig;

mod dividing;
mod merging;

/// The setup of a shard with usual settings for so many sessions, and its reports of those that have closed.
pub(super) fn setup(sessions: u64) -> (Setup, mpsc::Receiver<SessionsClosed>) {
    let meter = SdkMeterProvider::builder().build().meter("test");
    let (closed, reports) = mpsc::channel(sessions as usize + 1);
    let setup = Setup {
        pace: Pace::from(&SessionConfig::default()),
        slow_after: 1 << 20,
        send_buffer: 1 << 16,
        plain_end: PlainEnd::Error,
        others: watch::channel(Others::None).1,
        policy: PolicyHandle::off(),
        metrics: Metrics::new(&meter, "test").fanout,
        closed,
        clock: Clock::system(),
    };
    (setup, reports)
}

/// Drains a shard; returns the number of sessions that ended in each 100 ms. The `late` ones among them are
/// attached a second after the drain began.
fn drained(sessions: u64, late: u64, over: Duration) -> Vec<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let (setup, _reports) = setup(sessions);
    let none = LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0, ..LimitsConfig::default() };
    let limits = Limits::new(none, SessionMetrics::none());
    let consumer = ServiceRef::new(Tenant::new("default", "default"), "c");
    let (queue, inbox) = mpsc::channel(16);
    let driver = runtime.spawn(async move {
        let mut ends = JoinSet::new();
        let mut attach = Vec::new();
        for number in 0..sessions {
            let ticket = Ticket::new(number);
            let group = GroupId::new(number % 7);
            let encoding = Encoding::Grpc;
            let missed = Revision::ZERO;
            let opening = Opening::default();
            let reserve = ToShard::Reserve { ticket, group, encoding, opening, right: None, missed };
            queue.send(reserve).await.expect("the shard runs");
            let (writer, reader) = stream();
            ends.spawn(async move { (poll_fn(|cx| reader.poll_next(cx)).await, Instant::now()) });
            let permit = limits.take(&consumer, "gRPC").expect("no limit");
            attach.push(ToShard::Attach { ticket, to: Attached::Stream(writer), permit });
        }
        let behind = attach.split_off((sessions - late) as usize);
        for message in attach {
            queue.send(message).await.expect("the shard runs");
        }
        // Half a tick: the drain must not begin at the moment of a tick, which could count to either side.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        queue.send(ToShard::Drain { over, latest: over }).await.expect("the shard runs");
        if late > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for message in behind {
                // Fails for sessions whose turn in the drain has come already.
                _ = queue.send(message).await;
            }
        }
        let mut slices = Vec::new();
        while let Some(ended) = ends.join_next().await {
            let (reason, at) = ended.expect("does not panic");
            assert!(matches!(reason, Next::End(Reason::Drained | Reason::Broken)), "{reason:?}");
            let slice = ((at - began).as_millis() / 100) as usize;
            slices.resize(slices.len().max(slice + 1), 0);
            slices[slice] += 1;
        }
        slices
    });
    run(&runtime, setup, inbox, CancellationToken::new());
    runtime.block_on(driver).expect("does not panic")
}

#[test]
fn a_drain_ends_an_even_share_in_each_tick() {
    for (sessions, seconds) in [(5000, 10), (5000, 15), (333, 10), (7, 2), (1, 1)] {
        let slices = drained(sessions, 0, Duration::from_secs(seconds));
        assert_eq!(slices.iter().sum::<u64>(), sessions);
        let share = sessions.div_ceil(seconds * 10);
        assert!(slices.iter().all(|ended| *ended <= share), "at most {share} at once: {slices:?}");
        // One tick more: the drain began within a tick.
        assert!(slices.len() as u64 <= seconds * 10 + 1, "{} slices", slices.len());
        if sessions > seconds * 10 {
            let empty = slices.iter().skip(1).filter(|ended| **ended == 0).count();
            assert_eq!(empty, 0, "sessions end in every tick: {slices:?}");
        }
    }
}

#[test]
fn sessions_attached_during_a_drain_end_with_the_others() {
    let slices = drained(1000, 100, Duration::from_secs(5));
    assert_eq!(slices.iter().sum::<u64>(), 1000);
    assert!(slices.len() <= 51, "{} slices", slices.len());
}

#[test]
fn a_drain_over_no_time_ends_all_at_once() {
    let slices = drained(500, 0, Duration::ZERO);
    assert_eq!(slices.iter().sum::<u64>(), 500);
    assert!(slices.len() <= 2, "{slices:?}");
}
