//! The one writer of the view: applies the watch in order of revision and says what gateways are to hear.
//!
//! Within a revision the order is fixed: records first, then instances (so that a provider written in the
//! same transaction is known), then deletes of records (so that a deleted provider's instances are still
//! announced under its name), then what all that means for who hears of whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use opentelemetry::trace::SpanContext;
use proto::event::v1 as pb;
use shared::clock::Clock;
use shared::event::{Action, InstanceEvent, Position, Via};
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::watch;
use tracing::warn;

use self::chain::Chain;
use super::entry::{InstanceView, ServiceView};
use super::history::{Change, History};
use super::interest;
use super::protection::Protection;
use super::snapshot::{Snapshot, TenantView};
use crate::keys::{Key, Name};
use crate::metrics::ViewMetrics;
use crate::store::{KeyValue, KvEvent};
use crate::trace;

mod chain;
mod hold;
mod put;
mod relist;

/// Vanished services whose last position is remembered; past it the oldest are forgotten, which costs their
/// gateways one replay if they ever come back.
const GONE_MOST: usize = 100_000;

/// The only handle that changes the view. Lives in one task; see [`super::follow`].
pub struct Writer {
    current: Snapshot,
    swap: Arc<ArcSwap<Snapshot>>,
    revision: watch::Sender<Revision>,
    history: Arc<History>,
    clock: Clock,
    /// Where the events of services that are gone ended, in case they come back.
    gone: HashMap<ServiceRef, Position>,
    /// Before this revision nothing is known of providers that are not in the view.
    floor: Revision,
    /// The last change of each consumer's interest, and of each tenant's services.
    interests: Chain<ServiceRef>,
    services: Chain<Tenant>,
    protection: Protection,
    skipped: Arc<AtomicU64>,
    metrics: Option<ViewMetrics>,
}

/// What one revision did, until it is told.
#[derive(Default)]
struct Round {
    rev: Revision,
    committed_at: u64,
    /// The span that applies it, when the change is traced.
    trace: Option<Box<SpanContext>>,
    events: Vec<Change>,
    /// Names whose versions, or whose providers' rules, changed.
    names: BTreeSet<(Tenant, Name)>,
    /// Consumers whose own part changed.
    consumers: BTreeSet<ServiceRef>,
    /// Consumers known by name and version only.
    named_consumers: BTreeSet<(Tenant, Name, String)>,
    touched: BTreeSet<ServiceRef>,
    /// Services whose record came, went or was written.
    records: BTreeSet<ServiceRef>,
    /// Instances that were unregistered, as opposed to those that expired.
    left: BTreeSet<(ServiceRef, String)>,
}

