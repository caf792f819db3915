//! `muster register`: registers a service and an instance of it; with `--keep-alive` it sends the heartbeats
//! as well.

use std::time::Duration;

use clap::Args;
use host::machine::host_name;
use http::Method;
use serde_json::{Value, json};

use super::drain::instance::before_the_end;
use super::interrupted;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// Arguments of `muster register`.
#[derive(Debug, Args)]
pub(crate) struct Register {
    /// Name of the service.
    #[arg(long)]
    name: String,
    /// Application of the service.
    #[arg(long, default_value = "default")]
    app: String,
    /// Version of the service: one to four numbers with dots between.
    #[arg(long = "service-version", value_name = "VERSION", default_value = "1.0.0")]
    version: String,
    /// Environment of the service; empty for the default one.
    #[arg(long, default_value = "")]
    env: String,
    /// Address of the instance, such as rest://10.0.0.7:8080; may be repeated. Without it only the service is
    /// registered.
    #[arg(long = "endpoint", value_name = "ADDRESS")]
    endpoints: Vec<String>,
    /// Host name of the instance.
    #[arg(long, value_name = "NAME", default_value_t = host_name())]
    host: String,
    /// Property of the instance; may be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Pause between heartbeats, in whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    interval: Duration,
    /// Number of heartbeats that may be missed before the instance expires.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    times: i32,
    /// Send heartbeats until interrupted, then drain the instance and unregister it.
    #[arg(long, requires = "endpoints")]
    keep_alive: bool,
    /// With --keep-alive, the longest time to wait at the end until every watcher is known to have been told
    /// that the instance takes no more traffic, up to 1h; 0s to unregister at once.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, requires = "keep_alive")]
    drain: Duration,
    #[command(flatten)]
    target: Target,
}

impl Register {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let service = self.register_service(&registry).await?;
        let instance = match self.endpoints.is_empty() {
            true => None,
            false => Some(self.register_instance(&registry, &service).await?),
        };
        match (self.target.output, &instance) {
            (OutputFormat::Json, None) => screen.json(&json!({ "serviceId": service }))?,
            (OutputFormat::Json, Some(instance)) => {
                screen.json(&json!({"serviceId": service, "instanceId": instance}))?;
            }
            (OutputFormat::Table, Some(instance)) => {
                screen.table(&["SERVICE ID", "INSTANCE ID"], &[vec![service.clone(), instance.clone()]])?;
            }
            (OutputFormat::Table, None) => screen.table(&["SERVICE ID"], &[vec![service.clone()]])?,
        }
        match instance {
            Some(instance) if self.keep_alive => self.keep_alive(&registry, &service, instance, screen).await,
            _ => Ok(()),
        }
    }

    async fn register_service(&self, registry: &RegistryClient) -> Result<String, CommandFailure> {
        let mut service = json!({
            "appId": self.app, "serviceName": self.name, "version": self.version, "status": "UP",
        });
        // The API counts an empty environment as absent; requests leave empty fields out, as its replies do.
        if !self.env.is_empty() {
            service["environment"] = json!(self.env);
        }
        let request = registry.request(Method::POST, &["registry", "microservices"]);
        request.body(json!({ "service": service })).send().await?.id("serviceId", registry)
    }

    async fn register_instance(
        &self,
        registry: &RegistryClient,
        service: &str,
    ) -> Result<String, CommandFailure> {
        let properties: serde_json::Map<String, Value> =
            self.properties.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let instance = json!({
            "endpoints": self.endpoints, "hostName": self.host, "status": "UP", "properties": properties,
            "healthCheck": {"mode": "push", "interval": self.interval.as_secs().max(1), "times": self.times},
        });
        let request = registry.request(Method::POST, &["registry", "microservices", service, "instances"]);
        request.body(json!({ "instance": instance })).send().await?.id("instanceId", registry)
    }

    /// Sends heartbeats until interrupted, then drains and unregisters. An instance that has expired is
    /// registered again.
    async fn keep_alive(
        &self,
        registry: &RegistryClient,
        service: &str,
        mut instance: String,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        screen.note("sending heartbeats; an interrupt (Ctrl-C) drains and unregisters the instance");
        let mut beat = tokio::time::interval(self.interval.max(Duration::from_secs(1)));
        // After a stall one heartbeat is as good as many.
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The registration itself has just begun the lease, so the first heartbeat is due after a pause.
        beat.reset();
        let mut interrupted = std::pin::pin!(interrupted());
        loop {
            tokio::select! {
                // When both are due, a last heartbeat would only delay the end.
                biased;
                result = &mut interrupted => { result?; break }
                _ = beat.tick() => {}
            }
            let path = ["registry", "microservices", service, "instances", &instance, "heartbeat"];
            match registry.request(Method::PUT, &path).send().await {
                Ok(_) => {}
                Err(failure) if failure.is_unknown_instance() => {
                    match self.register_instance(registry, service).await {
                        Ok(id) => {
                            screen.note(&format!("the instance had expired; it is registered again as {id}"));
                            instance = id;
                        }
                        Err(failure) if failure.is_passing() => screen.note(&failure.to_string()),
                        Err(failure) => return Err(failure),
                    }
                }
                // Ending here would let the instance expire. The next heartbeat may succeed.
                Err(failure) => screen.note(&failure.to_string()),
            }
        }
        self.drain(registry, service, &instance, &mut beat, screen).await;
        let path = ["registry", "microservices", service, "instances", &instance];
        match registry.request(Method::DELETE, &path).send().await {
            Err(failure) if !failure.is_unknown_instance() => Err(failure),
            // An instance that is not there any more is what was to be reached.
            _ => {
                screen.note("unregistered the instance");
                Ok(())
            }
        }
    }
}

impl Register {
    /// Drains the instance, and sends its heartbeats meanwhile. Whatever goes wrong, and at a second
    /// interrupt, the instance is unregistered next.
    async fn drain(
        &self,
        registry: &RegistryClient,
        service: &str,
        instance: &str,
        beat: &mut tokio::time::Interval,
        screen: &mut Screen,
    ) {
        if self.drain.is_zero() {
            return;
        }
        let deadline = self.drain.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        screen.note("draining the instance; another interrupt unregisters it at once");
        let result = {
            let draining = before_the_end(registry, service, instance, deadline, screen);
            let mut draining = std::pin::pin!(draining);
            let mut interrupted = std::pin::pin!(interrupted());
            loop {
                tokio::select! {
                    result = &mut draining => break result,
                    _ = &mut interrupted => return,
                    _ = beat.tick() => {
                        let path =
                            ["registry", "microservices", service, "instances", instance, "heartbeat"];
                        // One that fails may be repeated, and the drain says what it needs to.
                        let _ = registry.request(Method::PUT, &path).send().await;
                    }
                }
            }
        };
        // Service-Center and older gateways have no such route.
        if let Err(failure) = result {
            screen.note(&format!("the instance is unregistered without a drain: {failure}"));
        }
    }
}

pub(super) fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
