//! Changes of rules, written together.
//!
//! All consumers of a provider stand in one key, so a site that starts changes that key once for each
//! consumer. Changes therefore gather while one is being written. The first caller that may write takes all
//! of them and puts as many as fit into each transaction.

use host::lane::in_usual;
use parking_lot::Mutex;
use shared::model::ServiceKey;
use tokio::sync::oneshot;

use super::sides::{Added, RuleTxn};
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

/// The changes of this replica that wait to be written.
#[derive(Debug, Default)]
pub(in crate::registry) struct RuleChanges {
    waiting: Mutex<Vec<Waiting>>,
    /// Held by the caller that writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    change: RuleChange,
    outcome: oneshot::Sender<Result<(), RegistryError>>,
}

impl Waiting {
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
        loop {
            let (sender, mut outcome) = oneshot::channel();
            self.rule_changes.waiting.lock().push(Waiting { change: change.clone(), outcome: sender });
            tokio::select! {
                biased;
                ended = &mut outcome => if let Ok(ended) = ended { return ended },
                _writing = self.rule_changes.writing.lock() => {
                    let waiting = std::mem::take(&mut *self.rule_changes.waiting.lock());
                    self.write_rules(waiting).await;
                    if let Ok(ended) = outcome.try_recv() {
                        return ended;
                    }
                }
            }
            // The caller that was writing this change has gone. A change that is written twice does no harm.
        }
    }

    /// Writes changes, and tells each its outcome.
    async fn write_rules(&self, mut waiting: Vec<Waiting>) {
        let mut lost = 0;
        let mut most = usize::MAX;
        while !waiting.is_empty() {
            let snapshot = match self.view.now() {
                Ok(snapshot) => snapshot,
                Err(error) => return end_all(waiting, &Err(error.into())),
            };
            let mut txn = RuleTxn::new(&snapshot);
            let mut whole = Vec::new();
            let mut partly = Vec::new();
            let mut later = Vec::new();
            for change in waiting {
                if !later.is_empty() || whole.len() + partly.len() >= most {
                    later.push(change);
                    continue;
                }
                match txn.add(&change.change) {
                    Some(Added::Whole) => whole.push(change),
                    Some(Added::Partly) => partly.push(change),
                    Some(Added::NoRoom) => later.push(change),
                    None => change.end(Err(RegistryError::invalid(
                        "a tenant of the dependency is not {domain}/{project}",
                    ))),
                }
            }
            let written = match txn.finish() {
                Some(txn) => self.commit(txn).await.map(Some),
                None => Ok(None),
            };
            match written {
                Ok(reply) if reply.as_ref().is_none_or(|reply| reply.succeeded) => {
                    end_all(whole, &Ok(()));
                    // A step that was won is no lost attempt, so long ways are not bounded by the tries.
                    lost = 0;
                    waiting = joined(partly, later);
                }
                Ok(reply) => {
                    waiting = joined(partly, whole);
                    lost += 1;
                    if lost == CAS_TRIES {
                        end_all(std::mem::replace(&mut waiting, later), &Err(RegistryError::Contended));
                        lost = 0;
                        continue;
                    }
                    waiting.append(&mut later);
                    let locked = reply.is_some_and(|reply| reply.got.iter().any(Option::is_some));
                    if locked {
                        // A Service-Center node holds the lock for some milliseconds, or until its lease
                        // ends.
                        tokio::time::sleep(LOCK_PAUSE).await;
                    } else {
                        pause(lost).await;
                    }
                }
                // Perhaps one of them asks for too much. The others must not fail with it.
                Err(error) if is_refusal(&error) && whole.len() + partly.len() > 1 => {
                    most = (whole.len() + partly.len()) / 2;
                    waiting = joined(joined(partly, whole), later);
                }
                Err(error) if is_refusal(&error) => {
                    end_all(joined(partly, whole), &Err(error));
                    waiting = later;
                }
                // The store is away. Each further transaction would wait for it in vain.
                Err(error) => return end_all(joined(joined(partly, whole), later), &Err(error)),
            }
        }
    }
}

/// True for an error that is about the transaction, not about the store.
fn is_refusal(error: &RegistryError) -> bool {
    matches!(error, RegistryError::TooLarge | RegistryError::Commit(StoreError::Refused(_)))
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
