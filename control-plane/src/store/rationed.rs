//! A store that slows the tenants which fill it, before it is full for everyone.
//!
//! In: transactions, and how full the store is. Out: the same transactions, without those of a tenant that
//! has recently written more than its share of the room that is left.
//!
//! etcd keeps each version of each value until it is compacted, and when its file reaches the quota it
//! refuses every write of every tenant until an operator has acted. So what a tenant has *written* counts,
//! not what it holds; in the embedded store, which keeps no former values, only what exceeds those. While the store
//! has room nobody is slowed.
//!
//! Clients choose the names of tenants, so a share for each would be no bound. Those that the registry did not
//! have when the store became nearly full, the *newcomers*, share one tenant's ration. The last part of the
//! quota is a reserve for the known ones. Each has an equal part of it once, until the store has room again, so that
//! somebody who writes little goes on, and so that all parts together are not more than the reserve.

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
    TxnReply, WatchStream, written,
};
use crate::keys::Key;

/// The share of the quota from which on the store counts as nearly full.
pub(crate) const NEARLY_FULL: f64 = 0.8;
/// The part of the quota at its end that is kept for the known tenants: a twentieth.
const RESERVE_PART: u64 = 20;
/// The bytes by which the store may grow for each one that is written: pages and revisions of etcd take about as much
/// again as small keys and values.
const GROWTH: u64 = 2;
/// The control planes that are assumed at least. One may start while the store is nearly full, and a restart has two for
/// a while.
const LEAST_WRITERS: u64 = 2;
/// The part of the room before the reserve that one tenant may fill, until what it wrote is half forgotten.
const TENANT_PART: u64 = 8;
/// Bytes that are little: a tenant that wrote less can be forgotten.
const LITTLE: f64 = 16384.0;
/// Bytes that a transaction may write beside the record that it deletes, and still counts as one that makes room: an instance
/// that is unregistered leaves a small record of its service's size.
const BESIDE_DELETES: u64 = 1024;
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
    /// The control planes that there were then. Each counts only what it writes itself.
    writers: u64,
    /// The bytes of all tenants together that are not `known`.
    newcomers: Option<RecentBytes>,
}

/// Those that use the store when it becomes nearly full.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    /// The tenants that the registry has.
    pub(crate) tenants: HashSet<Tenant>,
    /// The control planes that are registered in it.
    pub(crate) writers: u64,
}

/// The bytes that a tenant may write.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    /// Those that it may have written of late.
    recent: u64,
    /// Those beyond, out of the reserve.
    reserved: u64,
}

impl RationState {
    /// The bytes that a tenant may write. `None` while there is room for all.
    fn allowed(&self, is_newcomer: bool) -> Option<Allowed> {
        let space = self.space?;
        // The bytes by which the store may grow for each one that this process writes.
        let growth = GROWTH.saturating_mul(self.writers.max(LEAST_WRITERS));
        let with = |since: u64| StoreSpace { used: space.used.saturating_add(since), ..space };
        if with(self.since).share() < NEARLY_FULL {
            return None;
        }
        let room = space.quota.saturating_sub(with(self.since.saturating_mul(growth)).used);
        let reserve = space.quota / RESERVE_PART;
        // The nearer the reserve, the less one tenant may write, so the store fills ever slower and small writers go on.
        let recent = room.saturating_sub(reserve) / TENANT_PART;
        let known = self.known.as_ref().map_or(0, |known| known.len()) as u64;
        let part = reserve / growth / known.max(TENANT_PART);
        // Nobody draws on the reserve before the room in front of it is nearly gone.
        let draws = !is_newcomer && recent < part;
        Some(Allowed { recent, reserved: if draws { part } else { 0 } })
    }
}

