//! `muster standalone`: both planes in one process lose nothing when it is restarted or killed.

use harness::{Client, Process, Watcher, eventually, port};
use serde_json::Value;

use crate::operate::muster;

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
async fn a_browser_finds_the_console() {
    let standalone = Standalone::start().await;
    let page = standalone.client.try_get("/console/").await.expect("a page");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("./app.js"), "{}", page.text());
    let script = standalone.client.try_get("/console/app.js").await.expect("a script");
    assert_eq!(script.status, 200);
    // Clients of the API are led nowhere.
    assert_eq!(standalone.client.try_get("/").await.expect("an answer").status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_kill_lose_nothing() {
    let standalone = Standalone::start().await;
    let client = &standalone.client;
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
    client.find(&consumer, "order", "").await.ok();
    for (round, kill) in [false, true, true].into_iter().enumerate() {
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
        // Another one each time: a change that changes nothing is not told.
        let tag = round.to_string();
        client.tag(&provider, "i", &tag).await;
        watcher.expect("UPDATE", "i", &tag).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn no_program_lets_other_machines_in_by_oversight() {
    let wide = ["--listen", "0.0.0.0:0", "--grace", "never"];
    for (program, first) in [("muster", Some("standalone")), ("control-plane", None), ("edge-gateway", None)]
    {
        let process = Process::ours(program).args(first.into_iter().chain(wide));
        process.start();
        assert_eq!(process.ended().await, Some(64), "{program}");
        let log = process.log();
        let line = log.lines().find(|line| line.contains("0.0.0.0:0")).unwrap_or_default();
        assert!(line.contains("--rbac-enable") && line.contains("--allow-anonymous"), "{program}: {log}");
        assert!(log.contains("--grace"), "{program} tells all mistakes at once: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_listener_tells_clients_a_real_address() {
    let port = port::free();
    let listen = format!("0.0.0.0:{port}");
    let process = Process::ours("muster").args([
        "standalone",
        "--data-dir",
        "data",
        "--allow-anonymous",
        "--listen",
        &listen,
    ]);
    process.start();
    let client = Client::new(([127, 0, 0, 1], port).into());
    let own = eventually("the registry is registered in itself", || async {
        let body: Value = serde_json::from_str(&client.try_get("/health").await?.text()).ok()?;
        body["instances"][0]["endpoints"][0].as_str().map(str::to_owned)
    })
    .await;
    let address = own.strip_prefix("rest://").and_then(|rest| rest.strip_suffix('/')).expect("an endpoint");
    let address: std::net::SocketAddr = address.parse().expect("an address");
    assert!(!address.ip().is_unspecified(), "{own}");
    // The warning names the setting, and clients that are told the address get there.
    process.line(&["WARN", "set `advertise`", &address.to_string()], 0).await;
    Client::new(address).try_get("/ready").await.expect("answers there");
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_addresses_are_written_with_brackets() {
    let listen = format!("[::1]:{}", port::free());
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return; // Containers may have no IPv6.
    }
    let process = Process::ours("muster").args(["standalone", "--data-dir", "data", "--listen", &listen]);
    process.start();
    let server = format!("http://{listen}");
    process.line(&["The registry is ready at", &server], 0).await;
    eventually("the doctor is content", || async {
        let (status, text) = muster(&["doctor", "--server", &server]).await;
        (status == 0 && !text.contains("warning")).then_some(())
    })
    .await;
}
