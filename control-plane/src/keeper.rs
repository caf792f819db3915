//! Ends instances with long leases when their time is over, while this replica holds the publisher's seat.
//!
//! ```text
//! reports ──▶ liveness::Keeper ──▶ over ──▶ its lease is asked ──▶ a transaction that ends it
//! view ─────▶     │    └─ heartbeats ──▶ long leases are renewed, rarely
//!                 └──▶ ticks
//! ```
//!
//! In: the view, the role, reports of heartbeats. Out: ticks to all reporters, renewals of long leases,
//! transactions. [`liveness::Keeper`] decides; this room asks, sends and writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusError, Message, Messages};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use liveness::{Endings, Judgement, Keeper, Key, Moment, Report, Timing};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::maybe::or_pending;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::election::Role;
use crate::keys;
use crate::metrics::KeeperMetrics;
use crate::registry::Registry;
use crate::store::{LeaseId, RangeRequest, Store, StoreError};

mod calls;
mod following;

use calls::Done;

/// The interval at which deadlines are looked at.
const PULSE: Duration = Duration::from_millis(100);
/// Leases that are asked, and instances that are ended, at once.
const CALLS_AT_ONCE: usize = 64;
/// The pause before a call that failed is tried again, and before the subscription is.
const RETRY: Duration = Duration::from_secs(1);
/// The shortest time between two ticks that tell of ends. Without an end there is one each second.
const TOLD_EVERY: Duration = Duration::from_millis(250);
/// The interval at which the instances are counted.
const COUNT: Duration = Duration::from_secs(5);

/// An instance with a long lease.
#[derive(Debug)]
struct Tracked {
    service: ServiceRef,
    id: String,
    lease: LeaseId,
    /// The revision that wrote its record last.
    written_at: Revision,
    /// Its time, as it was registered.
    time: Duration,
    /// The revision after which a write of its lease key is a heartbeat that no report told of. Only looked at
    /// where instances share the lease.
    beat_at: Revision,
    /// Its lease is to be renewed with the first heartbeat after this. A shared one has an entry of its own in
    /// [`Term::shared`].
    renewal: Renewal,
}

/// The renewal of a lease.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    /// It is due with the first heartbeat after this.
    at: Moment,
    is_under_way: bool,
}

impl Renewal {
    /// True once when it is due; from then on it is under way.
    fn begin(&mut self, now: Moment) -> bool {
        let is_due = self.at <= now && !self.is_under_way;
        self.is_under_way |= is_due;
        is_due
    }
}

type Calls = FuturesUnordered<BoxFuture<'static, Done>>;

/// The task that keeps deadlines.
pub(crate) struct DeadlineKeeper {
    pub(crate) registry: Registry,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) role: watch::Receiver<Role>,
    /// The time until which the seat is certainly held.
    pub(crate) held_until: watch::Receiver<Instant>,
    /// Reports are taken. Without that, only leases tell of heartbeats.
    pub(crate) takes_reports: bool,
    /// The time after which a long lease is renewed.
    pub(crate) renew_after: Duration,
    pub(crate) metrics: KeeperMetrics,
}

impl DeadlineKeeper {
    /// Keeps deadlines in each term of this replica, until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let seat = self.role.wait_for(|role| matches!(role, Role::Publisher { .. }));
            let role = tokio::select! {
                () = stop.cancelled() => return,
                role = seat => match role { Ok(role) => *role, Err(_) => return },
            };
            if let Role::Publisher { epoch } = role {
                let mut term = Term::new(&self, epoch);
                tokio::select! { () = stop.cancelled() => return, () = term.run() => {} }
                self.metrics.leave();
            }
            // The role may say that the seat is held although its time is over.
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(PULSE) => {} }
        }
    }
}

/// One term in the seat.
struct Term<'a> {
    of: &'a DeadlineKeeper,
    epoch: Revision,
    began: Instant,
    keeper: Keeper<Tracked>,
    /// The view's changes up to this revision are in `keeper`.
    cursor: Revision,
    /// The instances that have ended of late, for gateways that answer heartbeats. `None` where nobody does.
    endings: Option<Endings>,
    /// Instances that were ended here. The view may go on showing them, and then has no change that tells.
    ended: Vec<Key>,
    calls: Calls,
    renewals: Calls,
    /// Leases to be renewed.
    due: Vec<(Key, LeaseId)>,
    /// The renewals of shared leases, of which the first heartbeat of any instance is enough.
    shared: HashMap<LeaseId, Renewal>,
    tick_at: Moment,
    /// The last tick that has told of ends was sent then.
    told_at: Moment,
    count_at: Moment,
}

