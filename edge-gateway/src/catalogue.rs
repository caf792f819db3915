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

use follow::read::ReadTopic;
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::sync::watch;

use crate::reads::{Contained, EdgeView, Reads, TenantLease};
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
        // The last process's knowledge is better than an answer that comes too late for the client.
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
    contained: Contained,
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
                        contained: Contained::default(),
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
        let (is_remembered, shown, contained) = (true, None, Contained::default());
        Some(Self { upstream, tenant, lease, replacements, view, is_remembered, shown, contained })
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
        self.contained = match is_remembered {
            true => Contained::left(&self.lease),
            false => self.contained.advance(&self.tenant, &self.view),
        };
        let (view, tenant, contained) = (self.view.clone(), self.tenant.clone(), self.contained);
        Services { view, tenant, is_remembered, contained }
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
    view.read.tenants.get(tenant).map(|known| known.version)
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
    contained: Contained,
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

    /// The revision up to which everything is contained. It is before the last bookmark while something is
    /// being requested, and zero until the tenant has been whole once.
    pub(crate) fn contained(&self) -> Revision {
        self.contained.revision()
    }

    /// True when nothing is being requested that may be missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.contained.is_whole()
    }

    /// True when what is not among these does not exist: everything up to the last bookmark is contained, and
    /// everything up to `required`. No dialect says "none" without it. What the last process has left proves
    /// nothing, because something may have come since.
    pub(crate) fn prove_absence(&self, required: Revision) -> bool {
        !self.is_remembered && self.contained() >= self.view.read.bookmark.max(required)
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
