//! The inventory of a process: its copy of the registry, reported on the admin port so that `muster diff` can
//! compare processes.
//!
//! In: a [`Source`] for each plane in the process. Out: the answer of `GET /known`, for operators.
//!
//! The inventory contains revisions instead of contents. In one store a key has one content at each revision,
//! so two processes that name the same revision of a key have the same content.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use shared::model::{Revision, ServiceKey};

/// The route of the inventory. Older gateways serve it under this name, so it stays.
pub const PATH: &str = "/known";

/// The plane that an inventory describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// A control plane's view. It contains every service.
    ControlPlane,
    /// An edge gateway. It contains the services that its watchers follow.
    EdgeGateway,
}

/// The services of one plane. In JSON the keys are in camel case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// The plane.
    pub plane: Plane,
    /// Every change up to this revision is contained; newer ones may be.
    pub revision: Revision,
    /// The services, in no particular order.
    pub services: Vec<InventoryService>,
}

/// A service and its instances, by revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InventoryService {
    /// Domain and project, as `domain/project`.
    pub tenant: String,
    /// The service id.
    pub id: String,
    /// Application, name and version, for people. Empty on a gateway that has not received them yet.
    pub name: String,
    /// The revision that last wrote the service's record. 0 on a gateway, which has no such records.
    pub revision: Revision,
    /// The revision that last wrote each instance, by instance id.
    pub instances: BTreeMap<String, Revision>,
}

impl InventoryService {
    /// The name of a service for people: `application/name version`.
    pub fn name_of(key: &ServiceKey) -> String {
        format!("{}/{} {}", key.app_id, key.service_name, key.version)
    }
}

/// Returns the current inventory of one plane; `None` when the plane cannot answer, because it is
/// starting or ending.
pub type Source = Arc<dyn Fn() -> BoxFuture<'static, Option<Inventory>> + Send + Sync>;

/// The sources of this process. Cheap to clone. Sources may be added after the route is served.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Vec<Source>>>);

impl Sources {
    /// Adds the inventory of another plane.
    pub fn add<F>(&self, source: impl Fn() -> F + Send + Sync + 'static)
    where
        F: Future<Output = Option<Inventory>> + Send + 'static,
    {
        self.0.lock().push(Arc::new(move || Box::pin(source())));
    }

    /// The answer of the route: a JSON array with the inventory of each plane. It takes memory for the whole
    /// registry while it is sent, so it is for operators and not for a scrape.
    pub(crate) async fn report(&self) -> Response {
        // Copied, because the lock must not be held while the planes answer.
        let sources = self.0.lock().clone();
        let mut inventories = Vec::with_capacity(sources.len());
        for source in sources {
            inventories.extend(source().await);
        }
        let body = serde_json::to_string(&inventories).expect("maps with text keys always serialise");
        ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], body).into_response()
    }
}
