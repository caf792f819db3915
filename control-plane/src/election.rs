//! Who publishes? One replica at a time, by a key on a lease.
//!
//! The seat is a key of the store. Its creation's revision is the epoch, so epochs only grow. Two publishers at
//! once would do no harm (everything is idempotent by revision); a holder that cannot renew its lease steps
//! down all the same before the store lets another one in. A draining holder resigns at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use shared::backoff::Backoff;
use shared::model::Revision;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::keys::PUBLISHER;
use crate::store::{Compare, KvEvent, LeaseId, Op, Store, StoreError, Txn, WatchItem};

/// What this replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Another replica publishes, or nobody does yet.
    #[default]
    Standby,
    /// This one publishes, since the revision that is its epoch.
    Publisher {
        /// Grows with every change of publisher.
        epoch: Revision,
    },
}

/// Campaigns for the seat until `stop`, and tells the role. `name` identifies the replica to people; a holder
/// that dies is replaced after `ttl`.
pub async fn campaign(
    store: Arc<dyn Store>,
    name: String,
    ttl: Duration,
    role: watch::Sender<Role>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while !stop.is_cancelled() {
        let term = run_term(&*store, &name, ttl, &role, &stop);
        let outcome = term.await;
        role.send_replace(Role::Standby);
        match outcome {
            Ok(()) => backoff.reset(),
            Err(error) => {
                let wait = backoff.next_wait();
                warn!(%error, attempt = backoff.failures(), "campaigning for the publisher's seat failed; trying again");
                tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(wait) => {} }
            }
        }
    }
}

/// One attempt: take the seat and hold it, or wait until it is free.
async fn run_term(
    store: &dyn Store,
    name: &str,
    ttl: Duration,
    role: &watch::Sender<Role>,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let lease = store.grant(ttl.as_secs().max(1) as i64).await?;
    let txn = Txn {
        compare: vec![Compare::Absent(PUBLISHER.into())],
        then: vec![Op::Put { key: PUBLISHER.into(), value: name.to_owned().into(), lease: Some(lease) }],
        otherwise: vec![Op::Get(PUBLISHER.into())],
    };
    let taken = store.txn(txn).await;
    let outcome = match taken {
        Ok(reply) if reply.succeeded => {
            info!(epoch = reply.revision, "this replica is the publisher");
            role.send_replace(Role::Publisher { epoch: reply.revision });
            let held = hold(store, lease, ttl, stop).await;
            role.send_replace(Role::Standby);
            held
        }
        Ok(reply) => {
            // Not needed while another replica sits there.
            let _ = store.revoke(lease).await;
            return wait_for_vacancy(store, reply.revision + 1, ttl, stop).await;
        }
        Err(error) => Err(error),
    };
    // Gives the seat up; it ends by itself when this fails.
    let _ = store.revoke(lease).await;
    outcome
}

/// Renews the lease until the stop, or until it could not be renewed for the time it lives.
async fn hold(
    store: &dyn Store,
    lease: LeaseId,
    ttl: Duration,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let mut renewed = Instant::now();
    loop {
        tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(ttl / 3) => {} }
        let sent = Instant::now();
        // A renewal that takes longer than the lease lives is no renewal.
        let left = (renewed + ttl).saturating_duration_since(sent);
        match tokio::time::timeout(left, store.keep_alive(lease)).await {
            Ok(Ok(())) => renewed = sent,
            Ok(Err(StoreError::LeaseNotFound)) => return Err(StoreError::LeaseNotFound),
            Ok(Err(error)) if renewed.elapsed() >= ttl => return Err(error),
            Ok(Err(_)) => {}
            Err(_) => {
                return Err(StoreError::Unavailable("the seat's lease could not be renewed in time".into()));
            }
        }
    }
}

/// Waits until the seat is given up or expires. Looks again after twice the lease's time in any case.
async fn wait_for_vacancy(
    store: &dyn Store,
    from: Revision,
    ttl: Duration,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let vacated = async {
        let mut changes = store.watch(PUBLISHER, from).await?;
        while let Some(item) = changes.next().await {
            let WatchItem::Events(events) = item? else { continue };
            if events.iter().any(|event| matches!(event, KvEvent::Delete { .. })) {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("the watch of the publisher's seat ended".into()))
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        outcome = vacated => outcome,
        () = tokio::time::sleep(ttl * 2) => Ok(()),
    }
}
