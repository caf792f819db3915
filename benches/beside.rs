//! The same calls at a fleet of ours and at another server of the same API, which runs already.
//!
//! The other server may be Service-Center, or a fleet of an older version: this bench starts nothing of it. It
//! takes its address and the ids of all its processes, its store's among them:
//!
//! ```text
//! cargo xtask bench beside 127.0.0.1:30100 4711 4712
//! ```
//!
//! Ours is etcd, NATS, a control plane and a gateway, which is asked: once with the defaults, and once with
//! heartbeats that gateways report (`lease.mode = reported`), shared leases, and "nothing has changed" without a
//! question (`edge.confirm-unchanged = false`). Both servers are written to: services
//! and instances under names of this run, which stay there. Each call goes over sixteen connections. CPU is
//! that of all programs of a server for one call; clients are not counted. The floor of each read is a bare handler
//! on the kind of server that our programs have, which sends as many bytes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::bare::{self, Bare};
use benches::call::{Client, ask, load_each, request};
use benches::report::Report;
use benches::usage::cpu_seconds;
use harness::{Plan, World};
use serde_json::{Value, json};

const CONNECTIONS: usize = 16;
/// Time for each row.
const LENGTH: Duration = Duration::from_secs(4);
/// The time in which a gateway comes to follow a consumer, and to know an instance.
const WARM: Duration = Duration::from_secs(4);
/// Instances of the services that are found.
const SIZES: [usize; 3] = [1, 100, 1000];
/// Heartbeats in a batch.
const BATCH: usize = 100;
/// Services of the list.
const SERVICES: usize = 1000;
const V4: &str = "/v4/default/registry";

#[tokio::main]
async fn main() -> Result<()> {
    if bare::become_child_if_asked().await? {
        return Ok(());
    }
    let mut arguments = std::env::args().skip(1);
    let usage = "expected the address of the other server and the ids of its processes";
    let address: SocketAddr = arguments.next().context(usage)?.parse().context(usage)?;
    let pids = arguments.map(|pid| pid.parse().context(usage)).collect::<Result<Vec<u32>>>()?;
    ensure!(!pids.is_empty(), usage);
    let report = Report::new("beside", &["per s", "p50 ms", "CPU µs", "÷ other"]);
    let theirs = Served { server: address.to_string(), pids }.measure().await?;
    let is_idle = theirs.iter().any(|row| row.cpu_us == 0.0);
    ensure!(!is_idle, "the processes of the other server used no CPU: are these their ids?");
    tell(&report, "the other", &theirs, &theirs);
    let fast = World::with()
        .plane_flag("--lease-mode", "reported")
        .plane_flag("--lease-shared", "true")
        .gateway_flag("--edge-confirm-unchanged", "false");
    let mut floor = Vec::new();
    for (name, plan) in [("ours", World::with()), ("ours, fast", fast)] {
        let ours = of_ours(plan).await?;
        tell(&report, name, &ours, &theirs);
        if floor.is_empty() {
            floor = of_floor(&ours).await?;
        }
    }
    tell(&report, "a bare handler", &floor, &theirs);
    Ok(())
}

/// The figures of a bare handler that sends the bytes of each row that has some.
async fn of_floor(rows: &[Row]) -> Result<Vec<Row>> {
    let mut floor = Vec::new();
    for row in rows {
        let Some(bytes) = row.bytes else { continue };
        let bare = Bare::start(bytes)?;
        let served = Served { server: bare.address.to_string(), pids: vec![bare.pid()] };
        let plain = ask("/", "");
        floor.push(Row { bytes: None, ..served.row(&row.what, |_| &plain).await? });
    }
    Ok(floor)
}

fn tell(report: &Report, name: &str, rows: &[Row], other: &[Row]) {
    for row in rows {
        let Some(other) = other.iter().find(|other| other.what == row.what) else { continue };
        let figures = [row.per_second, row.p50_ms, row.cpu_us, row.cpu_us / other.cpu_us];
        report.row(&format!("{}, {name}", row.what), &figures.map(Some));
    }
}

async fn of_ours(plan: Plan) -> Result<Vec<Row>> {
    let world = plan.start().await;
    let mut pids: Vec<u32> = world.nodes().map(|node| node.process.pid()).collect();
    pids.extend([world.etcd.pid(), world.nats.pid()]);
    Served { server: world.gateways[0].api.to_string(), pids }.measure().await
}

/// The figures of one call.
struct Row {
    what: String,
    /// Bytes of an answer's body, of a call that has a floor.
    bytes: Option<usize>,
    per_second: f64,
    p50_ms: f64,
    cpu_us: f64,
}

/// A server, and the ids of all its processes.
struct Served {
    server: String,
    pids: Vec<u32>,
}

