//! gRPC without a proxy in four languages: Go, Java and Node.js have clients of their own, and Python has
//! that of C++. All of them live through the same life of a fleet.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use harness::{Client, World, deadline, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{example, installed};
use crate::sdks::balancer;

const TARGET: &str = "xds:///shop/order";
/// Answers in a row after which a server counts as left: each client takes turns among its servers.
const IN_A_ROW: usize = 8;

/// The libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    Go,
    Java,
    Node,
    Python,
}

const LIBRARIES: [Library; 4] = [Library::Go, Library::Java, Library::Node, Library::Python];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("xds").join(name)
}

impl Library {
    /// The program of `tests/xds` that calls a target over it.
    fn client(self, target: &str) -> Command {
        let mut command = match self {
            Self::Go => Command::new(installed("go-client")),
            Self::Java => {
                let target = folder("java").join("target");
                let classes = [target.join("classes"), target.join("dependency/*")];
                let mut java = Command::new("java");
                java.arg("-cp").arg(std::env::join_paths(classes).expect("paths")).arg("muster.test.Client");
                java
            }
            Self::Node => {
                let mut node = Command::new("node");
                node.arg(folder("node").join("client.js"));
                node
            }
            Self::Python => {
                let mut python = Command::new(installed("python"));
                python.arg(folder("client.py")).arg("watch");
                python
            }
        };
        command.arg(target);
        command
    }

    /// Its calls fail when the last instance is gone. Java goes on with that one instead
    /// (`findings/grpc-java-empty-endpoints.sh`).
    fn forgets_the_last(self) -> bool {
        self != Self::Java
    }
}

/// A program with lines in and out.
struct Program {
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo xtask xds makes it");
        let input = process.stdin.take().expect("its input");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        Self { input, lines, _process: process }
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(deadline(), self.lines.next_line()).await.expect("in time");
        line.expect("text").expect("the program goes on")
    }
}

/// A server of gRPC that answers with its name, and its port.
async fn server(name: &str) -> (Program, String) {
    let mut command = Command::new(installed("python"));
    command.arg(folder("client.py")).args(["serve", name]);
    let mut program = Program::start(command);
    let port = program.line().await;
    (program, port)
}

/// A client of a library.
struct Caller {
    library: Library,
    program: Program,
    /// The library's own log, where it writes one.
    trace: tempfile::NamedTempFile,
}

/// The last lines of a trace that are shown when a client does not do what it should.
const TRACED: usize = 150;

impl Caller {
    fn start(library: Library, target: &str, bootstrap: &Path) -> Self {
        let mut command = library.client(target);
        command.env("GRPC_XDS_BOOTSTRAP", bootstrap);
        let trace = tempfile::NamedTempFile::new().expect("a file");
        if library == Library::Node {
            // The trace tells two failures apart: the client did not take the right answer, or did not get it.
            command
                .env("GRPC_VERBOSITY", "DEBUG")
                .env("GRPC_TRACE", "xds_client,xds_resolver,cds_balancer,priority");
            command.stderr(trace.reopen().expect("the same file"));
        }
        Self { library, program: Program::start(command), trace }
    }

    /// The end of the trace.
    fn trace(&self) -> String {
        let text = std::fs::read_to_string(self.trace.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TRACED)..].join("\n")
    }

    /// Begins a call.
    async fn ask(&mut self) {
        self.program.input.write_all(b"\n").await.expect("it reads");
    }

    /// The answer to one call.
    async fn call(&mut self) -> String {
        self.ask().await;
        self.program.line().await
    }

    /// Calls until this is the answer; calls in between may go elsewhere, and must not fail.
    async fn reaches(&mut self, expected: &str) {
        let began = Instant::now();
        loop {
            let answer = self.call().await;
            if answer.starts_with(expected) {
                return;
            }
            let library = self.library;
            let may_fail = expected.starts_with("error");
            assert!(!answer.starts_with("error") || may_fail, "{library:?} at {expected}: {answer}");
            assert!(began.elapsed() < deadline(), "{library:?} never reaches {expected}, but {answer}");
        }
    }

    /// Calls until only these answer. No call fails.
    async fn reaches_only(&mut self, expected: &[&str]) {
        let began = Instant::now();
        let mut in_a_row = 0;
        while in_a_row < IN_A_ROW {
            let answer = self.call().await;
            let library = self.library;
            assert!(!answer.starts_with("error"), "{library:?} at {expected:?}: {answer}");
            in_a_row = if expected.contains(&&*answer) { in_a_row + 1 } else { 0 };
            assert!(began.elapsed() < deadline(), "{library:?} does not leave {answer}");
        }
    }

    /// Calls until one succeeds.
    async fn recovers(&mut self, expected: &str) {
        let began = Instant::now();
        loop {
            let answer = self.call().await;
            if answer == expected {
                return;
            }
            let (library, is_late) = (self.library, began.elapsed() >= deadline());
            assert!(!is_late, "{library:?} never reaches {expected}: {answer}\n{}", self.trace());
        }
    }
}

