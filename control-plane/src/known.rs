//! What this replica knows of the registry, for who compares replicas and gateways.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use host::inventory::{Known, KnownService, Plane};
use shared::model::ServiceRef;

use crate::keys;
use crate::registry::Registry;
use crate::store::Store;
use crate::view::{Snapshot, View};

/// How long the view may take to reach what the store has committed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells what a replica's view holds, while it runs. Does not keep its store open.
pub fn source(registry: &Registry) -> impl Fn() -> BoxFuture<'static, Option<Known>> + Send + Sync + 'static {
    let (view, store) = (registry.view().clone(), Arc::downgrade(registry.store()));
    move || Box::pin(tell(view.clone(), store.clone()))
}

/// What the view holds once it has everything that is committed now, or what it has when the store cannot be asked or
/// the view does not follow: then its revision tells. `None` before the first list.
///
/// The question to the store also makes every other replica, and through the bookmarks every gateway, come to the same
/// revision although nothing changes.
async fn tell(view: View, store: Weak<dyn Store>) -> Option<Known> {
    let store = store.upgrade()?;
    if let Ok(Ok(committed)) = tokio::time::timeout(PATIENCE, store.barrier(keys::ROOT)).await {
        // Late is told by the revision.
        let _ = view.at(committed, PATIENCE).await;
    }
    view.now().ok().map(|snapshot| known(&snapshot))
}

fn known(snapshot: &Snapshot) -> Known {
    let mut services = Vec::new();
    for (tenant, part) in snapshot.tenants.iter() {
        for (id, view) in part.services.iter().filter(|(_, view)| !view.is_void()) {
            let ServiceRef { tenant, id } = ServiceRef::new(tenant.clone(), id);
            let instances = view.instances.iter().map(|(id, it)| (id.clone(), it.mod_rev)).collect();
            let name = if view.service.is_some() { KnownService::name_of(&view.key) } else { String::new() };
            let revision = view.mod_rev;
            services.push(KnownService { tenant: tenant.to_string(), id, name, revision, instances });
        }
    }
    Known { plane: Plane::ControlPlane, revision: snapshot.revision, services }
}
