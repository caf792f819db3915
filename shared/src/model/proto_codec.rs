//! Conversions between the model and the protobuf messages of the bus.
//!
//! Every field is named: a field that is added to one side and forgotten on the other does not compile.

use proto::event::v1 as pb;

use super::{DataCenter, HealthCheck, Instance, Scope, ServiceKey, ServiceRef, Tenant};

impl From<&ServiceRef> for pb::ServiceRef {
    fn from(service: &ServiceRef) -> Self {
        Self {
            domain: service.tenant.domain.clone(),
            project: service.tenant.project.clone(),
            service_id: service.id.clone(),
        }
    }
}

impl From<pb::ServiceRef> for ServiceRef {
    fn from(service: pb::ServiceRef) -> Self {
        Self { tenant: Tenant { domain: service.domain, project: service.project }, id: service.service_id }
    }
}

impl From<&Scope> for pb::Scope {
    fn from(scope: &Scope) -> Self {
        Self {
            domain: scope.tenant.domain.clone(),
            project: scope.tenant.project.clone(),
            app_id: scope.app_id.clone(),
            environment: scope.environment.clone(),
        }
    }
}

impl From<pb::Scope> for Scope {
    fn from(scope: pb::Scope) -> Self {
        let tenant = Tenant { domain: scope.domain, project: scope.project };
        Self { tenant, app_id: scope.app_id, environment: scope.environment }
    }
}

impl From<&ServiceKey> for pb::ServiceKey {
    fn from(key: &ServiceKey) -> Self {
        Self {
            tenant: key.tenant.clone(),
            environment: key.environment.clone(),
            app_id: key.app_id.clone(),
            service_name: key.service_name.clone(),
            alias: key.alias.clone(),
            version: key.version.clone(),
        }
    }
}

impl From<pb::ServiceKey> for ServiceKey {
    fn from(key: pb::ServiceKey) -> Self {
        Self {
            tenant: key.tenant,
            environment: key.environment,
            app_id: key.app_id,
            service_name: key.service_name,
            alias: key.alias,
            version: key.version,
        }
    }
}

impl From<&Instance> for pb::Instance {
    fn from(instance: &Instance) -> Self {
        Self {
            instance_id: instance.instance_id.clone(),
            service_id: instance.service_id.clone(),
            endpoints: instance.endpoints.clone(),
            host_name: instance.host_name.clone(),
            status: instance.status.clone(),
            properties: instance.properties.clone(),
            health_check: instance.health_check.as_ref().map(|check| pb::HealthCheck {
                mode: check.mode.clone(),
                port: check.port,
                interval: check.interval,
                times: check.times,
                url: check.url.clone(),
            }),
            timestamp: instance.timestamp.clone(),
            data_center: instance.data_center_info.as_ref().map(|place| pb::DataCenter {
                name: place.name.clone(),
                region: place.region.clone(),
                available_zone: place.available_zone.clone(),
            }),
            mod_timestamp: instance.mod_timestamp.clone(),
            version: instance.version.clone(),
            shortened: false,
        }
    }
}

impl From<pb::Instance> for Instance {
    fn from(instance: pb::Instance) -> Self {
        Self {
            instance_id: instance.instance_id,
            service_id: instance.service_id,
            endpoints: instance.endpoints,
            host_name: instance.host_name,
            status: instance.status,
            properties: instance.properties,
            health_check: instance.health_check.map(|check| HealthCheck {
                mode: check.mode,
                port: check.port,
                interval: check.interval,
                times: check.times,
                url: check.url,
            }),
            timestamp: instance.timestamp,
            data_center_info: instance.data_center.map(|place| DataCenter {
                name: place.name,
                region: place.region,
                available_zone: place.available_zone,
            }),
            mod_timestamp: instance.mod_timestamp,
            version: instance.version,
        }
    }
}
