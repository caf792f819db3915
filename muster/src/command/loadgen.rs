//! `muster loadgen`: puts watchers and changes on a registry, and measures how soon each watcher sees each
//! change.
//!
//! ```text
//! providers ──PUT properties {seq, at}──▶ registry ──frames──▶ watchers ──▶ tally ──▶ report
//! ```
//!
//! Each change carries a number and the time of its request. So each frame by itself shows its delay, and
//! whether a change before it is missing. Everything registered for the run is removed at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::json;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

mod report;
mod source;
mod tally;
mod watcher;

use report::LoadReport;
use source::SourceAddresses;
use tally::Tally;
use watcher::LoadWatcher;

use super::interrupted;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// Handshakes or changes in flight at once: enough to be fast, few enough not to measure a queue in this
/// process.
const MAX_IN_FLIGHT: usize = 64;
/// Finds of one consumer in flight at once. Each is a transaction on the same dependency rules, so more of
/// them would only make each other retry.
const MAX_FINDS_IN_FLIGHT: usize = 8;
/// Pause between the heartbeats of the providers, and their lease's interval.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Arguments of `muster loadgen`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Loadgen {
    /// Number of watches.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    watchers: u32,
    /// Number of consumers over which the watches are spread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    consumers: u32,
    /// Number of providers, with one instance each. Every consumer uses all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    providers: u32,
    /// Changes per second, of all providers together.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// Time for which changes are made.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lasting: Duration,
    /// Number of watchers that read only ten frames per second until the changes end.
    #[arg(long, default_value_t = 0)]
    slow: u32,
    /// Bytes added to each change, and so to each frame. Registries accept about 3 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=2800))]
    payload: u16,
    /// Time to wait for the arrival of the last changes.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    settle: Duration,
    /// Addresses of this machine from which the watches are opened in turn, such as `127.0.0.2-127.0.0.9`.
    /// Each of them has ports for about 28 000 watches.
    #[arg(long, value_name = "ADDRESSES", default_value = "", hide_default_value = true, value_parser = sources)]
    source: SourceAddresses,
    #[command(flatten)]
    target: Target,
}

fn sources(text: &str) -> Result<SourceAddresses, String> {
    if text.is_empty() { Ok(SourceAddresses::default()) } else { text.parse() }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if rate > 0.0 && rate <= 100_000.0 {
        Ok(rate)
    } else {
        Err("expected more than 0, at most 100000".to_owned())
    }
}

/// The services and instances that were registered for the run.
#[derive(Debug, Default)]
struct Population {
    providers: Vec<LoadProvider>,
    /// Service ids.
    consumers: Vec<String>,
}

#[derive(Clone, Debug)]
struct LoadProvider {
    service: String,
    /// Empty until it is registered.
    instance: String,
}

