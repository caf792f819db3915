//! `muster watch`: the changes of a service's providers, or of services chosen by what they are, as they happen,
//! one line each.
//!
//! Reconnects by itself and, where the server knows revisions, continues after the last one seen. Ends when
//! interrupted, or when the server says that there is nothing to watch.

use std::collections::HashSet;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use serde::Deserialize;
use shared::backoff::Backoff;
use shared::model::{Instance, Revision, ServiceKey};
use tokio_tungstenite::tungstenite::Message;

use super::register::interrupted;
use crate::cli::Target;
use crate::failure::{Failure, Refusal};
use crate::registry::Registry;
use crate::registry::socket::{self, Socket, Watched};
use crate::screen::{Format, Screen};

/// Servers ping every 30 seconds; three of them missed means that nobody is there.
const SILENCE: Duration = Duration::from_secs(95);

/// Arguments of `muster watch`.
#[derive(Debug, Args)]
#[group(id = "watched", required = true, multiple = true, args = ["service", "app", "env", "all"])]
pub(crate) struct Watch {
    /// The consumer's id: whatever happens to the services that it uses is shown.
    #[arg(long, value_name = "ID", conflicts_with_all = ["app", "env", "all"])]
    service: Option<String>,
    /// Instead of one consumer's providers: every service of this application, those that come later included.
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// The same by environment; the default one is empty. With `--app` both must fit.
    #[arg(long, value_name = "ENVIRONMENT")]
    env: Option<String>,
    /// Every service of the domain and project.
    #[arg(long)]
    all: bool,
    /// Make the consumer use the provider of this name first, whether it exists already or not.
    #[arg(long = "provider", value_name = "NAME", requires = "service", conflicts_with_all = ["app", "env", "all"])]
    providers: Vec<String>,
    /// The providers' application.
    #[arg(long, value_name = "APP", default_value = "default", requires = "providers")]
    provider_app: String,
    /// Begin after this revision; 0 lists what is there first.
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    since: Revision,
    /// Only what happens from now on, as old clients watch: without revisions, so a lost connection leaves a gap.
    #[arg(long, conflicts_with = "since")]
    live: bool,
    #[command(flatten)]
    target: Target,
}

/// A frame of either watch; what one kind lacks is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Frame {
    action: String,
    key: ServiceKey,
    instance: Option<Instance>,
    instances: Vec<Instance>,
    rev: Option<Revision>,
    since: Option<Revision>,
}

/// Up to where everything was shown, and what was shown of what comes after that.
struct Place {
    /// `None`: the watch cannot be resumed.
    since: Option<Revision>,
    /// May come again after a break. The bookmark that follows a burst empties it.
    shown: HashSet<(String, Revision)>,
}

impl Place {
    /// Takes a frame in; false when it was shown before a break.
    fn is_news(&mut self, frame: &Frame) -> bool {
        // A server that sends no revisions cannot be asked to continue after one.
        let (Some(since), Some(rev)) = (self.since.as_mut(), frame.rev) else { return true };
        if frame.action == "RESET" && rev < *since {
            // The registry's store was restored: what was told until now is of another history.
            *since = 0;
            self.shown.clear();
        }
        *since = frame.since.unwrap_or(rev).max(*since);
        match &frame.instance {
            Some(instance) => self.shown.insert((instance.instance_id.clone(), rev)),
            None => {
                let since = *since;
                self.shown.retain(|(_, rev)| *rev > since);
                true
            }
        }
    }
}

