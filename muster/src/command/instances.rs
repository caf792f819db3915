//! `muster instances`: the running copies of a service.

use clap::Args;
use shared::model::Instance;

use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::{Answer, Registry};
use crate::screen::{Format, Screen};

/// Arguments of `muster instances`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["service", "name"])))]
pub(crate) struct Instances {
    /// The service's id.
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// The service's name; all of its versions are listed.
    #[arg(long)]
    name: Option<String>,
    /// The service's application.
    #[arg(long, default_value = "default", conflicts_with = "service")]
    app: String,
    /// The service's environment; empty for the default one.
    #[arg(long, default_value = "", conflicts_with = "service")]
    env: String,
    #[command(flatten)]
    target: Target,
}

impl Instances {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        let call = match (&self.service, &self.name) {
            (Some(id), _) => registry.get(&["registry", "microservices", id, "instances"]),
            (None, Some(name)) => registry
                .get(&["registry", "instances"])
                .query("appId", &self.app)
                .query("serviceName", name)
                .query("env", &self.env)
                .query("version", "0+")
                // The guard of request URIs refuses some last characters; this one is harmless.
                .query("noCache", "0"),
            (None, None) => return Err(Failure::Usage("either --service or --name is needed".to_owned())),
        };
        let answer = call.send().await?;
        show(&answer, &registry, self.target.output, screen)
    }
}

/// Writes the answer's instances.
pub(crate) fn show(
    answer: &Answer,
    registry: &Registry,
    format: Format,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut instances: Vec<Instance> = answer.part("instances", registry)?;
    instances.sort_by(|a, b| a.endpoints.cmp(&b.endpoints).then_with(|| a.instance_id.cmp(&b.instance_id)));
    if format == Format::Json {
        return screen.json(&instances);
    }
    let rows: Vec<_> = instances
        .into_iter()
        .map(|it| {
            let age = age(&it.timestamp);
            vec![it.endpoints.join(","), it.status, it.version, it.host_name, age, it.instance_id]
        })
        .collect();
    screen.table(&["ENDPOINTS", "STATUS", "VERSION", "HOST", "AGE", "INSTANCE ID"], &rows)
}

/// Time since the unix second in `timestamp`, in its two largest units.
fn age(timestamp: &str) -> String {
    let Ok(since) = timestamp.parse::<u64>() else { return String::new() };
    let age = shared::clock::Clock::system().seconds().saturating_sub(since);
    let text = humantime::format_duration(std::time::Duration::from_secs(age)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
