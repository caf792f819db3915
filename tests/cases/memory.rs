//! A gateway at its memory limit serves open watches and refuses new ones until memory is free again. Names
//! that do not exist cost it little, and nothing for long.

use std::path::Path;

use harness::{Client, Node, Pair, Watcher, World, eventually};
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

/// Watches of a round, and the made-up names in each.
const WATCHES: usize = 200;
const NAMES: usize = 400;

/// Resident memory of a gateway in MiB.
fn resident(gateway: &Node) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "two minutes; it prints figures: cargo test -p integration-tests --test cases memory:: -- --ignored --nocapture"]
async fn memory_comes_back_after_watches_of_made_up_names() {
    let world = World::with().start().await;
    let gateway = &world.gateways[0];
    let before = resident(gateway);
    println!("before: {before:.1} MiB");
    let mut held = Vec::new();
    let mut left = Vec::new();
    for round in 0..6 {
        let mut watches = Vec::new();
        for _ in 0..WATCHES {
            let names: Vec<String> = (0..NAMES).map(|_| format!("{:032x}", fastrand::u128(..))).collect();
            // Another made-up consumer each time, so that its own bound does not hold them back.
            let consumer = format!("{:032x}", fastrand::u128(..));
            let path = format!("microservices/{consumer}/watcher?rev=0&providers={}", names.join(","));
            watches.push(Watcher::try_open(gateway.api, &path).await);
        }
        let admitted = watches.iter().flatten().count();
        let names = eventually("the names are counted", || async {
            let names = gateway.metric("muster_edge_names", "").await;
            (names > 0.0).then_some(names)
        })
        .await;
        held.push(resident(gateway));
        drop(watches);
        eventually("no name is held", || async {
            (gateway.metric("muster_edge_names", "").await == 0.0).then_some(())
        })
        .await;
        left.push(resident(gateway));
        println!(
            "round {round}: {admitted} of {WATCHES} watches with {NAMES} names each admitted, {names} names; \
             {:.1} MiB while they are open, {:.1} MiB after they have ended",
            held[round], left[round]
        );
    }
    assert_eq!(
        gateway.metric("muster_edge_topics", "").await,
        0.0,
        "nothing is followed that does not exist"
    );
    // Allocators keep what was used once, so the first round counts as what the process is like in use.
    assert!(left[5] < left[0] + 20.0, "it grows with each round: {left:?}");
    assert!(held[5] < before + 150.0, "names are bounded: {held:?}");
}
