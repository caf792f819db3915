//! NATS and the ways to it: down, cut, one-way, too fast, telling twice and in disorder.

use std::time::Duration;

use futures_util::StreamExt;
use harness::oracle::Holes;
use harness::{Direction, World};
use tokio::time::Instant;

use super::stage::{Stage, bus, lasts, long};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn nats_down_for_a_while_loses_nothing() {
    for outage in if long() { vec![10.0, 60.0] } else { vec![5.0] } {
        let mut stage = Stage::set().await;
        stage.rounds(5).await;
        // Killed rather than cut off: every connection ends in the same moment, so all programs reconnect
        // together.
        stage.world.nats.kill();
        stage.rounds(10).await;
        lasts(outage).await;
        stage.world.nats.restart().await;
        let over = Instant::now();
        stage.rounds(5).await;
        lasts(1.0).await;
        stage.end(&format!("NATS down {outage} s"), over, Holes::Lost).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_publisher_cut_off_again_and_again_in_a_burst_loses_nothing() {
    let mut stage = Stage::set().await;
    for _ in 0..6 {
        stage.rounds(8).await;
        // A cut link leaves the publisher alive, with messages that it could not send; a kill would test the
        // takeover by another one instead. The role may have moved since the last cut, so the publisher is
        // looked up again.
        let link = bus(stage.world.publisher().await);
        link.cut().await;
        stage.burst.rounds(2).await.expect("etcd is there");
        link.mend().await;
    }
    let over = Instant::now();
    lasts(1.0).await;
    stage.end("publisher cut off from NATS six times in a burst", over, Holes::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_one_way_partition_between_gateway_and_nats_loses_nothing() {
    let mut stage = Stage::set().await;
    // A one-way partition is harder to notice than a cut: no socket fails, and half of the traffic still
    // arrives.
    for direction in [Direction::ToClient, Direction::ToServer] {
        stage.rounds(3).await;
        let link = bus(&stage.world.gateways[0]);
        link.freeze(direction);
        stage.burst.rounds(10).await.expect("etcd is there");
        lasts(3.0).await;
        // Bytes on their way are lost, as when the network gives up.
        let link = bus(&stage.world.gateways[0]);
        link.cut().await;
        link.mend().await;
    }
    let over = Instant::now();
    stage.rounds(3).await;
    lasts(1.0).await;
    stage.end("one-way partition gateway – NATS, each way", over, Holes::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_gateway_that_nats_drops_as_slow_catches_up() {
    // By default NATS keeps 64 MiB for a slow client, which a case of some seconds does not fill.
    let nats = "max_pending: 1048576\nwrite_deadline: \"500ms\"\n";
    let mut stage = Stage::set_with(World::with().nats_configuration(nats), None).await;
    // Only later lines count: a resynchronisation from before the fault would prove nothing.
    let before = stage.world.gateways[0].process.log().len();
    stage.world.gateways[0].process.freeze();
    // Until it is more than the sockets on the way, the link and the server keep, and the server gives it up
    // by itself.
    stage.burst.pad(4096);
    for _ in 0..40 {
        if stage.world.nats.log().contains("Slow Consumer") {
            break;
        }
        stage.rounds(10).await;
    }
    stage.world.nats.line(&["Slow Consumer"], 0).await;
    // Small values again, so that the last rounds show the recovery and not the transfer of large events.
    stage.burst.pad(0);
    stage.world.gateways[0].process.thaw();
    let over = Instant::now();
    stage.rounds(3).await;
    lasts(1.0).await;
    // The loss shows by the broken connection or by a bookmark, whichever comes first.
    stage.world.gateways[0].process.line(&["resynchronising"], before).await;
    stage.end("gateway stopped, dropped by NATS as slow", over, Holes::Merged).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn the_last_event_lost_with_nothing_after_it_is_repaired() {
    // By bookmarks: a comparison would not come before the case has given up.
    let plan = World::with().gateway_flag("--watch-digest-interval", "1h");
    let mut stage = Stage::set_with(plan, None).await;
    lasts(2.0).await;
    stage.stop_load().await;
    // First the events alone, then also the bookmarks that name them. The connection stays up all the while.
    for lost in ["muster.event.", "muster.event.", "muster.", "muster."] {
        let link = bus(&stage.world.gateways[0]);
        let before = link.lost();
        link.lose(lost);
        stage.burst.rounds(1).await.expect("etcd is there");
        harness::eventually("events are lost", || async {
            (link.lost() >= before + stage.burst.len() as u64).then_some(())
        })
        .await;
        link.mend().await;
        // No further change: nothing but the repair can tell.
        let over = Instant::now();
        let verdict = stage.oracle.judge(Holes::Lost, over).await;
        verdict.hold("the last events lost, nothing after them, four times each");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn repeated_and_disordered_events_are_delivered_once_in_order() {
    let mut stage = Stage::set().await;
    let client = async_nats::connect(stage.world.nats.url()).await.expect("NATS is there");
    let mut events = client.subscribe("muster.event.>").await.expect("subscribes");
    // The channel is far larger than a case needs; it is bounded so that a broken case cannot take all
    // memory.
    let (captured, mut captures) = tokio::sync::mpsc::channel::<async_nats::Message>(100_000);
    let capture = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            // Full: enough was captured.
            _ = captured.try_send(event);
        }
    });
    let mut sent = 0_usize;
    for round in 0..10 {
        stage.rounds(4).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut again = Vec::new();
        while let Ok(event) = captures.try_recv() {
            again.push(event);
        }
        match round % 3 {
            0 => {}
            1 => again.reverse(),
            _ => fastrand::shuffle(&mut again),
        }
        // With their signatures, without which a copy is dropped for another reason. What hostile clients publish has
        // none that counts.
        for event in again.into_iter().take(2000) {
            sent += 1;
            let headers = event.headers.unwrap_or_default();
            client.publish_with_headers(event.subject, headers, event.payload).await.expect("publishes");
        }
        client.flush().await.expect("flushes");
        // This subscription receives the copies as well. They must not be sent a third time.
        tokio::time::sleep(Duration::from_millis(100)).await;
        while captures.try_recv().is_ok() {}
    }
    let over = Instant::now();
    capture.abort();
    println!("  injected {sent} copies");
    let (_, stage) = stage.end("copies injected, in order, reversed, shuffled", over, Holes::Lost).await;
    assert!(
        // Without this check the case would also pass when no copy had reached a gateway.
        stage.of_gateways("muster_edge_events_total", r#"fate="duplicate""#).await > 0.0,
        "copies arrived"
    );
}
