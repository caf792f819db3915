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

use bus::{Bus, Message, Messages};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use liveness::{Endings, Judgement, Keeper, Key, Moment, Report, Timing};
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::Action;
use shared::maybe::or_pending;
use shared::model::{Revision, ServiceRef};
use shared::subject;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::election::Role;
use crate::keys;
use crate::metrics::KeeperMetrics;
use crate::registry::Registry;
use crate::store::{Compare, LeaseId, LeaseTime, Op, RangeRequest, Store, StoreError, Txn};
use crate::view::{Change, History, Snapshot};

/// The interval at which deadlines are looked at.
const PULSE: Duration = Duration::from_millis(100);
/// Leases that are asked, and instances that are ended, at once.
const CALLS_AT_ONCE: usize = 64;
/// Renewals at once. They share one stream to the store.
const RENEWALS_AT_ONCE: usize = 512;
/// The pause before a call that failed is tried again, and before the subscription is.
const RETRY: Duration = Duration::from_secs(1);
/// The remaining time of a lease is told in whole seconds, rounded down.
const ROUNDING: Duration = Duration::from_secs(1);
/// The shortest time between two ticks that tell of ends. Without an end there is one each second.
const TOLD_EVERY: Duration = Duration::from_millis(250);
/// The least time that an instance has, as with the shortest lease of etcd.
const LEAST_TIME: Duration = Duration::from_secs(2);
/// Added to the time of an instance, as the store adds as much before it finds that a lease has ended. A
/// heartbeat that is a little late must not cost the instance its life.
const GRACE: Duration = Duration::from_millis(500);
/// A new term renews its leases within this time, each at a moment by chance. The term before may have been
/// about to do so.
const TAKEOVER: Duration = Duration::from_secs(60);
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

