//! etcd and the ways to it: killed, cut off, compacted meanwhile.

use harness::World;
use harness::oracle::Holes;
use tokio::time::Instant;

use super::stage::{Stage, lasts, store};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn etcd_killed_and_restarted_loses_nothing() {
    let mut stage = Stage::set().await;
    stage.rounds(5).await;
    // An etcd that is back at once meets requests that are still in flight; one that was away for seconds
    // meets clients that wait before they connect again.
    for outage in [0.0, 4.0] {
        stage.world.etcd.kill();
        lasts(outage).await;
        stage.world.etcd.restart().await;
        stage.rounds(3).await;
    }
    let over = Instant::now();
    stage.rounds(3).await;
    lasts(1.0).await;
    stage.end("etcd killed twice", over, Holes::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn the_difference_across_a_compaction_is_told() {
    let mut stage = Stage::set().await;
    stage.rounds(3).await;
    // Both control planes are cut off; what happens meanwhile is compacted away.
    for node in &stage.world.control_planes {
        store(node).cut().await;
    }
    stage.rounds(5).await;
    // The oracle must have seen these changes before they are compacted away: it could not read them later.
    let at = stage.oracle.truth.reaches().await;
    let mut client = etcd_client::Client::connect([stage.world.etcd.endpoint()], None).await.expect("etcd");
    client.compact(at.cast_signed(), None).await.expect("compacts");
    for node in &stage.world.control_planes {
        store(node).mend().await;
    }
    let over = Instant::now();
    for node in &stage.world.control_planes {
        // Proves that the compaction forced a listing. Otherwise the case might pass by an ordinary resume.
        node.process.line(&["the registry was listed", "again=true"], 0).await;
    }
    stage.rounds(3).await;
    stage.end("etcd compacted while both control planes were cut off", over, Holes::Merged).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_control_plane_that_listed_again_agrees_with_the_other() {
    let plan = World::with().gateway_flag("--watch-digest-interval", "2s");
    let mut stage = Stage::set_with(plan, None).await;
    let publisher = stage.world.publisher().await.api;
    for (number, publishes) in [(0, true), (1, false)] {
        // Once the one that publishes, once the other.
        let now = stage.world.publisher().await.api;
        let node = stage.world.control_planes.iter().find(|node| (node.api == now) == publishes);
        let node = node.expect("two control planes, one publishes");
        store(node).cut().await;
        stage.burst.rounds(4).await.expect("etcd is there");
        let at = stage.oracle.truth.reaches().await;
        let mut client =
            etcd_client::Client::connect([stage.world.etcd.endpoint()], None).await.expect("etcd");
        client.compact(at.cast_signed(), None).await.expect("compacts");
        let from = node.process.log().len();
        store(node).mend().await;
        node.process.line(&["the registry was listed", "again=true"], from).await;
        stage.burst.rounds(2).await.expect("etcd is there");
        tracing::debug!(number, %publisher, "listed again");
    }
    let over = Instant::now();
    stage.rounds(2).await;
    // Longer than the digest interval, so that at least one comparison follows the last change.
    lasts(3.0).await;
    stage.end("one control plane at a time cut off and compacted past", over, Holes::Merged).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn an_etcd_without_space_refuses_writes_and_loses_nothing() {
    // 32 MiB: plenty for the registry, and full after about thirty values of one MiB.
    let plan = World::with().etcd_argument("--quota-backend-bytes").etcd_argument("33554432");
    let mut stage = Stage::set_with(plan, None).await;
    stage.rounds(3).await;
    let endpoint = stage.world.etcd.endpoint();
    let mut client = etcd_client::Client::connect([&endpoint], None).await.expect("etcd");
    let mut filled = 0;
    while client.put(format!("/filler/{filled}"), vec![b'x'; 1 << 20], None).await.is_ok() {
        filled += 1;
        assert!(filled < 100, "the quota is small");
    }
    let consumer = stage.world.client(0);
    let stamp = stage.oracle.ledger.stamp();
    let status = harness::load::register(&consumer, &stage.providers[0], "no-room", 600, stamp).await;
    assert!(status.is_some_and(|status| status >= 500), "a write without room is refused: {status:?}");
    // Longer than the two seconds of the load's short leases: some of them end while there is no room.
    lasts(4.0).await;
    // The steps of an operator: remove keys, compact, defragment, disarm the alarm.
    let prefix = etcd_client::DeleteOptions::new().with_prefix();
    client.delete("/filler/", Some(prefix)).await.expect("deletes need no room");
    let at = stage.oracle.truth.reaches().await;
    // Until it is done: what a compaction has yet to remove keeps its room when space is given back.
    let done = etcd_client::CompactionOptions::new().with_physical();
    client.compact(at.cast_signed(), Some(done)).await.expect("compacts");
    client.defragment().await.expect("gives space back");
    let space = etcd_client::AlarmType::Nospace;
    let raised = client.alarm(etcd_client::AlarmAction::Get, space, None).await.expect("tells alarms");
    for alarm in raised.alarms() {
        let mut member = etcd_client::AlarmOptions::new();
        member.with_member(alarm.member_id());
        let off = etcd_client::AlarmAction::Deactivate;
        client.alarm(off, space, Some(member)).await.expect("disarms");
    }
    let over = Instant::now();
    stage.rounds(3).await;
    lasts(1.0).await;
    stage.end("etcd out of space for 4 s, then disarmed", over, Holes::Lost).await;
}