impl Watch {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let registry = Registry::new(&self.target)?;
        tokio::select! {
            biased;
            it = interrupted() => it,
            it = self.follow(&registry, screen) => it,
        }
    }

    async fn follow(&self, registry: &Registry, screen: &mut Screen) -> Result<(), Failure> {
        for provider in &self.providers {
            self.depend_on(provider, registry).await?;
        }
        let mut place = Place { since: (!self.live).then_some(self.since), shown: HashSet::new() };
        let mut socket = self.connect(registry, place.since).await?;
        screen.note("watching");
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            let lost = self.read(&mut socket, &mut place, &mut backoff, screen).await?;
            screen.note(&format!("{lost}; reconnecting"));
            socket = loop {
                tokio::time::sleep(backoff.next_wait()).await;
                match self.connect(registry, place.since).await {
                    Ok(socket) => break socket,
                    Err(Failure::TryAgain { wait: Some(wait), .. }) => tokio::time::sleep(wait).await,
                    Err(e) if e.is_passing() => {}
                    Err(e) => return Err(e),
                }
            };
            screen.note(if place.since.is_some() {
                "reconnected; nothing is missing"
            } else {
                "reconnected; changes meanwhile are missing"
            });
        }
    }

    /// A find as the consumer records that it uses the provider, also before that exists.
    async fn depend_on(&self, provider: &str, registry: &Registry) -> Result<(), Failure> {
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
            // A consumer that does not exist is told by the watch itself.
            Err(failure) if failure.is_unknown_service() => Ok(()),
            found => found.map(drop),
        }
    }

    async fn connect(&self, registry: &Registry, since: Option<Revision>) -> Result<Socket, Failure> {
        let watched = match &self.service {
            Some(id) => Watched::Consumer(id),
            None => Watched::Services { app: self.app.as_deref(), environment: self.env.as_deref() },
        };
        socket::connect(registry, watched, since, self.target.timeout).await
    }

    /// Shows what comes until the connection is lost, and returns how that showed.
    async fn read(
        &self,
        socket: &mut Socket,
        place: &mut Place,
        backoff: &mut Backoff,
        screen: &mut Screen,
    ) -> Result<String, Failure> {
        loop {
            let message = match tokio::time::timeout(SILENCE, socket.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(e))) => return Ok(format!("the connection broke ({e})")),
                Ok(None) => return Ok("the connection was closed".to_owned()),
                Err(_) => return Ok("the server went silent".to_owned()),
            };
            backoff.reset();
            match message {
                Message::Text(text) => {
                    let frame = read_frame(text.as_str())?;
                    if place.is_news(&frame) {
                        self.show(text.as_str(), &frame, screen)?;
                    }
                }
                Message::Close(_) => return Ok("the server closed the connection".to_owned()),
                // Pings are answered by the library.
                Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_) => {}
            }
        }
    }

    fn show(&self, text: &str, frame: &Frame, screen: &mut Screen) -> Result<(), Failure> {
        if self.target.output == Format::Json {
            return screen.line(text);
        }
        let key = &frame.key;
        let name = format!("{}/{} {}", key.app_id, key.service_name, key.version);
        match frame.action.as_str() {
            "BOOKMARK" => {}
            "RESET" => {
                line(screen, "RESET", &name, &format!("{} instances", frame.instances.len()))?;
                for instance in &frame.instances {
                    line(screen, "", &name, &described(instance, screen))?;
                }
            }
            action => {
                let instance = frame.instance.as_ref();
                line(screen, action, &name, &instance.map_or_else(String::new, |it| described(it, screen)))?;
            }
        }
        Ok(())
    }
}

/// By contract a text that is no JSON is the reason for which the watch ends.
fn read_frame(text: &str) -> Result<Frame, Failure> {
    serde_json::from_str(text).map_err(|_| {
        let refusal = Refusal { message: text.chars().take(500).collect(), ..Refusal::default() };
        Failure::Refused(refusal)
    })
}

fn line(screen: &mut Screen, action: &str, name: &str, rest: &str) -> Result<(), Failure> {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    let time = now.get(11..19).unwrap_or_default();
    let line = format!("{time}  {}  {}  {rest}", screen.word(action, 6), screen.word(name, 0));
    screen.line(line.trim_end())
}

fn described(instance: &Instance, screen: &Screen) -> String {
    let endpoints = screen.word(&instance.endpoints.join(","), 0);
    format!("{}  {endpoints}  {}", screen.word(&instance.status, 0), screen.word(&instance.instance_id, 0))
}
