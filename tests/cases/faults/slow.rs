//! Those who do not read.

use harness::oracle::{Holes, Witness};
use tokio::time::Instant;

use super::stage::{Stage, lasts, long};

/// Receive buffer of those that stall, so that the gateway notices soon.
const SMALL: u32 = 4096;

/// Those of one provider, which alone is written to: what they do not read must be more than sockets keep.
fn stalling(stage: &Stage) -> impl Iterator<Item = &Witness> {
    let all = stage.oracle.witnesses.iter().filter(|witness| witness.mind.receive_buffer.is_some());
    all.filter(|witness| witness.mind.services.contains(&stage.providers[0]))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn who_stops_reading_gets_the_final_state_and_delays_nobody() {
    let gateway = [("--watch-write-timeout", "5m"), ("--watch-slow-after", "64KiB")];
    let mut stage = Stage::set_with(&[], &gateway, Some(SMALL)).await;
    stage.write_to_one().await;
    let stopped = stalling(&stage).count();
    assert!(stopped >= 6, "{stopped}");
    stalling(&stage).for_each(|witness| witness.read(false));
    // Loopback sockets keep megabytes; so much that it does not fit is written.
    for _ in 0..if long() { 60 } else { 8 } {
        stage.rounds(100).await;
        lasts(0.5).await;
    }
    let over = Instant::now();
    stalling(&stage).for_each(|witness| witness.read(true));
    let merged = stage.of_gateways("muster_edge_merging_watchers_total", "").await;
    let (verdict, stage) = stage.end("watchers that stop reading", over, Holes::Merged).await;
    assert!(merged > 0.0, "they were slow enough to be merged");
    assert_eq!(verdict.reconnects, 0, "nobody was closed");
    let beside = |w: &&Witness| {
        w.mind.receive_buffer.is_none() && w.mind.whole && w.mind.services.contains(&stage.providers[0])
    };
    let others = stage.oracle.witnesses.iter().filter(beside);
    let total = others.map(|w| w.look(|it| it.segments[0].sights.len())).min();
    assert!(total >= Some(13 * 800), "the others were told everything: {total:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn who_does_not_read_for_the_write_deadline_is_closed_and_comes_back() {
    let gateway = [("--watch-write-timeout", "1s"), ("--watch-slow-after", "64KiB")];
    let mut stage = Stage::set_with(&[], &gateway, Some(SMALL)).await;
    stage.write_to_one().await;
    let stopped = stalling(&stage).count();
    stalling(&stage).for_each(|witness| witness.read(false));
    for _ in 0..8 {
        stage.rounds(100).await;
        lasts(0.5).await;
    }
    harness::eventually("they are closed", || async {
        let closed = stage.of_gateways("muster_edge_sessions_closed_total", "write_timeout").await;
        (closed >= stopped as f64).then_some(())
    })
    .await;
    let over = Instant::now();
    stalling(&stage).for_each(|witness| witness.read(true));
    let (verdict, _) =
        stage.end("watchers that do not read for the write deadline", over, Holes::Merged).await;
    assert!(verdict.reconnects >= stopped, "they came back");
}
