//! The gateway's inventory, for operators that compare processes.

use follow::tracker::{Contents, ProviderContents};
use host::inventory::{Inventory, InventoryService, Plane};

/// Describes everything that is followed in the terms that all planes use. It builds text for every instance,
/// so it runs in the caller's task and not in the upstream's.
pub(super) fn describe(contents: Contents) -> Inventory {
    Inventory {
        plane: Plane::EdgeGateway,
        revision: contents.revision,
        services: contents.providers.into_iter().map(describe_provider).collect(),
    }
}

fn describe_provider(provider: ProviderContents) -> InventoryService {
    let instances = provider.instances.iter().map(|(instance, rev)| (instance.instance_id.clone(), *rev));
    InventoryService {
        tenant: provider.service.tenant.to_string(),
        id: provider.service.id,
        name: provider.key.map_or_else(String::new, |key| InventoryService::name_of(&key)),
        // A gateway follows the instances of a service and not its record.
        revision: Default::default(),
        instances: instances.collect(),
    }
}
