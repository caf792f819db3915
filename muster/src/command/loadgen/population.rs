//! The services and instances of a run: registered before it, removed after it.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::json;

use super::Loadgen;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// Finds of one consumer in flight at once. Each is a transaction on the same dependency rules, so more of
/// them would only make each other retry.
const MAX_FINDS_IN_FLIGHT: usize = 8;
/// Pause between the heartbeats of the providers, and their lease's interval.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Removals in a row that may fail because nobody answers, before the rest is left.
const MAX_UNANSWERED: usize = 5;
/// Pause after such a failure.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(1);

/// The services and instances that were registered for the run.
#[derive(Debug, Default)]
pub(super) struct Population {
    /// Application of all of them. One of its own keeps runs apart that go on at the same time.
    app: String,
    pub(super) providers: Vec<LoadProvider>,
    /// Service ids.
    pub(super) consumers: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct LoadProvider {
    pub(super) service: String,
    /// Empty until it is registered.
    pub(super) instance: String,
}

impl Population {
    /// Registers the providers, then the consumers, each of which finds every provider.
    pub(super) async fn register(
        &mut self,
        load: &Loadgen,
        registry: &RegistryClient,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        let requests =
            2.0 * f64::from(load.providers) + f64::from(load.consumers) * f64::from(load.providers + 1);
        let mut made = 0.0;
        self.app = format!("loadgen-{:08x}", fastrand::u32(..));
        for number in 0..load.providers {
            screen.progress("registering", made / requests, &format!("provider {number}"));
            made += 2.0;
            let service = register_service(registry, &self.app, &format!("provider-{number}")).await?;
            // Noted at once, so that it is removed also when the next request fails.
            self.providers.push(LoadProvider { service: service.clone(), instance: String::new() });
            let instance = register_instance(registry, &service, number as usize, "").await?;
            self.providers[number as usize].instance = instance;
        }
        for number in 0..load.consumers {
            screen.progress("registering", made / requests, &format!("consumer {number}"));
            made += f64::from(load.providers + 1);
            let consumer = register_service(registry, &self.app, &format!("consumer-{number}")).await?;
            self.consumers.push(consumer.clone());
            let finds = (0..load.providers).map(|provider| {
                let find = registry
                    .get(&["registry", "instances"])
                    .query("appId", &self.app)
                    .query("serviceName", &format!("provider-{provider}"))
                    .query("env", "")
                    .query("version", "0+");
                find.consumer(Some(&consumer)).send()
            });
            let mut finding = stream::iter(finds).buffer_unordered(MAX_FINDS_IN_FLIGHT);
            while finding.try_next().await?.is_some() {}
        }
        Ok(())
    }

    /// Removes all services, and returns the last failure. One that fails does not keep the others.
    pub(super) async fn remove(
        &self,
        registry: &RegistryClient,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        let total = self.consumers.len() + self.providers.len();
        let providers = self.providers.iter().map(|provider| &provider.service);
        let mut result = Ok(());
        let mut unanswered = 0;
        for (number, service) in self.consumers.iter().chain(providers).enumerate() {
            screen.progress("removing", number as f64 / total as f64, "");
            let removed = loop {
                let request = registry.request(Method::DELETE, &["registry", "microservices", service]);
                match request.query("force", "true").send().await {
                    Err(failure) if failure.is_passing() && unanswered < MAX_UNANSWERED => {
                        unanswered += 1;
                        tokio::time::sleep(UNANSWERED_PAUSE).await;
                    }
                    removed => break removed,
                }
            };
            match removed {
                Ok(_) => unanswered = 0,
                Err(failure) => {
                    let is_passing = failure.is_passing();
                    result = Err(failure);
                    // Thousands of services that each wait for a deadline would keep a person for hours.
                    if is_passing {
                        let left = total - number;
                        screen.note(&format!("{left} services of application {} are left behind", self.app));
                        break;
                    }
                }
            }
        }
        result
    }
}

async fn register_service(
    registry: &RegistryClient,
    app: &str,
    name: &str,
) -> Result<String, CommandFailure> {
    let body = json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "status": "UP"}});
    let request = registry.request(Method::POST, &["registry", "microservices"]).body(body);
    request.send().await?.id("serviceId", registry)
}

/// Registers the instance of the provider with this number, under `id` if there is one.
pub(super) async fn register_instance(
    registry: &RegistryClient,
    service: &str,
    number: usize,
    id: &str,
) -> Result<String, CommandFailure> {
    let endpoint = format!("rest://10.0.0.1:{}", 1024 + number % 60_000);
    let health_check = json!({"mode": "push", "interval": HEARTBEAT_INTERVAL.as_secs(), "times": 3});
    let body = json!({"instance": {"instanceId": id, "endpoints": [endpoint], "hostName": "loadgen",
        "status": "UP", "healthCheck": health_check}});
    let request = registry.request(Method::POST, &["registry", "microservices", service, "instances"]);
    request.body(body).send().await?.id("instanceId", registry)
}
