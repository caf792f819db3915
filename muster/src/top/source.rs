//! Asks processes and the registry, again and again, and reports their answers.
//!
//! Nothing here waits for another: each process is asked on its own, within a deadline, and the registry too.
//! The whole is one future that is dropped with the view.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, future};
use host::telemetry::scrape::Scrape;
use http::{Method, StatusCode};
use serde_json::Value;
use shared::model::Revision;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::model::{Asked, Connection, Facts};
use crate::client::RegistryClient;
use crate::client::follow::{Followed, Follower, WatchFrame};
use crate::client::watch::WatchQuery;
use crate::failure::CommandFailure;
use crate::processes::{self, AdminProcess};
use crate::target::Trust;

/// Processes that are shown at most.
const MAX_PROCESSES: usize = 500;
/// Processes that are asked at the same time at most.
const MAX_ASKED: usize = 64;
/// Pause between two looks at the names: containers that are scaled get new addresses.
const LOOK_UP: Duration = Duration::from_secs(30);
/// Pause between two questions about control planes, alarms and held instances.
const FACTS: Duration = Duration::from_secs(10);
/// Pause before a watch is tried again that the registry has refused.
const REFUSED: Duration = Duration::from_secs(5);

/// An answer, or the lack of one.
#[derive(Debug)]
pub(super) enum Report {
    /// A process was found. Its number is that of the processes found before.
    Found { name: String },
    /// The process with this number was asked.
    Process { index: usize, outcome: Asked<Scrape> },
    /// The watch on the registry.
    Connection(Connection),
    /// A frame of that watch.
    Frame(Box<WatchFrame>),
    /// Everything else about the registry.
    Facts(Facts),
}

/// The processes and the registry.
pub(crate) struct Sources {
    /// Addresses that serve /metrics.
    pub(crate) admin: Vec<url::Url>,
    /// The processes behind them at the start.
    pub(crate) found: Vec<AdminProcess>,
    /// Trust in their certificates.
    pub(crate) trust: Trust,
    /// A gateway, with the login that counts there.
    pub(crate) registry: RegistryClient,
    /// Pause between two questions to a process.
    pub(crate) every: Duration,
    /// Deadline of each question to a process.
    pub(crate) timeout: Duration,
}

impl Sources {
    /// The address of the registry.
    pub(super) fn server(&self) -> String {
        self.registry.server()
    }

    /// Pause between two questions to a process.
    pub(super) fn every(&self) -> Duration {
        self.every
    }
}

/// Reports until nobody receives.
pub(super) async fn poll(sources: Sources, reports: mpsc::Sender<Report>) {
    let registry = sources.registry.clone();
    // Boxed: these futures are large, and the view holds them for its whole life.
    let parts: [Pin<Box<dyn Future<Output = ()> + Send>>; 3] = [
        Box::pin(poll_processes(sources, reports.clone())),
        Box::pin(follow_registry(registry.clone(), reports.clone())),
        Box::pin(ask_facts(registry, reports)),
    ];
    future::join_all(parts).await;
    // The view ends by its keys, not by the end of this.
    future::pending::<()>().await;
}

async fn poll_processes(sources: Sources, reports: mpsc::Sender<Report>) {
    let Sources { admin, found, trust, every, timeout, .. } = sources;
    let permits = Semaphore::new(MAX_ASKED);
    let mut known = HashSet::new();
    let mut polls = FuturesUnordered::new();
    let look_up = async || {
        sleep(LOOK_UP).await;
        processes::resolve(&admin, timeout, &trust).await
    };
    let mut found = found;
    let mut looking = Box::pin(look_up());
    loop {
        for process in found.drain(..) {
            if known.len() < MAX_PROCESSES && known.insert(process.name.clone()) {
                let name = process.name;
                if reports.send(Report::Found { name }).await.is_err() {
                    return;
                }
                let index = known.len() - 1;
                polls.push(poll_process(process.client, index, every, &permits, reports.clone()));
            }
        }
        tokio::select! {
            Some(()) = polls.next() => {}
            again = &mut looking => {
                // A name server that does not answer takes no process away.
                found = again.unwrap_or_default();
                looking.set(look_up());
            }
        }
    }
}

