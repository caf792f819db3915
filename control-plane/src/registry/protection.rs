//! Held instances of a tenant, and the operator's request to release them.

use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Revision, ServiceRef, Tenant};

use super::service::existing;
use super::{Caller, Registry, RegistryError, VIEW_WAIT};
use crate::keys;
use crate::store::{Op, Txn};

/// A service with expired instances that are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Protected {
    /// Id of the service.
    service_id: String,
    /// Name of the service.
    service_name: String,
    /// Number of instances before they expired together.
    size: usize,
    /// Number of instances that are alive.
    living: usize,
    /// The instances that expired and are held.
    held: Vec<HeldInstance>,
}

/// An expired instance that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldInstance {
    /// Id of the instance.
    instance_id: String,
    /// The revision at which it expired.
    since: Revision,
}

impl Registry {
    /// The services of a tenant that have held instances.
    pub(crate) async fn protected(&self, tenant: &Tenant) -> Result<Vec<Protected>, RegistryError> {
        let snapshot = self.read(&Caller::of_tenant(tenant)).await?;
        let mut protected = Vec::new();
        let Some(tenant) = snapshot.tenant(tenant) else { return Ok(protected) };
        for (id, view) in tenant.services.iter().filter(|(_, view)| !view.held.is_empty()) {
            let mut held = Vec::new();
            for (instance_id, record) in view.held.iter() {
                held.push(HeldInstance { instance_id: instance_id.clone(), since: record.since });
            }
            protected.push(Protected {
                service_id: id.clone(),
                service_name: view.key.service_name.clone(),
                size: view.usual_size,
                living: view.living(),
                held,
            });
        }
        Ok(protected)
    }

    /// Releases the held instances of a service: its watchers receive their deletion.
    pub(crate) async fn release(&self, service: &ServiceRef) -> Result<(), RegistryError> {
        // Looking whether there is anything to release may take as long as releasing it.
        match tokio::time::timeout(2 * VIEW_WAIT, self.release_all(service)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RegistryError::ReleaseTimedOut),
        }
    }

    async fn release_all(&self, service: &ServiceRef) -> Result<(), RegistryError> {
        let mut revisions = self.view.revisions();
        loop {
            // Marked as seen before the view is read: a change in between then ends the wait below.
            revisions.borrow_and_update();
            let snapshot = self.view.now()?;
            if existing(&snapshot, service)?.held.is_empty() {
                let settled = self.settled().await?;
                if existing(&settled, service)?.held.is_empty() {
                    return Ok(());
                }
                continue;
            }
            let txn = Txn { then: vec![Op::DeletePrefix(keys::held_of(service))], ..Txn::default() };
            self.store.txn(txn).await.map_err(RegistryError::Commit)?;
            // The protector may not have recorded an instance yet. Its record is deleted in a later round.
            if revisions.changed().await.is_err() {
                return Err(RegistryError::Stopping);
            }
        }
    }
}
