//! The state that handlers share: the registry and the limits of bodies.

use std::sync::Arc;

use host::admin::Readiness;

use crate::registry::Registry;

/// The state that handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

struct Shared {
    registry: Registry,
    limits: BodyLimits,
    readiness: Option<Readiness>,
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
    pub(crate) fn new(registry: Registry, limits: BodyLimits) -> Self {
        Self(Arc::new(Shared { registry, limits, readiness: None }))
    }

    /// The same state in a process whose readiness is that of this node.
    pub(crate) fn ready_as(self, readiness: Readiness) -> Self {
        let Self(shared) = self;
        let registry = shared.registry.clone();
        Self(Arc::new(Shared { registry, limits: shared.limits, readiness: Some(readiness) }))
    }

    pub(super) fn readiness(&self) -> Option<&Readiness> {
        self.0.readiness.as_ref()
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(super) fn limits(&self) -> &BodyLimits {
        &self.0.limits
    }
}
