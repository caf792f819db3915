//! `muster instances`: the running copies of a service.

use std::time::Duration;

use clap::Args;
use shared::clock::Clock;
use shared::model::Instance;

use crate::client::{RegistryClient, RegistryReply};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Arguments of `muster instances`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["service", "name"])))]
pub(crate) struct Instances {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Name of the service; the instances of all its versions are listed.
    #[arg(long)]
    name: Option<String>,
    /// Application of the service.
    #[arg(long, default_value = "default", conflicts_with = "service")]
    app: String,
    /// Environment of the service; empty for the default one.
    #[arg(long, default_value = "", conflicts_with = "service")]
    env: String,
    #[command(flatten)]
    target: Target,
}

impl Instances {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let request = match (&self.service, &self.name) {
            (Some(id), _) => registry.get(&["registry", "microservices", id, "instances"]),
            // A find without a consumer, so it records no dependency.
            (None, Some(name)) => registry
                .get(&["registry", "instances"])
                .query("appId", &self.app)
                .query("serviceName", name)
                .query("env", &self.env)
                .query("version", "0+"),
            // clap's group has refused this already.
            (None, None) => {
                return Err(CommandFailure::Usage("give --service or --name".to_owned()));
            }
        };
        let reply = request.send().await?;
        show(&reply, &registry, self.target.output, screen)
    }
}

/// Writes the instances of a reply.
pub(crate) fn show(
    reply: &RegistryReply,
    registry: &RegistryClient,
    format: OutputFormat,
    screen: &mut Screen,
) -> Result<(), CommandFailure> {
    let mut instances: Vec<Instance> = reply.part("instances", registry)?;
    instances.sort_by(|a, b| (&a.endpoints, &a.instance_id).cmp(&(&b.endpoints, &b.instance_id)));
    if format == OutputFormat::Json {
        return screen.json(&instances);
    }
    let rows: Vec<_> = instances.into_iter().map(row).collect();
    screen.table(&["ENDPOINTS", "STATUS", "VERSION", "HOST", "AGE", "INSTANCE ID"], &rows)
}

fn row(instance: Instance) -> Vec<String> {
    vec![
        instance.endpoints.join(","),
        instance.status,
        instance.version,
        instance.host_name,
        age(&instance.timestamp),
        instance.instance_id,
    ]
}

/// Time since the unix second in `timestamp`, in its two largest units; empty when it is not a number.
fn age(timestamp: &str) -> String {
    // In this API times are text, as Service-Center has them.
    let Ok(since) = timestamp.parse::<u64>() else { return String::new() };
    let age = Clock::system().seconds().saturating_sub(since);
    let text = humantime::format_duration(Duration::from_secs(age)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
