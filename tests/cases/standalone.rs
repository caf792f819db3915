//! `muster standalone`: both planes in one process lose nothing when it is restarted or killed.

use harness::{Client, Process, Watcher, eventually, port};
use serde_json::Value;

struct Standalone {
    process: Process,
    client: Client,
    api: std::net::SocketAddr,
}

impl Standalone {
    async fn start() -> Self {
        let api = port::local();
        let process =
            Process::ours("muster").args(["standalone", "--data-dir", "data", "--listen", &api.to_string()]);
        let standalone = Self { process, client: Client::new(api), api };
        standalone.process.start();
        standalone.ready().await;
        standalone
    }

    async fn ready(&self) {
        eventually("the registry is ready", || async {
            assert!(self.process.is_running(), "it has ended");
            (self.client.try_get("/ready").await?.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_kill_lose_nothing() {
    let standalone = Standalone::start().await;
    let client = &standalone.client;
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
    client.find(&consumer, "order", "").await.ok();
    for kill in [false, true, true] {
        if kill {
            standalone.process.kill();
        } else {
            assert_eq!(standalone.process.terminate().await, Some(0), "a drain ends well");
        }
        standalone.process.start();
        standalone.ready().await;
        // Services, instances, leases, dependencies: all there.
        let path = format!("/microservices/{provider}/instances/i/heartbeat");
        client.call("PUT", &path, "", &Value::Null).await.ok();
        let mut watcher = Watcher::connect(standalone.api, &consumer).await;
        client.tag(&provider, "i", "again").await;
        watcher.expect("UPDATE", "i", "again").await;
    }
    let answer = client.try_get("/metrics").await.expect("figures");
    assert!(answer.text().contains("muster_view_revision"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_on_the_same_data_is_refused_with_a_reason() {
    let standalone = Standalone::start().await;
    let data = standalone.process.directory().join("data");
    let second = Process::ours("muster").args([
        "standalone".into(),
        "--data-dir".into(),
        data.display().to_string(),
        "--listen".into(),
        "127.0.0.1:0".into(),
    ]);
    second.start();
    assert_ne!(second.ended().await, Some(0));
    assert!(second.log().contains("in use"), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_command_line_are_told_together() {
    let process =
        Process::ours("muster").args(["standalone", "--listen", "nowhere", "--quota-services", "0"]);
    process.start();
    assert_eq!(process.ended().await, Some(64));
    let log = process.log();
    assert!(log.contains("listen") && log.contains("quota-services"), "{log}");
}
