//! A tenant that is read as a whole: at rest, the gateway shows exactly the services and instances of the
//! store.

use std::collections::BTreeMap;

use follow::Selector;
use shared::model::{Revision, ServiceRef, Tenant};

use super::Sim;

/// Each service with its instances, and the revision that wrote each of them.
type Contents = BTreeMap<ServiceRef, BTreeMap<String, Revision>>;

impl Sim {
    /// Compares the gateway's state of the tenant with that of a replica that has followed everything.
    ///
    /// # Errors
    /// A description of the difference.
    pub(super) fn judge_tenant(&mut self) -> Result<(), String> {
        let Selector::Scope(scope) = &self.selector else { return Ok(()) };
        let tenant = scope.tenant.clone();
        let Some(view) = self.tracker.take_reads() else { return Err("nothing is published".to_owned()) };
        if !view.is_whole(&tenant) {
            return Err("a service of the tenant has not been loaded".to_owned());
        }
        let mut shown = Contents::new();
        for (service, topic) in view.services_of(&tenant).into_iter().flatten() {
            let instances = topic.instances.iter().map(|(id, (_, mod_rev))| (id.clone(), *mod_rev));
            shown.insert(service.clone(), instances.collect());
        }
        let truth = self.truth_of(&tenant);
        if shown == truth {
            Ok(())
        } else {
            Err(format!("the tenant is read as {shown:?}, and is {truth:?}"))
        }
    }

    fn truth_of(&self, tenant: &Tenant) -> Contents {
        let snapshot = self.replicas[0].view.now().expect("it has followed the store");
        let mut truth = Contents::new();
        for (id, service) in snapshot.tenant(tenant).into_iter().flat_map(|tenant| tenant.services.iter()) {
            // A record that is gone may leave something behind, and nobody is shown that.
            if service.service.is_some() {
                let instances = service.instances.iter().map(|(id, known)| (id.clone(), known.mod_rev));
                truth.insert(ServiceRef::new(tenant.clone(), id.clone()), instances.collect());
            }
        }
        truth
    }
}
