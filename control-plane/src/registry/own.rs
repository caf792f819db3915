//! The registry as a service of itself: `SERVICECENTER` in `default/default`, application `default`.
//!
//! Clients sync their address list from its instances, so an instance carries the address that clients can
//! reach: the advertised one, which in front of gateways is the load balancer's.

use std::time::Duration;

use shared::backoff::Backoff;
use shared::model::{HealthCheck, Instance, Service, ServiceRef, Tenant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::service::derived_id;
use super::{Registry, RegistryConfig};
use crate::failure::{Code, Failure};
use crate::keys::Name;

/// Its name and alias.
pub const NAME: &str = "SERVICECENTER";
/// Its version: that of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const BEAT: Duration = Duration::from_secs(30);

/// The id of the registry's own service.
pub fn service_id(config: &RegistryConfig) -> String {
    derived_id(&Tenant::default(), &Name::new(&config.own_environment, "default", NAME), VERSION)
}

/// Registers this node under `endpoint` and keeps it alive until `stop`; then unregisters it.
pub async fn keep_registered(registry: Registry, endpoint: String, host: String, stop: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(200), BEAT);
    let service = ServiceRef::new(Tenant::default(), service_id(registry.config()));
    let mut registered: Option<String> = None;
    loop {
        let wait = match beat(&registry, &service, &endpoint, &host, registered.clone()).await {
            Ok(id) => {
                if registered.as_ref() != Some(&id) {
                    info!(instance.id = id, endpoint, "registered in the registry itself");
                }
                registered = Some(id);
                backoff.reset();
                BEAT
            }
            Err(failure) => {
                let wait = backoff.next_wait();
                // Waiting for the first list is no trouble worth a line.
                if failure.code != Code::NotReady {
                    warn!(%failure, attempt = backoff.failures(), "the registry cannot register itself; trying again");
                }
                wait
            }
        };
        tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(wait) => {} }
    }
    if let Some(id) = registered
        && let Err(failure) = registry.unregister_instance(&service, &id).await
    {
        warn!(%failure, "the registry's own instance is left to expire");
    }
}

async fn beat(
    registry: &Registry,
    service: &ServiceRef,
    endpoint: &str,
    host: &str,
    registered: Option<String>,
) -> Result<String, Failure> {
    if let Some(id) = &registered {
        match registry.heartbeat(service, id).await {
            Err(failure) if failure.code == Code::InstanceNotFound => {}
            other => return other.map(|()| id.clone()),
        }
    }
    let record = Service {
        app_id: "default".into(),
        service_name: NAME.into(),
        alias: NAME.into(),
        version: VERSION.into(),
        environment: registry.config().own_environment.clone(),
        properties: [("allowCrossApp".to_owned(), "true".to_owned())].into(),
        ..Service::default()
    };
    registry.register_service(&Tenant::default(), record).await?;
    let instance = Instance {
        instance_id: registered.unwrap_or_default(),
        host_name: host.to_owned(),
        endpoints: vec![endpoint.to_owned()],
        data_center_info: registry.config().data_center.clone(),
        health_check: Some(HealthCheck {
            mode: "push".into(),
            interval: 30,
            times: 3,
            ..HealthCheck::default()
        }),
        ..Instance::default()
    };
    registry.register_instance(service, instance).await
}
