//! The registry's operations: register, heartbeat, find, depend. This room knows neither HTTP nor etcd.
//!
//! - Reads come from the replica's view.
//! - Writes are compare-and-swap transactions on the store. They return when this replica's view has reached
//!   them, so that a client which reads after it wrote finds its own write.
//! - A claim that something is absent, or that nothing changed, is made only on a `Registry::confirmed`
//!   view.
//! - Each operation fails with a [`RegistryError`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::{Grant, Labels};
use bytes::Bytes;
use host::fairness;
use shared::clock::Clock;
use shared::model::{DataCenter, Revision, Service, ServiceRef, Tenant};
use tracing::debug;

use self::alarm::{AlarmId, Alarms};
use self::dependency::RuleChanges;
pub use self::error::{AccountError, RegistryError};
use crate::keys::ROOT;
use crate::metrics::RegistryMetrics;
use crate::store::{KeyValue, Op, Store, StoreError, Txn, TxnReply};
use crate::trail;
use crate::view::access::SharedServices;
use crate::view::{Snapshot, View};

pub(crate) mod account;
pub(crate) mod alarm;
mod arrivals;
pub(crate) mod cohort;
pub(crate) mod dependency;
pub(crate) mod drains;
mod elsewhere;
mod error;
pub(crate) mod existence;
pub(crate) mod find;
pub(crate) mod first_accounts;
pub(crate) mod heartbeat;
pub(crate) mod instance;
pub(crate) mod lease;
pub(crate) mod login;
pub(crate) mod overrides;
pub(crate) mod own;
pub(crate) mod protection;
pub(crate) mod quota;
pub(crate) mod role;
pub(crate) mod rule;
pub(crate) mod schema;
pub mod service;
pub(crate) mod shifts;
pub(crate) mod tag;
pub(crate) mod timeline;
pub(crate) mod totals;
mod turns;
pub(crate) mod validate;

/// The time that a read waits for the revision it must contain, and a write for this replica's view.
const VIEW_WAIT: Duration = Duration::from_secs(3);
/// The time for rules that have no provider any more. The client waits for it, and what it asked for is done.
const TIDYING: Duration = Duration::from_secs(3);
/// The time in which the store has to confirm that a poll's reply still holds. It does so in milliseconds; after it the client
/// gets the whole reply.
const CONFIRMING: Duration = Duration::from_secs(1);
/// The time in which a view usually reaches a revision that another replica has seen.
const PROMPT: Duration = Duration::from_millis(50);
/// The time in which a view reaches a revision that changed something under the registry's root. One that is
/// not reached by then is probably of another program that uses the store.
const SOON: Duration = Duration::from_millis(10);
/// Attempts of a compare-and-swap before the caller is asked to try again.
const CAS_TRIES: u64 = 32;
/// The longest pause before a compare-and-swap is tried again.
const LONGEST_PAUSE: u64 = 50;

/// The limits and fixed facts that an operator sets.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Services that a tenant may have (Service-Center's `quota.cap.service.limit`).
    pub service_quota: usize,
    /// Instances that a tenant may have (`quota.cap.instance.limit`).
    pub instance_quota: usize,
    /// Schemas, and tags, and rules, that a service may have.
    pub schema_quota: usize,
    /// Unregistered names that a consumer may wait for.
    pub wanted_quota: usize,
    /// Accounts that there may be (`quota.cap.account.limit`).
    pub account_quota: usize,
    /// Roles that there may be (`quota.cap.role.limit`).
    pub role_quota: usize,
    /// The time of every lease in seconds (`registry.instance.ttl`). With 0 each instance's health check
    /// decides.
    pub instance_ttl: i64,
    /// The shortest heartbeat interval of an instance in seconds (`registry.instance.minInterval`).
    pub min_interval: i32,
    /// The smallest number of heartbeats that an instance may miss (`registry.instance.minTimes`).
    pub min_times: i32,
    /// The place where this node runs, shown by its own instance (`registry.instance.datacenter`).
    pub data_center: Option<DataCenter>,
    /// The services that every tenant finds. The registry's own is one of them.
    pub shared: SharedServices,
    /// Environment of the registry's own service, and of shared services.
    pub own_environment: String,
}

impl RegistryConfig {
    /// True for a service that every tenant finds.
    pub(crate) fn is_shared(&self, tenant: &Tenant, app_id: &str, name: &str) -> bool {
        self.shared.contains(tenant, app_id, name)
    }
}

/// The tenant and consumer that a request comes from, and the revision that the reply must contain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The tenant of the request.
    pub(crate) tenant: Tenant,
    /// The caller's own service id, from `X-ConsumerId`.
    pub(crate) consumer: Option<String>,
    /// The oldest revision that the reply may be made from.
    pub(crate) min_rev: Revision,
    /// The services that the caller may see or change, by their labels.
    pub(crate) grant: Grant,
    /// A gateway asks which services answer.
    pub(crate) resolve: bool,
    /// What the store has said since the request arrived.
    pub(crate) confirmation: Confirmation,
}