impl<'a> Term<'a> {
    fn new(of: &'a DeadlineKeeper, epoch: Revision) -> Self {
        Self {
            of,
            epoch,
            began: Instant::now(),
            keeper: Keeper::new(Timing::default(), epoch.get(), Moment::ZERO),
            cursor: Revision::ZERO,
            endings: None,
            ended: Vec::new(),
            calls: Calls::new(),
            renewals: Calls::new(),
            due: Vec::new(),
            shared: HashMap::new(),
            tick_at: Moment::ZERO,
            told_at: Moment::ZERO,
            count_at: Moment::ZERO,
        }
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// True while the seat is certainly held. Looked at before every step: a process that stood still must
    /// acknowledge nothing that has waited for it.
    fn is_held(&self) -> bool {
        *self.of.role.borrow() == Role::Publisher { epoch: self.epoch }
            && Instant::now() < *self.of.held_until.borrow()
    }

    /// Runs until the seat is lost.
    async fn run(&mut self) {
        let of = self.of;
        let mut revisions = of.registry.view().revisions();
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports: Option<Messages> = None;
        // Beside everything else: while the bus takes nothing, instances must end all the same.
        let mut subscription: Option<BoxFuture<'_, Result<Messages, BusError>>> = None;
        let mut subscribe_at = Instant::now();
        self.follow();
        while self.is_held() {
            let lacks_reports = of.takes_reports && reports.is_none() && subscription.is_none();
            if lacks_reports && Instant::now() >= subscribe_at {
                subscription = Some(of.bus.subscribe(subject::BEATS_REPORT));
            }
            tokio::select! {
                subscribed = or_pending(subscription.as_mut()) => {
                    subscription = None;
                    reports = subscribed.ok();
                    subscribe_at = Instant::now() + RETRY;
                }
                message = or_pending(reports.as_mut().map(|reports| reports.next())) => match message {
                    // Checked again: the message may have waited while the process stood still.
                    Some(message) if self.is_held() => self.hear(&message),
                    Some(_) => return,
                    None => reports = None,
                },
                Some(done) = self.calls.next() => self.done(done),
                Some(done) = self.renewals.next() => self.done(done),
                Ok(()) = revisions.changed() => self.follow(),
                _ = pulse.tick() => self.judge().await,
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        let report = pb::BeatReport::decode(&message.payload[..]).ok();
        let Some(report) = report.and_then(|report| Report::decode(&report)) else { return };
        let now = self.now();
        let (due, shared) = (&mut self.due, &mut self.shared);
        self.keeper.heard(&report, now, |key, of| {
            let renewal = if of.lease.is_shared() {
                shared.entry(of.lease).or_insert(Renewal { at: now, is_under_way: false })
            } else {
                &mut of.renewal
            };
            if renewal.begin(now) {
                due.push((key, of.lease));
            }
        });
    }

    async fn judge(&mut self) {
        let now = self.now();
        self.renew();
        let room = CALLS_AT_ONCE.saturating_sub(self.calls.len());
        let Judgement { over, needs_call, given_up } = self.keeper.judge(now, room);
        for reporter in given_up {
            self.of.metrics.silent();
            warn!(
                reporter = format!("{:032x}", reporter.0),
                "a control plane or gateway reports no heartbeats any more; every instance has its full time again"
            );
        }
        for key in over {
            let Some(of) = self.keeper.get(key) else { continue };
            let lease = of.lease;
            let store = self.of.registry.store().clone();
            if lease.is_shared() {
                let at = keys::lease(&of.service, &of.id);
                self.calls.push(Box::pin(async move {
                    Done::Seen { key, lease, asked: now, outcome: last_note(&*store, at).await }
                }));
                continue;
            }
            self.calls.push(Box::pin(async move {
                Done::Asked { key, lease, asked: now, outcome: store.lease_time(lease).await }
            }));
        }
        if now >= self.count_at {
            self.count_at = now + COUNT;
            self.of.metrics.count(self.keeper.len(), self.keeper.frozen(now));
            // A lease that nobody has renewed for longer than its time has ended with its last instance.
            let ended = self.of.renew_after * 3;
            self.shared.retain(|_, renewal| renewal.at + ended > now);
        }
        // Looked at again, because a tick acknowledges what was heard.
        let is_due = now >= self.tick_at;
        if self.of.takes_reports && (needs_call || is_due) && self.is_held() {
            let mut tick = self.keeper.tick(now, needs_call);
            if is_due {
                self.tick_at = now + Timing::default().interval;
                self.told_at = now;
                tick.ended = self.endings.as_mut().map(|endings| endings.told(now));
            }
            let message = Message::new(subject::BEATS_TICK, tick.encode().encode_to_vec());
            // A tick that is lost is followed by the next one. It holds up nothing for long while the bus takes nothing.
            let _ = timeout(PULSE, self.of.bus.publish(message)).await;
        }
    }
}

/// The revision that wrote a lease key last, 0 if there is none. A store that is full takes no such writes, so
/// they tell nothing then.
async fn last_note(store: &dyn Store, key: String) -> Result<Revision, StoreError> {
    if let Some(space) = store.space().await?
        && space.full
    {
        return Err(StoreError::Full("no heartbeat can be noted".to_owned()));
    }
    let reply = store.range(RangeRequest::key(key)).await?;
    Ok(reply.items.first().map_or(Revision::ZERO, |stored| stored.mod_rev))
}
