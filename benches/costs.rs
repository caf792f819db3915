//! The cost of single pieces of work in each process. The model of a fleet (`docs/scale.md`) is made of them.
//!
//! CPU is that of the named process over all pieces. It contains the process's other work, a share that
//! shrinks with the number of pieces. Kernel memory is that of both ends of a connection, halved, because
//! both are on this machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::call::{Client, ask, request};
use benches::crowd::{self, Crowd};
use benches::report::Report;
use benches::stage::{self, Stage};
use benches::usage;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::timeout;

// Several connections, as in production: with a single one the servers would sleep between two requests, and
// the cost of waking up would count for each of them.
const CLIENTS: usize = 16;
const LONG: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);
/// Instances that beat once each: one that beat a moment ago is answered without etcd.
const BEATS: usize = 10_000;
const MESSAGES: usize = 100_000;
const WATCHERS: usize = 9_000;
/// As large as the record of an instance usually is.
const VALUE: usize = 600;
const V4: &str = "/v4/default/registry";

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    tokio::runtime::Runtime::new()?.block_on(run())
}

struct Costs {
    stage: Stage,
    report: Report,
}

async fn run() -> Result<()> {
    let stage = Stage::start("1h").await;
    let costs = Costs { stage, report: Report::new("costs", &["pieces", "CPU µs each", "bytes each"]) };
    costs.etcd_writes().await?;
    costs.messages().await?;
    costs.finds().await?;
    costs.beats().await?;
    costs.connections().await
}

impl Costs {
    fn tell(&self, what: &str, pieces: usize, cpu: f64) {
        self.report.row(what, &[Some(pieces as f64), Some(cpu / pieces as f64 * 1e6), None]);
    }

