//! `muster services`: the registered services.

use clap::Args;
use shared::model::Service;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Arguments of `muster services`.
#[derive(Debug, Args)]
pub(crate) struct Services {
    /// Only services of this application.
    #[arg(long)]
    app: Option<String>,
    /// Only services of this name.
    #[arg(long)]
    name: Option<String>,
    /// Only services of this environment; empty for the default one.
    #[arg(long)]
    env: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Services {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let reply = registry.get(&["registry", "microservices"]).send().await?;
        let mut services: Vec<Service> = reply.part("services", &registry)?;
        // Filtered here and not by the server, so that it works with any registry.
        services.retain(|service| self.selects(service));
        // The API promises no order.
        services.sort_by(|a, b| {
            (&a.app_id, &a.service_name, &a.environment, &a.version).cmp(&(
                &b.app_id,
                &b.service_name,
                &b.environment,
                &b.version,
            ))
        });
        if self.target.output == OutputFormat::Json {
            return screen.json(&services);
        }
        let rows: Vec<_> = services.into_iter().map(row).collect();
        screen.table(&["APP", "NAME", "VERSION", "ENV", "STATUS", "SERVICE ID"], &rows)
    }

    fn selects(&self, service: &Service) -> bool {
        matches(&self.app, &service.app_id)
            && matches(&self.name, &service.service_name)
            && matches(&self.env, &service.environment)
    }
}

fn matches(wanted: &Option<String>, actual: &str) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == actual)
}

fn row(service: Service) -> Vec<String> {
    vec![
        service.app_id,
        service.service_name,
        service.version,
        service.environment,
        service.status,
        service.service_id,
    ]
}
