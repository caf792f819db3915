//! What a process knows of the registry, told on the admin port so that processes can be compared (`muster diff`).
//!
//! In: a [`Source`] of each plane in the process. Out: `GET /known`, for operators. Revisions stand for contents: on one
//! store, what was written last by the same revision is the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use shared::model::{Revision, ServiceKey};

/// The route.
pub const PATH: &str = "/known";

/// Which plane tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// It knows every service.
    ControlPlane,
    /// It knows the services that its watchers follow.
    EdgeGateway,
}

/// What a plane knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Who tells.
    pub plane: Plane,
    /// Everything up to here is contained; what is newer may be.
    pub revision: Revision,
    /// The services, in no order.
    pub services: Vec<KnownService>,
}

/// A service as a plane knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownService {
    /// Domain and project.
    pub tenant: String,
    /// Its id.
    pub id: String,
    /// Application, name and version, for people; empty when not known.
    pub name: String,
    /// The revision that wrote its record last; 0 on a gateway, which does not know the record.
    pub revision: Revision,
    /// The revision that wrote each instance last.
    pub instances: BTreeMap<String, Revision>,
}

impl KnownService {
    /// A service's name for people.
    pub fn name_of(key: &ServiceKey) -> String {
        format!("{}/{} {}", key.app_id, key.service_name, key.version)
    }
}

/// Tells what one plane knows now; `None` when it cannot tell.
pub type Source = Arc<dyn Fn() -> BoxFuture<'static, Option<Known>> + Send + Sync>;

/// The planes of this process. Cheap to clone; planes may come after the route is served.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Vec<Source>>>);

impl Sources {
    /// Has another plane asked.
    pub fn add<F>(&self, source: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Option<Known>> + Send + 'static,
    {
        self.0.lock().push(Arc::new(move || Box::pin(source())));
    }

    /// What every plane knows. As large as the registry while it is sent: for operators, not for every scrape.
    pub(crate) async fn tell(&self) -> Response {
        let sources = self.0.lock().clone();
        let mut told = Vec::with_capacity(sources.len());
        for source in sources {
            told.extend(source().await);
        }
        let body = serde_json::to_string(&told).expect("maps with text keys always serialise");
        ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
    }
}
