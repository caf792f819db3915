//! The registry over HTTP.
//!
//! A handler takes a [`Call`], asks the [`Registry`] and renders the answer. Paths, codes and shapes are
//! Service-Center's; `routes` declares every route, [`guard`] holds what is common to all of them.

use std::sync::Arc;

use axum::Router;

use crate::registry::Registry;

mod admin;
pub mod call;
mod dependencies;
mod discovery;
mod govern;
pub mod guard;
mod health;
mod instances;
mod openapi;
mod operation;
mod reply;
mod routes;
mod schemas;
mod services;
mod tags;

pub use call::Call;
use operation::{Part, Routes};

/// What handlers share.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    registry: Registry,
    limits: BodyLimits,
}

/// Bytes that a request's body may have.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Registration of an instance (Service-Center: 5 KiB).
    pub instance: usize,
    /// Properties of a service or an instance (3 KiB).
    pub properties: usize,
    /// Everything else (`server.request.maxBodyBytes`, 2 MiB).
    pub other: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { instance: 5 << 10, properties: 3 << 10, other: 2 << 20 }
    }
}

impl Api {
    /// The API of a registry.
    pub fn new(registry: Registry, limits: BodyLimits) -> Self {
        Self(Arc::new(Inner { registry, limits }))
    }

    /// The registry behind the API.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    pub(crate) fn limits(&self) -> &BodyLimits {
        &self.0.limits
    }

    /// All routes, without what is common to them; see [`guard::Guarded`].
    pub fn router(self) -> Router {
        let part = |base, tag, suffix, deprecated| Part { base, tag, suffix, deprecated };
        Routes::default()
            .mount(part("/v4/{project}/registry", "Registry", "", false), routes::registry())
            .mount(part("/v4/{project}/registry", "Registry", "", false), routes::registry_v4())
            .mount(part("/v4/{project}/govern", "Govern", "", false), routes::govern())
            .mount(part("/v4/{project}/admin", "Admin", "", false), routes::admin())
            .mount(part("/registry/v3", "Version 3", "V3", true), routes::registry())
            .mount(part("/registry/v3/govern", "Version 3", "V3", true), routes::govern_v3())
            .mount(part("", "About", "Root", false), routes::root())
            .finish()
            .fallback(guard::not_found)
            .method_not_allowed_fallback(guard::method_not_allowed)
            .with_state(self)
    }
}
