//! A store that slows the tenants which fill it, before it is full for everyone.
//!
//! In: transactions, and how full the store is. Out: the same transactions, without those of a tenant that
//! has recently written more than its share of the room that is left.
//!
//! etcd keeps each version of each value until it is compacted, and when its file reaches the quota it
//! refuses every write of every tenant until an operator has acted. So what a tenant has *written* counts,
//! not what it holds. While the store has room nobody is slowed.
//!
//! Clients choose the names of tenants, so a share for each would be no bound. Those that the registry did not
//! have when the store became nearly full, the *newcomers*, share one tenant's ration. The last part of the
//! quota is a reserve for the known ones, in equal parts, so that somebody who writes little goes on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::metrics::{Counter, Meter};
use parking_lot::Mutex;
use shared::model::{Revision, Tenant};
use tokio::time::Instant;
use tracing::warn;

use super::{
    GroupFigures, LeaseId, LeaseTime, Op, RangeReply, RangeRequest, Store, StoreError, StoreSpace, Txn,
    TxnReply, WatchStream,
};
use crate::keys::Key;

/// The share of the quota from which on the store counts as nearly full.
pub(crate) const NEARLY_FULL: f64 = 0.8;
/// The part of the quota at its end that is kept for the known tenants: a twentieth.
const RESERVE_PART: u64 = 20;
/// The divisor of what this process gives out of the reserve. Two for a second control plane, because each counts only
/// what it writes itself; and twice that for the pages and revisions of etcd, which take about as much again as small
/// keys and values.
const RESERVE_DIVISOR: u64 = 4;
/// The part of the remaining room that one tenant may fill, until what it wrote is half forgotten.
const TENANT_PART: u64 = 8;
/// Bytes that are little: a tenant that wrote less can be forgotten.
const LITTLE: f64 = 16384.0;
/// The time after which what a tenant has written counts half.
const HALF_LIFE: Duration = Duration::from_secs(300);
/// The number of tenants from which on those that have written little are forgotten.
const MANY_TENANTS: usize = 4096;

/// The recent writes of all tenants, and the room that the store has left.
pub(crate) struct Ration {
    state: Arc<Mutex<RationState>>,
    refused: Counter<u64>,
}

#[derive(Default)]
struct RationState {
    space: Option<StoreSpace>,
    /// The bytes that were written since the store told its room. A fast writer must not fill it meanwhile.
    since: u64,
    recent: HashMap<Tenant, RecentBytes>,
    /// The tenants that the registry had when the store became nearly full. `None` while it has room, and until the
    /// registry has been read.
    known: Option<HashSet<Tenant>>,
    /// The bytes of all other tenants together.
    newcomers: Option<RecentBytes>,
}

impl RationState {
    /// The bytes that a tenant may have written of late. `None` while there is room for all.
    fn allowed(&self, is_newcomer: bool) -> Option<u64> {
        let space = self.space?;
        let space = StoreSpace { used: space.used.saturating_add(self.since), ..space };
        if space.share() < NEARLY_FULL {
            return None;
        }
        let room = space.quota.saturating_sub(space.used);
        let reserve = space.quota / RESERVE_PART;
        // The nearer the reserve, the less one tenant may write, so the store fills ever slower and small writers go on.
        let part = room.saturating_sub(reserve) / TENANT_PART;
        if is_newcomer {
            return Some(part);
        }
        let known = self.known.as_ref().map_or(0, HashSet::len) as u64;
        // What is forgotten may be written again, so at the very end nobody writes all that is left.
        let reserved = (reserve / RESERVE_DIVISOR / known.max(TENANT_PART)).min(room / TENANT_PART);
        Some(part.max(reserved))
    }
}

/// The bytes that a tenant has written, of which older ones count less.
struct RecentBytes {
    bytes: f64,
    at: Instant,
    /// True from the first write that was refused until the store has room again: the log says it once, however a
    /// client alternates.
    refused: bool,
}

