//! Access control of a process at its admin port: the accounts that may operate it, and its state (`GET
//! /access`).
//!
//! In: an [`AccessControl`] of each plane in the process. Out: decisions for the routes of operators, and the
//! answer of the route.

use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use shared::model::Revision;

use crate::inventory::Plane;

/// The route of the state.
pub const PATH: &str = "/access";

/// The access control of one plane.
pub trait AccessControl: Send + Sync {
    /// The account whose token a request to the admin port shows. `None` without a token that counts, and
    /// while nothing can be decided.
    fn operator(&self, method: &Method, headers: &HeaderMap) -> Option<Operator>;

    /// The state of access control.
    fn report(&self) -> AccessReport;
}

/// An account that wants to operate a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// The name of the account.
    pub account: String,
    /// The id of its token.
    pub token: String,
    /// The revision of the policy that decided.
    pub revision: Revision,
    /// The account has the right.
    pub is_permitted: bool,
}

/// The state of access control of a plane. In JSON the keys are in camel case. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccessReport {
    /// The plane.
    pub plane: Plane,
    /// Access control is demanded by the settings of the process.
    pub demanded: bool,
    /// The present way of deciding.
    pub state: AccessState,
    /// The reason for which nothing is decided; empty otherwise.
    #[serde(default)]
    pub reason: String,
    /// The revision of the policy; 0 without one.
    pub revision: Revision,
    /// The digest of the policy's content, which is the same in all processes that decide alike.
    pub digest: String,
    /// The ids of the keys that verify tokens, the signing one first.
    pub keys: Vec<String>,
    /// The external issuers whose tokens count.
    pub issuers: Vec<String>,
    /// The number of accounts.
    pub accounts: usize,
    /// Milliseconds since the policy was last known to be the newest; `None` where it is always the newest.
    pub age_ms: Option<u64>,
    /// Milliseconds after which the policy lets nothing new in.
    pub stale_after_ms: Option<u64>,
}

/// The ways of deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessState {
    /// Every request is allowed.
    Open,
    /// The policy decides.
    Guarded,
    /// Every request is refused, because nothing can be decided.
    Closed,
}

/// The access control of the planes of this process. Cheap to clone. Planes may be added after the routes are
/// served.
#[derive(Clone, Default)]
pub struct Planes(Arc<Mutex<Vec<Arc<dyn AccessControl>>>>);

impl Planes {
    /// Adds that of another plane.
    pub fn add(&self, access: Arc<dyn AccessControl>) {
        self.0.lock().push(access);
    }

    /// The account behind a request, by the first plane that knows it.
    pub(super) fn operator(&self, method: &Method, headers: &HeaderMap) -> Option<Operator> {
        self.0.lock().iter().find_map(|plane| plane.operator(method, headers))
    }

    /// The answer of the route: a JSON array with the state of each plane.
    pub(crate) fn report(&self) -> Response {
        let reports: Vec<AccessReport> = self.0.lock().iter().map(|plane| plane.report()).collect();
        let body = serde_json::to_string(&reports).expect("plain fields always serialise");
        ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
    }
}
