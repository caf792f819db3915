//! The registry itself: register, heartbeat, find, depend. Knows neither HTTP nor etcd.
//!
//! Reads come from the view. Writes are compare-and-swap transactions on the store, and answer when this
//! replica's view has reached them. A claim that something is absent, or that nothing changed, is made only
//! behind a [`Registry::confirmed`] view.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::clock::Clock;
use shared::model::{DataCenter, Revision, ServiceRef, Tenant};
use tracing::debug;

use self::alarm::{AlarmId, Alarms};
use crate::failure::{Code, Failure};
use crate::keys::ROOT;
use crate::metrics::RegistryMetrics;
use crate::store::{Store, StoreError, Txn, TxnReply};
use crate::view::{Snapshot, View};

pub mod alarm;
pub mod dependency;
pub mod existence;
pub mod find;
pub mod heartbeat;
pub mod instance;
pub mod own;
pub mod protection;
pub mod quota;
pub mod rule;
pub mod schema;
pub mod service;
pub mod tag;
pub mod totals;
pub mod validate;

/// How long a read waits for the revision it was asked to contain, and a write for its own view.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a compare-and-swap that lost is tried again before the caller is told to.
const CAS_TRIES: usize = 32;

/// What an operator may set.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// Services that a tenant may have (Service-Center's `quota.cap.service.limit`).
    pub service_quota: usize,
    /// Instances that a tenant may have (`quota.cap.instance.limit`).
    pub instance_quota: usize,
    /// Schemas and tags that a service may have.
    pub schema_quota: usize,
    /// Names that a consumer may wait for.
    pub wanted_quota: usize,
    /// When above zero, the time of every lease in seconds (`registry.instance.ttl`).
    pub instance_ttl: i64,
    /// Seconds between heartbeats that an instance must allow at least (`registry.instance.minInterval`); 0: any.
    pub min_interval: i32,
    /// Missed heartbeats that an instance must allow at least (`registry.instance.minTimes`).
    pub min_times: i32,
    /// Where this node runs, told by its own instance (`registry.instance.datacenter`).
    pub data_center: Option<DataCenter>,
    /// Names of services of `default/default`, application `default`, that every tenant finds.
    pub shared_services: Vec<String>,
    /// Environment of the registry's own service, where shared services live.
    pub own_environment: String,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            service_quota: 50_000,
            instance_quota: 150_000,
            schema_quota: 100,
            wanted_quota: 1_000,
            instance_ttl: 0,
            min_interval: 0,
            min_times: 0,
            data_center: None,
            shared_services: Vec::new(),
            own_environment: "production".into(),
        }
    }
}

impl RegistryConfig {
    /// Whether a service is visible to every tenant.
    pub fn is_shared(&self, tenant: &Tenant, app_id: &str, name: &str) -> bool {
        *tenant == Tenant::default()
            && app_id == "default"
            && (name == own::NAME || self.shared_services.iter().any(|shared| shared == name))
    }
}

/// Who asks, and how fresh the answer has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The tenant of the request.
    pub tenant: Tenant,
    /// The caller's own service id, from `X-ConsumerId`.
    pub consumer: Option<String>,
    /// The answer must contain this revision.
    pub min_rev: Revision,
}

impl Caller {
    /// A service of the caller's tenant.
    pub fn service(&self, id: &str) -> ServiceRef {
        ServiceRef::new(self.tenant.clone(), id)
    }
}

/// The registry's operations. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn Store>,
    view: View,
    clock: Clock,
    config: Arc<RegistryConfig>,
    quotas: quota::Quotas,
    pending: quota::Pending,
    alarms: Alarms,
    metrics: Option<RegistryMetrics>,
}

impl Registry {
    /// The operations over a store and its view.
    pub fn new(store: Arc<dyn Store>, view: View, clock: Clock, config: RegistryConfig) -> Self {
        Self {
            store,
            view,
            clock,
            quotas: quota::Quotas::new(&config),
            config: Arc::new(config),
            pending: quota::Pending::default(),
            alarms: Alarms::default(),
            metrics: None,
        }
    }