impl RationState {
    fn recent_of(&mut self, tenant: &Tenant, now: Instant) -> &mut RecentBytes {
        // Clients choose the names of tenants, so the map is bounded: those that wrote next to nothing lose
        // nothing by being forgotten. While the store is nearly full a part of the reserve may be next to nothing, and
        // only the tenants that the registry has come here.
        if self.known.is_none() && self.recent.len() >= MANY_TENANTS && !self.recent.contains_key(tenant) {
            self.recent.retain(|_, recent| {
                recent.decay(now);
                recent.bytes >= LITTLE
            });
        }
        self.recent.entry(tenant.clone()).or_insert_with(|| RecentBytes::none(now))
    }
}

impl RecentBytes {
    fn none(now: Instant) -> Self {
        Self { bytes: 0.0, at: now, refused: false }
    }

    fn decay(&mut self, now: Instant) {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.bytes *= 0.5_f64.powf(halves);
        self.at = now;
    }
}

impl Ration {
    /// A ration of a store about whose room nothing is known yet.
    pub(crate) fn new(meter: &Meter) -> Self {
        let state: Arc<Mutex<RationState>> = Arc::default();
        for (name, help, read) in GAUGES {
            let state = state.clone();
            meter
                .u64_observable_gauge(name)
                .with_description(help)
                .with_callback(move |observer| {
                    // A store without a quota has no such figures.
                    if let Some(space) = state.lock().space {
                        observer.observe(read(&space), &[]);
                    }
                })
                .build();
        }
        let refused = meter
            .u64_counter("muster_store_refused_writes_total")
            .with_description(
                "Writes refused because the store is nearly full and their tenant, or all new tenants together, have \
                 written much.",
            )
            .build();
        refused.add(0, &[]);
        Self { state, refused }
    }

    /// Notes how full the store is. `tenants` reads those that the registry has, and is called when the store has
    /// become nearly full; `None` if they cannot be read yet.
    pub(crate) fn set_space(
        &self,
        space: Option<StoreSpace>,
        tenants: impl FnOnce() -> Option<HashSet<Tenant>>,
    ) {
        let is_short = space.is_some_and(|space| space.share() >= NEARLY_FULL);
        let mut state = self.state.lock();
        state.space = space;
        state.since = 0;
        if !is_short {
            (state.known, state.newcomers) = (None, None);
            state.recent.values_mut().for_each(|recent| recent.refused = false);
        } else if state.known.is_none() {
            state.known = tenants();
        }
    }

    fn admit(&self, txn: &Txn, now: Instant) -> Result<(), StoreError> {
        let Some((tenant, bytes)) = written_by(txn) else { return Ok(()) };
        let mut state = self.state.lock();
        let is_newcomer = state.known.as_ref().is_some_and(|known| !known.contains(&tenant));
        let allowed = state.allowed(is_newcomer);
        let recent = if is_newcomer {
            state.newcomers.get_or_insert_with(|| RecentBytes::none(now))
        } else {
            state.recent_of(&tenant, now)
        };
        recent.decay(now);
        if allowed.is_some_and(|allowed| recent.bytes + bytes as f64 > allowed as f64) {
            if !std::mem::replace(&mut recent.refused, true) {
                let whose = if is_newcomer { "new tenants together" } else { "the tenant" };
                warn!(
                    domain = tenant.domain,
                    project = tenant.project,
                    "the store is nearly full, and writes are refused because of what {whose} wrote of late"
                );
            }
            self.refused.add(1, &[]);
            return Err(StoreError::Rationed);
        }
        recent.bytes += bytes as f64;
        state.since += bytes;
        Ok(())
    }
}

type ReadGauge = fn(&StoreSpace) -> u64;

const GAUGES: [(&str, &str, ReadGauge); 3] = [
    ("muster_store_bytes", "Size of the store's data, as it counts against the quota.", |space| space.used),
    ("muster_store_quota_bytes", "Size at which the store refuses every write.", |space| space.quota),
    ("muster_store_full", "1 while the store refuses every write because of its quota.", |space| {
        u64::from(space.full)
    }),
];

