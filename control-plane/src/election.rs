//! Elects the publisher: one replica at a time holds the seat, a key of the store on a lease.
//!
//! The revision that creates the key is the epoch, so epochs only grow. Two publishers at once would do no
//! harm, because every event is idempotent by its position. Even so, a holder that cannot renew its lease
//! steps down before the store admits the next one. A holder that drains resigns at once.

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

/// The part of this replica in publishing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Another replica publishes, or none does yet.
    #[default]
    Standby,
    /// This replica holds the seat.
    Publisher {
        /// The revision at which it took the seat. It grows from term to term.
        epoch: Revision,
    },
}

/// Campaigns for the seat until `stop`, and reports the role. `name` identifies the replica to operators. The
/// seat of a holder that dies becomes free after `ttl`. `held_until` tells until when the seat is certainly
/// this replica's, should it have it: a process that stood still may look at it before its role is corrected.
pub(crate) async fn campaign(
    store: Arc<dyn Store>,
    name: String,
    ttl: Duration,
    role: watch::Sender<Role>,
    held_until: watch::Sender<Instant>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while !stop.is_cancelled() {
        let outcome = run_term(&*store, &name, ttl, &role, &held_until, &stop).await;
        // Also here, so that no error on the way can leave the role at `Publisher`.
        role.send_replace(Role::Standby);
        match outcome {
            Ok(()) => backoff.reset(),
            Err(error) => {
                let wait = backoff.next_wait();
                warn!(
                    %error,
                    attempt = backoff.failures(),
                    "campaigning for the publisher's seat failed; trying again"
                );
                tokio::select! { () = stop.cancelled() => {}, () = tokio::time::sleep(wait) => {} }
            }
        }
    }
}

/// One attempt: takes the seat and holds it, or waits until it is free.
async fn run_term(
    store: &dyn Store,
    name: &str,
    ttl: Duration,
    role: &watch::Sender<Role>,
    held_until: &watch::Sender<Instant>,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    // Leases are granted in whole seconds, and for at least one.
    let begun = Instant::now();
    let lease = store.grant(ttl.as_secs().max(1) as i64).await?;
    let txn = Txn {
        compare: vec![Compare::Absent(PUBLISHER.into())],
        then: vec![Op::Put { key: PUBLISHER.into(), value: name.to_owned().into(), lease: Some(lease) }],
        otherwise: vec![Op::Get(PUBLISHER.into())],
        ..Txn::default()
    };
    let outcome = match store.txn(txn).await {
        Ok(reply) if reply.succeeded => {
            info!(epoch = reply.revision.get(), "this replica is the publisher");
            held_until.send_replace(begun + ttl);
            role.send_replace(Role::Publisher { epoch: reply.revision });
            let outcome = hold(store, lease, ttl, held_until, stop).await;
            // Before the lease is given up: another replica may take the seat at once.
            role.send_replace(Role::Standby);
            outcome
        }
        Ok(reply) => {
            // The lease is of no use while another replica holds the seat; it would only fill the store until
            // it ends.
            let _ = store.revoke(lease).await;
            return wait_for_vacancy(store, reply.revision.next(), ttl, stop).await;
        }
        Err(error) => Err(error),
    };
    // Vacates the seat. When this fails, the lease ends by itself.
    let _ = store.revoke(lease).await;
    outcome
}

/// Renews the lease until `stop`, or until a whole lease time has passed without a renewal.
async fn hold(
    store: &dyn Store,
    lease: LeaseId,
    ttl: Duration,
    held_until: &watch::Sender<Instant>,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let mut renewed = Instant::now();
    loop {
        // A third of the lease time, so that one renewal may fail and the next still comes in time.
        tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(ttl / 3) => {} }
        // Time counts from the sending: the store may have renewed at any moment since.
        let sent = Instant::now();
        let remaining = (renewed + ttl).saturating_duration_since(sent);
        match tokio::time::timeout(remaining, store.keep_alive(lease)).await {
            Ok(Ok(())) => {
                renewed = sent;
                held_until.send_replace(sent + ttl);
            }
            Ok(Err(StoreError::LeaseNotFound)) => return Err(StoreError::LeaseNotFound),
            Ok(Err(error)) if renewed.elapsed() >= ttl => return Err(error),
            Ok(Err(_)) => {}
            Err(_) => {
                return Err(StoreError::Unavailable("the seat's lease could not be renewed in time".into()));
            }
        }
    }
}

/// Waits until the seat is vacated or expires, but no longer than twice the lease time, in case that the
/// watch misses it.
async fn wait_for_vacancy(
    store: &dyn Store,
    from: Revision,
    ttl: Duration,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        outcome = seat_is_vacated(store, from) => outcome,
        () = tokio::time::sleep(ttl * 2) => Ok(()),
    }
}

async fn seat_is_vacated(store: &dyn Store, from: Revision) -> Result<(), StoreError> {
    let mut changes = store.watch(PUBLISHER, from).await?;
    while let Some(item) = changes.next().await {
        let WatchItem::Events(events) = item? else { continue };
        if events.iter().any(|event| matches!(event, KvEvent::Delete { .. })) {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable("the watch of the publisher's seat ended".into()))
}
