//! The one writer of the view. It applies the watch in order of revision and derives the changes for
//! gateways.
//!
//! Within a revision the order is fixed:
//!
//! 1. overrides, so that each instance is announced once, as it is with all of them;
//! 2. written records, so that a provider written in the same transaction is known to its instances;
//! 3. instances, and then those that only an override changed;
//! 4. deleted records, so that the instances of a deleted provider are still announced under its name;
//! 5. the changes of interest and of services that follow from all of that.
//!
//! | room | holds |
//! | --- | --- |
//! | `records` | the meaning of each written or deleted key, instances excepted |
//! | `instances` | instances, and their events |
//! | `overrides` | overrides, and the instances that change with them |
//! | `policy` | accounts, roles, and tokens that do not count |
//! | `hold` | protection against mass expiry |
//! | `derived` | changes of interest and of services |
//! | `chain` | the link from each change to the one before |
//! | `relist` | the start from a full list |
//! | `shifts` | shifts, which change no instance themselves |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use opentelemetry::trace::SpanContext;
use serde::de::DeserializeOwned;
use shared::clock::Clock;
use shared::event::Position;
use shared::model::{Incarnation, Revision, ServiceRef, Tenant};
use tokio::sync::watch;
use tracing::warn;

use self::chain::Chain;
use super::access::SharedServices;
use super::entry::ServiceView;
use super::history::{Change, History};
use super::protection::Protection;
use super::snapshot::{Snapshot, TenantView};
use super::timeline::{ByOverride, Cause, Timeline};
use crate::keys::{Key, Name};
use crate::metrics::ViewMetrics;
use crate::record::Record;
use crate::store::trace;
use crate::store::{KeyValue, KvEvent};

mod chain;
mod derived;
mod hold;
mod instances;
mod overrides;
mod policy;
mod records;
mod relist;
mod shifts;

pub use relist::ListedView;

/// The most deleted services whose last position is remembered. Beyond it all are forgotten, which costs one
/// replay for each of them that ever comes back.
const MAX_GONE: usize = 100_000;

/// The only handle that changes the view. It lives in one task; see [`super::follow`].
pub struct ViewWriter {
    /// The newest state. Readers see it once it is published.
    current: Snapshot,
    published: Arc<ArcSwap<Snapshot>>,
    revision: watch::Sender<Revision>,
    history: Arc<History>,
    timeline: Arc<Timeline>,
    clock: Clock,
    /// The last position of each deleted service, in case that it comes back.
    gone: HashMap<ServiceRef, Position>,
    /// Up to this revision, a provider that is neither in the view nor in `gone` may have had any event.
    floor: Revision,
    /// Links each change of a consumer's interest to the one before.
    interest_chain: Chain<ServiceRef>,
    /// Links each change of a tenant's services to the one before.
    services_chain: Chain<Tenant>,
    protection: Protection,
    access: policy::AccessBase,
    skipped: Arc<AtomicU64>,
    metrics: Option<ViewMetrics>,
}

/// The revision that is being applied: the input of all its events, and the output so far.
#[derive(Default)]
struct Applying {
    rev: Revision,
    committed_at: u64,
    /// True while a list is taken in. It shows a state, so nothing of it is announced or noted.
    is_list: bool,
    /// The span that applies the revision, if it is traced.
    trace: Option<Box<SpanContext>>,
    /// The changes for the history, in order.
    changes: Vec<Change>,
    affected: Affected,
}

/// The entries that one revision affected, and which are looked at again at its end.
#[derive(Default)]
struct Affected {
    /// Names and aliases with a changed version, or with a provider to which access has changed.
    names: BTreeSet<(Tenant, Name)>,
    /// Consumers with a changed record, tag or wanted key.
    consumers: BTreeSet<ServiceRef>,
    /// Consumers with a changed dependency rule, by name and version as the rule's key has them.
    consumer_names: BTreeSet<(Tenant, Name, String)>,
    /// Services that may have become empty.
    services: BTreeSet<ServiceRef>,
    /// Services with a written or deleted record.
    records: BTreeSet<ServiceRef>,
    /// Services with a changed override, and these overrides.
    overridden: BTreeMap<ServiceRef, Vec<Arc<ByOverride>>>,
    /// Instances that unregister in this revision, in contrast to those that expire.
    unregistered: BTreeSet<(ServiceRef, String)>,
}

