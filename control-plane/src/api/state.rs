//! The state that handlers share: the registry and the limits of bodies.

use std::sync::Arc;

use bus::Link;
use host::admin::Readiness;
use host::audit::Audit;
use host::fairness::FairShares;
use host::figures::sampler::{ProcessFigures, Sampler};
use host::proxies::TrustedProxies;
use tokio::sync::watch;

use super::failure::{Code, Failure};
use crate::registry::Registry;
use crate::registry::account::Accounts;

/// The state that handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

#[derive(Clone)]
struct Shared {
    registry: Registry,
    limits: BodyLimits,
    /// The places of requests that are worked on, by tenant.
    shares: FairShares,
    readiness: Option<Readiness>,
    bus: watch::Receiver<Link>,
    /// The accounts while access control is on.
    accounts: Option<Arc<Accounts>>,
    proxies: TrustedProxies,
    audit: Audit,
    /// The figures of this process, with the address by which the plane is known.
    figures: Option<(Sampler, String)>,
}

/// Largest bodies of requests, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Registration of an instance.
    pub instance: usize,
    /// Properties of a service or an instance.
    pub properties: usize,
    /// Every other request (`server.request.maxBodyBytes`).
    pub other: usize,
}

impl BodyLimits {
    /// Service-Center's fixed limits of the two frequent requests, and a limit of all others.
    pub(crate) fn with_other(other: usize) -> Self {
        Self { instance: 5 << 10, properties: 3 << 10, other }
    }
}

impl Api {
    pub(crate) fn new(
        registry: Registry,
        limits: BodyLimits,
        shares: FairShares,
        readiness: Readiness,
        bus: watch::Receiver<Link>,
    ) -> Self {
        let proxies = TrustedProxies::default();
        Self(Arc::new(Shared {
            registry,
            limits,
            shares,
            readiness: Some(readiness),
            bus,
            accounts: None,
            proxies,
            audit: Audit::without_file(),
            figures: None,
        }))
    }

    /// The same state with accounts, whose clients come through these proxies.
    pub(crate) fn with_accounts(self, accounts: Accounts, proxies: TrustedProxies) -> Self {
        let Self(shared) = self;
        let accounts = Some(Arc::new(accounts));
        Self(Arc::new(Shared { accounts, proxies, ..(*shared).clone() }))
    }

    /// The same state with the audit log of the process.
    pub(crate) fn with_audit(self, audit: Audit) -> Self {
        let Self(shared) = self;
        Self(Arc::new(Shared { audit, ..(*shared).clone() }))
    }

    /// The same state with the figures of the process, and the address by which the plane is known.
    pub(crate) fn with_figures(self, sampler: Sampler, address: String) -> Self {
        let Self(shared) = self;
        Self(Arc::new(Shared { figures: Some((sampler, address)), ..(*shared).clone() }))
    }

    /// The figures of this process.
    pub(super) fn figures(&self) -> Option<ProcessFigures> {
        let (sampler, address) = self.0.figures.as_ref()?;
        Some(ProcessFigures { address: address.clone(), ..sampler.figures() })
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    pub(super) fn has_accounts(&self) -> bool {
        self.0.accounts.is_some()
    }

    /// The accounts. Routes that need them exist only with them.
    pub(super) fn accounts(&self) -> Result<&Accounts, Failure> {
        self.0.accounts.as_deref().ok_or_else(|| Failure::new(Code::NotReady, ""))
    }

    pub(super) fn proxies(&self) -> &TrustedProxies {
        &self.0.proxies
    }

    pub(super) fn readiness(&self) -> Option<&Readiness> {
        self.0.readiness.as_ref()
    }

    /// The link to the bus as it is now.
    pub(super) fn bus(&self) -> Link {
        *self.0.bus.borrow()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn shares(&self) -> &FairShares {
        &self.0.shares
    }

    pub(super) fn limits(&self) -> &BodyLimits {
        &self.0.limits
    }
}
