//! Clients that send as fast as they can: they are closed or tolerated, and no other watcher waits. Floods of
//! pings are in `hostile`.

use shared::event::Action::Update;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use crate::world::World;

/// A masked text of a few bytes, which is tolerated.
const TEXT: &[u8] = b"\x81\x84\0\0\0\0text";
/// The beginning of a message of a terabyte.
const ENDLESS: &[u8] = b"\x82\xff\0\0\x01\0\0\0\0\0\0\0\0\0";
/// Bytes that are not a frame.
const GARBAGE: &[u8] = b"\xffGET / HTTP/1.1\r\n\r\n";

fn closed(reason: &str) -> String {
    format!("muster_edge_sessions_closed_total{{reason=\"{reason}\"}}")
}

/// Opens a watch and sends the same bytes without ever reading, until the gateway closes the connection.
async fn flood(world: &World, what: &[u8]) -> impl Future<Output = ()> + Send + 'static {
    let mut watcher = world.watch("c").await;
    let batch = what.repeat(8 * 1024 / what.len());
    async move { while watcher.stream.get_mut().write_all(&batch).await.is_ok() {} }
}

#[tokio::test(flavor = "multi_thread")]
async fn flooding_clients_delay_nobody_else() {
    let world = World::with_consumer("c", &["p"]).await;
    // One watcher in each shard.
    let mut others = [world.watch("c").await, world.watch("c").await];
    let mut floods = JoinSet::new();
    for what in [GARBAGE, ENDLESS, TEXT] {
        floods.spawn(flood(&world, what).await);
    }
    for _ in 0..100 {
        let event = world.control_plane.change("p", Update, "i").await;
        for other in &mut others {
            other.expect(&event).await;
        }
    }
    world.until(&closed("protocol"), |count| count == 1.0).await;
    world.until(&closed("too_big"), |count| count == 1.0).await;
    for _ in 0..2 {
        floods
            .join_next()
            .await
            .expect("they end when the gateway has let them go")
            .expect("without a panic");
    }
    for _ in 0..100 {
        let event = world.control_plane.change("p", Update, "i").await;
        for other in &mut others {
            other.expect(&event).await;
        }
    }
}
