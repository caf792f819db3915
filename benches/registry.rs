//! The rates of the registry API, each beside a bare handler that returns as many bytes.
//!
//! The control plane runs in this process on a real etcd, the load comes from the same machine over loopback:
//! what compares is the ratio within one run. A find is answered from the view, a heartbeat renews a lease
//! without a write, a registration is a lease and an etcd transaction, which it shares with those beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_trait::async_trait;
use axum::Router;
use axum::routing::get;
use benches::Latencies;
use benches::call::{Client, ask, load_each, request};
use benches::usage::cpu_seconds;
use bus::local::LocalBus;
use control_plane::app::{App, Parts};
use control_plane::keys;
use control_plane::settings::{Config, LeaseConfig, LeaseMode};
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::store::{
    Compare, LeaseId, Op, RangeReply, RangeRequest, Store, StoreError, Txn, TxnReply, WatchStream,
};
use control_plane::view::{self, History, Protection, follow};
use futures_util::future::try_join_all;
use harness::Etcd;
use host::admin::Readiness;
use host::audit::Audit;
use host::figures::sampler::Sampler;
use host::http::{ServerLimits, serve};
use host::lifecycle::Tasks;
use host::telemetry::metrics::Metrics;
use shared::clock::Clock;
use shared::model::{Revision, ServiceRef, Tenant};
use tokio::net::TcpListener;

const LONG: Duration = Duration::from_secs(3);
const CLIENTS: usize = 16;
const V4: &str = "/v4/default/registry";

/// The parts of the API, in the order in which they are measured. Arguments select some of them. `million`
/// takes minutes to fill its store, so it runs only when it is asked for.
const PARTS: [&str; 7] = ["view", "million", "find", "unchanged", "heartbeat", "register", "crowd"];

#[tokio::main]
async fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        anyhow::bail!("no part {unknown}; there are {}", PARTS.join(", "));
    }
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|name| name == part);
    eprintln!("{:<28} {:>10} {:>9} {:>9} {:>8}", "what", "per s", "p50 ms", "p99 ms", "ratio");
    let etcd = Etcd::start().await;
    let config = EtcdConfig { endpoints: vec![etcd.endpoint()], ..EtcdConfig::default() };
    let tasks = Tasks::new();
    let store = EtcdStore::connect(config, &tasks);
    if wanted("view") {
        // First, while nothing else in this process holds or has freed memory.
        large_view(&store, 100_000).await?;
    }
    if asked.iter().any(|part| part == "million") {
        large_view(&store, 1_000_000).await?;
    }
    if ["find", "unchanged", "heartbeat", "register"].into_iter().any(wanted) {
        // Its tasks end with it, so that it does not follow the changes of a crowd.
        let tasks = Tasks::new();
        let api = start(store.clone(), LeaseConfig::default(), &tasks).await?;
        for instances in [1, 100, 1000] {
            if wanted("find") {
                find(&api, instances, &tasks).await?;
            }
        }
        if wanted("unchanged") {
            unchanged(&api, &tasks).await?;
        }
        if wanted("heartbeat") {
            heartbeat(&api, &tasks).await?;
        }
        if wanted("register") {
            register(&api, &*store).await?;
        }
        tasks.abort().cancel();
    }
    if wanted("crowd") {
        crowd(&store, etcd.pid()).await?;
    }
    Ok(())
}

/// Starts a control plane and waits until it serves and publishes.
async fn start(store: Arc<dyn Store>, leases: LeaseConfig, tasks: &Tasks) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let metrics = Metrics::new([])?;
    let readiness = Readiness::new(tasks);
    let parts = Parts {
        store,
        // No NATS, because nobody reads the events here and sending them would only take CPU from the API.
        bus: Arc::new(LocalBus::new()),
        config: Config { leases, ..settings::defaults().map_err(|e| anyhow::anyhow!("{e}"))? },
        listening: address,
        secure: false,
        meter: metrics.meter("bench"),
        readiness: readiness.clone(),
        audit: Audit::without_file(),
        sampler: Sampler::new(metrics.clone()),
    };
    let app = App::build(parts, tasks);
    let service = app.service.clone();
    let serving = tasks.clone();
    tasks.spawn(async move { serve(listener, service, ServerLimits::default(), &serving).await });
    let mut revisions = app.view.revisions();
    revisions.wait_for(|rev| *rev > Revision::ZERO).await?;
    // One before it may hold the seat for some seconds more, and a standby does less.
    app.role.clone().wait_for(|role| *role != Default::default()).await?;
    Ok(address.to_string())
}

