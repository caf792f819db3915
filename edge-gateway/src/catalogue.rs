//! Every service of a tenant, as the gateway knows it: the one source of the dialects beside the registry's
//! own.
//!
//! In: a tenant. Out: immutable states of its services and their instances, each complete, and a way to wait
//! for the next. Nothing is polled: the upstream follows the tenant as it does for a watch of everything,
//! from the first reader until a while after the last.
//!
//! A state is shown only once all services are known, so a dialect never says "none" without proof. After
//! that there is always a state: when the bus or the control planes are lost, the last that is known stays,
//! also over a restart if it is kept in a file. While something is missing from it and being requested, a
//! state contains less than the last bookmark says ([`Services::contained`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use follow::read::{ReadTopic, ReadView};
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::watch;

use crate::reads::{EdgeView, Reads, TenantLease};
use crate::upstream::UpstreamHandle;
use crate::watch::Full;

/// The wait for what holds now, where the last process left what it knew.
const PATIENCE_WITH_MEMORY: Duration = Duration::from_secs(1);

/// Tenants and their services. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Catalogue {
    upstream: UpstreamHandle,
}

/// The reason for which a tenant's services cannot be shown. Another gateway, or this one a moment later, may
/// know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotKnown {
    /// No control plane has told them in time.
    #[error("the services of this domain and project are not known yet; try again")]
    NotYet,
    /// A limit of this node.
    #[error("{0}")]
    Full(Full),
}

impl Catalogue {
    /// The catalogue of what `upstream` follows.
    pub(crate) fn new(upstream: UpstreamHandle) -> Self {
        Self { upstream }
    }

    /// Follows a tenant, and waits until all of its services are known. Cancel-safe.
    ///
    /// # Errors
    /// When they are not known within the time that a watch may take to open, or this node has no room.
    pub(crate) async fn open(&self, tenant: &Tenant) -> Result<Followed, NotKnown> {
        let remembered = self.upstream.reads().remembered();
        let remembered = remembered.filter(|view| view.read.tenants.contains_key(tenant));
        // What the last process knew is better than an answer that comes too late for the client.
        let patience = match remembered {
            Some(_) => self.upstream.patience().min(PATIENCE_WITH_MEMORY),
            None => self.upstream.patience(),
        };
        let opening = Followed::open(self.upstream.clone(), tenant);
        match tokio::time::timeout(patience, opening).await.unwrap_or(Err(NotKnown::NotYet)) {
            Err(NotKnown::NotYet) => Followed::remember(&self.upstream, tenant).ok_or(NotKnown::NotYet),
            opened => opened,
        }
    }
}

/// A tenant that is followed for as long as this lives.
pub(crate) struct Followed {
    upstream: UpstreamHandle,
    tenant: Tenant,
    lease: Arc<TenantLease>,
    replacements: watch::Receiver<()>,
    /// The last state that was complete.
    view: Arc<EdgeView>,
    /// It is one that the last process has left.
    is_remembered: bool,
    /// The version of the state that was last shown.
    shown: Option<u64>,
    proof: Proof,
}

/// The part of the history that a tenant's states are known to contain.
#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    incarnation: Option<u64>,
    /// Everything up to here is contained.
    revision: Revision,
    /// Nothing is being requested that may be missing, in the state with this version.
    is_whole: bool,
    version: Option<u64>,
}

impl Proof {
    /// The proof for a later state of the same tenant. A state loses nothing that an earlier one contained,
    /// unless the store was restored.
    fn advance(self, tenant: &Tenant, view: &EdgeView) -> Self {
        let version = version_of(tenant, view);
        // A look at every service costs too much for each bookmark.
        let is_known = self.version.is_some() && version == self.version;
        let is_whole = if is_known { self.is_whole } else { is_whole(tenant, &view.read) };
        let before = if view.incarnation == self.incarnation { self.revision } else { Revision::ZERO };
        let bookmark = view.read.bookmark;
        let revision = if is_whole { bookmark } else { before.min(bookmark) };
        Self { incarnation: view.incarnation, revision, is_whole, version }
    }
}

impl Followed {
    async fn open(upstream: UpstreamHandle, tenant: &Tenant) -> Result<Self, NotKnown> {
        let mut replacements = upstream.reads().replacements();
        loop {
            // Before the look, so that no later state is missed.
            replacements.borrow_and_update();
            let view = upstream.reads().view();
            match view.tenants.get(tenant) {
                Some(lease) if lease.is_complete(tenant, &view.read) => {
                    lease.enter();
                    let (tenant, lease) = (tenant.clone(), lease.clone());
                    let is_remembered = false;
                    return Ok(Self {
                        upstream,
                        tenant,
                        lease,
                        replacements,
                        view,
                        is_remembered,
                        shown: None,
                        proof: Proof::default(),
                    });
                }
                Some(_) => {}
                None => upstream.hold_tenant(tenant).await.map_err(not_held)?,
            }
            replacements.changed().await.map_err(|_| NotKnown::NotYet)?;
        }
    }