/// Whether a request that has many parts has asked the store for its newest revision, once for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// It has not: each claim that something is absent or unchanged asks.
    #[default]
    Unasked,
    /// The store has named this revision, so a view that contains it proves such claims.
    At(Revision),
    /// The store could not be asked.
    Unavailable,
}

impl Caller {
    /// A caller about which only the tenant is known.
    pub(crate) fn of_tenant(tenant: &Tenant) -> Self {
        Self { tenant: tenant.clone(), ..Self::default() }
    }

    /// True for a service that the caller may see or change.
    pub(crate) fn sees(&self, service: &Service) -> bool {
        self.grant.admits(Labels {
            environment: &service.environment,
            app_id: &service.app_id,
            service_name: &service.service_name,
        })
    }

    /// A service of the caller's tenant.
    pub(crate) fn service(&self, id: &str) -> ServiceRef {
        ServiceRef::new(self.tenant.clone(), id)
    }
}

/// The registry's operations over a store and this replica's view of it. Cheap to clone; clones share
/// everything.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    view: View,
    clock: Clock,
    config: Arc<RegistryConfig>,
    quotas: quota::Quotas,
    pending: quota::Pending,
    turns: turns::Turns,
    arrivals: arrivals::Arrivals,
    elsewhere: elsewhere::Elsewhere,
    rule_changes: RuleChanges,
    alarms: Alarms,
    metrics: Option<RegistryMetrics>,
    /// Heartbeats that are reported instead of renewing leases; `None` in the mode `direct`.
    reported: Option<lease::Reported>,
}

impl Registry {
    pub(crate) fn new(store: Arc<dyn Store>, view: View, clock: Clock, config: RegistryConfig) -> Self {
        Self {
            store,
            view,
            clock,
            quotas: quota::Quotas::new(&config),
            config: Arc::new(config),
            pending: quota::Pending::default(),
            turns: turns::Turns::default(),
            arrivals: arrivals::Arrivals::default(),
            elsewhere: elsewhere::Elsewhere::default(),
            rule_changes: RuleChanges::default(),
            alarms: Alarms::default(),
            metrics: None,
            reported: None,
        }
    }

