//! The registry over HTTP.
//!
//! A request passes [`guard`], which holds everything that is common to all routes, and then the handler of
//! its operation. A handler takes a [`call::Call`], calls the registry and renders the reply. Paths,
//! codes and shapes are Service-Center's.
//!
//! | path | file |
//! | --- | --- |
//! | `/microservices`, `/existence` | `services` |
//! | `…/instances`, `/heartbeats` | `instances`, `find` |
//! | `/instances/action` | `batch` |
//! | `…/schemas`, `…/tags`, `…/rules` | `schemas`, `tags`, `rules` |
//! | `/overrides` | `overrides` |
//! | `/shifts` | `shifts` |
//! | `…/timeline` | `timeline` |
//! | `/dependencies`, `…/providers`, `…/consumers` | `dependencies` |
//! | `/govern/…`, `/admin/…` | `govern`, `admin` |
//! | `/v4/token`, `/v4/self-perms` | `token` |
//! | `/v4/accounts`, `/v4/account-locks`, `/v4/roles` | `accounts`, `roles` |
//! | `/version`, `/health` | `health` |
//! | `/openapi` | `openapi` |

use axum::Router;

mod accounts;
mod admin;
mod batch;
mod call;
mod client;
mod dependencies;
mod drains;
mod dump;
mod failure;
mod find;
mod govern;
pub(crate) mod guard;
mod health;
mod instances;
mod openapi;
mod operation;
mod overrides;
pub(crate) mod permit;
mod reply;
mod roles;
mod rules;
mod schemas;
mod services;
mod shifts;
mod state;
mod tags;
mod timeline;
mod token;

use operation::{Group, Operation, Routes};
pub(crate) use state::{Api, BodyLimits};

const REGISTRY: Group =
    Group { base: "/v4/{project}/registry", tag: "Registry", suffix: "", deprecated: false };
const GOVERN: Group = Group { base: "/v4/{project}/govern", tag: "Govern", suffix: "", deprecated: false };
const ADMIN: Group = Group { base: "/v4/{project}/admin", tag: "Admin", suffix: "", deprecated: false };
const REGISTRY_V3: Group = Group { base: "/registry/v3", tag: "Version 3", suffix: "V3", deprecated: true };
const GOVERN_V3: Group =
    Group { base: "/registry/v3/govern", tag: "Version 3", suffix: "V3", deprecated: true };
const ACCESS: Group = Group { base: "", tag: "Access", suffix: "", deprecated: false };
const ROOT: Group = Group { base: "", tag: "About", suffix: "Root", deprecated: false };

/// All routes, without the things that [`guard::Guarded`] adds.
pub(crate) fn router(api: Api) -> Router {
    // Without access control they would be open to everybody, so then there are none.
    let access = if api.has_accounts() { access() } else { Vec::new() };
    Routes::default()
        .mount(REGISTRY, registry())
        .mount(REGISTRY, registry_of_v4_only())
        .mount(REGISTRY, health::operations("4.0.0"))
        .mount(REGISTRY, health::readiness_operations())
        .mount(GOVERN, govern::operations())
        .mount(ADMIN, admin::operations())
        .mount(REGISTRY_V3, registry())
        .mount(GOVERN_V3, govern::operations_v3())
        .mount(ACCESS, access)
        .mount(ROOT, health::operations("3.0.0"))
        .finish()
        .fallback(guard::not_found)
        .method_not_allowed_fallback(guard::method_not_allowed)
        .with_state(api)
}

/// The operations on registered things, which v3 and v4 share.
fn registry() -> Vec<Operation> {
    let mut all = services::operations();
    all.extend(instances::operations());
    all.extend(find::operations());
    all.extend(schemas::operations());
    all.extend(tags::operations());
    all.extend(rules::operations());
    all.extend(dependencies::operations());
    all
}

/// Operations that Service-Center added with v4, and those that are ours.
fn registry_of_v4_only() -> Vec<Operation> {
    let mut all = vec![batch::operation(), instances::operation_on_many()];
    all.extend(overrides::operations());
    all.extend(drains::operations());
    all.extend(shifts::operations());
    all.extend(timeline::operations());
    all
}

/// The operations on accounts, roles and tokens.
fn access() -> Vec<Operation> {
    let mut all = token::operations();
    all.extend(accounts::operations());
    all.extend(roles::operations());
    all
}