impl Served {
    async fn measure(&self) -> Result<Vec<Row>> {
        // The names of this run: the other server may have those of an earlier one.
        let run = format!("bench-{:x}", fastrand::u64(..));
        let consumer = self.service(&format!("{run}-consumer")).await?;
        let consumer = format!("X-ConsumerId: {consumer}\r\n");
        let mut rows = Vec::new();
        for size in SIZES {
            let name = format!("{run}-{size}");
            let service = self.service(&name).await?;
            let instances = self.instances(&service, size).await?;
            let path = format!("{V4}/instances?appId=shop&serviceName={name}&version=0%2B");
            let find = ask(&path, &consumer);
            rows.push(self.read(&format!("find of {size}"), &find).await?);
            if size == BATCH {
                let revision = Client::connect(&self.server).await?.call(&find).await?.revision;
                let unchanged = ask(&format!("{path}&rev={}", revision.context("a revision")?), &consumer);
                rows.push(self.read("304", &unchanged).await?);
                let path = format!("{V4}/microservices/{service}/instances/{}/heartbeat", instances[0]);
                let beat = request("PUT", &path, "", "");
                rows.push(self.read("heartbeat", &beat).await?);
                let all: Vec<Value> = instances
                    .iter()
                    .map(|instance| json!({"serviceId": service, "instanceId": instance}))
                    .collect();
                let body = json!({ "instances": all }).to_string();
                let batch = request("PUT", &format!("{V4}/heartbeats"), "", &body);
                rows.push(self.row(&format!("batch of {BATCH}"), |_| &batch).await?);
            }
        }
        let service = self.service(&format!("{run}-crowd")).await?;
        let path = format!("{V4}/microservices/{service}/instances");
        rows.push(self.row_of("register", Duration::ZERO, |n| instance(&path, &format!("{run}-{n}"))).await?);
        for number in 0..SERVICES {
            self.service(&format!("{run}-list-{number}")).await?;
        }
        for (form, header) in [("", ""), (", gzip", "Accept-Encoding: gzip\r\n")] {
            let list = ask(&format!("{V4}/microservices"), header);
            rows.push(self.read(&format!("list of {SERVICES} services{form}"), &list).await?);
        }
        Ok(rows)
    }

    /// The row of a call that is the same each time, and has a floor.
    async fn read(&self, what: &str, request: &Vec<u8>) -> Result<Row> {
        let row = self.row(what, |_| request).await?;
        let bytes = Client::connect(&self.server).await?.call(request).await?.body.len();
        Ok(Row { bytes: Some(bytes), ..row })
    }

    async fn row<'a>(&self, what: &str, request: impl Fn(usize) -> &'a Vec<u8>) -> Result<Row> {
        self.row_of(what, WARM, |n| request(n).clone()).await
    }

    /// Sends requests for the time of a row, after `warm` of the same.
    async fn row_of(&self, what: &str, warm: Duration, request: impl Fn(usize) -> Vec<u8>) -> Result<Row> {
        if !warm.is_zero() {
            load_each(&self.server, CONNECTIONS, warm, &request).await?;
        }
        let before = self.cpu()?;
        let calls = load_each(&self.server, CONNECTIONS, LENGTH, &request).await?;
        let cpu_us = (self.cpu()? - before) * 1e6 / calls.count() as f64;
        let (per_second, p50_ms) = (calls.per_second(), calls.quantile_ms(0.5));
        Ok(Row { what: what.to_owned(), bytes: None, per_second, p50_ms, cpu_us })
    }

    /// CPU seconds of all its programs.
    fn cpu(&self) -> Result<f64> {
        self.pids.iter().map(|pid| cpu_seconds(*pid)).sum()
    }

    async fn service(&self, name: &str) -> Result<String> {
        let body = json!({"service": {"appId": "shop", "serviceName": name, "version": "1.0.0"}});
        let request = request("POST", &format!("{V4}/microservices"), "", &body.to_string());
        let answer = Client::connect(&self.server).await?.call(&request).await?;
        let answer: Value = serde_json::from_slice(&answer.body)?;
        Ok(answer["serviceId"].as_str().context("the id of a service")?.to_owned())
    }

    /// Registers so many instances; gives their ids.
    async fn instances(&self, service: &str, number: usize) -> Result<Vec<String>> {
        let path = format!("{V4}/microservices/{service}/instances");
        let mut client = Client::connect(&self.server).await?;
        let mut ids = Vec::new();
        for n in 0..number {
            let id = format!("{service}-{n}");
            client.call(&instance(&path, &id)).await?;
            ids.push(id);
        }
        Ok(ids)
    }
}

/// The registration of an instance that lives for four minutes without a heartbeat: longer than it is needed here.
fn instance(path: &str, id: &str) -> Vec<u8> {
    let body = json!({"instance": {"instanceId": id, "hostName": "node", "status": "UP",
        "endpoints": [format!("rest://10.0.0.1:80/{id}")],
        "healthCheck": {"mode": "push", "interval": 60, "times": 3}}});
    request("POST", path, "", &body.to_string())
}
