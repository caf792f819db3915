//! `muster status`: how the registry is; or how an instance is, and how it should be.

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use shared::model::Instance;

use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::{Format, Screen};

/// Arguments of `muster status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The service's id.
    #[arg(long, value_name = "ID", requires = "instance")]
    service: Option<String>,
    /// The instance's id.
    #[arg(long, value_name = "ID", requires = "service")]
    instance: Option<String>,
    /// The status to give to the instance.
    #[arg(long, requires = "instance", ignore_case = true,
        value_parser = ["UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"])]
    set: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Status {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        let (Some(service), Some(instance)) = (&self.service, &self.instance) else {
            return self.of_registry(&registry, screen).await;
        };
        let path = ["registry", "microservices", service.as_str(), "instances", instance.as_str()];
        if let Some(status) = &self.set {
            let path = [path.as_slice(), &["status"]].concat();
            registry.call(Method::PUT, &path).query("value", &status.to_ascii_uppercase()).send().await?;
        }
        let answer = registry.get(&path).send().await?;
        let instance: Instance = answer.part("instance", &registry)?;
        match self.target.output {
            Format::Json => screen.json(&instance),
            Format::Table => screen.line(&instance.status),
        }
    }

    async fn of_registry(&self, registry: &Registry, screen: &mut Screen) -> Result<(), Failure> {
        let version = registry.get(&["registry", "version"]).send().await?;
        let answer = registry.root("/ready").await?;
        let status = answer.status().as_u16();
        let ready: Value = serde_json::from_str(answer.body()).unwrap_or(Value::Null);
        if self.target.output == Format::Json {
            return screen
                .json(&json!({"server": registry.server(), "version": version.body, "ready": ready}));
        }
        let text = |name: &str| version.body.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let state = match status {
            200 => "ok",
            // Service-Center has no such route.
            404 => "unknown",
            _ => "not ready",
        };
        let mut rows = vec![
            vec!["server".to_owned(), registry.server()],
            vec!["version".to_owned(), text("version")],
            vec!["api".to_owned(), text("apiVersion")],
            vec!["ready".to_owned(), state.to_owned()],
        ];
        if let Some(conditions) = ready.get("conditions").and_then(Value::as_object) {
            rows.extend(conditions.iter().map(|(name, condition)| {
                let met = condition.get("met").and_then(Value::as_bool).unwrap_or(false);
                let reason = condition.get("reason").and_then(Value::as_str).unwrap_or("");
                vec![format!("  {name}"), format!("{}: {reason}", if met { "yes" } else { "no" })]
            }));
        }
        screen.table(&["WHAT", "STATE"], &rows)
    }
}
