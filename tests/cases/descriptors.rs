//! A gateway without a free file descriptor: open watches are served; new connections wait and are not lost.

use std::net::TcpStream;

use harness::{Client, Pair, World};

/// Connections that get in before none is left.
const ROOM: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_out_of_descriptors_keeps_its_watchers_and_recovers() {
    let world = World::with().start().await;
    let registry = Client::new(world.control_planes[0].api);
    let Pair { consumer, provider, watcher: mut inside } = world.pair(0).await;
    registry.instance(&provider, "i").await;
    inside.expect("CREATE", "i", "").await;

    let gateway = &world.gateways[0];
    gateway.process.limit_files(gateway.process.files() + ROOM);
    // The kernel completes connections on behalf of the process, so connecting succeeds beyond the limit.
    let crowd: Vec<TcpStream> =
        (0..4 * ROOM).map(|_| TcpStream::connect(gateway.api).expect("the kernel takes it")).collect();
    gateway.process.line(&["cannot accept connections"], 0).await;
    for n in 0..20 {
        let tag = n.to_string();
        registry.tag(&provider, "i", &tag).await;
        inside.expect("UPDATE", "i", &tag).await;
    }

    drop(crowd);
    let mut outside = world.watch(0, &consumer).await;
    registry.unregister(&provider, "i").await;
    for watcher in [&mut inside, &mut outside] {
        watcher.expect("DELETE", "i", "19").await;
    }
}
