//! `muster loadgen`: watchers and changes on a registry, and how soon each watcher saw each change.
//!
//! ```text
//! providers ──PUT properties {seq, at}──▶ registry ──frames──▶ watchers ──▶ tally ──▶ report
//! ```
//! Each change carries a number and the time at which it was asked for, so a frame tells by itself how late it
//! is and whether one before it is missing. Everything that was registered is removed in the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

mod report;
mod source;
mod tally;
mod watcher;

use report::Report;
use source::Sources;
use tally::Tally;
use watcher::Watcher;

use super::register::{id, interrupted};
use crate::cli::{Target, duration};
use crate::failure::Failure;
use crate::registry::Registry;
use crate::screen::{Format, Screen};

/// Handshakes and changes under way at once: enough to be fast, few enough not to measure a queue of our own.
const AT_ONCE: usize = 64;
/// Finds of one consumer under way at once: each is a transaction over the same rules.
const FINDS_AT_ONCE: usize = 8;

/// Arguments of `muster loadgen`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Loadgen {
    /// Watches to open.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    watchers: u32,
    /// Consumers that the watches are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    consumers: u32,
    /// Providers with one instance each; every consumer uses all of them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    providers: u32,
    /// Changes a second, over all providers.
    #[arg(long, default_value_t = 10.0, value_parser = rate)]
    rate: f64,
    /// How long to make changes.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    lasting: Duration,
    /// Of the watchers, how many read only ten frames a second until the changes end.
    #[arg(long, default_value_t = 0)]
    slow: u32,
    /// Bytes to add to each change, and so to each frame; registries take about 3 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=2800))]
    payload: u16,
    /// How long to wait for the last changes to arrive.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    settle: Duration,
    /// Addresses of this machine that the watches come from in turn, such as `127.0.0.2-127.0.0.9`: from each,
    /// some 28 000 fit.
    #[arg(long, value_name = "ADDRESSES", default_value = "", hide_default_value = true, value_parser = sources)]
    source: Sources,
    #[command(flatten)]
    target: Target,
}

fn sources(text: &str) -> Result<Sources, String> {
    if text.is_empty() { Ok(Sources::default()) } else { text.parse() }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if rate > 0.0 && rate <= 100_000.0 {
        Ok(rate)
    } else {
        Err("expected more than 0, at most 100000".to_owned())
    }
}

/// What was registered for the run.
#[derive(Debug, Default)]
struct World {
    /// Service and instance.
    providers: Vec<(String, String)>,
    consumers: Vec<String>,
}