/// A handler that returns a constant body on the same kind of server.
async fn bare(bytes: usize, tasks: &Tasks) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let body = bytes::Bytes::from(vec![b'x'; bytes]);
    let routes = Router::new().route(
        "/",
        get(move || {
            let body = body.clone();
            async move { body }
        })
        .put(|| async {}),
    );
    let serving = tasks.clone();
    tasks.spawn(async move { serve(listener, routes, ServerLimits::default(), &serving).await });
    Ok(address.to_string())
}

/// Registers a service with this number of instances. Returns the path that finds them.
async fn provider(api: &str, name: &str, instances: usize) -> Result<String> {
    let service = format!(r#"{{"service":{{"serviceName":"{name}","appId":"bench","version":"1.0.0"}}}}"#);
    let id = field(&post(api, "/microservices", &service).await?, "serviceId")?;
    for n in 0..instances {
        post(api, &format!("/microservices/{id}/instances"), &instance(n)).await?;
    }
    Ok(format!("{V4}/instances?appId=bench&serviceName={name}&version=0%2B"))
}

async fn find(api: &str, instances: usize, tasks: &Tasks) -> Result<()> {
    let path = provider(api, &format!("find-{instances}"), instances).await?;
    let plain = Client::connect(api).await?.call(&ask(&path, "")).await?;
    let small = Client::connect(api).await?.call(&ask(&path, GZIP)).await?;
    for (what, answer, headers) in [("", plain, ""), (", gzip", small, GZIP)] {
        let size = answer.body.len();
        // The handler sends as many bytes, so that the ratio shows the cost of finding and not of sending.
        let floor = load(&bare(size, tasks).await?, |_| ask("/", "")).await?;
        let found = load(api, |_| ask(&path, headers)).await?;
        report(&format!("bare handler, {size} bytes"), &floor, None);
        report(&format!("find {instances}{what}"), &found, Some(&floor));
    }
    Ok(())
}

/// A find of a client that has the answer already.
async fn unchanged(api: &str, tasks: &Tasks) -> Result<()> {
    let path = provider(api, "known", 100).await?;
    let rev = Client::connect(api).await?.call(&ask(&path, "")).await?.revision.context("a revision")?;
    let path = format!("{path}&rev={rev}");
    anyhow::ensure!(Client::connect(api).await?.call(&ask(&path, "")).await?.status == 304, "a 304");
    let floor = load(&bare(0, tasks).await?, |_| ask("/", "")).await?;
    let known = load(api, |_| ask(&path, "")).await?;
    report("bare handler, empty", &floor, None);
    report("find unchanged (304)", &known, Some(&floor));
    Ok(())
}

async fn heartbeat(api: &str, tasks: &Tasks) -> Result<()> {
    let service =
        post(api, "/microservices", r#"{"service":{"serviceName":"beats","appId":"bench"}}"#).await?;
    let id = field(&service, "serviceId")?;
    // Five hundred instances beat many times a second each, and the store answers most of these beats without
    // etcd. The bench `costs` has the other case: each instance beats once.
    let ids: Vec<String> = (0..500).map(|n| format!("beat-{n}")).collect();
    for n in &ids {
        let body = format!(r#"{{"instance":{{"hostName":"n","instanceId":"{n}"}}}}"#);
        post(api, &format!("/microservices/{id}/instances"), &body).await?;
    }
    let path = |n: usize| format!("{V4}/microservices/{id}/instances/{}/heartbeat", ids[n % ids.len()]);
    let floor = load(&bare(0, tasks).await?, |_| request("PUT", "/", "", "")).await?;
    let beats = load(api, |n| request("PUT", &path(n), "", "")).await?;
    report("bare handler, empty", &floor, None);
    report("heartbeat", &beats, Some(&floor));
    Ok(())
}

/// A registration against the bare transaction that it needs, one after the other.
async fn register(api: &str, store: &dyn Store) -> Result<()> {
    let service =
        post(api, "/microservices", r#"{"service":{"serviceName":"grows","appId":"bench"}}"#).await?;
    let id = field(&service, "serviceId")?;
    let reference = ServiceRef::new(Tenant::default(), "floor");
    let mut floor = Vec::new();
    let mut taken = Vec::new();
    let started = Instant::now();
    for n in 0..400 {
        let begun = Instant::now();
        let lease = store.grant(120).await?;
        let name = n.to_string();
        let mut then = Vec::new();
        for key in [keys::instance(&reference, &name), keys::lease(&reference, &name)] {
            then.push(Op::Put { key, value: vec![b'x'; 300].into(), lease: Some(lease) });
        }
        store.txn(Txn { then, ..Txn::default() }).await?;
        floor.push(begun.elapsed());
    }
    let floor = Latencies::new(floor, started.elapsed());
    let mut client = Client::connect(api).await?;
    let started = Instant::now();
    for n in 0..400 {
        let begun = Instant::now();
        let path = format!("{V4}/microservices/{id}/instances");
        client.call(&request("POST", &path, "", &instance(n))).await?;
        taken.push(begun.elapsed());
    }
    let taken = Latencies::new(taken, started.elapsed());
    report("bare lease and transaction", &floor, None);
    report("register an instance", &taken, Some(&floor));
    Ok(())
}

const CROWD: usize = 64;
const EACH: usize = 100;
/// The way to register in which the crowd is not alone.
const BESIDE: &str = "shared beside another tenant";

/// Registrations of many clients at once, and the CPU that etcd and this process take for each. The floor is a
/// lease and a transaction for each, without a control plane. Then a control plane whose transactions share no
/// commit, as before there were shared ones; one with a lease for each instance, in both modes; one whose
/// instances share leases; and the same while another tenant asks something ten times a second, so that fair
/// shares bound what the crowd has under way. Twice, in turn.
async fn crowd(store: &Arc<EtcdStore>, etcd: u32) -> Result<()> {
    let reported = LeaseConfig { mode: LeaseMode::Reported, ..LeaseConfig::default() };
    let alone: Arc<dyn Store> = Arc::new(Alone(store.clone()));
    let shared = LeaseConfig { shared: true, ..reported };
    let ways: [(&str, Arc<dyn Store>, LeaseConfig); 5] = [
        ("a commit each", alone.clone(), LeaseConfig::default()),
        ("direct", store.clone(), LeaseConfig::default()),
        ("reported", store.clone(), reported),
        ("shared", store.clone(), shared),
        (BESIDE, store.clone(), shared),
    ];
    for round in 0..2 {
        let used = Used::since(etcd)?;
        let floor = unshared(&*alone, round).await?;
        report(&format!("{CROWD}: lease and transaction"), &floor, None);
        used.tell()?;
        let mut first = None;
        for (way, with, leases) in &ways {
            let tasks = Tasks::new();
            let api = start(with.clone(), *leases, &tasks).await?;
            let used = Used::since(etcd)?;
            let commits = store.group_figures().commits;
            let name = format!("crowd-{}-{round}", way.replace(' ', "-"));
            let crowd = registrations(&api, &name);
            let taken = match *way == BESIDE {
                true => tokio::select! {
                    taken = crowd => taken?,
                    ended = another_tenant(&api) => return ended,
                },
                false => crowd.await?,
            };
            report(&format!("{CROWD} register, {way}"), &taken, Some(&floor));
            used.tell()?;
            let first = first.get_or_insert(taken.per_second());
            let commits = store.group_figures().commits - commits;
            eprintln!(
                "  {:.2} times those with a commit each; {commits} commits",
                taken.per_second() / *first
            );
            tasks.abort().cancel();
        }
    }
    Ok(())
}

/// A store whose transactions share no commit: with a long list that is never run each goes alone.
struct Alone(Arc<EtcdStore>);

#[async_trait]
impl Store for Alone {
    async fn range(&self, request: RangeRequest) -> Result<RangeReply, StoreError> {
        self.0.range(request).await
    }

    async fn txn(&self, mut txn: Txn) -> Result<TxnReply, StoreError> {
        if txn.otherwise.is_empty() && !txn.compare.is_empty() {
            txn.otherwise = vec![Op::Get("/floor".into()); 17];
        }
        self.0.txn(txn).await
    }

    async fn grant(&self, ttl: i64) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.0.watch(prefix, from).await
    }

    async fn barrier(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.0.barrier(prefix).await
    }

    async fn newest(&self, prefix: &str) -> Result<Revision, StoreError> {
        self.0.newest(prefix).await
    }

    async fn compact(&self, rev: Revision) -> Result<(), StoreError> {
        self.0.compact(rev).await
    }

    fn endpoints(&self) -> Vec<String> {
        self.0.endpoints()
    }
}

/// The CPU of etcd and of this process, which is control plane and clients.
struct Used {
    etcd: u32,
    before: (f64, f64),
}

impl Used {
    fn since(etcd: u32) -> Result<Self> {
        Ok(Self { etcd, before: (cpu_seconds(etcd)?, cpu_seconds(std::process::id())?) })
    }

    fn tell(&self) -> Result<()> {
        let each = |now: f64, before: f64| (now - before) / (CROWD * EACH) as f64 * 1e6;
        let store = each(cpu_seconds(self.etcd)?, self.before.0);
        let own = each(cpu_seconds(std::process::id())?, self.before.1);
        eprintln!("  CPU of each: etcd {store:.0} us, control plane and clients {own:.0} us");
        Ok(())
    }
}

async fn unshared(store: &dyn Store, round: usize) -> Result<Latencies> {
    let reference = ServiceRef::new(Tenant::default(), "floor");
    let started = Instant::now();
    store.txn(Txn { then: vec![Op::put(keys::service(&reference), "{}")], ..Txn::default() }).await?;
    let clients = (0..CROWD).map(|client| {
        let reference = &reference;
        async move {
            let mut calls = Vec::new();
            for n in 0..EACH {
                let begun = Instant::now();
                let lease = store.grant(120).await?;
                let name = format!("{round}-{client}-{n}");
                let keys = [keys::instance(reference, &name), keys::lease(reference, &name)];
                let value: bytes::Bytes = vec![b'x'; 400].into();
                let then = keys.map(|key| Op::Put {
                    key: format!("/floor{key}"),
                    value: value.clone(),
                    lease: Some(lease),
                });
                let compare = vec![Compare::Exists(keys::service(reference))];
                store.txn(Txn { compare, then: then.into(), ..Txn::default() }).await?;
                calls.push(begun.elapsed());
            }
            Ok::<_, anyhow::Error>(calls)
        }
    });
    Ok(Latencies::new(try_join_all(clients).await?.concat(), started.elapsed()))
}

/// Asks for the services of another project, ten times a second.
async fn another_tenant(api: &str) -> Result<()> {
    let mut client = Client::connect(api).await?;
    let question = ask("/v4/other/registry/microservices", "");
    loop {
        client.call(&question).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn registrations(api: &str, name: &str) -> Result<Latencies> {
    let service = format!(r#"{{"service":{{"serviceName":"{name}","appId":"bench"}}}}"#);
    let id = field(&post(api, "/microservices", &service).await?, "serviceId")?;
    let started = Instant::now();
    let clients = (0..CROWD).map(|client| {
        let id = &id;
        async move {
            let mut connection = Client::connect(api).await?;
            let mut calls = Vec::new();
            for n in 0..EACH {
                let begun = Instant::now();
                let path = format!("{V4}/microservices/{id}/instances");
                let answer =
                    connection.call(&request("POST", &path, "", &instance(client * EACH + n))).await?;
                anyhow::ensure!(answer.status == 200, "registered, not {}", answer.status);
                calls.push(begun.elapsed());
            }
            Ok::<_, anyhow::Error>(calls)
        }
    });
    Ok(Latencies::new(try_join_all(clients).await?.concat(), started.elapsed()))
}

/// Time and memory of a view of so many instances.
async fn large_view(store: &Arc<EtcdStore>, count: usize) -> Result<()> {
    let tenant = Tenant::default();
    // A hundred instances and their service fit in one etcd transaction (128 operations by default).
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let service = ServiceRef::new(tenant.clone(), format!("large-{}", chunk[0] / 100));
        let mut then = vec![Op::put(
            keys::service(&service),
            format!(
                r#"{{"serviceId":"{}","appId":"bench","serviceName":"{}","version":"1.0.0"}}"#,
                service.id, service.id
            ),
        )];
        for n in chunk {
            let record: serde_json::Value = serde_json::from_str(&instance(*n))?;
            then.push(Op::put(keys::instance(&service, &n.to_string()), record["instance"].to_string()));
        }
        store.txn(Txn { then, ..Txn::default() }).await?;
    }
    let before = resident()?;
    let (writer, view) = view::empty(History::new(1000), Protection::default(), Clock::system());
    // These tasks end with this part, so that the large view does not follow the changes of the others.
    let tasks = Tasks::new();
    let started = Instant::now();
    tasks.spawn(follow::follow(store.clone(), writer, tasks.abort().clone()));
    view.revisions().wait_for(|rev| *rev > Revision::ZERO).await?;
    let took = started.elapsed();
    let bytes = resident()?.saturating_sub(before);
    let count: usize = view.now()?.tenants.values().map(|tenant| tenant.instance_count).sum();
    let seconds = took.as_secs_f64();
    let each = bytes / count;
    let peak = highest_resident()? >> 20;
    eprintln!(
        "{count} instances listed and indexed in {seconds:.2} s, {each} bytes each; the process took {peak} MiB at most"
    );
    println!(
        "{}",
        serde_json::json!({"bench": "registry", "what": "view", "instances": count, "seconds": seconds,
            "bytes_per_instance": each, "peak_mib": peak})
    );
    tasks.abort().cancel();
    Ok(())
}

fn resident() -> Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split_whitespace().nth(1).context("resident pages")?.parse()?;
    Ok(pages * 4096)
}

/// The most bytes that were ever resident.
fn highest_resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("resident at most")?;
    let kib: usize = line.trim().trim_end_matches("kB").trim_end().parse()?;
    Ok(kib * 1024)
}

fn instance(n: usize) -> String {
    format!(
        r#"{{"instance":{{"hostName":"node-{n}","endpoints":["rest://10.{}.{}.{}:8080?sslEnabled=false"],"status":"UP","properties":{{"zone":"east","build":"{n}"}},"healthCheck":{{"mode":"push","interval":30,"times":3}},"dataCenterInfo":{{"name":"dc1","region":"north","availableZone":"az1"}},"timestamp":"1700000000","modTimestamp":"1700000000","version":"1.0.0"}}}}"#,
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255
    )
}

fn field(body: &[u8], name: &str) -> Result<String> {
    let body: serde_json::Value = serde_json::from_slice(body)?;
    Ok(body[name].as_str().context("a field of the answer")?.to_owned())
}

async fn post(api: &str, path: &str, body: &str) -> Result<Vec<u8>> {
    Ok(Client::connect(api).await?.call(&request("POST", &format!("{V4}{path}"), "", body)).await?.body)
}

/// Calls as fast as `CLIENTS` connections can, for `LONG`.
async fn load(server: &str, request: impl Fn(usize) -> Vec<u8>) -> Result<Latencies> {
    load_each(server, CLIENTS, LONG, request).await
}

fn report(what: &str, figures: &Latencies, floor: Option<&Latencies>) {
    let p50 = figures.quantile_ms(0.5);
    let p99 = figures.quantile_ms(0.99);
    let ratio = floor.map_or(1.0, |floor| figures.per_second() / floor.per_second());
    eprintln!("{what:<28} {:>10.0} {p50:>9.2} {p99:>9.2} {ratio:>8.2}", figures.per_second());
    let figure = serde_json::json!({
        "bench": "registry", "what": what, "per_second": figures.per_second(), "p50_ms": p50, "p99_ms": p99,
        "ratio": ratio, "optimised": !cfg!(debug_assertions),
    });
    println!("{figure}");
}

const GZIP: &str = "Accept-Encoding: gzip\r\n";
