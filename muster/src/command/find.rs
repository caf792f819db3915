//! `muster find`: what a consumer is given when it asks for a provider.

use clap::Args;

use super::instances;
use crate::cli::Target;
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::{Format, Screen};

/// Arguments of `muster find`.
#[derive(Debug, Args)]
pub(crate) struct Find {
    /// The provider's name or alias.
    #[arg(long)]
    name: String,
    /// The provider's application.
    #[arg(long, default_value = "default")]
    app: String,
    /// Which versions: 1.0.0, 1.0.0+, 1.0.0-2.0.0 or latest.
    #[arg(long = "version-rule", value_name = "RULE", default_value = "0+")]
    rule: String,
    /// The environment; with --consumer its own one counts.
    #[arg(long, default_value = "")]
    env: String,
    /// Ask as the service with this id, which makes it a consumer: it will be pushed to.
    #[arg(long, value_name = "ID")]
    consumer: Option<String>,
    /// Answer only when the result is not the one of this revision.
    #[arg(long, value_name = "REVISION")]
    rev: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Find {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        let answer = registry
            .get(&["registry", "instances"])
            .query("appId", &self.app)
            .query("serviceName", &self.name)
            .query("env", &self.env)
            .query_if("rev", self.rev.as_deref())
            .query("version", &self.rule)
            .consumer(self.consumer.as_deref())
            .send()
            .await?;
        let revision = answer.revision.as_deref().unwrap_or("");
        if answer.unchanged {
            screen.note(&format!("unchanged since revision {revision}"));
            return Ok(());
        }
        instances::show(&answer, &registry, self.target.output, screen)?;
        if self.target.output == Format::Table {
            screen.note(&format!("revision {revision}"));
        }
        Ok(())
    }
}
