//! The real SDKs against both planes: the same libraries that applications link, driven through a gateway as
//! applications drive them (`tests/sdks`). They need Go or a JDK with Maven, and fetch the libraries from
//! their package registries; so they run by `cargo xtask sdks`, not with the other tests.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Client, Plan, World, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Barrier;

use crate::key_files::{KeyFiles, ROOT_PASSWORD};

/// Fetching and compiling included; a program that hangs is ended.
const PATIENCE: Duration = Duration::from_mins(9);
/// The account of the SDKs in a registry with access control.
const ACCOUNT: &str = "sdk";
const PASSWORD: &str = "Complicated_password2";
/// The oldest version of the Java client that is still common, and the newest that is published.
const JAVA: [&str; 2] = ["2.8.21", "2.8.30"];
/// Applications of each version during a rolling restart.
const APPLICATIONS: usize = 4;

fn plan() -> Plan {
    World::with().planes(2).gateways(2)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn sc_client_notices_nothing_but_speed() {
    sc_client(&plan().start().await, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn sc_client_works_with_access_control() {
    let (world, keys) = guarded().await;
    sc_client(&world, Some(&keys)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn a_go_chassis_consumer_calls_the_instances_there_are() {
    go_chassis(&plan().start().await, None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn go_chassis_works_with_access_control() {
    let (world, keys) = guarded().await;
    go_chassis(&world, Some(&keys)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK and Maven; run by cargo xtask sdks"]
async fn the_java_client_notices_nothing_but_speed() {
    for version in JAVA {
        let world = plan().start().await;
        check(java_program(version, world.gateways[0].api), &world, None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK and Maven; run by cargo xtask sdks"]
async fn the_java_client_works_with_access_control() {
    for version in JAVA {
        let (world, keys) = guarded().await;
        check(java_program(version, world.gateways[0].api), &world, Some(&keys)).await;
    }
}

/// Drains three gateways in turn, each time the one that holds all watches. The one before is back by then.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK and Maven; run by cargo xtask sdks"]
async fn applications_of_the_java_client_follow_a_rolling_restart() {
    let world = World::with().planes(2).gateways(3).start().await;
    let address = balancer(&world).await;
    let client = world.client(0);
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
    let mut applications = Vec::new();
    for version in JAVA {
        compile_java(version).await;
        for index in 0..APPLICATIONS {
            let mut program = program("service-center-client", &["java", "-cp", &java_classes(version)]);
            program.arg("muster.Drains").env("CONSUMER", format!("java-{version}-{index}"));
            program.env("REGISTRY", address.to_string()).env("PROVIDER", "order");
            program.env("DRAINS", world.gateways.len().to_string());
            applications.push(program);
        }
    }
    let restart = Restart { drained: AtomicUsize::new(0), barrier: Barrier::new(applications.len()) };
    let follows = applications.into_iter().map(|application| {
        drive(application, async |wish| {
            // One of the applications has its wish fulfilled for all.
            if restart.barrier.wait().await.is_leader() {
                match wish.strip_prefix("set the instance ") {
                    Some(status) => set_status(&world, &provider, status).await,
                    None => restart.drain_next(&world, wish).await,
                }
            }
            restart.barrier.wait().await;
        })
    });
    futures_util::future::join_all(follows).await;
}

/// A rolling restart under applications that go on together.
struct Restart {
    drained: AtomicUsize,
    barrier: Barrier,
}

impl Restart {
    async fn drain_next(&self, world: &World, wish: &str) {
        assert_eq!(wish, "drain the gateway in use");
        let round = self.drained.fetch_add(1, Ordering::Relaxed);
        if let Some(before) = round.checked_sub(1) {
            let before = &world.gateways[before];
            before.process.start();
            before.ready().await;
        }
        assert_eq!(world.gateways[round].process.terminate().await, Some(0), "a drain ends well");
    }
}

async fn set_status(world: &World, service: &str, status: &str) {
    let plane = Client::new(world.control_planes[0].api);
    let path = format!("/microservices/{service}/instances/i/status?value={status}");
    plane.call("PUT", &path, "", &Value::Null).await.ok();
}

/// A balancer of TCP connections before the gateways. It asks them whether they are ready, as such balancers
/// do, and stays with a gateway as long as that is, so that a test knows where a watch is.
pub(crate) async fn balancer(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let gateways: Vec<_> = world.gateways.iter().map(|gateway| (gateway.api, gateway.admin)).collect();
    let in_use = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let gateways = gateways.clone();
            let in_use = in_use.clone();
            tokio::spawn(async move {
                let first = in_use.load(Ordering::Relaxed);
                for index in (first..gateways.len()).chain(0..first) {
                    let (api, admin) = gateways[index];
                    let ready = Client::new(admin).try_get("/ready").await;
                    if ready.is_none_or(|answer| answer.status != 200) {
                        continue;
                    }
                    let Ok(mut gateway) = TcpStream::connect(api).await else { continue };
                    in_use.store(index, Ordering::Relaxed);
                    // A connection that breaks is the business of its two ends.
                    _ = tokio::io::copy_bidirectional(&mut client, &mut gateway).await;
                    return;
                }
            });
        }
    });
    address
}

async fn sc_client(world: &World, keys: Option<&KeyFiles>) {
    check(program("sc-client", &["go", "run", ".", &world.gateways[0].api.to_string()]), world, keys).await;
}

async fn go_chassis(world: &World, keys: Option<&KeyFiles>) {
    check(program("go-chassis", &["go", "run", ".", "check"]), world, keys).await;
}

/// The program of the Java client in this version, against the registry at this address.
fn java_program(version: &str, address: SocketAddr) -> Command {
    let version = format!("-Dclient={version}");
    let address = format!("-Dexec.args={address}");
    program("service-center-client", &["mvn", "-q", "-B", "compile", "exec:java", &version, &address])
}

/// Compiles the programs of the Java client in this version, and puts the libraries beside them.
async fn compile_java(version: &str) {
    let version = format!("-Dclient={version}");
    let mut maven = program("service-center-client", &["mvn", "-q", "-B", "compile", &version]);
    maven.args(["dependency:copy-dependencies"]);
    drive(maven, async |wish| panic!("an unknown wish: {wish}")).await;
}

/// What the programs of this version are loaded from.
fn java_classes(version: &str) -> String {
    format!("target/{version}/classes:target/{version}/dependency/*")
}

/// A world with access control, in which the account of the SDKs is known at every gateway.
async fn guarded() -> (World, KeyFiles) {
    let keys = KeyFiles::new();
    let world = keys.guard(plan()).start().await;
    let root = eventually("root logs in", || login(world.client(0), "root", ROOT_PASSWORD)).await;
    let account = json!({"name": ACCOUNT, "password": PASSWORD, "roles": ["developer"]});
    let headers = [("authorization", root.as_str())];
    eventually("the account is made", || async {
        let answer = world.client(0).try_send("POST", "/v4/accounts", &headers, account.to_string()).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    let token = eventually("it logs in", || login(world.client(0), ACCOUNT, PASSWORD)).await;
    for gateway in 0..world.gateways.len() {
        eventually("the gateway knows the account", || async {
            let path = "/v4/default/registry/microservices";
            let headers = [("authorization", token.as_str())];
            let answer = world.client(gateway).try_send("GET", path, &headers, String::new()).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    (world, keys)
}

async fn login(client: Client, account: &str, password: &str) -> Option<String> {
    let body = json!({"name": account, "password": password}).to_string();
    let answer = client.try_send("POST", "/v4/token", &[], body).await?;
    if answer.status != 200 {
        return None;
    }
    let answer: Value = answer.ok();
    answer["token"].as_str().map(|token| format!("Bearer {token}"))
}

/// Runs a program of `tests/sdks`. With keys it logs in, and its wishes for a change of the keys are
/// fulfilled.
async fn check(mut program: Command, world: &World, keys: Option<&KeyFiles>) {
    program.env("REGISTRY", world.gateways[0].api.to_string());
    if keys.is_some() {
        program.env("ACCOUNT", ACCOUNT).env("PASSWORD", PASSWORD);
    }
    let planes: Vec<SocketAddr> = world.control_planes.iter().map(|plane| plane.api).collect();
    drive(program, async |wish| {
        let keys = keys.expect("only programs with an account ask for something");
        match wish {
            "sign with the new key" => {
                keys.announce_new(&planes).await;
                keys.sign_with_new(&planes).await;
            }
            "forget the old key" => keys.forget_old(&planes).await,
            _ => panic!("an unknown wish: {wish}"),
        }
    })
    .await;
}

fn program(sdk: &str, command: &[&str]) -> Command {
    let mut program = Command::new(command[0]);
    program.args(&command[1..]).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks").join(sdk));
    program
}

/// Runs a program, shows its lines, fulfils its wishes, and expects that it ends well.
async fn drive(mut program: Command, fulfil: impl AsyncFn(&str)) {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("it is needed and cannot be started: {program:?}: {error}"));
    let mut input = child.stdin.take().expect("its input");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let status = tokio::time::timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.expect("text") {
            println!("{line}");
            if let Some(wish) = line.strip_prefix("ASK ") {
                fulfil(wish).await;
                input.write_all(b"done\n").await.expect("it reads the answer");
            }
        }
        child.wait().await
    })
    .await;
    let status = status.unwrap_or_else(|_| panic!("it did not end within {PATIENCE:?}: {program:?}"));
    let status = status.expect("its status");
    assert!(status.success(), "it saw something else than expected: {status}");
}