    /// The same registry, reporting its figures.
    #[must_use]
    pub(crate) fn reporting(self, metrics: RegistryMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The same registry, with long leases, and heartbeats that are reported.
    #[must_use]
    pub(crate) fn with_long_leases(self, reported: lease::Reported) -> Self {
        Self { reported: Some(reported), ..self }
    }

    /// The quotas in force. They can be replaced through the returned handle while the registry runs.
    pub fn quotas(&self) -> quota::Quotas {
        self.quotas.clone()
    }

    /// The view that reads come from.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The store that writes go to.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// Passes an outcome of the store through, and raises or clears the alarm about its connection on the
    /// way.
    fn note_connection<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Err(StoreError::Unavailable(reason)) => {
                self.alarms.raise(AlarmId::BackendConnectionRefuse, reason.clone());
            }
            // The store was not asked.
            Err(StoreError::Busy) => {}
            // Every other error is an answer, so the connection works.
            Err(_) | Ok(_) => self.alarms.clear(AlarmId::BackendConnectionRefuse),
        }
        outcome
    }

    /// The view for a read: at least as new as the caller demands.
    pub(crate) async fn read(&self, caller: &Caller) -> Result<Arc<Snapshot>, RegistryError> {
        let now = self.view.now()?;
        if now.revision >= caller.min_rev {
            return Ok(now);
        }
        if let Ok(reached) = self.view.at(caller.min_rev, PROMPT).await {
            return Ok(reached);
        }
        // Perhaps nothing of the registry changed in that revision. A view learns of such a one when progress
        // is requested, and a barrier requests it.
        match self.confirmed().await? {
            Some(confirmed) if confirmed.revision >= caller.min_rev => Ok(confirmed),
            _ => Ok(self.view.at(caller.min_rev, VIEW_WAIT).await?),
        }
    }

    /// A revision that contains everything committed before the call, and that the view has reached.
    ///
    /// # Errors
    /// When the store cannot be asked: nobody else can say whether the view is current.
    pub(crate) async fn current(&self) -> Result<Revision, RegistryError> {
        let confirmed = self.confirmed().await?.ok_or(RegistryError::NotConfirmed)?;
        Ok(confirmed.revision)
    }

    /// Asks the store once for a request with many parts.
    pub(crate) async fn confirm_once(&self) -> Confirmation {
        match tokio::time::timeout(CONFIRMING, self.confirmed()).await {
            Ok(Ok(Some(confirmed))) => Confirmation::At(confirmed.revision),
            Ok(Ok(None)) | Err(_) => Confirmation::Unavailable,
            // Each part has its own error then.
            Ok(Err(_)) => Confirmation::Unasked,
        }
    }

    /// Like [`Self::confirmed`], for a claim that was made on `snapshot`, and without a question if the caller's
    /// request has asked already.
    async fn confirmed_for(
        &self,
        caller: &Caller,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Option<Arc<Snapshot>>, RegistryError> {
        match caller.confirmation {
            Confirmation::At(revision) if snapshot.revision >= revision => Ok(Some(snapshot.clone())),
            Confirmation::Unavailable => Ok(None),
            Confirmation::At(_) | Confirmation::Unasked => self.confirmed().await,
        }
    }

    /// A view that contains everything committed before the call. `None` when the store cannot be asked; then
    /// the present view is the best answer there is.
    pub(crate) async fn confirmed(&self) -> Result<Option<Arc<Snapshot>>, RegistryError> {
        let before = self.view.now().map_or(Revision::ZERO, |view| view.revision);
        if !self.elsewhere.is_recent() {
            let newest = self.note_connection(self.store.newest(ROOT).await);
            match self.covering(newest, before, SOON).await {
                Err(_) => self.elsewhere.note(),
                confirmed => return confirmed,
            }
        }
        let barrier = self.note_connection(self.store.barrier(ROOT).await);
        self.covering(barrier, before, VIEW_WAIT).await
    }

    /// The view on which a write finds that everything is so already. An unconfirmed one may not show the change that
    /// makes the write needed.
    ///
    /// # Errors
    /// When the store does not confirm a view within [`VIEW_WAIT`].
    async fn settled(&self) -> Result<Arc<Snapshot>, RegistryError> {
        let confirmed = tokio::time::timeout(VIEW_WAIT, self.confirmed()).await.unwrap_or(Ok(None))?;
        confirmed.ok_or(RegistryError::NotConfirmed)
    }

    /// The same, or the present view where the store confirms none.
    async fn settled_if_possible(&self) -> Result<Arc<Snapshot>, RegistryError> {
        match self.settled().await {
            Err(RegistryError::NotConfirmed) => Ok(self.view.now()?),
            settled => settled,
        }
    }

    /// The view at a revision that the store has named as its newest. `None` when it has named none, or when
    /// it is not the store that the view shows.
    async fn covering(
        &self,
        newest: Result<Revision, StoreError>,
        before: Revision,
        patience: Duration,
    ) -> Result<Option<Arc<Snapshot>>, RegistryError> {
        match newest {
            // Revisions of a restored store begin anew. Waiting for this one would succeed at once on a view
            // of the old store, so nothing would be confirmed.
            Ok(revision) if revision < before => {
                debug!(
                    revision = revision.get(),
                    before = before.get(),
                    "the store was restored and this view does not show it yet"
                );
                Ok(None)
            }
            Ok(revision) => Ok(Some(self.view.at(revision, patience).await?)),
            Err(error) => {
                debug!(%error, "the store did not answer, so the view could not be confirmed");
                Ok(None)
            }
        }
    }

    /// Works out a reply on the view. A reply that claims absence is worked out again on a confirmed view.
    pub(crate) async fn answer<T>(
        &self,
        caller: &Caller,
        work: impl Fn(&Arc<Snapshot>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let snapshot = self.read(caller).await?;
        // Only absence is worked out twice. A lagging view may be wrong about it, and clients act on it: they
        // register again.
        match work(&snapshot) {
            Err(error) if error.claims_absence() => match self.confirmed_for(caller, &snapshot).await? {
                Some(confirmed) if confirmed.revision > snapshot.revision => work(&confirmed),
                // The view is as new as the store, or the store cannot be asked: the claim stands.
                _ => Err(error),
            },
            reply => reply,
        }
    }

    /// Runs a transaction that writes something when it succeeds, or only compares. Returns when this view has the write,
    /// or the write that the transaction lost to.
    async fn commit(&self, txn: Txn) -> Result<TxnReply, RegistryError> {
        fairness::rest();
        // One without operations only compares, so its revision may be one that this view never shows.
        let writes = !txn.then.is_empty();
        let reply = self.note_connection(self.store.txn(txn).await).map_err(|error| match error {
            StoreError::TooLarge(_) => RegistryError::TooLarge,
            error => RegistryError::Commit(error),
        })?;
        if reply.succeeded {
            if writes {
                self.wait_for_view(reply.revision).await;
            }
        } else if self.confirmed().await.is_err() {
            // The reply's revision is no help here: it may belong to a key outside the root, which this view
            // does not follow.
            debug!(
                revision = reply.revision.get(),
                "a transaction lost; its retry may run on a view that is too old"
            );
        }
        Ok(reply)
    }

    /// Runs a transaction that changes one record, and notes the stored value before and after it for the
    /// audit log. True when it succeeded.
    async fn commit_change(
        &self,
        txn: Txn,
        before: Option<&Bytes>,
        after: Option<&Bytes>,
    ) -> Result<bool, RegistryError> {
        let reply = self.commit(txn).await?;
        if reply.succeeded {
            trail::changed(before.map(|value| &**value), after.map(|value| &**value));
        }
        Ok(reply.succeeded)
    }

    /// Runs a transaction that writes or deletes these records, and notes their stored values before and
    /// after it for the audit log. The reply has none of these values.
    async fn commit_noting(&self, mut txn: Txn, records: &[String]) -> Result<TxnReply, RegistryError> {
        if !trail::is_kept() {
            return self.commit(txn).await;
        }
        let after: Vec<Option<Bytes>> = records.iter().map(|record| written(&txn.then, record)).collect();
        // In front, because a read sees the writes before it.
        txn.then.splice(0..0, records.iter().cloned().map(Op::Get));
        let mut reply = self.commit(txn).await?;
        if reply.succeeded {
            let count = records.len().min(reply.got.len());
            for (before, after) in reply.got.drain(..count).zip(after) {
                trail::changed(before.as_ref().map(|kv| &*kv.value), after.as_deref());
            }
        }
        Ok(reply)
    }

    /// Writes one key, whatever it holds.
    pub(crate) async fn put_plain(&self, op: Op) -> Result<(), RegistryError> {
        self.commit(Txn { then: vec![op], ..Txn::default() }).await.map(drop)
    }

    /// The present values of some keys, all of one revision. The store itself is asked, so none is outdated.
    async fn read_keys(&self, keys: Vec<String>) -> Result<Vec<Option<KeyValue>>, RegistryError> {
        let count = keys.len();
        let then = keys.into_iter().map(Op::Get).collect();
        let read = self.store.txn(Txn { then, ..Txn::default() }).await;
        let reply = self.note_connection(read).map_err(RegistryError::ReadAccount)?;
        // Callers take the values by their places. A missing one must not be taken for "it does not exist".
        if reply.got.len() != count {
            let error = StoreError::Refused("not every key was read".to_owned());
            return Err(RegistryError::ReadAccount(error));
        }
        Ok(reply.got)
    }

    /// Waits until the view has reached a revision that the store has reported. The write is done even if the
    /// view lags longer than a caller waits, so this never fails.
    async fn wait_for_view(&self, revision: Revision) {
        let committed = Instant::now();
        // The histogram also counts waits that ended without success: they are the ones to look for.
        let reached = self.view.at(revision, VIEW_WAIT).await;
        if let Some(metrics) = &self.metrics {
            metrics.reached(committed.elapsed());
        }
        if reached.is_err() {
            debug!(revision = revision.get(), "a write is answered although the view has not reached it");
        }
    }

    /// Repeats `step` on ever newer views until it neither loses a compare-and-swap nor fails.
    /// A step returns `None` when it lost; the view has then reached the revision it lost to.
    ///
    /// `object` is the key of the changed object. In this replica its changes wait for each other, so only
    /// other replicas can let a step lose.
    async fn until_won<T, F>(
        &self,
        object: String,
        mut step: impl FnMut(Arc<Snapshot>) -> F,
    ) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<Option<T>, RegistryError>>,
    {
        let _turn = self.turns.take(object).await.ok_or(RegistryError::Contended)?;
        for lost in 1..=CAS_TRIES {
            if let Some(done) = step(self.view.now()?).await? {
                return Ok(done);
            }
            pause(lost).await;
        }
        Err(RegistryError::Contended)
    }

    /// The present time in seconds, as timestamps of records have it.
    fn seconds(&self) -> String {
        self.clock.seconds().to_string()
    }

    /// True for the name of a service that every tenant finds.
    pub(crate) fn is_shared_name(&self, app_id: &str, name: &str) -> bool {
        self.is_shared(&Tenant::default(), app_id, name)
    }

    /// True for a service that every tenant finds.
    pub(crate) fn is_shared(&self, tenant: &Tenant, app_id: &str, name: &str) -> bool {
        self.config.is_shared(tenant, app_id, name)
    }
}

/// The value that operations write to a key.
fn written(ops: &[Op], record: &str) -> Option<Bytes> {
    ops.iter().find_map(|op| match op {
        Op::Put { key, value, .. } if key == record => Some(value.clone()),
        _ => None,
    })
}

/// A pause of random length before a transaction that lost is tried again. Replicas that tried at the same
/// time would otherwise do so again.
async fn pause(lost: u64) {
    let most = (2 * lost).min(LONGEST_PAUSE);
    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=most))).await;
}
