//! `muster watch`: changes of instances as they happen, one line each; of the providers of one service, or of
//! all services of an application, an environment or the tenant.
//!
//! The command reconnects by itself. Where the server sends revisions, it resumes exactly: nothing is
//! missing, and nothing is shown twice. It ends when interrupted, or when the server says that there is
//! nothing to watch.

use shared::clock::Clock;
use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use serde::Deserialize;
use shared::backoff::Backoff;
use shared::model::{Instance, Revision, ServiceKey};
use tokio_tungstenite::tungstenite::Message;

use super::interrupted;
use crate::client::RegistryClient;
use crate::client::watch::{self, WatchQuery, WatchSocket};
use crate::failure::{CommandFailure, RegistryRefusal};
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Silence after which the connection counts as lost. Servers ping every 30 seconds; three pings are missing
/// then.
pub(super) const MAX_SILENCE: Duration = Duration::from_secs(95);

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
    #[command(flatten)]
    target: Target,
}

/// A text frame of either watch. Fields that one of them does not send are empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WatchFrame {
    action: String,
    key: ServiceKey,
    instance: Option<Instance>,
    instances: Vec<Instance>,
    rev: Option<Revision>,
    since: Option<Revision>,
}

/// The point from which the watch resumes after a break.
struct ResumePoint {
    /// Up to this revision nothing is missing. `None` when the watch cannot be resumed.
    since: Option<Revision>,
    /// Changes after `since` that have been shown, by instance. The server sends them again after a break. A
    /// bookmark follows each burst of changes and empties the set, so it stays small.
    shown: HashSet<(String, Revision)>,
}

impl ResumePoint {
    /// Accounts for a frame. Returns false when its change was shown before a break.
    fn accept(&mut self, frame: &WatchFrame) -> bool {
        // A server that sends no revisions does not resume, so nothing comes twice.
        let (Some(since), Some(rev)) = (self.since.as_mut(), frame.rev) else { return true };
        if frame.action == "RESET" && rev < *since {
            // The store was restored from a backup. Revisions of the history before say nothing about this
            // one.
            *since = Revision::ZERO;
            self.shown.clear();
        }
        // A bookmark has no `since` of its own: its revision is the statement.
        *since = frame.since.unwrap_or(rev).max(*since);
        if let Some(instance) = &frame.instance {
            return self.shown.insert((instance.instance_id.clone(), rev));
        }
        let since = *since;
        self.shown.retain(|(_, rev)| *rev > since);
        true
    }
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
        for provider in &self.providers {
            self.depend_on(provider, registry).await?;
        }
        let since = if self.live { None } else { Some(self.since) };
        let mut point = ResumePoint { since, shown: HashSet::new() };
        // Only a watch that was open once is opened again: a wrong address is reported at once.
        let mut socket = self.open(registry, point.since).await?;
        screen.note("watching");
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let lost = self.show_until_lost(&mut socket, &mut point, &mut backoff, screen).await?;
            screen.note(&format!("{lost}; reconnecting"));
            socket = loop {
                tokio::time::sleep(backoff.next_wait()).await;
                match self.open(registry, point.since).await {
                    Ok(socket) => break socket,
                    Err(CommandFailure::TryAgain { wait: Some(wait), .. }) => tokio::time::sleep(wait).await,
                    Err(failure) if failure.is_passing() => {}
                    Err(failure) => return Err(failure),
                }
            };
            screen.note(if point.since.is_some() {
                "reconnected; nothing is missing"
            } else {
                "reconnected; changes made meanwhile are missing"
            });
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

    async fn open(
        &self,
        registry: &RegistryClient,
        since: Option<Revision>,
    ) -> Result<WatchSocket, CommandFailure> {
        let query = match &self.service {
            Some(id) => WatchQuery::Consumer(id),
            None => WatchQuery::Services { app: self.app.as_deref(), environment: self.env.as_deref() },
        };
        watch::open(registry, query, since, None).await
    }

    /// Shows changes until the connection is lost. Returns the sign of the loss, for people.
    async fn show_until_lost(
        &self,
        socket: &mut WatchSocket,
        point: &mut ResumePoint,
        backoff: &mut Backoff,
        screen: &mut Screen,
    ) -> Result<String, CommandFailure> {
        loop {
            let message = match tokio::time::timeout(MAX_SILENCE, socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(e))) => return Ok(format!("the connection broke ({e})")),
                Ok(None) => return Ok("the connection was closed".to_owned()),
                Err(_) => return Ok("the server went silent".to_owned()),
            };
            // Reset by a message and not by the handshake: a server that accepts and closes at once is not
            // healthy.
            backoff.reset();
            match message {
                Message::Text(text) => {
                    let frame = parse(text.as_str())?;
                    if point.accept(&frame) {
                        self.show(text.as_str(), &frame, screen)?;
                    }
                }
                Message::Close(_) => return Ok("the server closed the connection".to_owned()),
                // The library answers pings.
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    fn show(&self, text: &str, frame: &WatchFrame, screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.target.output == OutputFormat::Json {
            // As it came: programs may know fields that this version does not.
            return screen.line(text);
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

/// Parses a text frame. By contract a text that is not JSON is the reason for which the server ends the
/// watch.
fn parse(text: &str) -> Result<WatchFrame, CommandFailure> {
    serde_json::from_str(text).map_err(|_| {
        let refusal =
            RegistryRefusal { message: text.chars().take(500).collect(), ..RegistryRefusal::default() };
        CommandFailure::Refused(refusal)
    })
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
