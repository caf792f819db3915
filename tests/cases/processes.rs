//! The figures of all processes, as any gateway tells them: rates, latency by stage, and the accounts that
//! may see them.

use std::collections::BTreeMap;

use harness::{Client, Process, World, eventually, port};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::audit::{PASSWORD, token};

const PROCESSES: &str = "/v4/default/admin/processes";

/// The processes by address, and the number of control planes that did not answer.
async fn told(client: &Client) -> (BTreeMap<String, Value>, u64) {
    let answer = client.try_send("GET", PROCESSES, &[], String::new()).await.expect("an answer").ok();
    let processes = answer["processes"].as_array().expect("a list");
    let address = |one: &Value| one["address"].as_str().expect("an address").to_owned();
    let by_address: BTreeMap<_, _> = processes.iter().map(|one| (address(one), one.clone())).collect();
    assert_eq!(by_address.len(), processes.len(), "each process stands once: {answer}");
    (by_address, answer["silent"].as_u64().expect("a number"))
}

fn stages(process: &Value) -> Vec<&str> {
    let stages = process["stages"].as_array().expect("a list");
    stages.iter().map(|stage| stage["stage"].as_str().expect("a name")).collect()
}

/// Server-sent events of a consumer at the second gateway, for as long as the connection is kept.
async fn event_stream(world: &World, consumer: &str) -> TcpStream {
    let mut stream = TcpStream::connect(world.gateways[1].api).await.expect("connects");
    let path = format!("/v4/default/registry/events?consumer={consumer}&rev=0");
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.expect("an answer");
    assert_eq!(&begin, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_tells_of_every_process_with_the_latency_of_its_stages() {
    let world = World::with().planes(2).gateways(2).start().await;
    let pair = world.pair_of(1, &["i"]).await;
    let client = world.client(0);
    let other = world.gateways[1].api.to_string();
    // Two dialects at the other gateway: one of streams, and one of questions.
    let _events = event_stream(&world, &pair.consumer).await;
    let prometheus = world.client(1);
    let numbers = std::sync::atomic::AtomicU64::new(0);
    let processes = eventually("every stage was observed between two looks", || async {
        let number = numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        client.tag(&pair.provider, "i", &number.to_string()).await;
        prometheus.try_get("/prometheus/v1/targets").await?;
        // On a busy machine a control plane may take longer for its answer than the gateway waits.
        let (processes, silent) = told(&client).await;
        if silent > 0 {
            return None;
        }
        let all: Vec<&str> = processes.values().flat_map(stages).collect();
        let of_other = processes.get(&other).map(stages).unwrap_or_default();
        // The change is written at the other gateway, which tells of it over the bus.
        let is_whole = processes.len() == 4
            && ["commit", "publish", "forward"].iter().all(|stage| all.contains(stage))
            && ["bus", "write", "total"].iter().all(|stage| of_other.contains(stage))
            && processes[&other]["dialects"][1]["answersPerSecond"].as_f64() > Some(0.0);
        is_whole.then_some(processes)
    })
    .await;
    let roles: Vec<&str> = processes.values().map(|one| one["role"].as_str().expect("a role")).collect();
    for (role, count) in [("publisher", 1), ("control", 1), ("edge", 2)] {
        assert_eq!(roles.iter().filter(|known| **known == role).count(), count, "{role} in {roles:?}");
    }
    let one = &processes[&other];
    assert_eq!((&one["watchers"], &one["divergences"]), (&json!(2.0), &json!(0.0)), "{one}");
    let [events, prometheus] = [&one["dialects"][0], &one["dialects"][1]];
    assert_eq!(events, &json!({"dialect": "sse", "clients": 1.0}), "{one}");
    assert_eq!((&prometheus["dialect"], &prometheus["clients"]), (&json!("http_sd"), &Value::Null), "{one}");
    assert_eq!(one["dialects"].as_array().map(Vec::len), Some(2), "{one}");
    assert!(one["staleSeconds"].as_f64().is_some_and(|stale| stale < 60.0), "{one}");
    assert!(one["seconds"].as_f64().is_some_and(|seconds| seconds >= 10.0), "{one}");
    for process in processes.values() {
        assert!(process["release"].is_string() && process["age"].as_f64() < Some(60.0), "{process}");
        for stage in process["stages"].as_array().expect("a list") {
            assert!(stage["count"].as_u64() > Some(0), "{process}");
        }
    }
    drop(pair);

    // A process that has gone is named as gone, and never shown as if it were there.
    world.control_planes[1].process.kill();
    eventually("the control plane that is gone is said to be silent", || async {
        let (processes, silent) = told(&client).await;
        assert!(silent >= 1, "{processes:?}");
        (processes.len() == 3 && silent == 1).then_some(())
    })
    .await;
    assert_eq!(world.gateways[1].process.terminate().await, Some(0));
    eventually("the gateway that has ended is gone", || async {
        let (processes, _) = told(&client).await;
        (!processes.contains_key(&other)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_registry_is_one_process_and_tells_those_who_may_operate() {
    let api = port::local();
    let registry = Process::ours("muster")
        .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
        .env("SC_INIT_ROOT_PASSWORD", PASSWORD);
    registry.start();
    let client = Client::new(api);
    let root = token(&client, "root").await;
    let call = async |token: &str, method: &str, path: &str, body: String| {
        client.try_send(method, path, &[("authorization", token)], body).await.expect("an answer")
    };
    let perms = json!([{"resources": [{"type": "service"}], "verbs": ["get"]}]);
    call(&root, "POST", "/v4/roles", json!({"name": "looker", "perms": perms}).to_string()).await.ok();
    let account = json!({"name": "looker", "password": PASSWORD, "roles": ["looker"]}).to_string();
    call(&root, "POST", "/v4/accounts", account).await.ok();
    let refused = call(&token(&client, "looker").await, "GET", PROCESSES, String::new()).await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_eq!(client.try_send("GET", PROCESSES, &[], String::new()).await.expect("an answer").status, 401);

    let answer = call(&root, "GET", PROCESSES, String::new()).await.ok();
    let processes = answer["processes"].as_array().expect("a list");
    assert_eq!((processes.len(), &processes[0]["role"], &answer["silent"]), (1, &json!("both"), &json!(0)));
}
