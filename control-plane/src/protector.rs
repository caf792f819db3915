//! Records what every replica concludes about held instances, so that it outlives them all and ends in time.
//!
//! The record is a key on a lease of the protection's length: when the lease ends, the key goes, and with it the
//! protection. The publisher records at once, the others a little later if it has not: one of them suffices.

use std::sync::Arc;
use std::time::Duration;

use shared::model::ServiceRef;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::keys;
use crate::record;
use crate::registry::Registry;
use crate::store::{Compare, LeaseId, Op, StoreError, Txn};
use crate::view::Snapshot;
use crate::view::protection::{HeldRecord, Size};

/// How much later than the publisher the others record.
const STANDBY_WAIT: Duration = Duration::from_secs(2);
/// Wait after the store refused.
const RETRY: Duration = Duration::from_secs(1);

/// Watches the view for instances that are to be held, until `stop`.
pub async fn run(registry: Registry, hold: Duration, role: watch::Receiver<Role>, stop: CancellationToken) {
    let mut revisions = registry.view().revisions();
    loop {
        tokio::select! { biased; () = stop.cancelled() => return, changed = revisions.changed() => if changed.is_err() { return } }
        while let Some(snapshot) = work(&registry) {
            let standby = *role.borrow() == Role::Standby;
            let wait = if standby { STANDBY_WAIT } else { Duration::ZERO };
            tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
            let Some(snapshot) = (if standby { work(&registry) } else { Some(snapshot) }) else { break };
            if let Err(error) = record_all(&registry, &snapshot, hold).await {
                warn!(%error, "held instances could not be recorded; trying again");
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(RETRY) => {} }
            }
        }
    }
}

/// The view, when there is something to be recorded.
fn work(registry: &Registry) -> Option<Arc<Snapshot>> {
    let snapshot = registry.view().now().ok()?;
    (!snapshot.unrecorded.is_empty() || !snapshot.shrunk.is_empty()).then_some(snapshot)
}

async fn record_all(registry: &Registry, snapshot: &Snapshot, hold: Duration) -> Result<(), StoreError> {
    if !snapshot.unrecorded.is_empty() {
        // One lease for all that were found together: they are released together.
        let lease = registry.store().grant(hold.as_secs().max(1) as i64).await?;
        let mut recorded = 0;
        for ((service, id), since) in snapshot.unrecorded.iter() {
            recorded += u32::from(record_held(registry, snapshot, service, id, *since, lease).await?);
        }
        info!(instances = recorded, seconds = hold.as_secs(), "expired instances are held");
    }
    for service in snapshot.shrunk.keys() {
        let living = snapshot.any_service(service).map_or(0, |view| view.living());
        let size = Size { size: living, ..Size::default() };
        let txn = Txn {
            compare: vec![Compare::Exists(keys::service(service))],
            then: vec![Op::put(keys::size(service), record::render(&size, None))],
            otherwise: vec![Op::Delete(keys::size(service))],
        };
        registry.store().txn(txn).await?;
        info!(service.id = %service.id, living, "the protection of a service ended");
    }
    // The view hears of it by its watch; without that nothing would have changed here.
    let _ = registry.confirmed().await;
    Ok(())
}

/// True when this replica was the one that recorded it.
async fn record_held(
    registry: &Registry,
    snapshot: &Snapshot,
    service: &ServiceRef,
    id: &str,
    since: u64,
    lease: LeaseId,
) -> Result<bool, StoreError> {
    let Some(known) = snapshot.any_service(service).and_then(|view| view.instances.get(id)) else {
        return Ok(false);
    };
    let value = HeldRecord { instance: (*known.instance).clone(), mod_rev: known.mod_rev, since };
    let key = keys::held(service, id);
    let txn = Txn {
        compare: vec![
            Compare::Exists(keys::service(service)),
            Compare::Absent(keys::instance(service, id)),
            Compare::Absent(key.clone()),
        ],
        then: vec![Op::Put { key, value: record::render(&value, None), lease: Some(lease) }],
        ..Txn::default()
    };
    Ok(registry.store().txn(txn).await?.succeeded)
}
