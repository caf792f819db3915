//! `muster status`: the state of the registry; or the status of an instance, read or set.

use clap::Args;
use http::Method;
use serde_json::{Value, json};
use shared::model::Instance;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen, harmless};
use crate::target::Target;

/// Arguments of `muster status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Id of the service. Without it the state of the registry is shown.
    #[arg(long, value_name = "ID", requires = "instance")]
    service: Option<String>,
    /// Id of the instance.
    #[arg(long, value_name = "ID", requires = "service")]
    instance: Option<String>,
    /// New status of the instance.
    #[arg(long, requires = "instance", ignore_case = true,
        value_parser = ["UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"])]
    set: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Status {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let (Some(service), Some(instance)) = (&self.service, &self.instance) else {
            return self.show_registry(&registry, screen).await;
        };
        let path = ["registry", "microservices", service.as_str(), "instances", instance.as_str()];
        if let Some(status) = &self.set {
            let path = [path.as_slice(), &["status"]].concat();
            let request = registry.request(Method::PUT, &path);
            request.query("value", &status.to_ascii_uppercase()).send().await?;
        }
        // Read back, so that the line shows what the registry has and not what was wished for.
        let reply = registry.get(&path).send().await?;
        let instance: Instance = reply.part("instance", &registry)?;
        match self.target.output {
            OutputFormat::Json => screen.json(&instance),
            OutputFormat::Table => screen.line(&harmless(&instance.status)),
        }
    }

    async fn show_registry(
        &self,
        registry: &RegistryClient,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        let version = registry.get(&["registry", "version"]).send().await?;
        let reply = registry.get_root("/ready").await?;
        let readiness: Value = serde_json::from_str(reply.body()).unwrap_or(Value::Null);
        if self.target.output == OutputFormat::Json {
            return screen
                .json(&json!({"server": registry.server(), "version": version.body, "ready": readiness}));
        }
        let state = match reply.status().as_u16() {
            200 => "ok",
            // Service-Center has no such route, and a gateway or a control plane serves it on its admin port only.
            404 => "unknown (muster doctor --admin asks the admin port)",
            _ => "not ready",
        };
        let mut rows = vec![
            vec!["server".to_owned(), registry.server()],
            vec!["version".to_owned(), text_field(&version.body, "version").to_owned()],
            vec!["api".to_owned(), text_field(&version.body, "apiVersion").to_owned()],
            vec!["ready".to_owned(), state.to_owned()],
        ];
        let conditions = readiness.get("conditions").and_then(Value::as_object);
        for (name, condition) in conditions.into_iter().flatten() {
            let met = condition.get("met").and_then(Value::as_bool).unwrap_or(false);
            let reason = condition.get("reason").and_then(Value::as_str).unwrap_or("");
            rows.push(vec![format!("  {name}"), format!("{}: {reason}", if met { "yes" } else { "no" })]);
        }
        screen.table(&["WHAT", "STATE"], &rows)
    }
}

/// A field of `body` for people; `?` when it is absent.
pub(super) fn text_field<'a>(body: &'a Value, name: &str) -> &'a str {
    body.get(name).and_then(Value::as_str).unwrap_or("?")
}
