//! `muster unregister`: takes an instance out, or a whole service.

use clap::Args;
use http::Method;

use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::Screen;

/// Arguments of `muster unregister`.
#[derive(Debug, Args)]
pub(crate) struct Unregister {
    /// The service's id.
    #[arg(long, value_name = "ID")]
    service: String,
    /// The instance's id; without it the service itself is removed.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Remove the service even if it has instances or consumers.
    #[arg(long, conflicts_with = "instance")]
    force: bool,
    #[command(flatten)]
    target: Target,
}

impl Unregister {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        match &self.instance {
            Some(instance) => {
                let path = ["registry", "microservices", &self.service, "instances", instance];
                registry.call(Method::DELETE, &path).send().await?;
                screen.note(&format!("instance {instance} is gone"));
            }
            None => {
                let call = registry.call(Method::DELETE, &["registry", "microservices", &self.service]);
                call.query("force", if self.force { "true" } else { "false" }).send().await?;
                screen.note(&format!("service {} is gone", self.service));
            }
        }
        Ok(())
    }
}