/// The result of a call to the store.
enum Done {
    Asked {
        key: Key,
        lease: LeaseId,
        asked: Moment,
        outcome: Result<LeaseTime, StoreError>,
    },
    /// Where instances share a lease: the revision that wrote the lease key last.
    Seen {
        key: Key,
        lease: LeaseId,
        asked: Moment,
        outcome: Result<Revision, StoreError>,
    },
    Ended {
        key: Key,
        lease: LeaseId,
        /// The revision of the record that was to be ended. On a shared lease the instance may have registered
        /// again meanwhile.
        written_at: Revision,
        outcome: Result<bool, StoreError>,
    },
    Renewed {
        key: Key,
        lease: LeaseId,
        outcome: Result<(), StoreError>,
    },
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
        let mut subscribe_at = Instant::now();
        self.follow();
        while self.is_held() {
            if of.takes_reports && reports.is_none() && Instant::now() >= subscribe_at {
                reports = of.bus.subscribe(subject::BEATS_REPORT).await.ok();
                subscribe_at = Instant::now() + RETRY;
                continue;
            }
            tokio::select! {
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

    /// Brings the keeper to the view. After a hole in the history everything is compared.
    fn follow(&mut self) {
        let view = self.of.registry.view();
        let Ok(snapshot) = view.now() else { return };
        let now = self.now();
        let is_instance = |change: &Change| matches!(change, Change::Instance(_));
        let since = view.history().since(self.cursor, snapshot.revision, is_instance);
        if since.complete && self.cursor > Revision::ZERO {
            for change in &since.changes {
                if let Change::Instance(event) = change {
                    let renew_at = now + self.of.renew_after;
                    self.track(&snapshot, &event.provider, &event.instance.instance_id, now, renew_at);
                    let key = Key::of(&event.provider, &event.instance.instance_id);
                    self.note_end(key, event.at.rev, now);
                }
            }
            for key in std::mem::take(&mut self.ended) {
                self.note_end(key, snapshot.revision, now);
            }
            if let Some(endings) = &mut self.endings {
                endings.advance(snapshot.revision);
            }
        } else {
            self.keeper.retain(|of| long_lease(&snapshot, &of.service, &of.id) == Some(of.lease));
            let spread = TAKEOVER.min(self.of.renew_after / 4);
            for (tenant, of_tenant) in snapshot.tenants.iter() {
                for (id, service) in of_tenant.services.iter() {
                    let of_service = ServiceRef::new(tenant.clone(), id);
                    for instance in service.instances.keys() {
                        let renew_at = now + spread.mul_f64(fastrand::f64());
                        self.track(&snapshot, &of_service, instance, now, renew_at);
                    }
                }
            }
            self.recall_endings(view.history(), snapshot.revision, now);
        }
        self.cursor = snapshot.revision;
    }

    /// The ends that the history still has: gateways have been told of those before it by the last term.
    fn recall_endings(&mut self, history: &History, upto: Revision, now: Moment) {
        if !self.of.takes_reports {
            return;
        }
        let from = history.complete_since();
        let is_end = |change: &Change| match change {
            Change::Instance(event) => event.action == Action::Delete,
            Change::Interest(_) | Change::Services(_) => false,
        };
        let since = history.since(from, upto, is_end);
        // One that was dropped meanwhile leaves a gap, of which gateways then know.
        self.endings = Some(Endings::after(if since.complete { from } else { upto }));
        for change in &since.changes {
            if let Change::Instance(event) = change {
                self.note_end(Key::of(&event.provider, &event.instance.instance_id), event.at.rev, now);
            }
        }
        if let Some(endings) = &mut self.endings {
            endings.advance(upto);
        }
    }

    /// Notes the end of an instance, or that it has no long lease any more.
    fn note_end(&mut self, key: Key, rev: Revision, now: Moment) {
        let Some(endings) = &mut self.endings else { return };
        if self.keeper.get(key).is_none() {
            endings.push(rev, key, now);
            self.tick_at = self.tick_at.min(self.told_at + TOLD_EVERY);
        }
    }

    /// Tracks an instance as the view shows it.
    fn track(&mut self, snapshot: &Snapshot, service: &ServiceRef, id: &str, now: Moment, renew_at: Moment) {
        let key = Key::of(service, id);
        let view = snapshot.any_service(service).and_then(|view| view.instance(id));
        let Some((view, lease)) =
            view.and_then(|view| Some((view, view.lease.filter(|lease| lease.is_long())?)))
        else {
            self.keeper.forget(key);
            return;
        };
        let registry = &self.of.registry;
        let time = || Duration::from_secs(registry.ttl(&view.reported.unpack()).unsigned_abs());
        // One that has registered again with another time may have come to the same shared lease.
        if let Some(of) = self.keeper.get_mut(key).filter(|of| of.lease == lease)
            && (!lease.is_shared() || of.written_at == view.reported_rev || of.time == time())
        {
            of.written_at = view.reported_rev;
            return;
        }
        let time = time();
        if lease.is_shared() {
            self.shared.entry(lease).or_insert(Renewal { at: renew_at, is_under_way: false });
        }
        let tracked = Tracked {
            service: service.clone(),
            id: id.to_owned(),
            lease,
            written_at: view.reported_rev,
            time,
            // A heartbeat before this revision is older than the full time that the instance has from now on.
            beat_at: snapshot.revision,
            renewal: Renewal { at: renew_at, is_under_way: false },
        };
        self.keeper.keep(key, time.max(LEAST_TIME) + GRACE, tracked, now);
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
            // A tick that is lost is followed by the next one.
            let _ = self.of.bus.publish(message).await;
        }
    }

    fn renew(&mut self) {
        while self.renewals.len() < RENEWALS_AT_ONCE
            && let Some((key, lease)) = self.due.pop()
        {
            // A shared lease is renewed for the others, too.
            if !lease.is_shared() && !self.is_of(key, lease) {
                continue;
            }
            let store = self.of.registry.store().clone();
            self.renewals.push(Box::pin(async move {
                Done::Renewed { key, lease, outcome: store.keep_alive(lease).await }
            }));
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Asked { key, lease, asked, outcome } if self.is_of(key, lease) => {
                self.asked(key, lease, asked, outcome);
            }
            Done::Seen { key, lease, asked, outcome } if self.is_of(key, lease) => {
                self.seen(key, lease, asked, outcome);
            }
            Done::Ended { key, lease, written_at, outcome: Ok(true) } => {
                self.of.metrics.ended();
                self.ended.push(key);
                // Unless the view has told it already.
                if self.keeper.get(key).is_some_and(|of| of.lease == lease && of.written_at == written_at)
                    && let Some(of) = self.keeper.forget(key)
                {
                    debug!(
                        instance.id = of.id,
                        service.id = of.service.id,
                        "the time of an instance is over"
                    );
                } else if self.is_of(key, lease) {
                    self.keeper.judge_again(key, now + RETRY);
                }
            }
            // Changed meanwhile, or not reached: the view or the next attempt tells.
            Done::Ended { key, lease, outcome: Ok(false) | Err(_), .. } if self.is_of(key, lease) => {
                self.keeper.judge_again(key, now + RETRY);
            }
            Done::Renewed { key, lease, outcome } => {
                self.of.metrics.renewed(outcome.is_ok());
                let is_renewed = outcome.is_ok();
                let after = if is_renewed { self.of.renew_after } else { RETRY * 5 };
                let next = Renewal { at: now + after, is_under_way: false };
                if lease.is_shared() {
                    // It says nothing of a single instance.
                    self.shared.insert(lease, next);
                } else if let Some(of) = self.keeper.get_mut(key).filter(|of| of.lease == lease) {
                    of.renewal = next;
                    if is_renewed {
                        self.keeper.renewed(key, now);
                    }
                }
            }
            // About a lease that the instance does not have any more.
            Done::Asked { .. } | Done::Seen { .. } | Done::Ended { .. } => {}
        }
    }

    fn is_of(&self, key: Key, lease: LeaseId) -> bool {
        self.keeper.get(key).is_some_and(|of| of.lease == lease)
    }

    fn asked(&mut self, key: Key, lease: LeaseId, asked: Moment, outcome: Result<LeaseTime, StoreError>) {
        match outcome {
            Ok(time) => {
                // By the time of the question, so that a renewal is not taken for older than it is.
                let idle = time.granted.saturating_sub(time.remaining + ROUNDING);
                if self.keeper.settle(key, asked.saturating_sub(idle), asked) {
                    self.end(key, lease, None);
                }
            }
            // Its keys went with it. The view is about to tell.
            Err(StoreError::LeaseNotFound) => {
                self.ended.push(key);
                self.keeper.forget(key);
            }
            Err(error) => self.not_asked(key, &error),
        }
    }

    /// An instance that shares its lease was alive if its lease key has been written since it was looked at.
    fn seen(&mut self, key: Key, lease: LeaseId, asked: Moment, outcome: Result<Revision, StoreError>) {
        match outcome {
            Ok(rev) => {
                let Some(of) = self.keeper.get_mut(key) else { return };
                let has_beaten = rev > of.beat_at;
                of.beat_at = of.beat_at.max(rev);
                // When it has beaten is not known, so it may have been just before the question.
                let alive_at = if has_beaten { asked } else { Moment::ZERO };
                if self.keeper.settle(key, alive_at, asked) {
                    self.end(key, lease, Some(rev));
                }
            }
            Err(error) => self.not_asked(key, &error),
        }
    }

    fn not_asked(&mut self, key: Key, error: &StoreError) {
        let now = self.now();
        // Heartbeats that the store is told of may not have reached it either.
        self.keeper.begin_anew(now);
        self.keeper.judge_again(key, now + RETRY);
        info!(%error, "a lease could not be asked; every instance has its full time again");
    }

    /// Ends an instance, unless its lease key has been written after `noted`.
    fn end(&mut self, key: Key, lease: LeaseId, noted: Option<Revision>) {
        let Some(of) = self.keeper.get(key) else { return };
        let instance = keys::instance(&of.service, &of.id);
        let mut compare = vec![
            // A publisher that has lost its seat ends nothing.
            Compare::ModRev(keys::PUBLISHER.into(), self.epoch),
            Compare::ModRev(instance.clone(), of.written_at),
        ];
        if let Some(noted) = noted {
            // Nor is an instance ended whose heartbeat has reached the store meanwhile.
            compare.push(Compare::ModRev(keys::lease(&of.service, &of.id), noted));
        }
        let txn = Txn {
            compare,
            // By themselves and not with a record of the size, as when a lease ends: so it is an expiry.
            then: vec![Op::Delete(instance), Op::Delete(keys::lease(&of.service, &of.id))],
            ..Txn::default()
        };
        let written_at = of.written_at;
        let store = self.of.registry.store().clone();
        self.calls.push(Box::pin(async move {
            let outcome = store.txn(txn).await.map(|reply| reply.succeeded);
            if matches!(outcome, Ok(true)) && !lease.is_shared() {
                // No key lives on it any more. If it stays, it ends by itself.
                let _ = store.revoke(lease).await;
            }
            Done::Ended { key, lease, written_at, outcome }
        }));
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

/// The lease of an instance that is shown and not held, if it is a long one.
fn long_lease(snapshot: &Snapshot, service: &ServiceRef, id: &str) -> Option<LeaseId> {
    snapshot.any_service(service)?.instance(id)?.lease.filter(|lease| lease.is_long())
}
