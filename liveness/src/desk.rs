//! The reporter of a process: those who take heartbeats share it, and its task speaks with the bus.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Message};
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::model::Revision;
use shared::subject;
use tokio::time::{Instant, MissedTickBehavior, sleep};
use tokio_util::sync::CancellationToken;

use crate::{Key, Known, Moment, Report, Reporter, ReporterId, Tick, Timing};

/// The most heartbeats in a report: some 160 KB, far below the largest message of the bus.
const MOST_BEATS: usize = 8192;
/// The most instances that are remembered as unknown to the keeper. One that is forgotten is told again.
const MOST_DOUBTED: usize = 65_536;
/// The time after which they are forgotten: the keeper may keep them by now.
const DOUBT: Duration = Duration::from_secs(600);
/// The pause before the subscription is opened again.
const RETRY: Duration = Duration::from_secs(1);

/// Instances that the keeper does not keep. Their heartbeats are passed on.
#[derive(Debug)]
struct Doubted {
    keys: HashSet<Key>,
    since: Instant,
}

/// The reporter of a process.
#[derive(Debug)]
pub struct Desk {
    timing: Timing,
    began: Instant,
    reporter: Mutex<Reporter>,
    doubted: Mutex<Doubted>,
    known: Mutex<Known>,
}

impl Desk {
    /// A desk that nobody trusts yet. At most `limit` heartbeats wait for an acknowledgement.
    pub fn new(id: ReporterId, timing: Timing, limit: usize) -> Self {
        Self {
            timing,
            began: Instant::now(),
            reporter: Mutex::new(Reporter::new(id, timing, limit)),
            doubted: Mutex::new(Doubted { keys: HashSet::new(), since: Instant::now() }),
            known: Mutex::new(Known::new(timing, 0)),
        }
    }

    /// The same, for a process without a view of the registry: up to `limit` instances that exist are known.
    pub fn knowing(self, limit: usize) -> Self {
        Self { known: Mutex::new(Known::new(self.timing, limit)), ..self }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Notes a heartbeat. True if it may be answered: a report will tell of it. False if it must be passed
    /// on.
    pub fn beat(&self, key: Key) -> bool {
        let doubted = self.doubted.lock();
        // With no room for more doubts, nothing is certain.
        let is_doubted = doubted.keys.len() >= MOST_DOUBTED || doubted.keys.contains(&key);
        drop(doubted);
        !is_doubted && self.reporter.lock().beat(key, self.now())
    }

    /// True while heartbeats may be answered here.
    pub fn is_trusted(&self) -> bool {
        self.reporter.lock().is_trusted(self.now())
    }

    /// Notes a heartbeat of each of these instances. True if they may be answered: all of them are known to
    /// exist, and reports will tell of them. False if they must be passed on.
    pub fn beat_known(&self, keys: &[Key]) -> bool {
        let now = self.now();
        let mut known = self.known.lock();
        let are_known = keys.iter().all(|key| known.has(*key, now));
        drop(known);
        // One that is noted although others are not is a heartbeat all the same.
        are_known && keys.iter().all(|key| self.beat(*key))
    }

    /// True while heartbeats of instances that are known may be answered here.
    pub fn is_certain(&self) -> bool {
        self.is_trusted() && self.known.lock().is_told(self.now())
    }

    /// A control plane has answered for these instances at a revision.
    pub fn learn(&self, keys: &[Key], rev: Revision) {
        let mut known = self.known.lock();
        for key in keys {
            known.learn(*key, rev);
        }
    }

    /// An instance does not exist any more.
    pub fn forget(&self, key: Key) {
        self.known.lock().forget(key);
    }

    /// Nothing is certain any more.
    pub fn forget_all(&self) {
        self.known.lock().forget_all();
    }

    /// The number of instances that are known to exist.
    pub fn known(&self) -> usize {
        self.known.lock().len()
    }

    /// Reports until `stop`, and then for the last time.
    pub async fn run(self: Arc<Self>, bus: Arc<dyn Bus>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.report_until(&*bus, &stop).await;
            tokio::select! { () = stop.cancelled() => {}, () = sleep(RETRY) => {} }
        }
        let reports = self.reporter.lock().leave(self.now(), MOST_BEATS);
        send(&*bus, reports).await;
        // A reporter that is known to have left puts off nothing. If this fails, it is given up later.
        let _ = bus.flush().await;
    }