impl Loadgen {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.slow > self.watchers {
            let problem = "--slow counts among --watchers, so it cannot be more than those".to_owned();
            return Err(CommandFailure::Usage(problem));
        }
        source::raise_file_limit(self.watchers).map_err(CommandFailure::Usage)?;
        let registry = Arc::new(RegistryClient::new(&self.target)?);
        // Outside of the measurement, so that an interrupt too leaves nothing behind in the registry.
        let mut population = Population::default();
        let result = tokio::select! {
            // In this order the handlers of the signals are in place before the first service is registered.
            biased;
            result = interrupted() => result.map(|()| None),
            result = self.measure(&registry, &mut population, screen) => result.map(Some),
        };
        screen.note("removing the services of this run");
        let removed = remove(&registry, &population, screen).await;
        if let Some(report) = result? {
            match self.target.output {
                OutputFormat::Json => screen.json(&report)?,
                OutputFormat::Table => report.show(screen)?,
            }
        }
        removed
    }

    async fn measure(
        &self,
        registry: &Arc<RegistryClient>,
        population: &mut Population,
        screen: &mut Screen,
    ) -> Result<LoadReport, CommandFailure> {
        self.populate(registry, population, screen).await?;
        let tally = Arc::new(Tally::new(population.providers.len()));
        let opening = Instant::now();
        let mut watchers = self.open(registry, population, &tally, screen).await?;
        let opened_in = opening.elapsed();
        screen.note(&format!("{} watches are open; making changes", watchers.len()));
        let begun = Instant::now();
        let changes = self.change(registry, population, &tally, screen).await?;
        let changing = begun.elapsed();
        tally.end();
        if (changes as f64) < 0.95 * self.rate * changing.as_secs_f64() {
            screen.note(
                "the rate was not reached, because changes of one provider wait for each other: raise --providers",
            );
        }
        let settled = tokio::time::timeout(self.settle, self.settle(&tally, screen)).await.is_ok();
        watchers.abort_all();
        while watchers.join_next().await.is_some() {}
        Ok(LoadReport::new(self, &tally, changes, opened_in, changing, settled))
    }

    /// Waits until every watcher has seen the final state. Watchers that were lost are not waited for.
    async fn settle(&self, tally: &Tally, screen: &mut Screen) {
        while !tally.is_settled(self.watchers as usize) {
            let settled = tally.settled();
            let share = settled as f64 / f64::from(self.watchers);
            let words = format!("{settled} of {} have seen the final state", self.watchers);
            screen.progress("settling", share, &words);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Registers the providers, then the consumers, each of which finds every provider.
    async fn populate(
        &self,
        registry: &RegistryClient,
        population: &mut Population,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        let requests =
            2.0 * f64::from(self.providers) + f64::from(self.consumers) * f64::from(self.providers + 1);
        let mut made = 0.0;
        // An application of its own keeps runs apart that go on at the same time.
        let app = format!("loadgen-{:08x}", fastrand::u32(..));
        for number in 0..self.providers {
            screen.progress("registering", made / requests, &format!("provider {number}"));
            made += 2.0;
            let service = register_service(registry, &app, &format!("provider-{number}")).await?;
            // Noted at once, so that it is removed also when the next request fails.
            population.providers.push(LoadProvider { service: service.clone(), instance: String::new() });
            let instance = register_instance(registry, &service, number).await?;
            population.providers[number as usize].instance = instance;
        }
        for number in 0..self.consumers {
            screen.progress("registering", made / requests, &format!("consumer {number}"));
            made += f64::from(self.providers + 1);
            let consumer = register_service(registry, &app, &format!("consumer-{number}")).await?;
            population.consumers.push(consumer.clone());
            let finds = (0..self.providers).map(|provider| {
                let find = registry
                    .get(&["registry", "instances"])
                    .query("appId", &app)
                    .query("serviceName", &format!("provider-{provider}"))
                    .query("env", "")
                    .query("version", "0+");
                find.consumer(Some(&consumer)).send()
            });
            let mut finding = stream::iter(finds).buffer_unordered(MAX_FINDS_IN_FLIGHT);
            while finding.try_next().await?.is_some() {}
        }
        Ok(())
    }

    /// Opens all watches, some at a time. The returned set owns their tasks.
    async fn open(
        &self,
        registry: &Arc<RegistryClient>,
        population: &Population,
        tally: &Arc<Tally>,
        screen: &mut Screen,
    ) -> Result<JoinSet<()>, CommandFailure> {
        let mut opening = JoinSet::new();
        let mut watchers = JoinSet::new();
        let mut next = 0;
        while next < self.watchers || !opening.is_empty() {
            if next < self.watchers && opening.len() < MAX_IN_FLIGHT {
                let consumer = population.consumers[next as usize % population.consumers.len()].clone();
                let source = self.source.of(next as usize);
                let slow = next < self.slow;
                let registry = registry.clone();
                let tally = tally.clone();
                opening
                    .spawn(async move { LoadWatcher::open(source, &registry, &consumer, tally, slow).await });
                next += 1;
                continue;
            }
            if let Some(Ok(opened)) = opening.join_next().await {
                watchers.spawn(opened?.run());
                // A line for each watch would cost more time than its handshake.
                if watchers.len().is_multiple_of(100) {
                    let open = watchers.len();
                    let words = format!("{open} of {} watches", self.watchers);
                    screen.progress("opening", open as f64 / f64::from(self.watchers), &words);
                }
            }
        }
        Ok(watchers)
    }

    /// Makes changes at the rate, with heartbeats for the providers meanwhile. Returns the number of changes.
    async fn change(
        &self,
        registry: &Arc<RegistryClient>,
        population: &Population,
        tally: &Arc<Tally>,
        screen: &mut Screen,
    ) -> Result<u64, CommandFailure> {
        let begun = Instant::now();
        let end = begun + self.lasting;
        let mut tick = interval(Duration::from_secs_f64(1.0 / self.rate));
        // Changes that a stall has delayed are made afterwards: the run claims a rate.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut heartbeat = interval(HEARTBEAT_INTERVAL);
        let mut progress = interval(Duration::from_millis(250));
        let mut running: JoinSet<Result<(), CommandFailure>> = JoinSet::new();
        let mut made = 0u64;
        let payload: Arc<str> = "x".repeat(self.payload.into()).into();
        while Instant::now() < end {
            tokio::select! {
                _ = heartbeat.tick() => send_heartbeats(registry, population).await?,
                _ = progress.tick() => {
                    let words = format!(
                        "{made} changes, {} frames, p50 {:.1} ms, p99 {:.1} ms",
                        tally.frames.load(Ordering::Relaxed), tally.lag_ms(0.5), tally.lag_ms(0.99),
                    );
                    screen.progress("changing", begun.elapsed().div_duration_f64(self.lasting), &words);
                }
                _ = tick.tick() => {
                    let number = (made % population.providers.len() as u64) as usize;
                    made += 1;
                    let provider = population.providers[number].clone();
                    let (registry, tally, payload) = (registry.clone(), tally.clone(), payload.clone());
                    running.spawn(async move {
                        make_change(&registry, &tally, number, &provider, &payload).await
                    });
                }
            }
            while running.len() >= MAX_IN_FLIGHT {
                check(running.join_next().await)?;
            }
            // Finished changes are collected at once, so that the first that fails ends the run.
            while let Some(ended) = running.try_join_next() {
                check(Some(ended))?;
            }
        }
        while let Some(ended) = running.join_next().await {
            check(Some(ended))?;
        }
        Ok(made)
    }
}

async fn register_service(
    registry: &RegistryClient,
    app: &str,
    name: &str,
) -> Result<String, CommandFailure> {
    let body = json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "status": "UP"}});
    let request = registry.request(Method::POST, &["registry", "microservices"]).body(body);
    request.send().await?.id("serviceId", registry)
}

