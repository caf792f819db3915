//! The inventory of this replica's view, for comparison with other replicas and gateways (`GET /known`).

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use host::inventory::{Inventory, InventoryService, Plane};
use shared::model::ServiceRef;

use crate::keys;
use crate::registry::Registry;
use crate::store::Store;
use crate::view::{Snapshot, View};

/// The longest time to wait for the store's revision, and then for the view to reach it.
const CATCH_UP_WAIT: Duration = Duration::from_secs(2);

/// A function that makes the inventory of the view behind `registry`. It holds the store weakly, so that a
/// store with this as its last user closes.
pub fn source(
    registry: &Registry,
) -> impl Fn() -> BoxFuture<'static, Option<Inventory>> + Send + Sync + 'static {
    let view = registry.view().clone();
    let store = Arc::downgrade(registry.store());
    move || Box::pin(inventory(view.clone(), store.clone()))
}

/// The inventory of the view, once it contains everything committed before the call. `None` before the first
/// list.
///
/// When the store cannot be reached or the view lags, the inventory is of the view as it is; its revision
/// says so.
async fn inventory(view: View, store: Weak<dyn Store>) -> Option<Inventory> {
    let store = store.upgrade()?;
    // A barrier also moves every other replica, and through the bookmarks every gateway, to the same
    // revision. Without it, inventories of an idle registry could not be compared.
    if let Ok(Ok(committed)) = tokio::time::timeout(CATCH_UP_WAIT, store.barrier(keys::ROOT)).await {
        let _ = view.at(committed, CATCH_UP_WAIT).await;
    }
    view.now().ok().map(|snapshot| inventory_of(&snapshot))
}

fn inventory_of(snapshot: &Snapshot) -> Inventory {
    let mut services = Vec::new();
    for (tenant, part) in snapshot.tenants.iter() {
        // An empty entry is about to be dropped. Another replica may already have dropped it.
        for (id, view) in part.services.iter().filter(|(_, view)| !view.is_void()) {
            let ServiceRef { tenant, id } = ServiceRef::new(tenant.clone(), id);
            let instances =
                view.instances.iter().map(|(id, instance)| (id.clone(), instance.mod_rev)).collect();
            let name =
                if view.service.is_some() { InventoryService::name_of(&view.key) } else { String::new() };
            let revision = view.mod_rev;
            services.push(InventoryService { tenant: tenant.to_string(), id, name, revision, instances });
        }
    }
    Inventory { plane: Plane::ControlPlane, revision: snapshot.revision, services }
}
