//! The audit log as an operator reads it: its last records over HTTP, reads that are recorded, and
//! `muster audit --follow` beyond a rotation.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use harness::{Client, Process, World, eventually, port};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

pub(crate) const PASSWORD: &str = "Complicated_password1";
const SERVICES: &str = "/v4/default/registry/microservices";

const LOG: &str = "/v4/default/admin/audit";

/// Logs in as soon as the account is known.
pub(crate) async fn token(client: &Client, name: &str) -> String {
    let body = json!({"name": name, "password": PASSWORD}).to_string();
    eventually("the account can log in", || async {
        let answer = client.try_send("POST", "/v4/token", &[], body.clone()).await?;
        (answer.status == 200).then(|| format!("Bearer {}", answer.ok()["token"].as_str().expect("a token")))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_records_are_told_to_those_who_may_operate() {
    let api = port::local();
    let registry = Process::ours("muster")
        .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
        .env("SC_INIT_ROOT_PASSWORD", PASSWORD);
    registry.start();
    let client = Client::new(api);
    let root = token(&client, "root").await;
    let call = async |token: &str, method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        client.try_send(method, path, &[("authorization", token)], body).await.expect("an answer")
    };
    let right = |resource: Value| json!([{"resources": [resource], "verbs": ["get"]}]);
    for (name, resource) in [
        ("looker", json!({"type": "service"})),
        ("operator", json!({"type": "ops"})),
        ("half", json!({"type": "ops", "labels": {"appId": "shop"}})),
    ] {
        let role = json!({"name": name, "perms": right(resource)});
        call(&root, "POST", "/v4/roles", role).await.ok();
        let account = json!({"name": name, "password": PASSWORD, "roles": [name]});
        call(&root, "POST", "/v4/accounts", account).await.ok();
    }
    let bound =
        json!({"name": "bound", "password": PASSWORD, "roles": ["operator"], "tenants": ["default/default"]});
    call(&root, "POST", "/v4/accounts", bound).await.ok();

    // Right without labels, and in all tenants.
    let operator = token(&client, "operator").await;
    for name in ["looker", "half", "bound"] {
        let refused = call(&token(&client, name).await, "GET", LOG, Value::Null).await;
        assert_eq!(refused.status, 403, "{name}: {refused:?}");
    }
    assert_eq!(client.try_send("GET", LOG, &[], String::new()).await.expect("an answer").status, 401);

    let asked = async |query: &str| call(&operator, "GET", &format!("{LOG}{query}"), Value::Null).await.ok();
    let all = asked("").await;
    let processes = all["processes"].as_array().expect("a list");
    assert_eq!((processes.len(), &all["silent"], &processes[0]["complete"]), (1, &json!(0), &json!(true)));
    let text = all.to_string();
    assert!(
        !text.contains(PASSWORD) && !text.contains(&root[7..]) && !text.contains(&operator[7..]),
        "a secret"
    );
    // Refusals of the gateway and writes of the control plane are in the one log of the process, newest
    // first.
    let denied = asked("?decision=denied&account=looker").await;
    let denied = denied["processes"][0]["records"].as_array().expect("a list");
    assert_eq!((denied.len(), &denied[0]["plane"], &denied[0]["status"]), (1, &json!("edge"), &json!(403)));
    let made = asked("?account=root&kind=CreateAccount&limit=2").await;
    let made = made["processes"][0]["records"].as_array().expect("a list");
    let targets: Vec<_> = made.iter().map(|record| record["target"].as_str().expect("a path")).collect();
    assert_eq!(targets, ["/v4/accounts/bound", "/v4/accounts/half"]);
    assert_eq!(call(&operator, "GET", &format!("{LOG}?limit=x"), Value::Null).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_tells_the_records_of_every_process_and_who_is_silent() {
    let world = World::with().planes(2).gateways(2).start().await;
    let told = async || {
        let answer = world.client(0).try_send("GET", LOG, &[], String::new()).await.expect("an answer").ok();
        let processes = answer["processes"].as_array().expect("a list");
        let names: BTreeSet<_> =
            processes.iter().map(|one| one["process"].as_str().expect("a name")).collect();
        (names.len(), answer["silent"].as_u64().expect("a number"))
    };
    assert_eq!(told().await, (3, 0), "both control planes, and the gateway that was asked");
    world.control_planes[1].process.kill();
    assert_eq!(told().await, (2, 1));
    world.control_planes[0].process.kill();
    assert_eq!(told().await, (1, 2), "its own are told also when nobody answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_recorded_and_followed_beyond_a_rotation() {
    let api = port::local();
    let registry = Process::ours("muster")
        .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
        .args(["--audit-reads", "true", "--audit-max-size", "4KiB"])
        .env("SC_INIT_ROOT_PASSWORD", PASSWORD);
    registry.start();
    let client = Client::new(api);
    let token = token(&client, "root").await;
    let headers = [("authorization", token.as_str())];
    eventually("root is known at the gateway", || async {
        let answer = client.try_send("GET", SERVICES, &headers, String::new()).await?;
        (answer.status == 200).then_some(())
    })
    .await;

    let data = registry.directory().join("data").display().to_string();
    let follower =
        Process::ours("muster").args(["audit", data.as_str(), "-f", "--json", "--account", "root"]);
    follower.start();
    // The reads before the follower began come first.
    follower.line(&[r#""method":"GET""#, r#""decision":"allowed""#, SERVICES], 0).await;

    let url = format!("ws://{api}/v4/default/registry/watcher?all&rev=0");
    let mut request = url.into_client_request().expect("a request");
    request.headers_mut().insert("authorization", token.parse().expect("a value"));
    let (mut watch, _) = tokio_tungstenite::connect_async(request).await.expect("is admitted");
    follower.line(&[r#""transport":"websocket""#, r#""decision":"allowed""#, r#""status":101"#], 0).await;

    // Far more than fits into a file of 4 KiB.
    for number in 0..40 {
        let path = format!("{SERVICES}/number-{number}");
        client.try_send("GET", &path, &headers, String::new()).await.expect("an answer");
    }
    follower.line(&["number-39"], 0).await;
    let log = follower.log();
    let records: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let seen: Vec<&str> = records
        .iter()
        .filter_map(|record| record["path"].as_str()?.strip_prefix(&format!("{SERVICES}/number-")))
        .collect();
    let expected: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    assert_eq!(seen, expected, "each record once and in order, over rotations");
    let rotated = registry.directory().join("data").join("audit.jsonl.1");
    assert!(rotated.exists(), "the file was rotated");
    assert!(!log.contains(&token[7..]) && !log.contains(PASSWORD), "a secret is in the records");
    assert_eq!(follower.terminate().await, Some(0), "an interrupt is a good end");
    drop(watch.next());
}