async fn poll_process(
    client: RegistryClient,
    index: usize,
    every: Duration,
    permits: &Semaphore,
    reports: mpsc::Sender<Report>,
) {
    let mut tick = interval(every);
    // Two answers in quick succession after a stall would show rates of a moment.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let outcome = {
            // Never closed, so a permit always comes.
            let _permit = permits.acquire().await;
            scrape(&client).await.map_err(|failure| match failure {
                // The row shows the address already.
                CommandFailure::Unreachable { problem, .. } => problem,
                other => other.to_string(),
            })
        };
        if reports.send(Report::Process { index, outcome }).await.is_err() {
            return;
        }
    }
}

/// Reads the metrics of a process.
///
/// # Errors
/// It does not answer, or not with its metrics.
pub(crate) async fn scrape(client: &RegistryClient) -> Result<Scrape, CommandFailure> {
    let reply = client.get_root("/metrics").await?;
    match reply.status() {
        status if status.is_success() => {}
        StatusCode::NOT_FOUND => {
            return Err(CommandFailure::Unwell(
                "no metrics at this address: is it the admin port?".to_owned(),
            ));
        }
        status => return Err(CommandFailure::Unwell(format!("HTTP status {status}"))),
    }
    Ok(Scrape::parse(reply.body()))
}

async fn follow_registry(registry: RegistryClient, reports: mpsc::Sender<Report>) {
    let everything = WatchQuery::Services { app: None, environment: None };
    let mut follower = Follower::new(&registry, everything, Some(Revision::ZERO));
    loop {
        let report = match follower.next().await {
            Ok(Followed::Opened | Followed::Resumed { .. }) => Report::Connection(Connection::Live),
            Ok(Followed::Frame { frame, .. }) => Report::Frame(frame),
            Ok(Followed::Lost(sign)) => Report::Connection(Connection::Lost(sign)),
            Err(failure) => {
                let refused = Report::Connection(Connection::Refused(failure.to_string()));
                if reports.send(refused).await.is_err() {
                    return;
                }
                sleep(REFUSED).await;
                continue;
            }
        };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

async fn ask_facts(registry: RegistryClient, reports: mpsc::Sender<Report>) {
    loop {
        let (planes, version, alarms, held) = tokio::join!(
            ask(registry.request_path(Method::GET, &["health"])),
            ask(registry.request_path(Method::GET, &["version"])),
            ask(registry.get(&["admin", "alarms"])),
            ask(registry.get(&["admin", "protections"])),
        );
        let facts = Facts {
            planes: Some(planes.map(|body| texts(&body["instances"], "status"))),
            release: version.ok().and_then(|body| body["version"].as_str().map(str::to_owned)),
            alarms: Some(alarms.map(|body| active(&body["alarms"]))),
            held: Some(held.map(|body| {
                let services = body["protections"].as_array().into_iter().flatten();
                services.map(|one| one["held"].as_array().map_or(0, Vec::len)).sum()
            })),
        };
        if reports.send(Report::Facts(facts)).await.is_err() {
            return;
        }
        sleep(FACTS).await;
    }
}

async fn ask(request: crate::client::RegistryRequest<'_>) -> Asked<Value> {
    match request.send().await {
        Ok(reply) => Ok(reply.body),
        Err(CommandFailure::LogIn(_)) => Err("log in: muster login".to_owned()),
        Err(CommandFailure::Refused(refusal)) if refusal.status == 403 => Err("not permitted".to_owned()),
        Err(CommandFailure::Unreachable { .. }) => Err("not known".to_owned()),
        Err(failure) => Err(failure.kind()),
    }
}

/// A member of each element.
fn texts(list: &Value, member: &str) -> Vec<String> {
    let elements = list.as_array().into_iter().flatten();
    elements.map(|element| element[member].as_str().unwrap_or("UP").to_owned()).collect()
}

/// The alarms that are active.
fn active(alarms: &Value) -> Vec<String> {
    let alarms = alarms.as_array().into_iter().flatten().filter(|alarm| alarm["status"] == "ACTIVATED");
    alarms.map(|alarm| alarm["id"].as_str().unwrap_or("?").to_owned()).collect()
}
