//! Works off dependencies that Service-Center nodes have queued and nobody else works off.
//!
//! Beside living Service-Center nodes this finds nothing to do: they empty the queue within a second. It matters
//! when the last of them is gone and has left something behind. So only entries are touched that lay there, as
//! they are, for a whole round.

use std::collections::HashMap;
use std::time::Duration;

use shared::model::Revision;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::failure::Failure;
use crate::keys::DEPENDENCY_QUEUE;
use crate::record::Record;
use crate::registry::Registry;
use crate::registry::dependency::QueuedDependency;
use crate::store::{Compare, KeyValue, Op, RangeRequest, Txn};

/// Entries taken in a round.
const MOST: usize = 1000;

/// Looks at the queue every `pause` while this replica is the publisher, until `stop`.
pub async fn run(registry: Registry, pause: Duration, role: watch::Receiver<Role>, stop: CancellationToken) {
    let mut seen: HashMap<String, Revision> = HashMap::new();
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
        if *role.borrow() == Role::Standby || registry.view().now().is_err() {
            seen.clear();
            continue;
        }
        let queued = RangeRequest { limit: MOST, ..RangeRequest::prefix(DEPENDENCY_QUEUE) };
        // An outage is told by those who follow the store.
        let Ok(mut reply) = registry.store().range(queued).await else { continue };
        // In the order in which they were queued: an override must not come after what was added later.
        reply.items.sort_by_key(|kv| kv.create_rev);
        let (left, new): (Vec<_>, Vec<_>) =
            reply.items.into_iter().partition(|kv| seen.get(&kv.key) == Some(&kv.mod_rev));
        for kv in &left {
            if let Err(failure) = work_off(&registry, kv).await {
                warn!(key = kv.key, %failure, "a queued dependency cannot be applied; trying again");
            }
        }
        if !left.is_empty() {
            info!(entries = left.len(), "dependencies that were left in the queue were applied");
        }
        seen = new.into_iter().chain(left).map(|kv| (kv.key, kv.mod_rev)).collect();
    }
}

async fn work_off(registry: &Registry, kv: &KeyValue) -> Result<(), Failure> {
    match Record::<QueuedDependency>::parse(&kv.value) {
        Ok(record) => registry.apply_queued(record.value).await?,
        Err(error) => warn!(key = kv.key, %error, "a queued dependency cannot be read; dropped"),
    }
    let txn = Txn {
        compare: vec![Compare::ModRev(kv.key.clone(), kv.mod_rev)],
        then: vec![Op::Delete(kv.key.clone())],
        ..Txn::default()
    };
    registry.store().txn(txn).await?;
    Ok(())
}
