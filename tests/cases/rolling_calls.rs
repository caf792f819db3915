//! Rolling restarts of a provider under callers that learn its instances through the SDKs of applications:
//! with a drain before each stop no call may fail. Beside it, in the same run, instances are only
//! unregistered.
//!
//! The callers (`tests/sdks`) need Go or a JDK with Maven, so the case runs by `cargo xtask rolling`.
//! `MUSTER_TEST_RESTARTS` is the number of restarts of each kind (5), `MUSTER_TEST_SDKS` names the callers,
//! and with `MUSTER_TEST_POLLS=usual` these ask as rarely as their SDKs usually do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use harness::{World, eventually};

mod caller;
mod provider;

use caller::{Caller, Polls};
use provider::{Provider, Stopped};

const SERVICE: &str = "rolling";
/// Instances at any time; one less while one is restarted.
const INSTANCES: usize = 3;
/// Calls that each thread of each caller makes after it has called the new instance, before the next restart.
const SETTLED: u64 = 30;

/// The restarts of one kind.
#[derive(Default)]
struct Figures {
    calls: u64,
    ends: Vec<Duration>,
}

impl Figures {
    fn tell(&mut self, how: &str, failed: usize, instances: usize) {
        self.ends.sort();
        let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        println!(
            "{} {how}: {failed} of {} calls failed, at {instances} instances; from SIGTERM to the stop median \
             {:.2} s, longest {:.2} s",
            self.ends.len(),
            self.calls,
            seconds(self.ends.get(self.ends.len() / 2)),
            seconds(self.ends.last()),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go, a JDK and Maven; run by cargo xtask rolling"]
async fn no_call_fails_while_instances_are_drained_before_they_stop() {
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let restarts: usize = variable("MUSTER_TEST_RESTARTS", "5").parse().expect("a number of restarts");
    let sdks = variable("MUSTER_TEST_SDKS", "go java");
    let polls = match &*variable("MUSTER_TEST_POLLS", "often") {
        "often" => Polls::Often,
        "usual" => Polls::Usual,
        other => panic!("MUSTER_TEST_POLLS={other}: expected often or usual"),
    };

    let world = World::with().planes(2).gateways(2).start().await;
    // Providers and callers are at different gateways, so a drain must be proven across both.
    let [callers_at, providers_at]: [SocketAddr; 2] = [world.gateways[0].api, world.gateways[1].api];
    let mut provider = Provider::new(SERVICE, providers_at);
    // In turns, so that both kinds of restarts see the same machine.
    let mut ways = [Stopped::Drained, Stopped::Unregistered].into_iter().cycle();
    let mut start = async |provider: &mut Provider| {
        let how = ways.next().expect("without an end");
        provider.start(how).await;
    };
    for _ in 0..INSTANCES {
        start(&mut provider).await;
    }
    let mut callers: Vec<Caller> =
        sdks.split_whitespace().map(|sdk| Caller::start(sdk, polls, callers_at, SERVICE)).collect();
    for caller in &mut callers {
        // Its libraries are fetched and compiled first.
        caller.first_call().await;
    }
    let threads = callers.len() * caller::THREADS;
    settle(&provider, threads).await;

    let mut stopped_how = BTreeMap::new();
    let mut figures: BTreeMap<Stopped, Figures> = BTreeMap::new();
    let mut calls_before = calls(&mut callers).await;
    for round in 1..=2 * restarts {
        let (port, how, took) = provider.stop_oldest().await;
        stopped_how.insert(port, how);
        start(&mut provider).await;
        settle(&provider, threads).await;
        let calls = calls(&mut callers).await;
        let figures = figures.entry(how).or_default();
        figures.calls += calls - calls_before;
        figures.ends.push(took);
        calls_before = calls;
        if round % 40 == 0 {
            println!("{round} of {} restarts", 2 * restarts);
        }
    }

    let mut unexpected = Vec::new();
    let mut failed: BTreeMap<Stopped, Vec<u16>> = BTreeMap::new();
    for failure in callers.iter().flat_map(Caller::failures) {
        let how = failure.port.and_then(|port| Some((port, *stopped_how.get(&port)?)));
        match how {
            Some((port, how)) => failed.entry(how).or_default().push(port),
            None => unexpected.push(failure.text.clone()),
        }
        if how.is_none_or(|(_, how)| how == Stopped::Drained) {
            println!("failed: {}", failure.text);
        }
    }
    println!(
        "callers: {sdks}, {} threads each, polls: {polls:?}; {restarts} restarts of each kind, in turns",
        caller::THREADS
    );
    for (how, figures) in &mut figures {
        let ports = failed.remove(how).unwrap_or_default();
        figures.tell(how.words(), ports.len(), ports.iter().collect::<BTreeSet<_>>().len());
        if *how == Stopped::Drained {
            assert!(ports.is_empty(), "calls failed at instances that were drained before they stopped");
        }
    }
    assert_eq!(unexpected, Vec::<String>::new(), "calls failed at instances that were not stopped");
}

/// Calls of all callers so far.
async fn calls(callers: &mut [Caller]) -> u64 {
    let mut sum = 0;
    for caller in callers {
        sum += caller.calls().await;
    }
    sum
}

/// Waits until every thread has called the newest instance, and has made some calls after that.
async fn settle(provider: &Provider, threads: usize) {
    eventually("everybody calls the new instance", || async {
        (provider.callers_of_newest() == threads).then_some(())
    })
    .await;
    let before = provider.calls();
    eventually("everybody goes on calling", || async {
        let now = provider.calls();
        now.iter().all(|(caller, calls)| *calls >= before.get(caller).unwrap_or(&0) + SETTLED).then_some(())
    })
    .await;
}