/// The bytes that a tenant has written, of which older ones count less.
struct RecentBytes {
    bytes: f64,
    at: Instant,
    /// Bytes that it had out of the reserve.
    reserved: u64,
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
        Self { bytes: 0.0, at: now, reserved: 0, refused: false }
    }

    fn decay(&mut self, now: Instant) {
        let halves = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.bytes *= 0.5_f64.powf(halves);
        self.at = now;
    }

    /// Notes a write, unless it is more than what is allowed.
    fn admit(&mut self, bytes: u64, allowed: Option<Allowed>) -> bool {
        let after = self.bytes + bytes as f64;
        if let Some(Allowed { recent, reserved }) = allowed
            && after > recent as f64
        {
            let drawn = self.reserved.saturating_add(bytes);
            if drawn > reserved {
                return false;
            }
            self.reserved = drawn;
        }
        self.bytes = after;
        true
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

    /// Notes how full the store is. `users` is called when the store has become nearly full; `None` if the registry
    /// cannot be read yet.
    pub(crate) fn set_space(&self, space: Option<StoreSpace>, users: impl FnOnce() -> Option<Users>) {
        let is_short = space.is_some_and(|space| space.share() >= NEARLY_FULL);
        let mut state = self.state.lock();
        state.space = space;
        state.since = 0;
        if !is_short {
            (state.known, state.newcomers) = (None, None);
            for recent in state.recent.values_mut() {
                (recent.reserved, recent.refused) = (0, false);
            }
        } else if state.known.is_none()
            && let Some(Users { tenants, writers }) = users()
        {
            (state.known, state.writers) = (Some(tenants), writers);
        }
    }

    /// Counts a transaction that adds so many bytes, unless they are more than its tenant may write. Returns what was counted.
    fn admit(&self, txn: &Txn, bytes: u64, now: Instant) -> Result<Option<Counted>, StoreError> {
        let Some(tenant) = writer_of(txn).filter(|_| bytes > 0) else { return Ok(None) };
        let mut state = self.state.lock();
        let is_newcomer = state.known.as_ref().is_some_and(|known| !known.contains(&tenant));
        let allowed = state.allowed(is_newcomer).filter(|_| bytes > BESIDE_DELETES || !ends_a_record(txn));
        let recent = if is_newcomer {
            state.newcomers.get_or_insert_with(|| RecentBytes::none(now))
        } else {
            state.recent_of(&tenant, now)
        };
        recent.decay(now);
        let drawn = recent.reserved;
        if recent.admit(bytes, allowed) {
            let drawn = recent.reserved - drawn;
            state.since += bytes;
            return Ok(Some(Counted { tenant, is_newcomer, bytes, drawn }));
        }
        if !std::mem::replace(&mut recent.refused, true) {
            let whose = if is_newcomer { "new tenants together" } else { "the tenant" };
            warn!(
                domain = tenant.domain,
                project = tenant.project,
                "the store is nearly full, and writes are refused because of what {whose} wrote of late"
            );
        }
        self.refused.add(1, &[]);
        Err(StoreError::Rationed)
    }
}

/// A write that counts.
#[derive(Debug)]
struct Counted {
    tenant: Tenant,
    is_newcomer: bool,
    bytes: u64,
    /// Those of the bytes that come out of the reserve.
    drawn: u64,
}

impl Ration {
    /// Takes back a write that the store has not made. Somebody else may make it lose as often as it is tried.
    fn take_back(&self, counted: Counted) {
        let Counted { tenant, is_newcomer, bytes, drawn } = counted;
        let mut state = self.state.lock();
        // The store may have told its room meanwhile.
        state.since = state.since.saturating_sub(bytes);
        let recent = if is_newcomer { state.newcomers.as_mut() } else { state.recent.get_mut(&tenant) };
        if let Some(recent) = recent {
            recent.bytes = (recent.bytes - bytes as f64).max(0.0);
            recent.reserved = recent.reserved.saturating_sub(drawn);
        }
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

/// The tenant on whose behalf a transaction writes values. `None` if it only deletes, or belongs to no tenant: deletes make
/// room, and what we write for ourselves is small. A lease key that is written alone is a heartbeat: refused, it would
/// cost an instance its life.
fn writer_of(txn: &Txn) -> Option<Tenant> {
    let first = written(txn).find_map(|(key, _)| match Key::parse(key) {
        Key::Lease(..) => None,
        key => key.tenant().cloned(),
    })?;
    Some(txn.by.clone().unwrap_or(first))
}

/// True for a transaction that deletes what was registered, and writes nothing but the size of its service. It can be repeated
/// only after a registration, which counts. Deletes stand in writes of every kind, some of keys that do not exist.
fn ends_a_record(txn: &Txn) -> bool {
    let is_record =
        |key: &str| matches!(Key::parse(key), Key::Service(_) | Key::Instance(..) | Key::Schema(..));
    txn.then.iter().any(|op| matches!(op, Op::Delete(key) if is_record(key)))
        && written(txn).all(|(key, _)| matches!(Key::parse(key), Key::Size(_)))
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
        let counted = self.ration.admit(&txn, self.inner.growth(&txn), Instant::now())?;
        let reply = self.inner.txn(txn).await;
        // One without an answer may have been made.
        let is_made = match &reply {
            Ok(reply) => reply.succeeded,
            Err(error) => matches!(error, StoreError::Unavailable(_)),
        };
        if let Some(counted) = counted.filter(|_| !is_made) {
            self.ration.take_back(counted);
        }
        reply
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

    fn growth(&self, txn: &Txn) -> u64 {
        self.inner.growth(txn)
    }

    fn group_figures(&self) -> GroupFigures {
        self.inner.group_figures()
    }

    fn endpoints(&self) -> Vec<String> {
        self.inner.endpoints()
    }
}

#[cfg(test)]
mod tests;
