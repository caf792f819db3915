//! `muster register`: a service and an instance of it, kept alive as long as the command runs if asked to.

use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use crate::cli::{Target, duration};
use crate::failure::Failure;
use crate::registry::{Answer, Registry};
use crate::screen::{Format, Screen};

/// Arguments of `muster register`.
#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The service's name.
    #[arg(long)]
    name: String,
    /// The service's application.
    #[arg(long, default_value = "default")]
    app: String,
    /// The service's version, of one to four numbers.
    #[arg(long = "service-version", value_name = "VERSION", default_value = "1.0.0")]
    version: String,
    /// The service's environment; empty for the default one.
    #[arg(long, default_value = "")]
    env: String,
    /// An address of the instance, such as rest://10.0.0.7:8080; without any only the service is registered.
    #[arg(long = "endpoint", value_name = "ADDRESS")]
    endpoints: Vec<String>,
    /// Name of the instance's host.
    #[arg(long, value_name = "NAME", default_value_t = host())]
    host: String,
    /// A property of the instance.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = pair)]
    properties: Vec<(String, String)>,
    /// Pause between heartbeats, in whole seconds.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    interval: Duration,
    /// Heartbeats that may be missed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    times: i32,
    /// Send heartbeats until interrupted, then unregister the instance.
    #[arg(long, requires = "endpoints")]
    keep_alive: bool,
    #[command(flatten)]
    target: Target,
}

impl Register {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        let service = self.register_service(&registry).await?;
        let instance = match self.endpoints.is_empty() {
            true => None,
            false => Some(self.register_instance(&registry, &service).await?),
        };
        match (self.target.output, &instance) {
            (Format::Json, None) => screen.json(&json!({ "serviceId": service }))?,
            (Format::Json, Some(instance)) => {
                screen.json(&json!({"serviceId": service, "instanceId": instance}))?;
            }
            (Format::Table, Some(instance)) => {
                screen.table(&["SERVICE ID", "INSTANCE ID"], &[vec![service.clone(), instance.clone()]])?;
            }
            (Format::Table, None) => screen.table(&["SERVICE ID"], &[vec![service.clone()]])?,
        }
        match instance {
            Some(instance) if self.keep_alive => self.keep_alive(&registry, &service, instance, screen).await,
            _ => Ok(()),
        }
    }

    async fn register_service(&self, registry: &Registry) -> Result<String, Failure> {
        let mut service = json!({
            "appId": self.app, "serviceName": self.name, "version": self.version, "status": "UP",
        });
        if !self.env.is_empty() {
            service["environment"] = json!(self.env);
        }
        let call = registry.call(Method::POST, &["registry", "microservices"]);
        id(&call.body(json!({ "service": service })).send().await?, "serviceId", registry)
    }

    async fn register_instance(&self, registry: &Registry, service: &str) -> Result<String, Failure> {
        let properties: serde_json::Map<String, Value> =
            self.properties.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let instance = json!({
            "endpoints": self.endpoints, "hostName": self.host, "status": "UP", "properties": properties,
            "healthCheck": {"mode": "push", "interval": self.interval.as_secs().max(1), "times": self.times},
        });
        let call = registry.call(Method::POST, &["registry", "microservices", service, "instances"]);
        id(&call.body(json!({ "instance": instance })).send().await?, "instanceId", registry)
    }

    /// Beats until interrupted. An instance that got lost is registered again.
    async fn keep_alive(
        &self,
        registry: &Registry,
        service: &str,
        mut instance: String,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        screen.note("sending heartbeats; interrupt to unregister");
        let mut beat = tokio::time::interval(self.interval.max(Duration::from_secs(1)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        beat.reset();
        let mut interrupted = std::pin::pin!(interrupted());
        loop {
            tokio::select! {
                biased;
                it = &mut interrupted => { it?; break }
                _ = beat.tick() => {}
            }
            let path = ["registry", "microservices", service, "instances", &instance];
            let beating = registry.call(Method::PUT, &[path.as_slice(), &["heartbeat"]].concat()).send();
            match beating.await {
                Ok(_) => {}
                Err(e) if e.is_unknown_instance() => match self.register_instance(registry, service).await {
                    Ok(id) => {
                        screen.note(&format!("the instance was lost; registered again as {id}"));
                        instance = id;
                    }
                    Err(e) if e.is_passing() => screen.note(&e.to_string()),
                    Err(e) => return Err(e),
                },
                Err(e) => screen.note(&e.to_string()),
            }
        }
        let path = ["registry", "microservices", service, "instances", &instance];
        match registry.call(Method::DELETE, &path).send().await {
            Err(e) if !e.is_unknown_instance() => Err(e),
            _ => {
                screen.note("unregistered");
                Ok(())
            }
        }
    }
}

/// Resolves at SIGINT or SIGTERM.
pub(super) async fn interrupted() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        it = tokio::signal::ctrl_c() => it?,
        _ = term.recv() => {}
    }
    Ok(())
}

pub(super) fn id(answer: &Answer, name: &str, registry: &Registry) -> Result<String, Failure> {
    let id: String = answer.part(name, registry)?;
    if id.is_empty() {
        let problem = format!("the answer has no `{name}`");
        return Err(Failure::NotUnderstood { server: registry.server(), problem });
    }
    Ok(id)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}
