//! A store that slows the tenants which fill it, before it is full for everyone.
//!
//! In: transactions, and how full the store is. Out: the same transactions, without those of a tenant that
//! has recently written more than its share of the room that is left.
//!
//! etcd keeps each version of each value until it is compacted, and when its file reaches the quota it
//! refuses every write of every tenant until an operator has acted. So what a tenant has *written* counts,
//! not what it holds. While the store has room nobody is slowed.

use std::collections::HashMap;
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
/// The part of the remaining room that one tenant may fill, until what it wrote is half forgotten.
const TENANT_PART: u64 = 8;
/// Bytes that a tenant may always write, so that small ones go on to the end.
const ALWAYS: u64 = 256 << 10;
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
}

/// The bytes that a tenant has written, of which older ones count less.
struct RecentBytes {
    bytes: f64,
    at: Instant,
    /// True while the tenant's writes are refused, so that the log says it once.
    refused: bool,
}

impl RecentBytes {
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
                "Writes refused because the store is nearly full and their tenant has written much.",
            )
            .build();
        refused.add(0, &[]);
        Self { state, refused }
    }

    /// Notes how full the store is.
    pub(crate) fn set_space(&self, space: Option<StoreSpace>) {
        let mut state = self.state.lock();
        state.space = space;
        state.since = 0;
    }

    fn admit(&self, txn: &Txn, now: Instant) -> Result<(), StoreError> {
        let Some((tenant, bytes)) = written_by(txn) else { return Ok(()) };
        let mut state = self.state.lock();
        let since = state.since;
        // `None` while there is room for all. The nearer the quota, the less one tenant may write, so the store
        // fills ever slower and small writers go on.
        let allowed = state
            .space
            .map(|space| StoreSpace { used: space.used.saturating_add(since), ..space })
            .filter(|space| space.share() >= NEARLY_FULL)
            .map(|space| (space.quota.saturating_sub(space.used) / TENANT_PART).max(ALWAYS) as f64);
        // Clients choose the names of tenants, so the map is bounded: those that wrote next to nothing lose
        // nothing by being forgotten.
        if state.recent.len() >= MANY_TENANTS && !state.recent.contains_key(&tenant) {
            state.recent.retain(|_, recent| {
                recent.decay(now);
                recent.bytes >= ALWAYS as f64 / 16.0
            });
        }
        let recent =
            state.recent.entry(tenant.clone()).or_insert(RecentBytes { bytes: 0.0, at: now, refused: false });
        recent.decay(now);
        if allowed.is_some_and(|allowed| recent.bytes + bytes as f64 > allowed) {
            if !std::mem::replace(&mut recent.refused, true) {
                warn!(
                    domain = tenant.domain,
                    project = tenant.project,
                    "the store is nearly full, and writes of the tenant that wrote most are refused"
                );
            }
            self.refused.add(1, &[]);
            return Err(StoreError::Rationed);
        }
        recent.refused = false;
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
        ration.set_space(Some(StoreSpace { used, quota: 100 * MIB, full: false }));
        ration
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
        ration.set_space(Some(StoreSpace { used: 90 * MIB, quota: 100 * MIB, full: false }));
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
        let ration = ration(90 * MIB);
        assert_eq!(flood(&ration, "loud", now), 1);
        assert!(ration.admit(&write("loud", MIB as usize), now + HALF_LIFE / 2).is_err());
        assert!(ration.admit(&write("loud", MIB as usize / 2), now + HALF_LIFE * 2).is_ok());
    }

    #[test]
    fn a_store_that_does_not_tell_its_room_slows_nobody() {
        let ration = ration(0);
        ration.set_space(None);
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
