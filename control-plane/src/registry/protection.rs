//! What is held, and the operator's word that it is not to be.

use schemars::JsonSchema;
use serde::Serialize;
use shared::model::{Revision, ServiceRef, Tenant};

use super::{Caller, PATIENCE, Registry};
use crate::failure::{Code, Failure};
use crate::keys;
use crate::store::{Op, Txn};

/// A service some of whose expired instances are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protected {
    /// The service.
    pub service_id: String,
    /// Its name.
    pub service_name: String,
    /// Its instances when nothing is wrong.
    pub size: usize,
    /// Those that live.
    pub living: usize,
    /// Those that expired and are held.
    pub held: Vec<HeldInstance>,
}

/// An expired instance that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldInstance {
    /// The instance.
    pub instance_id: String,
    /// The revision at which it expired.
    pub since: Revision,
}

impl Registry {
    /// The protected services of a tenant.
    pub async fn protected(&self, tenant: &Tenant) -> Result<Vec<Protected>, Failure> {
        let caller = Caller { tenant: tenant.clone(), ..Caller::default() };
        let snapshot = self.read(&caller).await?;
        let services = snapshot.tenant(tenant).into_iter().flat_map(|tenant| tenant.services.iter());
        let protected = services.filter(|(_, view)| !view.held.is_empty()).map(|(id, view)| Protected {
            service_id: id.clone(),
            service_name: view.key.service_name.clone(),
            size: view.usual_size,
            living: view.living(),
            held: view
                .held
                .iter()
                .map(|(id, held)| HeldInstance { instance_id: id.clone(), since: held.since })
                .collect(),
        });
        Ok(protected.collect())
    }

    /// Lets the held instances of a service go: its watchers are told that they are deleted.
    pub async fn release(&self, service: &ServiceRef) -> Result<(), Failure> {
        let mut revisions = self.view.revisions();
        let released = async {
            loop {
                revisions.borrow_and_update();
                let snapshot = self.view.now()?;
                if super::service::existing(&snapshot, service)?.held.is_empty() {
                    return Ok(());
                }
                let txn = Txn { then: vec![Op::DeletePrefix(keys::held_of(service))], ..Txn::default() };
                self.store.txn(txn).await?;
                // One whose record is still to be written is deleted when it is there.
                if revisions.changed().await.is_err() {
                    return Err(Failure::new(Code::NotReady, "the registry is about to stop"));
                }
            }
        };
        let late =
            |_| Failure::new(Code::Unavailable, "not all held instances were released in time; try again");
        tokio::time::timeout(PATIENCE, released).await.map_err(late)?
    }
}