impl Loadgen {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        if self.slow > self.watchers {
            return Err(Failure::Usage("there cannot be more slow watchers than watchers".to_owned()));
        }
        source::room_for(self.watchers).map_err(Failure::Usage)?;
        let registry = Arc::new(Registry::new(&self.target)?);
        let mut world = World::default();
        let result = tokio::select! {
            biased;
            it = interrupted() => it.map(|()| None),
            it = self.measure(&registry, &mut world, screen) => it.map(Some),
        };
        screen.note("removing what was registered");
        let removed = remove(&registry, &world, screen).await;
        if let Some(report) = result? {
            match self.target.output {
                Format::Json => screen.json(&report)?,
                Format::Table => report.show(screen)?,
            }
        }
        removed
    }

    async fn measure(
        &self,
        registry: &Arc<Registry>,
        world: &mut World,
        screen: &mut Screen,
    ) -> Result<Report, Failure> {
        self.populate(registry, world, screen).await?;
        let tally = Arc::new(Tally::new(world.providers.len()));
        let opening = Instant::now();
        let mut watchers = self.open(registry, world, &tally, screen).await?;
        let opened_in = opening.elapsed();
        screen.note(&format!("{} watches are open; making changes", watchers.len()));

        let begun = Instant::now();
        let changes = self.change(registry, world, &tally, screen).await?;
        let changing = begun.elapsed();
        tally.end();
        if (changes as f64) < 0.95 * self.rate * changing.as_secs_f64() {
            screen.note(
                "the rate was not reached: changes of one provider wait for each other; take more providers",
            );
        }
        let deadline = Instant::now() + self.settle;
        let ended = tokio::time::timeout_at(deadline, async {
            // Watchers that ended are no longer waited for.
            while !tally.is_settled(self.watchers as usize) {
                let settled = tally.settled();
                screen.progress(
                    "settling",
                    settled as f64 / f64::from(self.watchers),
                    &format!("{settled} of {} have seen the last state", self.watchers),
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let settled = ended.await.is_ok();
        watchers.abort_all();
        while watchers.join_next().await.is_some() {}
        Ok(Report::new(self, &tally, changes, opened_in, changing, settled))
    }

    /// Registers providers, then consumers that have asked for every one of them.
    async fn populate(
        &self,
        registry: &Registry,
        world: &mut World,
        screen: &mut Screen,
    ) -> Result<(), Failure> {
        let calls =
            2.0 * f64::from(self.providers) + f64::from(self.consumers) * f64::from(self.providers + 1);
        let mut made = 0.0;
        // Runs beside each other must not meet.
        let app = format!("loadgen-{:08x}", fastrand::u32(..));
        let service = async |name: String| {
            let body =
                json!({"service": {"appId": app, "serviceName": name, "version": "1.0.0", "status": "UP"}});
            let call = registry.call(Method::POST, &["registry", "microservices"]).body(body);
            id(&call.send().await?, "serviceId", registry)
        };
        for number in 0..self.providers {
            screen.progress("registering", made / calls, &format!("provider {number}"));
            made += 2.0;
            let provider = service(format!("provider-{number}")).await?;
            world.providers.push((provider.clone(), String::new()));
            let instance = json!({"instance": {"endpoints": [format!("rest://10.0.0.1:{}", 1024 + number % 60_000)],
                "hostName": "loadgen", "status": "UP", "healthCheck": {"mode": "push", "interval": 30, "times": 3}}});
            let call = registry.call(Method::POST, &["registry", "microservices", &provider, "instances"]);
            let instance = id(&call.body(instance).send().await?, "instanceId", registry)?;
            world.providers[number as usize].1 = instance;
        }
        for number in 0..self.consumers {
            screen.progress("registering", made / calls, &format!("consumer {number}"));
            made += f64::from(self.providers + 1);
            let consumer = service(format!("consumer-{number}")).await?;
            world.consumers.push(consumer.clone());
            let finds = (0..self.providers).map(|provider| {
                let find = registry
                    .get(&["registry", "instances"])
                    .query("appId", &app)
                    .query("serviceName", &format!("provider-{provider}"))
                    .query("env", "")
                    .query("version", "0+");
                find.consumer(Some(&consumer)).send()
            });
            let mut finding = stream::iter(finds).buffer_unordered(FINDS_AT_ONCE);
            while finding.try_next().await?.is_some() {}
        }
        Ok(())
    }

    /// Opens all watches, some at a time. The set owns their tasks.
    async fn open(
        &self,
        registry: &Arc<Registry>,
        world: &World,
        tally: &Arc<Tally>,
        screen: &mut Screen,
    ) -> Result<JoinSet<()>, Failure> {
        let (mut opening, mut watchers) = (JoinSet::new(), JoinSet::new());
        let mut next = 0;
        let timeout = self.target.timeout;
        while next < self.watchers || !opening.is_empty() {
            if next < self.watchers && opening.len() < AT_ONCE {
                let consumer = world.consumers[next as usize % world.consumers.len()].clone();
                let (registry, tally, slow) = (registry.clone(), tally.clone(), next < self.slow);
                let from = self.source.of(next as usize);
                opening.spawn(async move {
                    Watcher::open(from, &registry, &consumer, timeout, tally, slow).await
                });
                next += 1;
                continue;
            }
            if let Some(Ok(opened)) = opening.join_next().await {
                watchers.spawn(opened?.run());
                if watchers.len().is_multiple_of(100) {
                    let (open, all) = (watchers.len(), self.watchers);
                    screen.progress(
                        "opening",
                        open as f64 / f64::from(all),
                        &format!("{open} of {all} watches"),
                    );
                }
            }
        }
        Ok(watchers)
    }

    /// Makes changes at the rate, and beats for the providers meanwhile. Returns how many were made.
    async fn change(
        &self,
        registry: &Arc<Registry>,
        world: &World,
        tally: &Arc<Tally>,
        screen: &mut Screen,
    ) -> Result<u64, Failure> {
        let (begun, end) = (Instant::now(), Instant::now() + self.lasting);
        let mut tick = interval(Duration::from_secs_f64(1.0 / self.rate));
        // What a stall held up is made up for: the rate is the claim.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut beat = interval(Duration::from_secs(30));
        let mut look = interval(Duration::from_millis(250));
        let mut running: JoinSet<Result<(), Failure>> = JoinSet::new();
        let mut made = 0u64;
        let payload = "x".repeat(self.payload.into());
        while Instant::now() < end {
            tokio::select! {
                _ = beat.tick() => {
                    let instances: Vec<_> =
                        world.providers.iter().map(|(s, i)| json!({"serviceId": s, "instanceId": i})).collect();
                    let call = registry.call(Method::PUT, &["registry", "heartbeats"]);
                    call.body(json!({ "instances": instances })).send().await?;
                }
                _ = look.tick() => {
                    let words = format!(
                        "{made} changes, {} frames, p50 {:.1} ms, p99 {:.1} ms",
                        tally.frames.load(Ordering::Relaxed), tally.lag_ms(0.5), tally.lag_ms(0.99),
                    );
                    screen.progress("changing", begun.elapsed().div_duration_f64(self.lasting), &words);
                }
                _ = tick.tick() => {
                    let number = (made % world.providers.len() as u64) as usize;
                    made += 1;
                    // One change of an instance after the other: their order is what watchers are held to.
                    let (service, instance) = world.providers[number].clone();
                    let (registry, tally, payload) = (registry.clone(), tally.clone(), payload.clone());
                    running.spawn(async move {
                        let mut turn = tally.turn(number).await;
                        let (seq, at) = turn.next();
                        let path = ["registry", "microservices", &service, "instances", &instance, "properties"];
                        let mut properties = json!({"owner": number.to_string(), "seq": seq.to_string(), "at": at.to_string()});
                        if !payload.is_empty() {
                            properties["payload"] = json!(payload);
                        }
                        let body = json!({ "properties": properties });
                        registry.call(Method::PUT, &path).body(body).send().await?;
                        turn.made();
                        Ok(())
                    });
                }
            }
            while running.len() >= AT_ONCE {
                check(running.join_next().await)?;
            }
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

fn check(ended: Option<Result<Result<(), Failure>, tokio::task::JoinError>>) -> Result<(), Failure> {
    match ended {
        None | Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(failure))) => Err(failure),
        Some(Err(e)) => Err(Failure::Usage(format!("a part of the load generator broke: {e}"))),
    }
}

async fn remove(registry: &Registry, world: &World, screen: &mut Screen) -> Result<(), Failure> {
    let all = (world.consumers.len() + world.providers.len()) as f64;
    let services = world.consumers.iter().chain(world.providers.iter().map(|(service, _)| service));
    let mut result = Ok(());
    for (number, service) in services.enumerate() {
        screen.progress("removing", number as f64 / all, "");
        let call = registry.call(Method::DELETE, &["registry", "microservices", service]);
        if let Err(failure) = call.query("force", "true").send().await {
            result = Err(failure);
        }
    }
    result
}