/// The tenant of a transaction that writes values, and their bytes. `None` if it only deletes, or belongs to
/// no tenant: deletes make room, and what we write for ourselves is small. A lease key that is written alone
/// is a heartbeat: refused, it would cost an instance its life.
fn written_by(txn: &Txn) -> Option<(Tenant, u64)> {
    let puts = || {
        txn.then.iter().filter_map(|op| match op {
            Op::Put { key, value, .. } | Op::PutLast { key, value, .. } => Some((key, value)),
            _ => None,
        })
    };
    let tenant = puts().find_map(|(key, _)| match Key::parse(key) {
        Key::Lease(..) => None,
        key => key.tenant().cloned(),
    })?;
    Some((tenant, puts().map(|(key, value)| (key.len() + value.len()) as u64).sum()))
}

/// Passes every call to another store, except for writes that exceed a tenant's ration.
pub(crate) struct Rationed {
    inner: Arc<dyn Store>,
    ration: Arc<Ration>,
}

impl Rationed {
    pub(crate) fn new(inner: Arc<dyn Store>, ration: Arc<Ration>) -> Self {
        Self { inner, ration }
    }
}

#[async_trait]
impl Store for Rationed {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        self.inner.range(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        self.ration.admit(&txn, Instant::now())?;
        self.inner.txn(txn).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.inner.grant(ttl).await
    }

    async fn grant_long(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.inner.grant_long(ttl).await
    }

    async fn grant_shared(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.inner.grant_shared(ttl).await
    }

    async fn lease_time(&self, lease: LeaseId) -> Result<LeaseTime, StoreError> {
        self.inner.lease_time(lease).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.inner.barrier(prefix).await
    }

