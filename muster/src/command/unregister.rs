//! `muster unregister`: removes an instance, or a whole service.

use clap::Args;
use http::Method;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::Screen;
use crate::target::Target;

/// Arguments of `muster unregister`.
#[derive(Debug, Args)]
pub(crate) struct Unregister {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Id of the instance. Without it the service itself is removed.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Remove the service even if it has instances or consumers.
    #[arg(long, conflicts_with = "instance")]
    force: bool,
    #[command(flatten)]
    target: Target,
}

impl Unregister {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        match &self.instance {
            Some(instance) => {
                let path = ["registry", "microservices", &self.service, "instances", instance];
                registry.request(Method::DELETE, &path).send().await?;
                screen.note(&format!("removed the instance {instance}"));
            }
            None => {
                let request = registry.request(Method::DELETE, &["registry", "microservices", &self.service]);
                request.query("force", if self.force { "true" } else { "false" }).send().await?;
                screen.note(&format!("removed the service {}", self.service));
            }
        }
        Ok(())
    }
}
