//! The registry as a service of itself: `SERVICECENTER` in `default/default`, application `default`.
//!
//! Clients take their list of registry addresses from its instances. An instance therefore carries the
//! address that clients can reach: the advertised one, which in front of gateways is the load balancer's.

use std::time::Duration;

use shared::backoff::Backoff;
use shared::model::{HealthCheck, Instance, Service, ServiceRef, Tenant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::service::derived_id;
use super::{Registry, RegistryConfig, RegistryError};
use crate::keys::Name;

/// Name and alias of the registry's own service.
pub(crate) const NAME: &str = "SERVICECENTER";
/// Version of the registry's own service: that of this build.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Pause between heartbeats, in step with the health check that [`beat`] registers.
const BEAT: Duration = Duration::from_secs(30);
/// The first pause after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The id of the registry's own service.
pub(crate) fn service_id(config: &RegistryConfig) -> String {
    derived_id(&Tenant::default(), &Name::new(&config.own_environment, "default", NAME), VERSION)
}

/// Registers this node under `endpoint` and keeps it alive until `stop`; then unregisters it.
pub(crate) async fn keep_registered(
    registry: Registry,
    endpoint: String,
    host: String,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, BEAT);
    let service = ServiceRef::new(Tenant::default(), service_id(registry.config()));
    let mut registered: Option<String> = None;
    loop {
        let wait = match beat(&registry, &service, &endpoint, &host, registered.clone()).await {
            Ok(id) => {
                if registered.as_ref() != Some(&id) {
                    info!(instance.id = id, endpoint, "this node is registered in the registry");
                }
                registered = Some(id);
                backoff.reset();
                BEAT
            }
            Err(error) => {
                let wait = backoff.next_wait();
                // At start-up the view is not there yet. That is no trouble worth a line.
                if !matches!(error, RegistryError::ReadView(_)) {
                    let attempt = backoff.failures();
                    let error = error.with_sources();
                    warn!(error, attempt, "this node could not be registered in the registry; trying again");
                }
                wait
            }
        };
        tokio::select! { () = stop.cancelled() => break, () = tokio::time::sleep(wait) => {} }
    }
    if let Some(id) = registered
        && let Err(error) = registry.unregister_instance(&service, &id).await
    {
        let error = error.with_sources();
        warn!(error, "this node could not be unregistered; its instance stays until it expires");
    }
}

/// Renews the instance, or registers the service and the instance when it is absent. Returns the instance's
/// id.
async fn beat(
    registry: &Registry,
    service: &ServiceRef,
    endpoint: &str,
    host: &str,
    registered: Option<String>,
) -> Result<String, RegistryError> {
    if let Some(id) = &registered {
        match registry.heartbeat(service, id).await {
            // Expired, or lost with a store that was restored: it is registered again under the same id.
            Err(RegistryError::InstanceNotFound) => {}
            other => return other.map(|()| id.clone()),
        }
    }
    let record = Service {
        app_id: "default".into(),
        service_name: NAME.into(),
        alias: NAME.into(),
        version: VERSION.into(),
        environment: registry.config().own_environment.clone(),
        // Clients of every application look the registry up.
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