async fn register_instance(
    registry: &RegistryClient,
    service: &str,
    number: u32,
) -> Result<String, CommandFailure> {
    let endpoint = format!("rest://10.0.0.1:{}", 1024 + number % 60_000);
    let health_check = json!({"mode": "push", "interval": HEARTBEAT_INTERVAL.as_secs(), "times": 3});
    let body = json!({"instance": {"endpoints": [endpoint], "hostName": "loadgen", "status": "UP",
        "healthCheck": health_check}});
    let request = registry.request(Method::POST, &["registry", "microservices", service, "instances"]);
    request.body(body).send().await?.id("instanceId", registry)
}

/// Heartbeats in one request.
const HEARTBEATS_PER_REQUEST: usize = 5000;

async fn send_heartbeats(registry: &RegistryClient, population: &Population) -> Result<(), CommandFailure> {
    let mut instances = Vec::with_capacity(population.providers.len());
    for provider in &population.providers {
        instances.push(json!({"serviceId": provider.service, "instanceId": provider.instance}));
    }
    // A registry takes a bounded number in one request.
    for batch in instances.chunks(HEARTBEATS_PER_REQUEST) {
        let request = registry.request(Method::PUT, &["registry", "heartbeats"]);
        request.body(json!({ "instances": batch })).send().await?;
    }
    Ok(())
}

async fn make_change(
    registry: &RegistryClient,
    tally: &Tally,
    number: usize,
    provider: &LoadProvider,
    payload: &str,
) -> Result<(), CommandFailure> {
    // One change of a provider at a time: two at once could be committed in either order, and watchers are
    // judged by the order of the numbers.
    let mut turn = tally.turn(number).await;
    let (seq, at) = turn.next();
    let path =
        ["registry", "microservices", &provider.service, "instances", &provider.instance, "properties"];
    let mut properties = json!({"owner": number.to_string(), "seq": seq.to_string(), "at": at.to_string()});
    if !payload.is_empty() {
        properties["payload"] = json!(payload);
    }
    let body = json!({ "properties": properties });
    registry.request(Method::PUT, &path).body(body).send().await?;
    turn.accepted();
    Ok(())
}

fn check(ended: Option<Result<Result<(), CommandFailure>, JoinError>>) -> Result<(), CommandFailure> {
    match ended {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(failure))) => Err(failure),
        Some(Err(e)) => Err(CommandFailure::Usage(format!("a task of the load generator failed: {e}"))),
    }
}

/// Removes all services, and returns the last failure. One that fails does not keep the others.
async fn remove(
    registry: &RegistryClient,
    population: &Population,
    screen: &mut Screen,
) -> Result<(), CommandFailure> {
    let all = (population.consumers.len() + population.providers.len()) as f64;
    let providers = population.providers.iter().map(|provider| &provider.service);
    let mut result = Ok(());
    for (number, service) in population.consumers.iter().chain(providers).enumerate() {
        screen.progress("removing", number as f64 / all, "");
        let request = registry.request(Method::DELETE, &["registry", "microservices", service]);
        if let Err(failure) = request.query("force", "true").send().await {
            result = Err(failure);
        }
    }
    result
}
