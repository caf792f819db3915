//! Changes of rules, written together.
//!
//! All consumers of a provider stand in one key, so a site that starts changes that key once for each
//! consumer. Changes therefore gather while one is being written, and the caller whose turn it is puts as many
//! of them as fit into each transaction, until its own is written. A change with many providers takes several
//! transactions, between which those of others are written.
//!
//! Two long changes of one consumer at two replicas would undo each other's steps for ever. So a change that
//! finds its steps undone [rests](Way) until nobody else changes that consumer any more.
//!
//! The changes of each tenant gather by themselves, so that what one tenant does, or may not write any more, refuses no change
//! of another. Two tenants meet only at the key of a service that all share, and try again there.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;

use host::lane::in_usual;
use parking_lot::Mutex;
use shared::model::ServiceKey;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::sides::{Added, RuleTxn, left_of};
use super::way::Way;
use super::{LOCK_PAUSE, Mode};
use crate::registry::{CAS_TRIES, Registry, RegistryError, pause};
use crate::store::StoreError;

/// A change of one consumer's rules.
#[derive(Clone, Debug)]
pub(super) struct RuleChange {
    /// The consumer; its alias is empty.
    pub(super) consumer: ServiceKey,
    pub(super) providers: Vec<ServiceKey>,
    pub(super) mode: Mode,
    /// A key to be deleted with the change.
    pub(super) obsolete: Option<String>,
}

/// The changes of this replica that wait to be written, by tenant. Clones share them.
#[derive(Clone, Debug, Default)]
pub(in crate::registry) struct RuleChanges(Arc<Mutex<HashMap<String, Arc<TenantChanges>>>>);

impl RuleChanges {
    fn of(&self, tenant: &str) -> Arc<TenantChanges> {
        let mut all = self.0.lock();
        if let Some(changes) = all.get(tenant) {
            return changes.clone();
        }
        // Clients choose the names of tenants, so those stay only for which a request is under way.
        all.retain(|_, changes| Arc::strong_count(changes) > 1);
        all.entry(tenant.to_owned()).or_default().clone()
    }
}

/// The changes of one tenant's consumers.
#[derive(Debug, Default)]
struct TenantChanges {
    waiting: Mutex<Vec<Waiting>>,
    /// Told when a change has come. The writer may wait for one while all others rest.
    arrived: Notify,
    /// Held by the caller that writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    change: RuleChange,
    way: Way,
    outcome: oneshot::Sender<Result<(), RegistryError>>,
}

impl Waiting {
    fn is_of_consumer_of(&self, other: &Self) -> bool {
        self.change.consumer == other.change.consumer
    }

    fn end(self, outcome: Result<(), RegistryError>) {
        // A caller that has gone needs no outcome.
        let _ = self.outcome.send(outcome);
    }
}

impl Registry {
    /// Changes rules, together with all others that wait. Returns when this replica's view has the change.
    pub(super) async fn change_rules(&self, change: RuleChange) -> Result<(), RegistryError> {
        // One caller writes for all who wait. Boxed, because each find holds this future and few write.
        let registry = self.clone();
        Box::pin(in_usual(async move { registry.write_together(change).await })).await
    }

    async fn write_together(&self, change: RuleChange) -> Result<(), RegistryError> {
        let queue = self.rule_changes.of(&change.consumer.tenant);
        loop {
            let (sender, mut outcome) = oneshot::channel();
            let waiting = Waiting { change: change.clone(), way: Way::default(), outcome: sender };
            queue.waiting.lock().push(waiting);
            queue.arrived.notify_one();
            tokio::select! {
                biased;
                ended = &mut outcome => if let Ok(ended) = ended { return ended },
                _writing = queue.writing.lock() => {
                    let mut attempts = Attempts { lost: 0, most: usize::MAX };
                    // Until this caller's own change has its outcome. Another one writes what waits then.
                    loop {
                        match outcome.try_recv() {
                            Ok(ended) => return ended,
                            Err(TryRecvError::Empty) => self.write_rules(&queue, &mut attempts).await,
                            Err(TryRecvError::Closed) => break,
                        }
                    }
                }
            }
            // The caller that was writing this change has gone. A change that is written twice does no harm.
        }
    }