/// The document's example for these servers.
fn bootstrap(folder: &Path, servers: &[SocketAddr]) -> PathBuf {
    let mut config: Value = serde_json::from_str(&example("json")).expect("JSON");
    let example = config["xds_servers"][0].clone();
    config["xds_servers"] = servers
        .iter()
        .map(|server| {
            let mut entry = example.clone();
            entry["server_uri"] = server.to_string().into();
            entry
        })
        .collect();
    let path = folder.join("bootstrap.json");
    std::fs::write(&path, config.to_string()).expect("written");
    path
}

async fn register(client: &Client, service: &str, id: &str, port: &str) {
    let body = json!({"instance": {"instanceId": id, "hostName": "node",
        "endpoints": ["rest://127.0.0.1:9", format!("grpc://127.0.0.1:{port}")],
        "healthCheck": {"mode": "push", "interval": 300, "times": 3}}});
    client.call("POST", &format!("/microservices/{service}/instances"), "", &body).await.ok();
}

async fn status(client: &Client, service: &str, id: &str, value: &str) {
    let path = format!("/microservices/{service}/instances/{id}/status?value={value}");
    client.call("PUT", &path, "", &Value::Null).await.ok();
}

/// Waits until each of the clients has asked for a listener.
async fn asked(world: &World, clients: usize) {
    eventually("every client has asked", || async {
        let count = world.gateways[0].metric("muster_xds_requests_total", r#"type="listener""#).await;
        (count >= clients as f64).then_some(())
    })
    .await;
}

async fn nacks(world: &World) -> f64 {
    let mut nacks = 0.0;
    for gateway in world.gateways.iter().filter(|gateway| gateway.process.is_running()) {
        nacks += gateway.metric("muster_xds_nacks_total", "").await;
    }
    nacks
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask xds"]
async fn grpc_clients_live_through_the_life_of_a_fleet() {
    let world = World::with().planes(2).gateways(2).start().await;
    // The second gateway stays while the first one is killed.
    let client = world.client(1);
    let directory = tempfile::tempdir().expect("a directory");
    let bootstrap = bootstrap(directory.path(), &[balancer(&world).await]);
    let (_one, one) = server("one").await;
    let (_two, two) = server("two").await;
    let (_three, three) = server("three").await;
    let (_four, four) = server("four").await;

    // A first answer, asked for before there is a service: the call waits.
    let mut callers = LIBRARIES.map(|library| Caller::start(library, TARGET, &bootstrap));
    for caller in &mut callers {
        caller.ask().await;
    }
    asked(&world, callers.len()).await;
    let order = client.service("order").await;
    register(&client, &order, "1", &one).await;
    for caller in &mut callers {
        // A service is registered before its instances. A client that sees it in between fails its calls.
        let answer = caller.program.line().await;
        let is_early = answer.starts_with("error UNAVAILABLE");
        assert!(answer == "one" || is_early, "{:?}: {answer}", caller.library);
        caller.recovers("one").await;
    }
    println!("a first answer: well");

    // Instances come, drain, return and go.
    register(&client, &order, "2", &two).await;
    for caller in &mut callers {
        caller.reaches("two").await;
    }
    status(&client, &order, "1", "OUTOFSERVICE").await;
    for caller in &mut callers {
        caller.reaches_only(&["two"]).await;
    }
    status(&client, &order, "1", "UP").await;
    for caller in &mut callers {
        caller.reaches("one").await;
    }
    client.unregister(&order, "1").await;
    for caller in &mut callers {
        caller.reaches_only(&["two"]).await;
    }
    println!("instances come, drain, return and go: well");

    // The gateway of all streams is killed, and the other one goes on with them.
    world.gateways[0].process.kill();
    register(&client, &order, "3", &three).await;
    for caller in &mut callers {
        caller.reaches("three").await;
    }
    // It comes back, and the other one is drained.
    world.gateways[0].process.start();
    world.gateways[0].ready().await;
    let nacks_before = nacks(&world).await;
    assert!(nacks_before < 0.5, "{nacks_before} answers were refused");
    assert_eq!(world.gateways[1].process.terminate().await, Some(0), "a drain ends well");
    let client = world.client(0);
    client.unregister(&order, "2").await;
    for caller in &mut callers {
        caller.reaches_only(&["three"]).await;
    }
    println!("a gateway is killed, the other is drained: well");

    // Control planes are dead: what is known counts, also for clients that begin now.
    for plane in &world.control_planes {
        plane.process.kill();
    }
    for caller in &mut callers {
        caller.reaches_only(&["three"]).await;
        let mut late = Caller::start(caller.library, TARGET, &bootstrap);
        late.reaches("three").await;
    }
    for plane in &world.control_planes {
        plane.process.start();
    }
    for plane in &world.control_planes {
        plane.ready().await;
    }
    register(&client, &order, "4", &four).await;
    for caller in &mut callers {
        caller.reaches("four").await;
    }
    println!("control planes are dead and return: well");

    // The service ends, and returns.
    for id in ["3", "4"] {
        client.unregister(&order, id).await;
    }
    for caller in &mut callers {
        if caller.library.forgets_the_last() {
            caller.reaches("error UNAVAILABLE").await;
        }
    }
    client.call("DELETE", &format!("/microservices/{order}?force=true"), "", &Value::Null).await.ok();
    let order = client.service("order").await;
    register(&client, &order, "1", &one).await;
    for caller in &mut callers {
        caller.recovers("one").await;
    }
    let nacks = nacks(&world).await;
    assert!(nacks < 0.5, "{nacks} answers were refused");
    println!("the service ends and returns: well");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask xds"]
async fn grpc_clients_find_a_service_after_they_gave_up() {
    let world = World::with().start().await;
    let client = world.client(0);
    let directory = tempfile::tempdir().expect("a directory");
    let bootstrap = bootstrap(directory.path(), &[world.gateways[0].api]);
    let (_one, one) = server("one").await;
    let mut callers = LIBRARIES.map(|library| Caller::start(library, TARGET, &bootstrap));
    for caller in &mut callers {
        caller.ask().await;
    }
    // After 15 s they take it that there is no such listener. Node.js lets its calls wait all the same.
    for caller in &mut callers {
        let answer = caller.program.line().await;
        let code = if caller.library == Library::Node { "DEADLINE_EXCEEDED" } else { "UNAVAILABLE" };
        assert!(answer.starts_with(&format!("error {code}")), "{:?}: {answer}", caller.library);
    }
    let order = client.service("order").await;
    register(&client, &order, "1", &one).await;
    for caller in &mut callers {
        caller.recovers("one").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask xds"]
async fn grpc_clients_begin_at_the_second_server_of_a_list() {
    let world = World::with().gateways(2).start().await;
    let client = world.client(1);
    let directory = tempfile::tempdir().expect("a directory");
    let list = [world.gateways[0].api, world.gateways[1].api];
    let bootstrap = bootstrap(directory.path(), &list);
    let (_one, one) = server("one").await;
    let order = client.service("order").await;
    register(&client, &order, "1", &one).await;
    world.gateways[0].process.kill();
    // Node.js knows the first one alone.
    for library in LIBRARIES.into_iter().filter(|library| *library != Library::Node) {
        Caller::start(library, TARGET, &bootstrap).reaches("one").await;
    }
}