impl ViewWriter {
    pub(super) fn new(
        published: Arc<ArcSwap<Snapshot>>,
        revision: watch::Sender<Revision>,
        history: Arc<History>,
        clock: Clock,
        protection: Protection,
        skipped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            current: Snapshot::default(),
            published,
            revision,
            history,
            timeline: Arc::default(),
            clock,
            gone: HashMap::new(),
            floor: Revision::ZERO,
            interest_chain: Chain::beginning_at(Revision::ZERO),
            services_chain: Chain::beginning_at(Revision::ZERO),
            protection,
            access: policy::AccessBase::default(),
            skipped,
            metrics: None,
        }
    }

    /// The same writer, whose view knows the services that every tenant finds.
    #[must_use]
    pub fn sharing(mut self, shared: SharedServices) -> Self {
        self.current.shared = Arc::new(shared);
        self
    }

    /// The same writer, which reports to `metrics`.
    #[must_use]
    pub fn reporting(self, metrics: ViewMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    pub(super) fn report(&mut self, report: impl FnOnce(&mut ViewMetrics)) {
        if let Some(metrics) = &mut self.metrics {
            report(metrics);
        }
    }

    /// The last changes of each service.
    pub(super) fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// The revision of the view.
    pub fn revision(&self) -> Revision {
        self.current.revision
    }

    /// The incarnation of the store that the view shows.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.current.incarnation
    }

    /// Applies changes as the watch delivered them: in order, and with all changes of a revision in one call.
    /// Revisions that the view already contains are skipped.
    pub fn apply(&mut self, events: Vec<KvEvent>) {
        let committed_at = self.clock.micros();
        for batch in events.chunk_by(|a, b| a.rev() == b.rev()) {
            let rev = batch[0].rev();
            if rev <= self.current.revision {
                continue;
            }
            // Cheap: the maps are persistent, so this copies a handful of pointers.
            let before = self.current.clone();
            let mut applying = Applying { rev, committed_at, ..Applying::default() };
            let span = trace::view_span(batch, committed_at);
            applying.trace = span.as_ref().map(|span| Box::new(span.context()));
            self.apply_revision(batch, &mut applying);
            self.current.revision = rev;
            self.current.changed = rev;
            self.push_interest_changes(&before, &mut applying);
            self.push_services_changes(&before, &mut applying);
            self.drop_empty_services(&applying);
            self.history.extend(applying.changes);
            // The span ends with the revision, not with the snapshot, which is published once for the whole
            // call.
            drop(span);
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
        // The revision comes last: a reader that waited for it must find the snapshot.
        self.published.store(Arc::new(self.current.clone()));
        self.revision.send_replace(self.current.revision);
    }

    fn apply_revision(&mut self, batch: &[KvEvent], applying: &mut Applying) {
        // Parsed once, because three passes need the keys.
        let parsed: Vec<(Key, &KvEvent)> =
            batch.iter().map(|event| (Key::parse(event.key()), event)).collect();
        for (key, event) in &parsed {
            if let Key::Override(service, id) = key {
                match event {
                    KvEvent::Put(kv) => self.apply_override(service, id, kv, applying),
                    KvEvent::Delete { .. } => self.remove_override(service, id, applying),
                }
            }
        }
        for (key, event) in &parsed {
            if let KvEvent::Put(kv) = event
                && !is_instance(key)
            {
                self.apply_put(key, kv, applying);
            }
        }
        for (key, event) in &parsed {
            let Key::Instance(service, id) = key else { continue };
            match event {
                KvEvent::Put(kv) => self.apply_instance(service, id, kv, applying),
                KvEvent::Delete { .. } => {
                    // Both are intended by somebody. Only an expiry may be held.
                    let instance = (service.clone(), id.clone());
                    let cause = if deletes_service(&parsed, service) {
                        Cause::ServiceDeleted
                    } else if applying.affected.unregistered.contains(&instance) {
                        Cause::Unregistered
                    } else {
                        Cause::BeatLost
                    };
                    if cause != Cause::BeatLost || !self.try_hold(service, id, applying) {
                        self.remove_instance(service, id, cause, applying);
                    }
                }
            }
        }
        self.merge_overridden(applying);
        for (key, event) in &parsed {
            if matches!(event, KvEvent::Delete { .. }) && !is_instance(key) {
                self.apply_delete(key, applying);
            }
        }
    }

    fn tenant_mut(&mut self, tenant: &Tenant) -> &mut TenantView {
        if !self.current.tenants.contains_key(tenant) {
            self.current.tenants.insert_mut(tenant.clone(), Arc::default());
        }
        let view = self.current.tenants.get_mut(tenant).expect("inserted above when it was absent");
        Arc::make_mut(view)
    }

    /// The service's entry. A new entry continues after the last event that the service may have had.
    fn service_mut(&mut self, service: &ServiceRef) -> &mut ServiceView {
        let last = self.last_position_of_absent(service);
        let tenant = self.tenant_mut(&service.tenant);
        if !tenant.services.contains_key(&service.id) {
            let view = ServiceView { last, ..ServiceView::default() };
            tenant.services.insert_mut(service.id.clone(), Arc::new(view));
        }
        let view = tenant.services.get_mut(&service.id).expect("inserted above when it was absent");
        Arc::make_mut(view)
    }

    /// The position after which a service that is not in the view had no event.
    fn last_position_of_absent(&self, service: &ServiceRef) -> Position {
        self.gone.get(service).copied().unwrap_or(Position::end_of(self.floor))
    }

    /// Drops the entries of services that have become empty, and remembers their last positions.
    fn drop_empty_services(&mut self, applying: &Applying) {
        for service in &applying.affected.services {
            let Some(view) = self.current.any_service(service) else { continue };
            if !view.is_void() {
                continue;
            }
            let last = view.last;
            self.tenant_mut(&service.tenant).services.remove_mut(&service.id);
            self.gone.insert(service.clone(), last);
        }
        if self.gone.len() > MAX_GONE {
            // The forgotten ones count as changed up to now. An earlier floor could hide a missed event.
            self.floor = self.current.revision;
            self.gone.clear();
        }
    }

    /// Decodes a stored value. One that cannot be decoded is logged, counted and skipped: a foreign writer's
    /// mistake in one record must not stop the view.
    fn parse<T: DeserializeOwned>(&mut self, kv: &KeyValue) -> Option<Record<T>> {
        match Record::parse(&kv.value) {
            Ok(record) => Some(record),
            Err(error) => {
                self.skip(kv, &error);
                None
            }
        }
    }

    /// Counts and logs a stored value that is left out of the view.
    fn skip(&mut self, kv: &KeyValue, error: &dyn std::fmt::Display) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        warn!(key = kv.key, revision = kv.mod_rev.get(), %error, "a stored value cannot be used; skipping it");
    }
}

fn is_instance(key: &Key) -> bool {
    matches!(key, Key::Instance(..))
}

fn deletes_service(parsed: &[(Key, &KvEvent)], service: &ServiceRef) -> bool {
    parsed.iter().any(|(key, event)| match (key, event) {
        (Key::Service(deleted), KvEvent::Delete { .. }) => deleted == service,
        _ => false,
    })
}
