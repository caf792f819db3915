//! `muster services`: what is registered.

use clap::Args;
use shared::model::Service;

use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::{Format, Screen};

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
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        let answer = registry.get(&["registry", "microservices"]).send().await?;
        let mut services: Vec<Service> = answer.part("services", &registry)?;
        let wanted = |asked: &Option<String>, has: &String| asked.as_ref().is_none_or(|asked| asked == has);
        services.retain(|it| {
            wanted(&self.app, &it.app_id)
                && wanted(&self.name, &it.service_name)
                && wanted(&self.env, &it.environment)
        });
        services.sort_by(|a, b| {
            let order = |it: &Service| (it.app_id.clone(), it.service_name.clone(), it.environment.clone());
            order(a).cmp(&order(b)).then_with(|| a.version.cmp(&b.version))
        });
        if self.target.output == Format::Json {
            return screen.json(&services);
        }
        let rows: Vec<_> = services
            .into_iter()
            .map(|it| vec![it.app_id, it.service_name, it.version, it.environment, it.status, it.service_id])
            .collect();
        screen.table(&["APP", "NAME", "VERSION", "ENV", "STATUS", "SERVICE ID"], &rows)
    }
}
