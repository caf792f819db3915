//! The audit log as an operator reads it: reads that are recorded, and `muster audit --follow` beyond a
//! rotation.

use futures_util::StreamExt as _;
use harness::{Client, Process, eventually, port};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const PASSWORD: &str = "Complicated_password1";
const SERVICES: &str = "/v4/default/registry/microservices";

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_recorded_and_followed_beyond_a_rotation() {
    let api = port::local();
    let registry = Process::ours("muster")
        .args(["standalone", "--data-dir", "data", "--listen", &api.to_string(), "--rbac-enable"])
        .args(["--audit-reads", "true", "--audit-max-size", "4KiB"])
        .env("SC_INIT_ROOT_PASSWORD", PASSWORD);
    registry.start();
    let client = Client::new(api);
    let body = json!({"name": "root", "password": PASSWORD}).to_string();
    let token = eventually("root can log in", || async {
        assert!(registry.is_running(), "it has ended: {}", registry.log());
        let answer = client.try_send("POST", "/v4/token", &[], body.clone()).await?;
        (answer.status == 200).then(|| format!("Bearer {}", answer.ok()["token"].as_str().expect("a token")))
    })
    .await;
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
