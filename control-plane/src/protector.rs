//! Records the replicas' conclusions about held instances in the store, so that they outlive all replicas and
//! end in time.
//!
//! A record is a key on a lease as long as the protection: when the lease ends, the key goes, and the
//! protection with it. The publisher records at once, the other replicas a little later if it has not. One
//! record is enough.

use std::sync::Arc;
use std::time::Duration;

use shared::model::{Revision, ServiceRef};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::keys;
use crate::record;
use crate::registry::Registry;
use crate::store::{Compare, LeaseId, Op, StoreError, Txn};
use crate::view::Snapshot;
use crate::view::protection::{HeldRecord, ServiceSize};

/// The head start that the publisher has over the other replicas.
const STANDBY_WAIT: Duration = Duration::from_secs(2);
/// The pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(1);

/// Watches the view for unrecorded holds until `stop`. `hold` is the length of a protection.
pub(crate) async fn run(
    registry: Registry,
    hold: Duration,
    role: watch::Receiver<Role>,
    stop: CancellationToken,
) {
    let mut revisions = registry.view().revisions();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = revisions.changed() => if changed.is_err() { return },
        }
        while let Some(mut snapshot) = snapshot_with_work(&registry) {
            let is_standby = *role.borrow() == Role::Standby;
            let wait = if is_standby { STANDBY_WAIT } else { Duration::ZERO };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
            if is_standby {
                let Some(unchanged) = snapshot_with_work(&registry) else { break };
                snapshot = unchanged;
            }
            if let Err(error) = record_all(&registry, &snapshot, hold).await {
                warn!(%error, "held instances could not be recorded; trying again");
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RETRY) => {} }
            }
        }
    }
}

/// The view, if it has something to be recorded.
fn snapshot_with_work(registry: &Registry) -> Option<Arc<Snapshot>> {
    let snapshot = registry.view().now().ok()?;
    (!snapshot.unrecorded.is_empty() || !snapshot.shrunk.is_empty()).then_some(snapshot)
}

async fn record_all(registry: &Registry, snapshot: &Snapshot, hold: Duration) -> Result<(), StoreError> {
    if !snapshot.unrecorded.is_empty() {
        // Instances that were found together share a lease, so that they are released together.
        let lease = registry.store().grant(hold.as_secs().max(1) as i64).await?;
        let mut recorded = 0;
        for ((service, id), since) in snapshot.unrecorded.iter() {
            recorded += u32::from(record_held(registry, snapshot, service, id, *since, lease).await?);
        }
        info!(instances = recorded, seconds = hold.as_secs(), "expired instances are held");
    }
    for service in snapshot.shrunk.keys() {
        record_size(registry, snapshot, service).await?;
    }
    // Waits for the view to receive the records. Without that, this task would find the same work again.
    let _ = registry.confirmed().await;
    Ok(())
}

/// Sets the usual size of a service to the instances that are alive at the end of its protection.
async fn record_size(
    registry: &Registry,
    snapshot: &Snapshot,
    service: &ServiceRef,
) -> Result<(), StoreError> {
    let living = snapshot.any_service(service).map_or(0, |view| view.living());
    let size = ServiceSize { usual: living, ..ServiceSize::default() };
    let txn = Txn {
        compare: vec![Compare::Exists(keys::service(service))],
        then: vec![Op::put(keys::size(service), record::render(&size, None))],
        otherwise: vec![Op::Delete(keys::size(service))],
        ..Txn::default()
    };
    registry.store().txn(txn).await?;
    info!(service.id = %service.id, living, "the protection of a service ended");
    Ok(())
}

/// Records the hold of an instance. Returns false when another replica has recorded it, or when the instance
/// has registered again or lost its service.
async fn record_held(
    registry: &Registry,
    snapshot: &Snapshot,
    service: &ServiceRef,
    id: &str,
    since: Revision,
    lease: LeaseId,
) -> Result<bool, StoreError> {
    let Some(view) = snapshot.any_service(service).and_then(|view| view.instances.get(id)) else {
        return Ok(false);
    };
    let value = HeldRecord { instance: view.reported.unpack(), mod_rev: view.reported_rev, since };
    let key = keys::held(service, id);
    let txn = Txn {
        compare: vec![
            // The record would outlive a deleted service, since nobody would delete it.
            Compare::Exists(keys::service(service)),
            // Absent, because an instance that has registered again is not held any more.
            Compare::Absent(keys::instance(service, id)),
            // Absent, because the first record counts: its lease decides about the end of the protection.
            Compare::Absent(key.clone()),
        ],
        then: vec![Op::Put { key, value: record::render(&value, None), lease: Some(lease) }],
        ..Txn::default()
    };
    Ok(registry.store().txn(txn).await?.succeeded)
}
