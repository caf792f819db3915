//! One tenant floods a gateway while another one goes on: the honest tenant's times beside the flood, as a
//! ratio to its times in quiet, with fair shares and without.
//!
//! etcd, NATS, a control plane and a gateway have one half of the processors. The clients have the other one,
//! the flood at the lowest priority, so that what the honest tenant waits for is the registry and not a
//! processor for its own clients. The flood is another project of the same domain: connections that send one
//! request after another without a pause, of a kind that the registry answers. Eight honest clients send at a
//! fixed rate whatever the flood does, and a request counts from the moment at which it was due.
//!
//! What a busy machine costs without any flood is measured as well: beside a program of the same low priority
//! that only computes, once on the clients' processors, and once on the registry's. The first has what the
//! flood's own client takes from honest clients; no registry can undo that.
//!
//! All kinds of turns take turns, and all turns of one kind count together. Arguments: connections of the
//! flood, seconds per turn, turns.

use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::Latencies;
use benches::call::{Client, ask};
use benches::report::Report;
use futures_util::future::try_join_all;
use harness::World;
use rustix::process::nice;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;
use tokio::time::sleep_until;

const HONEST: u32 = 8;
/// Honest requests a second, of all clients together: a fraction of what the registry can answer.
const RATE: u32 = 400;
/// The first argument of the process that floods.
const FLOOD: &str = "flood";
/// The first argument of a process that computes.
const SPIN: &str = "spin";
/// What bounds a tenant in each world: nothing, places, and places and the slow lane, as by default. The values
/// of `fairness.tenant-requests` and `fairness.nice`.
const WORLDS: [(&str, [&str; 2]); 3] =
    [("no shares", ["0", "0"]), ("places", ["64", "0"]), ("places, slow lane", ["64", "19"])];
/// A find, which the gateway answers from its own state.
const FOUND_HERE: &str = "/registry/instances?appId=shop&serviceName=provider&version=0%2B";
/// A read that a control plane answers.
const PASSED_ON: &str = "/registry/microservices";

// One thread: only then do all processes that are started have its processors.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, server, connections, path] = arguments.as_slice()
        && first == FLOOD
    {
        return flood(server, connections.parse()?, path).await;
    }
    if arguments.first().is_some_and(|first| first == SPIN) {
        return spin();
    }
    let [connections, seconds, turns] = benches::arguments([128, 5, 3])?;
    let length = Duration::from_secs(seconds as u64);
    let processors = Processors::of_this_process()?;
    let columns = ["flood/s", "p50 ms", "p99 ms", "ratio of p50", "ratio of p99"];
    let report = Report::new("fairness", &columns);
    for (shares, [places, nicer]) in WORLDS {
        processors.use_for_the_registry()?;
        let mut plan = World::with();
        for (flag, value) in [("--fairness-tenant-requests", places), ("--fairness-nice", nicer)] {
            plan = plan.plane_flag(flag, value).gateway_flag(flag, value);
        }
        let world = plan.start().await;
        processors.use_for_clients()?;
        let registry = harness::Client::new(world.control_planes[0].api);
        for project in ["default", "flood"] {
            provide(&registry, project).await?;
        }
        let server = world.gateways[0].api.to_string();
        for (kind, path) in [("finds", FOUND_HERE), ("passed on", PASSED_ON)] {
            let mut took = Besides::ALL.map(|_| Vec::new());
            let mut flooded = 0.0;
            for _ in 0..turns {
                for (beside, took) in Besides::ALL.into_iter().zip(&mut took) {
                    let other = match beside {
                        Besides::Nothing => None,
                        Besides::Client => Some(Other::start(&[SPIN])?),
                        Besides::Registry => {
                            processors.use_for_the_registry()?;
                            let other = Other::start(&[SPIN]);
                            processors.use_for_clients()?;
                            Some(other?)
                        }
                        Besides::Flood => {
                            Some(Other::start(&[FLOOD, &server, &connections.to_string(), path])?)
                        }
                    };
                    took.extend(honest(&server, path, length).await?);
                    if let Some(other) = other {
                        flooded += other.end()?;
                    }
                }
            }
            let wall = length * u32::try_from(turns)?;
            let took = took.map(|took| Latencies::new(took, wall));
            for (beside, took_beside) in Besides::ALL.into_iter().zip(&took) {
                let what = format!("{kind}, {}, {shares}", beside.words());
                let per_second = (beside == Besides::Flood).then(|| flooded / wall.as_secs_f64());
                let quiet = (beside != Besides::Nothing).then_some(&took[0]);
                row(&report, &what, took_beside, quiet, per_second);
            }
        }
    }
    Ok(())
}

/// What else is going on while the honest tenant's times are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Besides {
    Nothing,
    /// A program computes on the clients' processors.
    Client,
    /// A program computes on the registry's processors.
    Registry,
    Flood,
}

