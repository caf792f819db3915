//! Answers that nobody reads are bounded, in every program that makes them for one request alone.

use std::net::SocketAddr;

use axum::body::Body;
use harness::{Client, Process, World, eventually, port};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

const DUMP: &str = "/v4/default/admin/dump";
/// The least bound that there is, and requests for a dump that is larger than a tenth of it.
const BOUND: [&str; 2] = ["--http-answer-memory", "1MiB"];
const UNREAD: usize = 20;
const ENDED: &str = r#"muster_http_slow_requests_total{listener="api",part="memory"}"#;

/// Registers instances of some 130 KB, leaves dumps unread, and reads one.
async fn is_bounded(api: SocketAddr, admin: SocketAddr) {
    let registry = Client::new(api);
    let padding = "x".repeat(4000);
    for number in 0..4 {
        let service = registry.service(&format!("large-{number}")).await;
        for instance in 0..8 {
            let path = format!("/microservices/{service}/instances");
            let instance = json!({ "instanceId": format!("i{instance}"), "hostName": "h", "properties": { "p": padding } });
            registry.call("POST", &path, "", &json!({ "instance": instance })).await.ok();
        }
    }
    let whole = registry.get(DUMP).await.ok().to_string().len();
    assert!(whole > 1024 * 1024 / 10, "{whole}");

    // The least window, so that each answer waits with almost all of its bytes.
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_initial_stream_window_size(1024)
        .build_http();
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let url = format!("http://{api}{DUMP}").parse().expect("a url");
        unread.push(client.get(url).await.expect("an answer").into_body());
    }
    let figures = Client::new(admin);
    eventually("the oldest answers have ended", || async {
        let figures = figures.try_get("/metrics").await?.text();
        let ended = figures.lines().find_map(|line| line.strip_prefix(ENDED))?.trim().parse::<f64>().ok()?;
        (ended >= 1.0).then_some(())
    })
    .await;
    let newest = unread.pop().expect("some answers");
    assert!(newest.collect().await.expect("it is whole").to_bytes().len() >= whole, "the newest one goes on");
    unread.swap_remove(0).collect().await.expect_err("the oldest one has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_of_a_control_plane_are_bounded() {
    let world = World::with().plane_flag(BOUND[0], BOUND[1]).start().await;
    let plane = &world.control_planes[0];
    is_bounded(plane.api, plane.admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_answers_of_a_standalone_registry_are_bounded() {
    let [api, admin] = [port::local(), port::local()];
    let addresses = [api.to_string(), admin.to_string()];
    let registry = Process::ours("muster").args(["standalone", "--data-dir", "data"]);
    let registry =
        registry.args(["--listen", &addresses[0], "--admin-listen", &addresses[1], BOUND[0], BOUND[1]]);
    registry.start();
    let client = Client::new(admin);
    eventually("the registry is ready", || async {
        (client.try_get("/ready").await?.status == 200).then_some(())
    })
    .await;
    is_bounded(api, admin).await;
}
