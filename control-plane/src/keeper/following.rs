//! The instances that are tracked, as the view shows them, and those that have ended of late.

use std::time::Duration;

use liveness::{Endings, Key, Moment};
use shared::event::Action;
use shared::model::{Revision, ServiceRef};

use super::{Renewal, TOLD_EVERY, Term, Tracked};
use crate::store::LeaseId;
use crate::view::{Change, History, Snapshot};

/// The least time that an instance has, as with the shortest lease of etcd.
const LEAST_TIME: Duration = Duration::from_secs(2);
/// Added to the time of an instance, as the store adds as much before it finds that a lease has ended. A
/// heartbeat that is a little late must not cost the instance its life.
const GRACE: Duration = Duration::from_millis(500);
/// A new term renews its leases within this time, each at a moment by chance. The term before may have been
/// about to do so.
const TAKEOVER: Duration = Duration::from_secs(60);

impl Term<'_> {
    /// Brings the keeper to the view. After a hole in the history everything is compared.
    pub(super) fn follow(&mut self) {
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
}

/// The lease of an instance that is shown and not held, if it is a long one.
fn long_lease(snapshot: &Snapshot, service: &ServiceRef, id: &str) -> Option<LeaseId> {
    snapshot.any_service(service)?.instance(id)?.lease.filter(|lease| lease.is_long())
}
