//! Watchers that do not read.

use std::net::SocketAddr;
use std::time::Duration;

use harness::World;
use harness::oracle::{Holes, Way, Witness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::stage::{Stage, lasts, long};

/// Receive buffer of those that stall, so that the gateway notices soon.
const SMALL: u32 = 4096;

/// The stalling watchers of one provider. Only that provider is written to, so that more bytes pile up than
/// sockets hold.
fn stalling(stage: &Stage) -> impl Iterator<Item = &Witness> {
    let all = stage.oracle.witnesses.iter().filter(|witness| witness.plan.receive_buffer.is_some());
    all.filter(|witness| witness.plan.services.contains(&stage.providers[0]))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_watcher_that_stops_reading_delays_nobody() {
    // The write deadline lies beyond the end of the case: a stalled watcher is to be merged, not closed.
    let plan =
        World::with().gateway_flag("--watch-write-timeout", "5m").gateway_flag("--watch-slow-after", "64KiB");
    let mut stage = Stage::set_with(plan, Some(SMALL)).await;
    stage.write_to_one().await;
    let stopped = stalling(&stage).count();
    // Of each provider's watchers, the four with the numbers 10, 11, 20 and 21 stall.
    assert!(stopped >= 4, "{stopped}");
    stalling(&stage).for_each(|witness| witness.read(false));
    // Loopback sockets keep megabytes; so much that it does not fit is written.
    for _ in 0..if long() { 60 } else { 8 } {
        stage.rounds(100).await;
        lasts(0.5).await;
    }
    let over = Instant::now();
    stalling(&stage).for_each(|witness| witness.read(true));
    let merged = stage.of_gateways("muster_edge_merging_watchers_total", "").await;
    let (verdict, stage) = stage.end("watchers that stop reading and go on", over, Holes::Merged).await;
    assert!(merged > 0.0, "they were slow enough to be merged");
    assert_eq!(verdict.reconnects, 0, "nobody was closed");
    let others = readers(&stage).filter(|witness| witness.plan.services.contains(&stage.providers[0]));
    let total = others.map(|witness| witness.look(|record| record.segments[0].sights.len())).min();
    // Thirteen instances, each changed in eight turns of a hundred rounds.
    assert!(total >= Some(13 * 800), "the others were told everything: {total:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_watcher_past_the_write_deadline_is_closed_and_comes_back() {
    // One second, so that the stalled watchers are closed while the burst is still being written.
    let plan =
        World::with().gateway_flag("--watch-write-timeout", "1s").gateway_flag("--watch-slow-after", "64KiB");
    let mut stage = Stage::set_with(plan, Some(SMALL)).await;
    stage.write_to_one().await;
    let stopped = stalling(&stage).count();
    stalling(&stage).for_each(|witness| witness.read(false));
    for _ in 0..8 {
        stage.rounds(100).await;
        lasts(0.5).await;
    }
    harness::eventually("they are closed", || async {
        let closed =
            stage.of_gateways("muster_edge_sessions_closed_total", r#"reason="write_timeout""#).await;
        (closed >= stopped as f64).then_some(())
    })
    .await;
    let over = Instant::now();
    stalling(&stage).for_each(|witness| witness.read(true));
    let (verdict, _) =
        stage.end("watchers that do not read for the write deadline", over, Holes::Merged).await;
    assert!(verdict.reconnects >= stopped, "they came back");
}

/// Readers that stop at once.
const STOPPED: usize = 1000;

/// A watch of an old client that is granted and then not read.
async fn silent(gateway: SocketAddr, consumer: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(SMALL).expect("a small buffer");
    let mut stream = socket.connect(gateway).await.expect("connects");
    // Written by hand: a WebSocket client would read ahead into buffers of its own.
    let request = format!(
        "GET /v4/default/registry/microservices/{consumer}/watcher HTTP/1.1\r\nHost: test\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
    stream
}

/// Resident memory of a process in MiB.
fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// The old clients that never stop reading.
fn readers(stage: &Stage) -> impl Iterator<Item = &Witness> {
    let all = stage.oracle.witnesses.iter();
    all.filter(|witness| {
        witness.plan.receive_buffer.is_none() && witness.plan.way == Way::Old && witness.plan.whole
    })
}

/// The delays between stamp and frame of those that read, for stamps after `from`: half of them, 99 of 100,
/// and the worst.
fn latency(stage: &Stage, from: Instant) -> [Duration; 3] {
    summary(delays(stage, from, Instant::now()))
}

/// The delays between stamp and frame of those that read, for stamps of this time.
pub(super) fn delays(stage: &Stage, from: Instant, to: Instant) -> Vec<Duration> {
    let mut delays: Vec<Duration> = Vec::new();
    for witness in readers(stage) {
        witness.look(|record| {
            for sight in record.segments.iter().flat_map(|segment| &segment.sights) {
                let given = stage.oracle.ledger.given(sight.stamp);
                if let Some(given) = given.filter(|given| (from..to).contains(given)) {
                    delays.push(sight.at.saturating_duration_since(given));
                }
            }
        });
    }
    delays
}

/// Half of these delays, 99 of 100, and the worst.
pub(super) fn summary(mut delays: Vec<Duration>) -> [Duration; 3] {
    delays.sort();
    [delays[delays.len() / 2], delays[delays.len() * 99 / 100], delays[delays.len() - 1]]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_thousand_that_stop_reading_cost_bounded_memory() {
    let plan =
        World::with().gateway_flag("--watch-write-timeout", "5m").gateway_flag("--watch-slow-after", "64KiB");
    let mut stage = Stage::set_with(plan, None).await;
    lasts(2.0).await;
    // Only the burst is measured.
    stage.stop_load().await;
    let consumer = stage.oracle.witnesses[0].plan.consumer.clone();
    let api = stage.world.gateways[0].api;
    let pid = stage.world.gateways[0].process.pid();
    let mut stopped = Vec::new();
    for _ in 0..STOPPED / 50 {
        stopped.extend(futures_util::future::join_all((0..50).map(|_| silent(api, &consumer))).await);
    }
    stage.write_to_one().await;
    stage.burst.pad(1024);
    lasts(2.0).await;
    // Before: what little is written still fits into the sockets of those that do not read.
    let quiet = Instant::now();
    for _ in 0..5 {
        stage.rounds(1).await;
        lasts(0.1).await;
    }
    lasts(1.0).await;
    let before = latency(&stage, quiet);
    // Kernel buffers take megabytes; past them the gateway holds what is pending.
    let mut merging = 0.0;
    for _ in 0..60 {
        stage.rounds(10).await;
        lasts(0.5).await;
        // The figure decides and not a time, because the size of kernel buffers differs between machines.
        merging = stage.of_gateways("muster_edge_merging_watchers_total", "").await;
        if merging >= STOPPED as f64 {
            break;
        }
    }
    assert!(merging >= STOPPED as f64, "all of them are merged: {merging}");
    // Measured once all are merged, so that only the growth by further changes is judged.
    let full = memory(pid);
    lasts(1.0).await;
    let loud = Instant::now();
    for _ in 0..20 {
        stage.rounds(5).await;
        lasts(0.4).await;
    }
    lasts(1.0).await;
    let during = latency(&stage, loud);
    let after = memory(pid);
    println!(
        "  {STOPPED} stopped: others' delay p50 {:.0?} max {:.0?} before, p50 {:.0?} max {:.0?} during; \
         gateway {full:.0} MiB when all were merged, {after:.0} MiB after 1300 more changes",
        before[0], before[2], during[0], during[2]
    );
    // By distinct instances, of which there are thirteen: a copy of each for each of them would be 17 MiB.
    assert!(after < full + 16.0, "memory grows with changes: {full} to {after} MiB");
    let over = Instant::now();
    let (verdict, _) = stage.end("a thousand more watchers that stop reading", over, Holes::Merged).await;
    assert_eq!(verdict.reconnects, 0);
}
