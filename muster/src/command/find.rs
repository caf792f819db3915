//! `muster find`: the instances that a consumer receives when it finds a provider, or what a client of
//! another protocol is told of it.

use clap::Args;

use super::instances;
use crate::client::RegistryClient;
use crate::dialect::{Choice, Dialect};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Arguments of `muster find`.
#[derive(Debug, Args)]
pub(crate) struct Find {
    /// Name or alias of the provider.
    #[arg(long)]
    name: String,
    /// Application of the provider.
    #[arg(long, default_value = "default")]
    app: String,
    /// Versions to find: 1.0.0, 1.0.0+, 1.0.0-2.0.0 or latest.
    #[arg(long = "version-rule", value_name = "RULE", default_value = "0+")]
    rule: String,
    /// Environment of the provider. With --consumer, the consumer's environment is used instead.
    #[arg(long, default_value = "")]
    env: String,
    /// Find on behalf of the service with this id. This makes it a consumer of the provider, so it will be
    /// pushed to.
    #[arg(long, value_name = "ID")]
    consumer: Option<String>,
    /// Print the instances only if they have changed since this revision of an earlier find.
    #[arg(long, value_name = "REVISION")]
    rev: Option<String>,
    /// Show what clients of this protocol are told of the provider, in all its versions.
    #[arg(long = "as", value_name = "PROTOCOL", value_enum, conflicts_with_all = ["consumer", "rev", "rule"])]
    dialect: Option<Dialect>,
    #[command(flatten)]
    target: Target,
}

impl Find {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        if let Some(dialect) = self.dialect {
            let choice = Choice { app: Some(&self.app), env: Some(&self.env), service: Some(&self.name) };
            let told = dialect.ask(&registry, choice).await?;
            return told.show(self.target.output, false, screen);
        }
        let reply = registry
            .get(&["registry", "instances"])
            .query("appId", &self.app)
            .query("serviceName", &self.name)
            .query("env", &self.env)
            .query_if("rev", self.rev.as_deref())
            .query("version", &self.rule)
            .consumer(self.consumer.as_deref())
            .send()
            .await?;
        let revision = reply.revision.as_deref().unwrap_or("");
        if reply.unchanged {
            screen.note(&format!("unchanged since revision {revision}"));
            return Ok(());
        }
        instances::show(&reply, &registry, self.target.output, screen)?;
        // Programs read the list alone; the revision on standard error would be noise to them.
        if self.target.output == OutputFormat::Table {
            screen.note(&format!("revision {revision}"));
        }
        Ok(())
    }
}