    /// The tenant as the last process knew it, until it is known again.
    fn remember(upstream: &UpstreamHandle, tenant: &Tenant) -> Option<Self> {
        let view = upstream.reads().remembered()?;
        let lease = view.tenants.get(tenant)?.clone();
        lease.enter();
        let (upstream, tenant) = (upstream.clone(), tenant.clone());
        let replacements = upstream.reads().replacements();
        let (is_remembered, shown, proof) = (true, None, Proof::default());
        Some(Self { upstream, tenant, lease, replacements, view, is_remembered, shown, proof })
    }

    /// The state now.
    pub(crate) fn now(&mut self) -> Services {
        let view = self.reads().view();
        if let Some(lease) = view.tenants.get(&self.tenant).cloned()
            && lease.is_complete(&self.tenant, &view.read)
        {
            if !Arc::ptr_eq(&lease, &self.lease) {
                // It had made room, and is followed again.
                lease.enter();
                std::mem::replace(&mut self.lease, lease).leave(self.reads().second(Instant::now()));
            }
            self.view = view;
            self.is_remembered = false;
        }
        self.shown = self.version();
        let Self { is_remembered, .. } = *self;
        if is_remembered {
            // The file of an earlier process is taken as whole: nothing is being requested to complete it.
            self.proof = Proof { revision: self.view.read.bookmark, ..Proof::default() };
        } else {
            self.proof = self.proof.advance(&self.tenant, &self.view);
        }
        Services { view: self.view.clone(), tenant: self.tenant.clone(), is_remembered, proof: self.proof }
    }

    /// Resolves when the state may be another than that of the last [`Followed::now`]. Cancel-safe. Pending
    /// for ever once the gateway ends.
    pub(crate) async fn changed(&mut self) {
        loop {
            self.replacements.borrow_and_update();
            let view = self.reads().view();
            match (view.tenants.get(&self.tenant), view.read.tenants.get(&self.tenant)) {
                (Some(lease), Some(tenant)) if lease.is_complete(&self.tenant, &view.read) => {
                    if Some(tenant.version) != self.shown {
                        return;
                    }
                }
                (Some(_), _) => {}
                // It made room just before this reader entered. Without room for it now, the next state of
                // this node is a reason to try again.
                (None, _) => _ = self.upstream.hold_tenant(&self.tenant).await,
            }
            if self.replacements.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    fn version(&self) -> Option<u64> {
        version_of(&self.tenant, &self.view)
    }

    fn reads(&self) -> &Reads {
        self.upstream.reads()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.lease.leave(self.reads().second(Instant::now()));
    }
}

fn version_of(tenant: &Tenant, view: &EdgeView) -> Option<u64> {
    view.read.tenants.get(tenant).map(|tenant| tenant.version)
}

/// True when nothing is being requested that may be missing from a tenant.
fn is_whole(tenant: &Tenant, view: &ReadView) -> bool {
    let Some(services) = view.tenants.get(tenant).map(|tenant| &tenant.services) else { return false };
    // A service that is loading for the first time is not in any state yet.
    let is_settled = |service| view.topics.get(service).is_none_or(|topic| topic.settled);
    services.settled && services.providers.iter().all(is_settled)
}

fn not_held(full: Option<Full>) -> NotKnown {
    full.map_or(NotKnown::NotYet, NotKnown::Full)
}

/// Every service of a tenant at one moment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    view: Arc<EdgeView>,
    tenant: Tenant,
    is_remembered: bool,
    proof: Proof,
}

impl Services {
    /// True for a state that the last process has left, and this one has not seen confirmed.
    pub(crate) fn is_remembered(&self) -> bool {
        self.is_remembered
    }

    /// The services with their states, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServiceRef, &Arc<ReadTopic>)> {
        self.view.read.services_of(&self.tenant).into_iter().flatten()
    }

    /// Differs between two states of this tenant, and means nothing outside of this process.
    pub(crate) fn version(&self) -> Option<u64> {
        version_of(&self.tenant, &self.view)
    }

    /// The last bookmark. Everything up to it is contained, except changes that are being requested.
    pub(crate) fn revision(&self) -> Revision {
        self.view.read.bookmark
    }

    /// The revision up to which everything is contained. It is before the last bookmark while something is
    /// being requested, and zero until the tenant has been whole once.
    pub(crate) fn contained(&self) -> Revision {
        self.proof.revision
    }

    /// True when nothing is being requested that may be missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.proof.is_whole
    }

    /// The incarnation of the store whose revisions these are, as far as it is known.
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.view.incarnation
    }

    /// The time since the control planes last confirmed a state; `None` before the first bookmark.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        self.view.heard.map(|heard| now.saturating_duration_since(heard))
    }
}
