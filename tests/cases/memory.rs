//! A gateway at its memory limit serves open watches and refuses new ones until memory is free again.

use std::path::Path;

use harness::{Client, Pair, World, eventually};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Error;

use crate::operate::write;

/// Writes the configuration file of a gateway with this limit.
fn limit(directory: &Path, limit: &str) -> String {
    write(directory, "muster.toml", &format!("watch.memory = '{limit}'\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_at_its_memory_limit_accepts_no_further_watcher() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = limit(directory.path(), "0B");
    let world = World::with().gateway_flag("--config", &file).start().await;
    let gateway = &world.gateways[0];
    let registry = Client::new(gateway.api);
    // Opened before the limit is lowered: a watch that is open must be served on.
    let Pair { consumer, provider, watcher: mut inside } = world.pair(0).await;

    // No process is as small.
    limit(directory.path(), "1MiB");
    let url = format!("ws://{}/v4/default/registry/microservices/{consumer}/watcher?rev=0", gateway.api);
    let refusal = eventually("it lets nobody in", || async {
        match connect_async(&url).await {
            Err(Error::Http(answer)) => Some(answer),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    })
    .await;
    assert_eq!(refusal.status(), 503);
    assert!(refusal.headers().contains_key("retry-after"));
    let body = String::from_utf8(refusal.body().clone().unwrap_or_default()).expect("text");
    assert!(body.contains("as much memory as it may"), "{body}");
    assert!(gateway.metric("muster_edge_sessions_refused_total", r#"limit="memory""#).await > 0.0);
    registry.instance(&provider, "i").await;
    inside.expect("CREATE", "i", "").await;

    limit(directory.path(), "64GiB");
    eventually("it lets watchers in again", || async { connect_async(&url).await.ok() }).await;
    gateway.process.line(&["memory is below its limit"], 0).await;
}