impl Writer {
    pub(super) fn new(
        swap: Arc<ArcSwap<Snapshot>>,
        revision: watch::Sender<Revision>,
        history: Arc<History>,
        clock: Clock,
        protection: Protection,
        skipped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            current: Snapshot::default(),
            swap,
            revision,
            history,
            clock,
            gone: HashMap::new(),
            floor: 0,
            interests: Chain::since(0),
            services: Chain::since(0),
            protection,
            skipped,
            metrics: None,
        }
    }

    /// The same, reporting its figures.
    #[must_use]
    pub fn reporting(self, metrics: ViewMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    pub(super) fn report(&mut self, what: impl FnOnce(&mut ViewMetrics)) {
        if let Some(metrics) = &mut self.metrics {
            what(metrics);
        }
    }

    /// The revision that the view has reached.
    pub fn revision(&self) -> Revision {
        self.current.revision
    }

    /// Applies changes as the watch delivered them. What the view already has is passed over.
    pub fn apply(&mut self, events: Vec<KvEvent>) {
        let committed_at = self.clock.micros();
        for batch in events.chunk_by(|a, b| a.rev() == b.rev()) {
            let rev = batch[0].rev();
            if rev <= self.current.revision {
                continue;
            }
            let before = self.current.clone();
            let mut round = Round { rev, committed_at, ..Round::default() };
            let step = trace::applying(batch, committed_at);
            round.trace = step.as_ref().map(|step| Box::new(step.context()));
            self.apply_revision(batch, &mut round);
            self.current.revision = rev;
            self.tell_interest(&before, &mut round);
            self.forget_void(&round);
            self.history.extend(round.events);
            // Ends here; the snapshot follows with the last revision of the batch.
            drop(step);
        }
        self.publish();
    }

    /// Notes that nothing else happened up to `rev`.
    pub fn progress(&mut self, rev: Revision) {
        if rev > self.current.revision {
            self.current.revision = rev;
            self.publish();
        }
    }

    fn publish(&self) {
        self.swap.store(Arc::new(self.current.clone()));
        self.revision.send_replace(self.current.revision);
    }

    fn apply_revision(&mut self, batch: &[KvEvent], round: &mut Round) {
        let keyed: Vec<(Key, &KvEvent)> =
            batch.iter().map(|event| (Key::parse(event.key()), event)).collect();
        for (key, event) in &keyed {
            if let (false, KvEvent::Put(kv)) = (matches!(key, Key::Instance(..)), event) {
                self.put(key, kv, round);
            }
        }
        let ended = |service: &ServiceRef| {
            keyed.iter().any(|(key, event)| {
            matches!((key, event), (Key::Service(gone), KvEvent::Delete { .. }) if gone == service)
        })
        };
        for (key, event) in &keyed {
            let Key::Instance(service, id) = key else { continue };
            match event {
                KvEvent::Put(kv) => self.put_instance(service, id, kv, round),
                KvEvent::Delete { .. } => {
                    let left = round.left.contains(&(service.clone(), id.clone())) || ended(service);
                    if left || !self.hold(service, id, round) {
                        self.delete_instance(service, id, round);
                    }
                }
            }
        }
        for (key, event) in &keyed {
            if let (false, KvEvent::Delete { .. }) = (matches!(key, Key::Instance(..)), event) {
                self.delete(key, round);
            }
        }
    }

    fn put_instance(&mut self, service: &ServiceRef, id: &str, kv: &KeyValue, round: &mut Round) {
        let Some(view) = self.parse_instance(service, id, kv) else { return };
        let instance = view.instance.clone();
        let before = self.service_mut(service).put_instance(view);
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        let action = if before.is_some() { Action::Update } else { Action::Create };
        if before.is_none() {
            self.tenant_mut(&service.tenant).instance_count += 1;
        }
        self.announce(service, action, instance, kv.mod_rev, round);
        round.touched.insert(service.clone());
    }

    fn delete_instance(&mut self, service: &ServiceRef, id: &str, round: &mut Round) {
        let known = self.current.any_service(service).is_some_and(|view| view.instances.contains_key(id));
        if !known {
            return;
        }
        self.current.unrecorded.remove_mut(&(service.clone(), id.to_owned()));
        if let Some(before) = self.service_mut(service).take_instance(id) {
            self.tenant_mut(&service.tenant).instance_count -= 1;
            self.announce(service, Action::Delete, before.instance.clone(), round.rev, round);
        }
        round.touched.insert(service.clone());
    }

    /// Adds an event to the provider's chain. A provider without a record has no name to be announced
    /// under: its instances are announced when the record comes.
    fn announce(
        &mut self,
        provider: &ServiceRef,
        action: Action,
        instance: Arc<shared::model::Instance>,
        mod_rev: Revision,
        round: &mut Round,
    ) {
        let view = self.service_mut(provider);
        if view.service.is_none() {
            return;
        }
        let prev = view.last;
        let sub = if prev.rev == round.rev { prev.sub.saturating_add(1) } else { 0 };
        let at = Position { rev: round.rev, sub };
        view.last = at;
        let key = view.key.clone();
        round.events.push(Change::Instance(Arc::new(InstanceEvent {
            provider: provider.clone(),
            at,
            prev,
            action,
            key,
            instance,
            mod_rev,
            committed_at: round.committed_at,
            via: Via { trace: round.trace.clone(), ..Via::default() },
        })));
    }

    /// Compares who heard of whom before the revision with after it, for those whom it may concern.
    fn tell_interest(&mut self, before: &Snapshot, round: &mut Round) {
        let mut consumers = std::mem::take(&mut round.consumers);
        for (tenant, name) in &round.names {
            consumers.extend(interest::concerned(before, tenant, name));
            consumers.extend(interest::concerned(&self.current, tenant, name));
        }
        for (tenant, name, version) in &round.named_consumers {
            for snapshot in [before, &self.current] {
                let versions = snapshot.versions(tenant, name);
                let ids = versions.iter().filter(|v| v.text == *version);
                consumers.extend(ids.map(|v| ServiceRef::new(tenant.clone(), &v.id)));
            }
        }
        for consumer in consumers {
            if let Some(mut change) = self.interest_change(before, &consumer, round) {
                change.prev_rev = self.interests.link(consumer, round.rev);
                round.events.push(Change::Interest(Arc::new(change)));
            }
        }
        self.tell_services(before, round);
    }

    /// Compares which services each tenant had before the revision with after it, for who watches by what
    /// services are.
    fn tell_services(&mut self, before: &Snapshot, round: &mut Round) {
        let mut changes: BTreeMap<Tenant, pb::ServicesChange> = BTreeMap::new();
        for service in std::mem::take(&mut round.records) {
            let key = |snapshot: &Snapshot| snapshot.service(&service).map(|(view, _)| view.key.clone());
            let (old, new) = (key(before), key(&self.current));
            if old == new {
                continue;
            }
            let change = changes.entry(service.tenant.clone()).or_insert_with(|| pb::ServicesChange {
                domain: service.tenant.domain.clone(),
                project: service.tenant.project.clone(),
                rev: round.rev,
                committed_at: round.committed_at,
                ..pb::ServicesChange::default()
            });
            match new {
                Some(key) => change
                    .added
                    .push(pb::NamedService { service: Some((&service).into()), key: Some((&*key).into()) }),
                None => change.removed.push((&service).into()),
            }
        }
        for (tenant, change) in changes {
            let prev_rev = self.services.link(tenant, round.rev);
            round.events.push(Change::Services(Arc::new(pb::ServicesChange { prev_rev, ..change })));
        }
    }

    fn interest_change(
        &self,
        before: &Snapshot,
        consumer: &ServiceRef,
        round: &Round,
    ) -> Option<pb::InterestChange> {
        let old = interest::providers(before, consumer);
        let new = interest::providers(&self.current, consumer);
        let consumer_deleted = old.is_some() && new.is_none();
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        if old == new && !consumer_deleted {
            return None;
        }
        Some(pb::InterestChange {
            consumer: Some(consumer.into()),
            rev: round.rev,
            added: new.difference(&old).map(Into::into).collect(),
            removed: old.difference(&new).map(Into::into).collect(),
            consumer_deleted,
            committed_at: round.committed_at,
            ..pb::InterestChange::default()
        })
    }

    fn tenant_mut(&mut self, tenant: &Tenant) -> &mut TenantView {
        if !self.current.tenants.contains_key(tenant) {
            self.current.tenants.insert_mut(tenant.clone(), Arc::default());
        }
        let view = self.current.tenants.get_mut(tenant).expect("inserted above when it was absent");
        Arc::make_mut(view)
    }

    /// The service's entry, made when it is absent, with what is known of its place in the order.
    fn service_mut(&mut self, service: &ServiceRef) -> &mut ServiceView {
        let last = self.gone.get(service).copied().unwrap_or(Position::end_of(self.floor));
        let tenant = self.tenant_mut(&service.tenant);
        if !tenant.services.contains_key(&service.id) {
            let view = ServiceView { last, ..ServiceView::default() };
            tenant.services.insert_mut(service.id.clone(), Arc::new(view));
        }
        let view = tenant.services.get_mut(&service.id).expect("inserted above when it was absent");
        Arc::make_mut(view)
    }

    /// Drops entries of which nothing is left, remembering where their events ended.
    fn forget_void(&mut self, round: &Round) {
        for service in &round.touched {
            let Some(view) = self.current.any_service(service) else { continue };
            if !view.is_void() {
                continue;
            }
            let last = view.last;
            self.tenant_mut(&service.tenant).services.remove_mut(&service.id);
            self.gone.insert(service.clone(), last);
        }
        if self.gone.len() > GONE_MOST {
            // Whoever is forgotten counts as unknown up to now, so that no hole can hide.
            self.floor = self.current.revision;
            self.gone.clear();
        }
    }

    fn parse_instance(&mut self, service: &ServiceRef, id: &str, kv: &KeyValue) -> Option<InstanceView> {
        let record = self.parse::<shared::model::Instance>(kv)?;
        let mut instance = record.value;
        // The key is the truth; a foreign writer may have left the ids out.
        instance.instance_id = id.to_owned();
        instance.service_id = service.id.clone();
        // There may be a hundred thousand; most have one address where a list grows by four.
        instance.endpoints.shrink_to_fit();
        Some(InstanceView {
            instance: Arc::new(instance),
            unknown: (!record.unknown.is_empty()).then(|| Box::new(record.unknown)),
            mod_rev: kv.mod_rev,
            lease: kv.lease,
        })
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self, kv: &KeyValue) -> Option<crate::record::Record<T>> {
        match crate::record::Record::parse(&kv.value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.skipped.fetch_add(1, Ordering::Relaxed);
                warn!(key = kv.key, revision = kv.mod_rev, %error, "a stored value cannot be read; skipped");
                None
            }
        }
    }
}
