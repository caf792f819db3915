//! `muster timeline`: the last changes of a service or an instance, with their causes.

use clap::Args;
use serde_json::Value;

use super::account::{text_of, time};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Arguments of `muster timeline`.
#[derive(Debug, Args)]
pub(crate) struct Timeline {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Only the instance with this id, which may be gone.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Timeline {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let mut path = vec!["registry", "microservices", self.service.as_str()];
        if let Some(instance) = &self.instance {
            path.extend(["instances", instance]);
        }
        path.push("timeline");
        let reply = registry.get(&path).send().await?;
        let timeline: Value = reply.part("timeline", &registry)?;
        if self.target.output == OutputFormat::Json {
            return screen.json(&timeline);
        }
        let changes = timeline["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows: Vec<_> = changes.iter().map(row).collect();
        screen.table(&["TIME", "REVISION", "INSTANCE", "CAUSE", "STATUS", "BY", "REASON"], &rows)?;
        screen.note(&format!(
            "the control plane that answered knows the changes after revision {}",
            timeline["since"]
        ));
        Ok(())
    }
}

fn row(change: &Value) -> Vec<String> {
    vec![
        change["time"].as_u64().map_or_else(String::new, |millis| time(millis / 1_000)),
        change["revision"].to_string(),
        text_of(change, "instanceId"),
        text_of(change, "cause"),
        text_of(change, "status"),
        text_of(change, "by"),
        text_of(change, "reason"),
    ]
}