    /// The same, reporting its figures.
    #[must_use]
    pub fn reporting(self, metrics: RegistryMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// The limits in force, to be changed while it runs.
    pub fn quotas(&self) -> quota::Quotas {
        self.quotas.clone()
    }

    /// The view behind the registry.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The store behind the registry.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What went wrong.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Tells operators whether the store answers, on the way.
    fn noted<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Err(StoreError::Unavailable(reason)) => {
                self.alarms.raise(AlarmId::BackendConnectionRefuse, reason.clone());
            }
            Err(_) | Ok(_) => self.alarms.clear(AlarmId::BackendConnectionRefuse),
        }
        outcome
    }

    /// What the operator set.
    pub fn config(&self) -> &RegistryConfig {
        &self.config
    }

    /// The view for a read: at least as new as the caller demands.
    pub async fn read(&self, caller: &Caller) -> Result<Arc<Snapshot>, Failure> {
        let now = self.view.now()?;
        if now.revision >= caller.min_rev {
            return Ok(now);
        }
        Ok(self.view.at(caller.min_rev, PATIENCE).await?)
    }

    /// A view that contains everything committed before the call, or `None` when the store cannot be asked:
    /// then the view as it is remains the best answer there is.
    pub async fn confirmed(&self) -> Result<Option<Arc<Snapshot>>, Failure> {
        let before = self.view.now().map_or(0, |view| view.revision);
        match self.noted(self.store.barrier(ROOT).await) {
            Ok(revision) if revision < before => {
                debug!(revision, before, "the store was restored, and this view does not know yet");
                Ok(None)
            }
            Ok(revision) => Ok(Some(self.view.at(revision, PATIENCE).await?)),
            Err(error) => {
                debug!(%error, "the view could not be confirmed");
                Ok(None)
            }
        }
    }

    /// Answers from the view; an answer that claims absence is worked out again on a confirmed view.
    pub async fn answer<T>(
        &self,
        caller: &Caller,
        work: impl Fn(&Arc<Snapshot>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let snapshot = self.read(caller).await?;
        match work(&snapshot) {
            Err(failure) if failure.claims_absence() => match self.confirmed().await? {
                Some(confirmed) if confirmed.revision > snapshot.revision => work(&confirmed),
                _ => Err(failure),
            },
            answer => answer,
        }
    }

    /// Runs a transaction that writes something when it succeeds, and returns when this view has the write, or
    /// what it lost to.
    async fn commit(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let reply = self.noted(self.store.txn(txn).await)?;
        if reply.succeeded {
            self.reached(reply.revision).await;
        } else if self.confirmed().await.is_err() {
            // The reply's revision may be of a key outside the root, which this view never hears of.
            debug!(revision = reply.revision, "trying again on a view that may not have what was lost to");
        }
        Ok(reply)
    }

    /// Waits until the view has a revision that the store has reported. A view that lags longer than anyone
    /// wants to wait does not make the write undone: the answer is a success all the same.
    async fn reached(&self, revision: Revision) {
        let answered = Instant::now();
        let reached = self.view.at(revision, PATIENCE).await;
        if let Some(metrics) = &self.metrics {
            metrics.reached(answered.elapsed());
        }
        if reached.is_err() {
            debug!(revision, "answering a write that the view has not reached");
        }
    }

    /// Repeats `step` on ever newer views until it neither loses a compare-and-swap nor fails.
    /// A step returns `None` when it lost; the view has then reached the revision it lost to.
    async fn until_won<T, F>(&self, mut step: impl FnMut(Arc<Snapshot>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Option<T>, Failure>>,
    {
        for _ in 0..CAS_TRIES {
            if let Some(done) = step(self.view.now()?).await? {
                return Ok(done);
            }
        }
        Err(Failure::new(Code::Unavailable, "too many concurrent changes of the same object; try again"))
    }

    fn seconds(&self) -> String {
        self.clock.seconds().to_string()
    }

    /// Whether a service is visible to every tenant.
    pub fn is_shared(&self, tenant: &Tenant, app_id: &str, name: &str) -> bool {
        self.config.is_shared(tenant, app_id, name)
    }
}