    /// Writes as many of the changes that wait as one transaction takes, and tells those their outcome that are
    /// written or refused.
    async fn write_rules(&self, queue: &TenantChanges, attempts: &mut Attempts) {
        let mut waiting = std::mem::take(&mut *queue.waiting.lock());
        // Nobody waits for these any more. Written later, they could undo what has come since.
        waiting.retain(|change| !change.outcome.is_closed());
        let snapshot = match self.view.now() {
            Ok(snapshot) => snapshot,
            Err(error) => return end_all(waiting, &Err(error.into())),
        };
        let mut txn = RuleTxn::new(&snapshot);
        let mut whole = Vec::new();
        let mut partly: Vec<Waiting> = Vec::new();
        let mut later: Vec<Waiting> = Vec::new();
        let mut is_full = false;
        let now = Instant::now();
        for mut change in waiting {
            // Two long changes of one consumer that took turns could undo each other for ever.
            let is_early = || partly.iter().chain(&later).any(|before| before.is_of_consumer_of(&change));
            if is_full
                || whole.len() + partly.len() >= attempts.most
                || is_early()
                || change.way.rests(|| left_of(&snapshot, &change.change), now)
            {
                later.push(change);
                continue;
            }
            match txn.add(&change.change) {
                Some(Added::Whole) => whole.push(change),
                Some(Added::Partly { left }) => {
                    change.way.step(left);
                    partly.push(change);
                }
                Some(Added::NoRoom) => {
                    is_full = true;
                    later.push(change);
                }
                None => change
                    .end(Err(RegistryError::invalid("a tenant of the dependency is not {domain}/{project}"))),
            }
        }
        if whole.is_empty() && partly.is_empty() {
            return queue.wait_for_change(later).await;
        }
        match self.commit(txn.finish()).await {
            Ok(reply) if reply.succeeded => {
                end_all(whole, &Ok(()));
                // A step that was won is no lost attempt, so long ways are not bounded by the tries.
                attempts.lost = 0;
                partly.iter_mut().for_each(|change| change.way.stepped());
                queue.wait_on(in_turn(partly, later));
            }
            Ok(reply) => {
                let tried = joined(partly, whole);
                attempts.lost += 1;
                if attempts.lost == CAS_TRIES {
                    attempts.lost = 0;
                    if tried.len() > 1 {
                        // Perhaps one of them loses to somebody for ever. The others must not fail with it.
                        attempts.most = tried.len() / 2;
                        return queue.wait_on(joined(tried, later));
                    }
                    end_all(tried, &Err(RegistryError::Contended));
                    return queue.wait_on(later);
                }
                queue.wait_on(joined(tried, later));
                let locked = reply.got.iter().any(Option::is_some);
                if locked {
                    // A Service-Center node holds the lock for some milliseconds, or until its lease ends.
                    tokio::time::sleep(LOCK_PAUSE).await;
                } else {
                    pause(attempts.lost).await;
                }
            }
            // Each has to fit into what is left, and no larger number of them fits if these do not.
            Err(error) if is_no_room(&error) && whole.len() + partly.len() > 1 => {
                attempts.most = 1;
                queue.wait_on(joined(joined(partly, whole), later));
                // A ration refuses without asking the store, so nothing here may have waited yet.
                yield_now().await;
            }
            // Perhaps one of them asks for too much. The others must not fail with it.
            Err(error) if is_refusal(&error) && whole.len() + partly.len() > 1 => {
                attempts.most = (whole.len() + partly.len()) / 2;
                queue.wait_on(joined(joined(partly, whole), later));
            }
            Err(error) if is_refusal(&error) || is_no_room(&error) => {
                end_all(joined(partly, whole), &Err(error));
                queue.wait_on(later);
            }
            // The store is away, or has too much to do. Each further transaction would wait for it in vain.
            Err(error) => end_all(joined(joined(partly, whole), later), &Err(error)),
        }
    }
}

impl TenantChanges {
    /// Waits until one of these changes has rested, or another one has come.
    async fn wait_for_change(&self, resting: Vec<Waiting>) {
        let until = resting.iter().filter_map(|change| change.way.rests_until()).min();
        self.wait_on(resting);
        let rested = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! { () = rested => {}, () = self.arrived.notified() => {} }
    }

    /// Puts changes back before those that have come meanwhile.
    fn wait_on(&self, changes: Vec<Waiting>) {
        let mut waiting = self.waiting.lock();
        *waiting = joined(changes, std::mem::take(&mut *waiting));
    }
}

/// The attempts of a caller that writes.
#[derive(Debug)]
struct Attempts {
    /// Transactions in a row that lost their comparison.
    lost: u64,
    /// The most changes in a transaction.
    most: usize,
}

/// The order for the next transaction. A change that needs several of them lets the others pass, so that one with
/// many providers holds up nobody. Those of its own consumer stay behind it.
fn in_turn(partly: Vec<Waiting>, later: Vec<Waiting>) -> Vec<Waiting> {
    let is_behind = |change: &Waiting| partly.iter().any(|before| before.is_of_consumer_of(change));
    let (behind, others): (Vec<_>, Vec<_>) = later.into_iter().partition(is_behind);
    joined(others, joined(partly, behind))
}

/// True for an error that is about the transaction, not about the store.
fn is_refusal(error: &RegistryError) -> bool {
    matches!(error, RegistryError::TooLarge | RegistryError::Commit(StoreError::Refused(_)))
}

/// True when the store, or the tenant in it, has no room. What only deletes or compares needs none.
fn is_no_room(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Commit(StoreError::Rationed | StoreError::Full(_)))
}

fn joined(mut first: Vec<Waiting>, second: Vec<Waiting>) -> Vec<Waiting> {
    first.extend(second);
    first
}

fn end_all(changes: Vec<Waiting>, outcome: &Result<(), RegistryError>) {
    for change in changes {
        change.end(outcome.clone());
    }
}