    async fn etcd_writes(&self) -> Result<()> {
        let pid = self.stage.world.etcd.pid();
        let until = Instant::now() + LONG;
        let before = usage::cpu_seconds(pid)?;
        let writers = (0..CLIENTS).map(|writer| async move {
            let mut etcd = stage::etcd(&self.stage).await?;
            let mut done = 0;
            while Instant::now() < until {
                // Keys repeat because most writes in production change an instance that exists.
                let key = format!("/bench/{writer}/{}", done % 100);
                etcd.put(key, vec![b'x'; VALUE], None).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
        let done: usize = try_join_all(writers).await?.into_iter().sum();
        self.tell("etcd: a transaction", done, usage::cpu_seconds(pid)? - before);
        Ok(())
    }

    /// The size of an event on the bus, and the CPU that NATS spends to pass one to one subscriber.
    async fn messages(&self) -> Result<()> {
        let client = async_nats::connect(self.stage.world.nats.url()).await?;
        let mut events = client.subscribe("muster.event.>").await?;
        // Subscribing only queues the request in this client. It must have left before the change is made.
        client.flush().await?;
        let mut provider = self.stage.provider(0, 1).await;
        provider.change(&self.stage.registry).await;
        let mut event = None;
        while event.as_ref().is_none_or(|message: &async_nats::Message| message.payload.is_empty()) {
            event = Some(timeout(PATIENCE, events.next()).await?.context("NATS ended")?);
        }
        let event = event.context("an event")?;
        self.report.row("an event on the bus", &[Some(1.0), None, Some(event.length as f64)]);

        let pid = self.stage.world.nats.pid();
        // A connection of its own, so that each message passes from one client to another, as between a
        // control plane and a gateway.
        let receiver = async_nats::connect(self.stage.world.nats.url()).await?;
        let mut messages = receiver.subscribe("bench.messages").await?;
        receiver.flush().await?;
        let before = usage::cpu_seconds(pid)?;
        let publishing = async {
            for _ in 0..MESSAGES {
                client.publish("bench.messages", event.payload.clone()).await?;
            }
            client.flush().await?;
            anyhow::Ok(())
        };
        let counting = async {
            for _ in 0..MESSAGES {
                timeout(PATIENCE, messages.next()).await.context("a message is missing")?;
            }
            anyhow::Ok(())
        };
        tokio::try_join!(publishing, counting)?;
        self.tell("NATS: a message to one subscriber", MESSAGES, usage::cpu_seconds(pid)? - before);
        Ok(())
    }

    /// Finds whose answer is known already, at the control plane and through a gateway.
    async fn finds(&self) -> Result<()> {
        self.stage.provider(1, 100).await;
        let plane = &self.stage.world.control_planes[0];
        let gateway = &self.stage.world.gateways[0];
        let path = format!("{V4}/instances?appId=shop&serviceName=provider-1&version=0%2B");
        let api = plane.api.to_string();
        let rev = Client::connect(&api).await?.call(&ask(&path, "")).await?.revision.context("a revision")?;
        let path = format!("{path}&rev={rev}");
        let before = usage::cpu_seconds(plane.process.pid())?;
        let done = load(&api, &path).await?;
        let cpu = usage::cpu_seconds(plane.process.pid())? - before;
        self.tell("control plane: a find that answers 304", done, cpu);
        let before = usage::cpu_seconds(gateway.process.pid())?;
        let done = load(&gateway.api.to_string(), &path).await?;
        let cpu = usage::cpu_seconds(gateway.process.pid())? - before;
        self.tell("gateway: a request passed on", done, cpu);
        Ok(())
    }

    /// One heartbeat of each of many instances.
    async fn beats(&self) -> Result<()> {
        let world = &self.stage.world;
        let plane = world.control_planes[0].process.pid();
        let etcd = world.etcd.pid();
        let id = &self.stage.registry.service("beats").await;
        let registering = (0..BEATS).map(|n| async move {
            self.stage.registry.instance_with(id, &format!("beat-{n}"), 7200).await;
        });
        stream::iter(registering).buffer_unordered(CLIENTS).collect::<Vec<()>>().await;
        // Registered a moment ago is renewed a moment ago.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let api = world.control_planes[0].api.to_string();
        let before = (usage::cpu_seconds(plane)?, usage::cpu_seconds(etcd)?);
        let clients = (0..CLIENTS).map(|first| {
            let api = api.clone();
            async move {
                let mut client = Client::connect(&api).await?;
                for n in (first..BEATS).step_by(CLIENTS) {
                    let path = format!("{V4}/microservices/{id}/instances/beat-{n}/heartbeat");
                    client.call(&request("PUT", &path, "", "")).await?;
                }
                anyhow::Ok(())
            }
        });
        stream::iter(clients.map(Ok)).try_for_each_concurrent(CLIENTS, |client| client).await?;
        self.tell("control plane: a heartbeat", BEATS, usage::cpu_seconds(plane)? - before.0);
        self.tell("etcd: a lease renewed", BEATS, usage::cpu_seconds(etcd)? - before.1);
        Ok(())
    }

    async fn connections(&self) -> Result<()> {
        let consumers = self.stage.consumers(0, 1, |_| vec![0]).await;
        let mut crowd = Crowd::start()?;
        // Read after the crowd's process has started: its own kernel objects are no part of a connection.
        let before = usage::kernel_bytes()?;
        crowd.open(self.stage.world.gateways[0].api, &consumers, WATCHERS, 0)?;
        let grown = usage::kernel_bytes()? - before;
        // Other processes also make and close sockets. A negative difference shows that they were busy
        // meanwhile.
        ensure!(grown > 0.0, "the kernel's memory shrank: the machine is not at rest");
        let each = grown / (2 * WATCHERS) as f64;
        self.report.row("kernel: an end of an idle connection", &[Some(WATCHERS as f64), None, Some(each)]);
        Ok(())
    }
}

/// Asks as fast as some connections can, for a while; how often.
async fn load(api: &str, path: &str) -> Result<usize> {
    let until = Instant::now() + LONG;
    let clients = (0..CLIENTS).map(|_| async move {
        let mut client = Client::connect(api).await?;
        let mut done = 0;
        while Instant::now() < until {
            let answer = client.call(&ask(path, "")).await?;
            // A 200 carries a body and costs far more. A few of them would spoil the figure.
            ensure!(answer.status == 304, "{}", answer.status);
            done += 1;
        }
        anyhow::Ok(done)
    });
    Ok(try_join_all(clients).await?.into_iter().sum())
}
