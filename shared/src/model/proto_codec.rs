//! The model in the bus's protobuf spelling, both directions.

use proto::event::v1 as pb;

use super::{DataCenter, HealthCheck, Instance, Scope, ServiceKey, ServiceRef, Tenant};

impl From<&ServiceRef> for pb::ServiceRef {
    fn from(it: &ServiceRef) -> Self {
        Self {
            domain: it.tenant.domain.clone(),
            project: it.tenant.project.clone(),
            service_id: it.id.clone(),
        }
    }
}

impl From<pb::ServiceRef> for ServiceRef {
    fn from(it: pb::ServiceRef) -> Self {
        Self { tenant: Tenant { domain: it.domain, project: it.project }, id: it.service_id }
    }
}

impl From<&Scope> for pb::Scope {
    fn from(it: &Scope) -> Self {
        Self {
            domain: it.tenant.domain.clone(),
            project: it.tenant.project.clone(),
            app_id: it.app_id.clone(),
            environment: it.environment.clone(),
        }
    }
}

impl From<pb::Scope> for Scope {
    fn from(it: pb::Scope) -> Self {
        let tenant = Tenant { domain: it.domain, project: it.project };
        Self { tenant, app_id: it.app_id, environment: it.environment }
    }
}

impl From<&ServiceKey> for pb::ServiceKey {
    fn from(it: &ServiceKey) -> Self {
        Self {
            tenant: it.tenant.clone(),
            environment: it.environment.clone(),
            app_id: it.app_id.clone(),
            service_name: it.service_name.clone(),
            alias: it.alias.clone(),
            version: it.version.clone(),
        }
    }
}

impl From<pb::ServiceKey> for ServiceKey {
    fn from(it: pb::ServiceKey) -> Self {
        Self {
            tenant: it.tenant,
            environment: it.environment,
            app_id: it.app_id,
            service_name: it.service_name,
            alias: it.alias,
            version: it.version,
        }
    }
}

impl From<&Instance> for pb::Instance {
    fn from(it: &Instance) -> Self {
        Self {
            instance_id: it.instance_id.clone(),
            service_id: it.service_id.clone(),
            endpoints: it.endpoints.clone(),
            host_name: it.host_name.clone(),
            status: it.status.clone(),
            properties: it.properties.clone(),
            health_check: it.health_check.as_ref().map(|h| pb::HealthCheck {
                mode: h.mode.clone(),
                port: h.port,
                interval: h.interval,
                times: h.times,
                url: h.url.clone(),
            }),
            timestamp: it.timestamp.clone(),
            data_center: it.data_center_info.as_ref().map(|d| pb::DataCenter {
                name: d.name.clone(),
                region: d.region.clone(),
                available_zone: d.available_zone.clone(),
            }),
            mod_timestamp: it.mod_timestamp.clone(),
            version: it.version.clone(),
        }
    }
}

impl From<pb::Instance> for Instance {
    fn from(it: pb::Instance) -> Self {
        Self {
            instance_id: it.instance_id,
            service_id: it.service_id,
            endpoints: it.endpoints,
            host_name: it.host_name,
            status: it.status,
            properties: it.properties,
            health_check: it.health_check.map(|h| HealthCheck {
                mode: h.mode,
                port: h.port,
                interval: h.interval,
                times: h.times,
                url: h.url,
            }),
            timestamp: it.timestamp,
            data_center_info: it.data_center.map(|d| DataCenter {
                name: d.name,
                region: d.region,
                available_zone: d.available_zone,
            }),
            mod_timestamp: it.mod_timestamp,
            version: it.version,
        }
    }
}
