//! The changes of a run, and the heartbeats meanwhile. A request that fails is counted, and the run goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::population::{HEARTBEAT_INTERVAL, LoadProvider, Population, register_instance};
use super::tally::Tally;
use super::{Loadgen, MAX_IN_FLIGHT};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::Screen;

/// Heartbeats in one request.
const HEARTBEATS_PER_REQUEST: usize = 5000;

/// Makes changes at the rate, with heartbeats for the providers meanwhile. Returns the number of changes that
/// were tried.
pub(super) async fn make_all(
    load: &Loadgen,
    registry: &Arc<RegistryClient>,
    population: &Population,
    tally: &Arc<Tally>,
    screen: &mut Screen,
) -> Result<u64, CommandFailure> {
    let begun = Instant::now();
    let end = begun + load.lasting;
    let mut tick = interval(Duration::from_secs_f64(1.0 / load.rate));
    // Changes that a stall has delayed are made afterwards: the run claims a rate.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    let mut progress = interval(Duration::from_millis(250));
    let mut running = JoinSet::new();
    let mut beating = JoinSet::new();
    let mut made = 0u64;
    let payload: Arc<str> = "x".repeat(load.payload.into()).into();
    let providers: Arc<[LoadProvider]> = population.providers.clone().into();
    tally.answers.begin();
    while Instant::now() < end {
        tokio::select! {
            // A round that is still waiting for its answer is not joined by another one.
            _ = heartbeat.tick() => if beating.is_empty() {
                let (registry, providers, tally) = (registry.clone(), providers.clone(), tally.clone());
                beating.spawn(async move { send_heartbeats(&registry, &providers, &tally).await });
            },
            _ = progress.tick() => {
                let words = format!(
                    "{made} changes, {} failed, {} frames, p50 {:.1} ms, p99 {:.1} ms",
                    tally.failed_changes.total(), tally.frames.load(Ordering::Relaxed),
                    tally.lag_ms(0.5), tally.lag_ms(0.99),
                );
                screen.progress("changing", begun.elapsed().div_duration_f64(load.lasting), &words);
            }
            _ = tick.tick() => {
                let number = (made % providers.len() as u64) as usize;
                made += 1;
                let (registry, tally, payload) = (registry.clone(), tally.clone(), payload.clone());
                let providers = providers.clone();
                running.spawn(async move {
                    make_one(&registry, &tally, number, &providers[number], &payload).await;
                });
            }
        }
        while running.len() >= MAX_IN_FLIGHT {
            check(running.join_next().await)?;
        }
        while let Some(ended) = running.try_join_next() {
            check(Some(ended))?;
        }
        while let Some(ended) = beating.try_join_next() {
            check(Some(ended))?;
        }
    }
    while let Some(ended) = running.join_next().await {
        check(Some(ended))?;
    }
    Ok(made)
}

async fn send_heartbeats(registry: &RegistryClient, providers: &[LoadProvider], tally: &Tally) {
    // A registry takes a bounded number in one request.
    for batch in providers.chunks(HEARTBEATS_PER_REQUEST) {
        let mut instances = Vec::with_capacity(batch.len());
        for LoadProvider { service, instance } in batch {
            instances.push(json!({"serviceId": service, "instanceId": instance}));
        }
        let request = registry.request(Method::PUT, &["registry", "heartbeats"]);
        if let Err(failure) = request.body(json!({ "instances": instances })).send().await {
            tally.failed_heartbeats.count(&failure.kind());
        }
    }
}

async fn make_one(
    registry: &RegistryClient,
    tally: &Tally,
    number: usize,
    provider: &LoadProvider,
    payload: &str,
) {
    // One change of a provider at a time: two at once could be committed in either order, and watchers are
    // judged by the order of the numbers.
    let mut turn = tally.turn(number).await;
    let (seq, at) = turn.next();
    let LoadProvider { service, instance } = provider;
    let path = ["registry", "microservices", service, "instances", instance, "properties"];
    let mut properties = json!({"owner": number.to_string(), "seq": seq.to_string(), "at": at.to_string()});
    if !payload.is_empty() {
        properties["payload"] = json!(payload);
    }
    let body = json!({ "properties": properties });
    let asked = Instant::now();
    match registry.request(Method::PUT, &path).body(body).send().await {
        Ok(_) => {
            tally.answers.answered(asked);
            turn.accepted();
        }
        Err(failure) => {
            tally.answers.failed();
            tally.failed_changes.count(&failure.kind());
            turn.failed();
            // An outage longer than its lease ends an instance. A provider would register again, so the run
            // does too; if that fails as well, the next change finds out.
            if failure.is_unknown_instance()
                && register_instance(registry, service, number, instance).await.is_ok()
            {
                tally.registered_again.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Fails if a task of the generator did, which is a bug of its own.
fn check(ended: Option<Result<(), tokio::task::JoinError>>) -> Result<(), CommandFailure> {
    match ended {
        None | Some(Ok(())) => Ok(()),
        Some(Err(e)) => Err(CommandFailure::Usage(format!("a task of the load generator failed: {e}"))),
    }
}
