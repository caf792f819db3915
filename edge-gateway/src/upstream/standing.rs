//! What the upstream knows at one moment, for who compares gateways and control planes.

use std::sync::Arc;

use host::inventory::{Known, KnownService, Plane};
use shared::model::{Instance, Revision, ServiceKey, ServiceRef};

use super::topic::Topic;

/// Everything that is followed. Shares the instances with the upstream, which is kept waiting for the copy of the
/// references only.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Everything up to here is contained.
    pub revision: Revision,
    /// Each provider that has been loaded.
    pub providers: Vec<Provider>,
}

/// A provider with its instances.
#[derive(Debug)]
pub(crate) struct Provider {
    service: ServiceRef,
    key: Option<Arc<ServiceKey>>,
    instances: Vec<(Arc<Instance>, Revision)>,
}

impl Standing {
    /// A provider that is followed.
    pub(crate) fn of(service: &ServiceRef, topic: &Topic) -> Provider {
        let instances = topic.instances().map(|(instance, rev)| (instance.clone(), rev)).collect();
        Provider { service: service.clone(), key: topic.key().cloned(), instances }
    }

    /// In the words that all planes use.
    pub(crate) fn into_known(self) -> Known {
        let services = self.providers.into_iter().map(|it| KnownService {
            tenant: it.service.tenant.to_string(),
            id: it.service.id,
            name: it.key.map_or_else(String::new, |key| KnownService::name_of(&key)),
            revision: 0,
            instances: it.instances.iter().map(|(it, rev)| (it.instance_id.clone(), *rev)).collect(),
        });
        Known { plane: Plane::EdgeGateway, revision: self.revision, services: services.collect() }
    }
}
