//! Bodies that break off, have no end, or are too much of something.

use std::io;
use std::sync::LazyLock;

use tokio::io::AsyncWriteExt as _;

use super::visit::{ATTEMPT, Visit, hold, hold_for, post, request};

/// Heartbeats in one request.
const HEARTBEATS: usize = 20_000;

// Large requests are made once: making one anew each time would take the cores from the programs under test.
static LARGE_INSTANCE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let padding = "x".repeat(1_100_000);
    let body = format!(
        r#"{{"service":{{"serviceName":"s","version":"1.0.0"}},"instances":[{{"hostName":"h","properties":{{"p":"{padding}"}}}}]}}"#
    );
    post("/microservices", body.len(), &body)
});

static REPEATED_QUERY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let one = r#"{"service":{"appId":"shop","serviceName":"provider-0","version":"0+"}}"#;
    let body = format!(r#"{{"services":[{}]}}"#, vec![one; 3000].join(","));
    post("/instances/action?type=query", body.len(), &body)
});

static UNKNOWN_HEARTBEATS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let all: Vec<String> =
        (0..HEARTBEATS).map(|number| format!(r#"{{"serviceId":"s{number}","instanceId":"i"}}"#)).collect();
    let body = format!(r#"{{"instances":[{}]}}"#, all.join(","));
    request("PUT", "/heartbeats", "", body.len(), &body)
});

pub(super) async fn broken(visit: &Visit) -> io::Result<()> {
    visit.connect().await?.write_all(&post("/microservices", 100_000, r#"{"service":"#)).await
}

pub(super) async fn endless(visit: &Visit) -> io::Result<()> {
    let mut stream = visit.connect().await?;
    stream.write_all(&post("/microservices", 2, "{")).await?;
    // To the end of the attempt, so that all of its clients are there at once.
    hold_for(&mut stream, ATTEMPT).await;
    Ok(())
}

pub(super) async fn large_instance(visit: &Visit) -> io::Result<()> {
    send(visit, &LARGE_INSTANCE).await
}

pub(super) async fn repeated_query(visit: &Visit) -> io::Result<()> {
    send(visit, &REPEATED_QUERY).await
}

pub(super) async fn heartbeats(visit: &Visit) -> io::Result<()> {
    send(visit, &UNKNOWN_HEARTBEATS).await
}

async fn send(visit: &Visit, request: &[u8]) -> io::Result<()> {
    let mut stream = visit.connect().await?;
    stream.write_all(request).await?;
    hold(&mut stream).await;
    Ok(())
}
