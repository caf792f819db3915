//! `muster watch`: changes of instances as they happen, one line each; of the providers of one service, or of
//! all services of an application, an environment or the tenant.
//!
//! With `--as` it prints what clients of another protocol are told instead.
//!
//! The command reconnects by itself. Where the server sends revisions, it resumes exactly: nothing is
//! missing, and nothing is shown twice. It ends when interrupted, or when the server says that there is
//! nothing to watch.

use clap::Args;
use shared::clock::Clock;
use shared::model::{Instance, Revision};

mod told;

use super::interrupted;
use crate::client::RegistryClient;
use crate::client::follow::{Followed, Follower, WatchFrame};
use crate::client::watch::WatchQuery;
use crate::dialect::{Choice, Dialect};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;
use told::WatchedAnswer;

/// Arguments of `muster watch`.
#[derive(Debug, Args)]
#[group(id = "watched", required = true, multiple = true, args = ["service", "app", "env", "all"])]
pub(crate) struct Watch {
    /// Id of a consumer: watch the providers that it uses.
    #[arg(long, value_name = "ID", conflicts_with_all = ["app", "env", "all"])]
    service: Option<String>,
    /// Instead of one consumer's providers, watch every service of this application, also those registered
    /// later.
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Watch every service of this environment; empty for the default one. With --app, both must match.
    #[arg(long, value_name = "ENVIRONMENT")]
    env: Option<String>,
    /// Watch every service of the domain and project.
    #[arg(long)]
    all: bool,
    /// First make the consumer use the provider of this name, whether or not it is registered yet; may be
    /// repeated.
    #[arg(long = "provider", value_name = "NAME", requires = "service", conflicts_with_all = ["app", "env", "all"])]
    providers: Vec<String>,
    /// Application of the providers.
    #[arg(long, value_name = "APP", default_value = "default", requires = "providers")]
    provider_app: String,
    /// Begin after this revision. 0 begins with the present instances.
    #[arg(long, value_name = "REVISION", default_value_t = Revision::ZERO)]
    since: Revision,
    /// Watch without revisions, as old clients do: from now on only, and a lost connection leaves a gap.
    #[arg(long, conflicts_with = "since")]
    live: bool,
    /// Print what clients of this protocol are told of the services, at first and whenever it differs.
    #[arg(long = "as", value_name = "PROTOCOL", value_enum, conflicts_with_all = ["service", "providers", "since", "live"])]
    dialect: Option<Dialect>,
    #[command(flatten)]
    target: Target,
}

impl Watch {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        tokio::select! {
            // An interrupt wins over a stream of changes that never pauses.
            biased;
            result = interrupted() => result,
            result = self.follow(&registry, screen) => result,
        }
    }

    async fn follow(&self, registry: &RegistryClient, screen: &mut Screen) -> Result<(), CommandFailure> {
        if let Some(dialect) = self.dialect {
            let choice = Choice { app: self.app.as_deref(), env: self.env.as_deref(), service: None };
            let format = self.target.output;
            return WatchedAnswer { registry, dialect, choice, format }.follow(screen).await;
        }
        for provider in &self.providers {
            self.depend_on(provider, registry).await?;
        }
        let since = if self.live { None } else { Some(self.since) };
        let query = match &self.service {
            Some(id) => WatchQuery::Consumer(id),
            None => WatchQuery::Services { app: self.app.as_deref(), environment: self.env.as_deref() },
        };
        let mut follower = Follower::new(registry, query, since);
        loop {
            match follower.next().await? {
                Followed::Opened => screen.note("watching"),
                Followed::Resumed { is_whole: true } => screen.note("reconnected; nothing is missing"),
                Followed::Resumed { is_whole: false } => {
                    screen.note("reconnected; changes made meanwhile are missing");
                }
                Followed::Frame { text, frame } => self.show(text.as_str(), &frame, screen)?,
                Followed::Lost(sign) => screen.note(&format!("{sign}; reconnecting")),
            }
        }
    }

    /// Records that the consumer uses the provider, by a find on its behalf. The provider need not exist yet.
    async fn depend_on(&self, provider: &str, registry: &RegistryClient) -> Result<(), CommandFailure> {
        let found = registry
            .get(&["registry", "instances"])
            .query("appId", &self.provider_app)
            .query("serviceName", provider)
            .query("env", "")
            .query("version", "0+")
            .consumer(self.service.as_deref())
            .send()
            .await;
        match found {
            // The provider is not registered, which is fine, or the consumer is not, which the watch itself
            // reports.
            Err(failure) if failure.is_unknown_service() => Ok(()),
            found => found.map(drop),
        }
    }

    fn show(&self, text: &str, frame: &WatchFrame, screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.target.output == OutputFormat::Json {
            // As it came: programs may know fields that this version does not.
            return screen.json_text(text);
        }
        let key = &frame.key;
        let name = format!("{}/{} {}", key.app_id, key.service_name, key.version);
        match frame.action.as_str() {
            "BOOKMARK" => Ok(()),
            "RESET" if key.service_name.is_empty() => {
                line(screen, "RESET", "everything", "all earlier lines are void; the present states follow")
            }
            "RESET" => {
                line(screen, "RESET", &name, &format!("{} instances", frame.instances.len()))?;
                for instance in &frame.instances {
                    line(screen, "", &name, &describe(instance, screen))?;
                }
                Ok(())
            }
            action => {
                let description = frame.instance.as_ref().map(|instance| describe(instance, screen));
                line(screen, action, &name, &description.unwrap_or_default())
            }
        }
    }
}

fn line(screen: &mut Screen, action: &str, name: &str, rest: &str) -> Result<(), CommandFailure> {
    let now = humantime::format_rfc3339_seconds(Clock::system().now()).to_string();
    let time = now.get(11..19).unwrap_or_default();
    let line = format!("{time}  {}  {}  {rest}", screen.word(action, 6), screen.word(name, 0));
    screen.line(line.trim_end())
}

fn describe(instance: &Instance, screen: &Screen) -> String {
    let endpoints = screen.word(&instance.endpoints.join(","), 0);
    format!("{}  {endpoints}  {}", screen.word(&instance.status, 0), screen.word(&instance.instance_id, 0))
}