    async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.inner.newest(prefix).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.inner.compact(rev).await
    }

    async fn space(&self) -> Result<Option<StoreSpace>, StoreError> {
        self.inner.space().await
    }

    fn group_figures(&self) -> GroupFigures {
        self.inner.group_figures()
    }

    fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn ration(used: u64) -> Ration {
        let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
        fill(&ration, used, &["loud", "quiet", "other"]);
        ration
    }

    /// So many bytes of 100 MiB are in use, and the registry has these tenants.
    fn fill(ration: &Ration, used: u64, tenants: &[&str]) {
        let tenants = || Some(tenants.iter().map(|domain| Tenant::new(*domain, "default")).collect());
        ration.set_space(Some(StoreSpace { used, quota: 100 * MIB, full: false }), tenants);
    }

    fn write(domain: &str, bytes: usize) -> Txn {
        let key = format!("/cse-sr/inst/files/{domain}/default/service/instance");
        Txn { then: vec![Op::put(key, vec![0; bytes])], ..Txn::default() }
    }

    /// Writes 1 MiB at a time, and returns how many were admitted.
    fn flood(ration: &Ration, domain: &str, now: Instant) -> usize {
        (0..200).take_while(|_| ration.admit(&write(domain, MIB as usize), now).is_ok()).count()
    }

    #[test]
    fn a_tenant_that_fills_the_store_is_slowed_before_others() {
        let now = Instant::now();
        let ration = ration(50 * MIB);
        assert_eq!(flood(&ration, "loud", now), 30, "nobody is slowed while there is room");
        fill(&ration, 80 * MIB, &["loud", "quiet", "other"]);
        assert!(matches!(ration.admit(&write("loud", 10), now), Err(StoreError::Rationed)));
        assert!(ration.admit(&write("quiet", 10), now).is_ok());
        assert_eq!(flood(&ration, "other", now), 1, "an eighth of the room that is left");
        let delete = Txn { then: vec![Op::Delete("/cse-sr/inst/files/loud/d/s/i".into())], ..Txn::default() };
        assert!(ration.admit(&delete, now).is_ok(), "deletes make room");
        assert!(
            ration
                .admit(&Txn { then: vec![Op::put("/muster/publisher", "x")], ..Txn::default() }, now)
                .is_ok()
        );
    }

    #[test]
    fn tenants_that_are_made_up_share_one_ration() {
        let now = Instant::now();
        let ration = ration(80 * MIB);
        let admitted = (0..1000).filter(|n| ration.admit(&write(&format!("new-{n}"), 400_000), now).is_ok());
        assert_eq!(admitted.count(), 4, "an eighth of the room that is left");
        let small = (0..100_000).filter(|n| ration.admit(&write(&format!("small-{n}"), 100), now).is_ok());
        assert!(small.count() < 10_000, "small writes are no way around it");
        assert_eq!(flood(&ration, "quiet", now), 1, "a tenant that was there has a ration of its own");
    }

    #[test]
    fn the_reserve_is_for_tenants_that_were_there() {
        let now = Instant::now();
        let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
        // They came in time, and are as many as somebody could make up before.
        let prepared: Vec<String> = (0..300).map(|n| format!("prepared-{n}")).collect();
        let tenants: Vec<&str> = prepared.iter().map(String::as_str).chain(["quiet"]).collect();
        fill(&ration, 80 * MIB, &tenants);
        for tenant in &prepared {
            while ration.admit(&write(tenant, 100_000), now).is_ok() {}
        }
        for tenant in &prepared {
            while ration.admit(&write(tenant, 100), now).is_ok() {}
        }
        assert!(ration.admit(&write("new", 100), now).is_err());
        let registrations = (0..100).take_while(|_| ration.admit(&write("quiet", 500), now).is_ok());
        assert!(registrations.count() > 4, "its part of the reserve");
        let used = 80 * MIB + ration.state.lock().since;
        assert!(used < 100 * MIB, "{used} of {} bytes", 100 * MIB);
    }

    #[test]
    fn many_tenants_write_their_parts_of_the_reserve_once() {
        let now = Instant::now();
        let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
        let names: Vec<String> = (0..2 * MANY_TENANTS).map(|n| format!("t{n}")).collect();
        fill(&ration, 96 * MIB, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let admitted = || names.iter().filter(|name| ration.admit(&write(name, 50), now).is_ok()).count();
        assert_eq!([admitted(), admitted()], [names.len(), 0]);
    }

    #[test]
    fn a_registry_that_is_not_read_yet_has_no_newcomers() {
        let now = Instant::now();
        let ration = Ration::new(&SdkMeterProvider::default().meter("test"));
        let space = Some(StoreSpace { used: 97 * MIB, quota: 100 * MIB, full: false });
        ration.set_space(space, || None);
        assert!(ration.admit(&write("first", 10), now).is_ok());
        ration.set_space(space, || Some(HashSet::from([Tenant::new("first", "default")])));
        assert!(ration.admit(&write("first", 10), now).is_ok());
        assert!(ration.admit(&write("second", 10), now).is_err());
        // There is room again.
        fill(&ration, 50 * MIB, &[]);
        assert!(ration.admit(&write("second", 10), now).is_ok());
    }

    #[test]
    fn writes_since_the_last_look_count() {
        let now = Instant::now();
        let ration = ration(70 * MIB);
        let admitted = flood(&ration, "loud", now);
        assert_eq!(admitted, 10, "the writes fill the store themselves until it is nearly full");
        assert!(ration.admit(&write("quiet", 10), now).is_ok());
    }

    #[test]
    fn writes_are_admitted_again_after_a_while() {
        let now = Instant::now();
        let ration = ration(85 * MIB);
        assert_eq!(flood(&ration, "loud", now), 1);
        assert!(ration.admit(&write("loud", MIB as usize), now + HALF_LIFE / 2).is_err());
        assert!(ration.admit(&write("loud", MIB as usize / 2), now + HALF_LIFE * 2).is_ok());
    }

    #[test]
    fn a_store_that_does_not_tell_its_room_slows_nobody() {
        let ration = ration(0);
        ration.set_space(None, || None);
        assert_eq!(flood(&ration, "loud", Instant::now()), 200);
    }

    #[test]
    fn many_tenants_do_not_fill_the_memory() {
        let now = Instant::now();
        let ration = ration(0);
        for n in 0..3 * MANY_TENANTS {
            ration.admit(&write(&format!("t{n}"), 10), now).expect("admitted");
        }
        assert!(ration.state.lock().recent.len() <= MANY_TENANTS);
    }
}