impl Besides {
    const ALL: [Self; 4] = [Self::Nothing, Self::Client, Self::Registry, Self::Flood];

    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "quiet",
            Self::Client => "busy clients",
            Self::Registry => "busy registry",
            Self::Flood => "flood",
        }
    }
}

/// Registers the provider with one instance in a project.
async fn provide(registry: &harness::Client, project: &str) -> Result<()> {
    let instance = json!({"instanceId": "instance", "hostName": "node", "endpoints": ["rest://10.0.0.1:80"],
        "healthCheck": {"mode": "push", "interval": 7200, "times": 1}});
    let service = json!({"appId": "shop", "serviceName": "provider", "version": "1.0.0"});
    let body = json!({"service": service, "instances": [instance]}).to_string();
    let path = format!("/v4/{project}/registry/microservices");
    let answer = registry.try_send("POST", &path, &[], body).await.context("the registry does not answer")?;
    answer.ok();
    Ok(())
}

fn row(report: &Report, what: &str, took: &Latencies, quiet: Option<&Latencies>, flood: Option<f64>) {
    let [p50, p99] = [0.5, 0.99].map(|share| took.quantile_ms(share));
    let ratio = |share: f64| quiet.map(|quiet| took.quantile_ms(share) / quiet.quantile_ms(share));
    report.row(what, &[flood, Some(p50), Some(p99), ratio(0.5), ratio(0.99)]);
}

/// The processors of this machine that the process may use, in two halves. With one processor both are the
/// same.
struct Processors {
    registry: CpuSet,
    clients: CpuSet,
}

impl Processors {
    fn of_this_process() -> Result<Self> {
        let own = sched_getaffinity(None)?;
        let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|one| own.is_set(*one)).collect();
        let (clients, registry) = all.split_at(all.len() / 2);
        let set = |of: &[usize]| {
            let mut set = CpuSet::new();
            of.iter().for_each(|one| set.set(*one));
            set
        };
        Ok(Self {
            clients: set(if clients.is_empty() { registry } else { clients }),
            registry: set(registry),
        })
    }

    /// What is started from now on is a part of the registry.
    fn use_for_the_registry(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.registry)?)
    }

    /// This process is a client, and what is started from now on, too.
    fn use_for_clients(&self) -> Result<()> {
        Ok(sched_setaffinity(None, &self.clients)?)
    }
}

/// The times of the honest tenant's requests.
async fn honest(server: &str, path: &str, length: Duration) -> Result<Vec<Duration>> {
    let request = ask(&format!("/v4/default{path}"), "");
    let began = Instant::now();
    let between = Duration::from_secs(1) * HONEST / RATE;
    let clients = (0..HONEST).map(|number| {
        let request = &request;
        async move {
            let mut client = Client::connect(server).await?;
            let mut took = Vec::new();
            let mut due = began + between * number / HONEST;
            while due < began + length {
                let late = Instant::now() > due;
                sleep_until(due.into()).await;
                // A timer wakes up to a millisecond late, which is no fault of the registry.
                let from = if late { due } else { Instant::now() };
                client.call(request).await?;
                took.push(from.elapsed());
                due += between;
            }
            anyhow::Ok(took)
        }
    });
    Ok(try_join_all(clients).await?.concat())
}

/// A process that runs beside the honest tenant's clients.
struct Other(Child);

impl Other {
    /// Starts this program with other arguments, on the processors of the calling thread.
    fn start(arguments: &[&str]) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let child = Command::new(program)
            .args(arguments)
            // It ends with this process, too: the end of its input is its order to stop.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("another process cannot be started")?;
        Ok(Self(child))
    }

    /// Ends it. Returns the number of its requests that were answered.
    fn end(self) -> Result<f64> {
        let output = self.0.wait_with_output().context("the other process did not end")?;
        let text = String::from_utf8(output.stdout)?;
        text.trim().parse().with_context(|| format!("the other process has failed: {text}"))
    }
}

/// Computes on all its processors, at the priority of the flood, until the input ends.
fn spin() -> Result<()> {
    nice(19).context("the priority of the program that computes")?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        is_over.store(true, Ordering::Relaxed);
        ended
    })?;
    println!("0");
    Ok(())
}

/// Sends requests of another project without a pause until the input ends. Refusals are no reason to stop.
async fn flood(server: &str, connections: usize, path: &str) -> Result<()> {
    nice(19).context("the priority of the flood")?;
    let request = ask(&format!("/v4/flood{path}"), "");
    let answered = std::cell::Cell::new(0_u64);
    let flooding = try_join_all((0..connections).map(|_| async {
        let mut client = Client::connect(server).await?;
        loop {
            match client.call(&request).await {
                Ok(_) => answered.set(answered.get() + 1),
                Err(_) => client = Client::connect(server).await?,
            }
        }
        #[expect(unreachable_code, reason = "it names the type of the error")]
        anyhow::Ok(())
    }));
    let stopped = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        flooded = flooding => drop(flooded?),
        stopped = stopped => drop(stopped??),
    }
    println!("{}", answered.get());
    Ok(())
}