    /// Reports until `stop`, or until the subscription ends.
    async fn report_until(&self, bus: &dyn Bus, stop: &CancellationToken) {
        let Ok(mut ticks) = bus.subscribe(subject::BEATS_TICK).await else { return };
        let mut pulse = tokio::time::interval(self.timing.interval);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // With nobody in the seat that takes reports, none is sent.
        let mut heard_at: Option<Instant> = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                message = ticks.next() => {
                    let Some(message) = message else { return };
                    let Ok(tick) = pb::BeatTick::decode(&message.payload[..]) else { continue };
                    let is_first = heard_at.replace(Instant::now()).is_none();
                    if !self.heard(&Tick::decode(&tick)) && !is_first {
                        continue;
                    }
                }
                _ = pulse.tick() => {
                    // For as long as trust may last, and with time to spare.
                    if heard_at.is_none_or(|at| at.elapsed() > self.timing.trust * 2) {
                        heard_at = None;
                        continue;
                    }
                }
            }
            let reports = self.reporter.lock().reports(self.now(), MOST_BEATS);
            send(bus, reports).await;
        }
    }

    fn heard(&self, tick: &Tick) -> bool {
        let mut doubted = self.doubted.lock();
        if doubted.since.elapsed() > DOUBT {
            *doubted = Doubted { keys: HashSet::new(), since: Instant::now() };
        }
        let room = MOST_DOUBTED.saturating_sub(doubted.keys.len());
        doubted.keys.extend(tick.unknown.iter().copied().take(room));
        drop(doubted);
        let now = self.now();
        self.known.lock().heard(tick, now);
        self.reporter.lock().heard(tick, now)
    }
}

/// Sends reports until the bus takes none: each of the others would wait as long as that one. What is not sent is
/// reported again.
async fn send(bus: &dyn Bus, reports: Vec<Report>) {
    for report in reports {
        let message = Message::new(subject::BEATS_REPORT, report.encode().encode_to_vec());
        match bus.publish(message).await {
            // A report that the bus refuses says nothing about the others.
            Ok(()) | Err(BusError::Refused(_)) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bus::{Link, LocalBus, Messages};
    use tokio::sync::watch;

    use super::*;

    /// A bus that fails to take any message.
    struct FailingBus {
        inner: LocalBus,
        failure: fn() -> BusError,
        tried: AtomicUsize,
    }

    #[async_trait]
    impl Bus for FailingBus {
        async fn publish(&self, _message: Message) -> Result<(), BusError> {
            self.tried.fetch_add(1, Ordering::Relaxed);
            Err((self.failure)())
        }

        async fn flush(&self) -> Result<(), BusError> {
            self.inner.flush().await
        }

        async fn subscribe(&self, subject: &str) -> Result<Messages, BusError> {
            self.inner.subscribe(subject).await
        }

        async fn serve(&self, subject: &str, group: &str) -> Result<Messages, BusError> {
            self.inner.serve(subject, group).await
        }

        async fn request(&self, message: Message, timeout: Duration) -> Result<Messages, BusError> {
            self.inner.request(message, timeout).await
        }

        fn link(&self) -> watch::Receiver<Link> {
            self.inner.link()
        }

        fn max_payload(&self) -> usize {
            self.inner.max_payload()
        }
    }

    fn report(number: u64) -> Report {
        Report {
            reporter: ReporterId(1),
            number,
            from: 1,
            epoch: 1,
            tick: 1,
            is_last: false,
            beats: Vec::new(),
        }
    }

    /// The number of three reports that were handed to a bus with this failure.
    async fn tried(failure: fn() -> BusError) -> usize {
        let bus = FailingBus { inner: LocalBus::new(), failure, tried: AtomicUsize::new(0) };
        send(&bus, vec![report(1), report(2), report(3)]).await;
        bus.tried.into_inner()
    }

    #[tokio::test]
    async fn reports_do_not_wait_in_turn_for_a_bus_that_takes_nothing() {
        assert_eq!(tried(|| BusError::Disconnected).await, 1);
        assert_eq!(
            tried(|| BusError::Refused("too large".to_owned())).await,
            3,
            "the next one may be smaller"
        );
    }
}
