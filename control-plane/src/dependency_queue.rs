//! Applies dependencies that Service-Center nodes have queued and that no such node applies any more.
//!
//! Beside living Service-Center nodes this task finds nothing to do, because they empty the queue within a
//! second. It matters when the last of them is gone and has left entries behind. Therefore only entries are
//! applied that have been in the queue, unchanged, for a whole round.

use std::collections::HashMap;
use std::time::Duration;

use shared::model::Revision;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::election::Role;
use crate::keys::{DEPENDENCY_QUEUE, Key};
use crate::record::Record;
use crate::registry::dependency::QueuedDependency;
use crate::registry::{Registry, RegistryError};
use crate::store::{Compare, KeyValue, Op, RangeRequest, Txn};

/// The most entries in a round.
const MAX_ENTRIES: usize = 1000;

/// Looks at the queue every `pause` while this replica is the publisher, until `stop`.
pub(crate) async fn run(
    registry: Registry,
    pause: Duration,
    role: watch::Receiver<Role>,
    stop: CancellationToken,
) {
    let mut seen: HashMap<String, Revision> = HashMap::new();
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
        if *role.borrow() == Role::Standby || registry.view().now().is_err() {
            // Entries may have changed hands during another replica's term, so each must be seen for a whole
            // round again.
            seen.clear();
            continue;
        }
        let queued = RangeRequest { limit: MAX_ENTRIES, ..RangeRequest::prefix(DEPENDENCY_QUEUE) };
        // An outage is not logged here: the task that follows the store logs it.
        let Ok(mut reply) = registry.store().range(queued).await else { continue };
        // In the order in which they were queued: an override must not undo an entry that was added later.
        reply.items.sort_by_key(|kv| kv.create_rev);
        // An entry that was rewritten since the last round counts as new.
        let (abandoned, new): (Vec<_>, Vec<_>) =
            reply.items.into_iter().partition(|kv| seen.get(&kv.key) == Some(&kv.mod_rev));
        for kv in &abandoned {
            if let Err(error) = apply_entry(&registry, kv).await {
                let error = error.with_sources();
                warn!(key = kv.key, error, "a queued dependency cannot be applied; trying again");
            }
        }
        if !abandoned.is_empty() {
            info!(entries = abandoned.len(), "dependencies that had been left in the queue were applied");
        }
        seen = new.into_iter().chain(abandoned).map(|kv| (kv.key, kv.mod_rev)).collect();
    }
}

/// Applies an entry and deletes it. An entry that cannot be decoded is only deleted, since nobody could ever
/// apply it.
async fn apply_entry(registry: &Registry, kv: &KeyValue) -> Result<(), RegistryError> {
    match Record::<QueuedDependency>::parse(&kv.value) {
        Ok(record) => {
            if let Key::DependencyQueue(service, _) = Key::parse(&kv.key) {
                registry.apply_queued(&service.tenant, record.value).await?;
            }
        }
        Err(error) => warn!(key = kv.key, %error, "a queued dependency cannot be decoded; deleting it"),
    }
    // Only this version of the entry: a node that came back may have queued another one under the key.
    let txn = Txn {
        compare: vec![Compare::ModRev(kv.key.clone(), kv.mod_rev)],
        then: vec![Op::Delete(kv.key.clone())],
        ..Txn::default()
    };
    registry.store().txn(txn).await.map_err(RegistryError::Commit)?;
    Ok(())
}
