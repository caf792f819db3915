//! A process that was told to leave: load balancers see it on `/ready` before anything else changes.

use std::net::SocketAddr;

use harness::{Client, Pair, World, eventually};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Waits until a process says on its admin port that it leaves.
async fn leaves(admin: &Client) {
    eventually("/ready says that it leaves", || async {
        let answer = admin.try_get("/ready").await?;
        let report: Value = serde_json::from_slice(&answer.body).ok()?;
        (answer.status == 503 && report["draining"] == true).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_gateway_serves_until_balancers_have_seen_it() {
    // The longest delay there is: the test ends the processes long before.
    let world = World::with().planes(1).gateways(2).gateway_flag("--drain-delay", "5m").start().await;
    let client = world.client(0);
    let Pair { consumer, provider, mut watcher } = world.pair(0).await;
    let leaving = &world.gateways[0];
    eventually("the gateway has heard of the other one", || async {
        (leaving.try_metric("muster_edge_other_gateways_ready", "").await? >= 1.0).then_some(())
    })
    .await;
    leaving.process.begin_to_terminate();
    leaves(&Client::new(leaving.admin)).await;
    // A balancer that has not asked yet sends new watches and requests here.
    let mut newcomer = world.watch(0, &consumer).await;
    client.instance(&provider, "i").await;
    watcher.expect("CREATE", "i", "").await;
    newcomer.expect("CREATE", "i", "").await;
    // A second signal waits for nothing.
    leaving.process.begin_to_terminate();
    assert_eq!(leaving.process.ended().await, Some(1), "its watchers were cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_knows_of_no_other_does_not_wait() {
    let world = World::with().planes(1).gateways(1).gateway_flag("--drain-delay", "5m").start().await;
    assert_eq!(world.gateways[0].process.terminate().await, Some(0), "a drain ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_control_plane_serves_until_balancers_have_seen_it() {
    let world = World::with().planes(2).gateways(0).plane_flag("--drain-delay", "5m").start().await;
    let leaving = &world.control_planes[0];
    leaving.process.begin_to_terminate();
    leaves(&Client::new(leaving.admin)).await;
    let client = Client::new(leaving.api);
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
}

/// A client that never sends the second byte of its body.
async fn half_a_body(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let head = format!("{request} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 2\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.expect("writes");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_makes_a_process_end_with_an_error() {
    let world =
        World::with().planes(1).gateways(1).plane_flag("--grace", "3s").gateway_flag("--grace", "3s").start();
    let world = world.await;
    let mut waiting = Vec::new();
    for node in world.nodes() {
        waiting.push(half_a_body(node.api, "POST /v4/default/registry/microservices").await);
        waiting.push(half_a_body(node.admin, "GET /live").await);
        // Listeners accept in order, so both are accepted when these later ones are answered.
        for (address, path) in [(node.api, "/version"), (node.admin, "/live")] {
            Client::new(address).get(path).await;
        }
    }
    // Gateways first, which need their control plane to the end.
    for node in world.gateways.iter().chain(&world.control_planes) {
        assert_eq!(node.process.terminate().await, Some(0), "{}", node.process.log());
    }
}
