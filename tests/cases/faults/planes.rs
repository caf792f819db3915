//! Control planes and gateways die and come back.

use std::path::Path;

use harness::oracle::{ChangeKind, Holes, Witness};
use harness::{Node, World};
use tokio::time::Instant;

use super::stage::{Stage, lasts};

/// Rounds over all fixed instances that make ten thousand changes.
// Eight providers with thirteen fixed instances each make 104 changes a round.
const TEN_THOUSAND: usize = 97;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn a_publisher_killed_in_a_burst_of_ten_thousand_loses_nothing() {
    let mut stage = Stage::set().await;
    stage.rounds(TEN_THOUSAND / 2).await;
    // In the middle of the burst: the successor finds changes that were published, changes that were not, and
    // more that come while it takes over.
    stage.world.publisher().await.process.kill();
    let over = Instant::now();
    stage.rounds(TEN_THOUSAND - TEN_THOUSAND / 2).await;
    lasts(1.0).await;
    stage.end("publisher killed in a burst of ten thousand", over, Holes::Lost).await;
}

/// Silences the publisher three times, each time for less than its seat lasts. Delays count from the commits.
async fn silence(fault: &str, begin: impl Fn(&Node), end: impl Fn(&Node)) {
    let mut stage = Stage::set().await;
    let over = Instant::now();
    for _ in 0..3 {
        // By its number, because the whole stage is needed to write.
        let publisher = stage.world.publisher().await.api;
        let mut nodes = stage.world.control_planes.iter();
        let number = nodes.position(|node| node.api == publisher).expect("one of the control planes");
        begin(&stage.world.control_planes[number]);
        for _ in 0..8 {
            stage.rounds(1).await;
            lasts(0.25).await;
        }
        end(&stage.world.control_planes[number]);
        stage.world.control_planes[number].ready().await;
        lasts(1.0).await;
    }
    stage.end(fault, over, Holes::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn changes_are_told_while_a_dead_publisher_has_the_seat() {
    silence(
        "publisher killed (`kill -9`) three times",
        |node| node.process.kill(),
        |node| node.process.start(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn changes_are_told_while_the_publisher_stands_still() {
    silence(
        "publisher stopped (SIGSTOP) three times",
        |node| node.process.freeze(),
        |node| node.process.thaw(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn control_planes_restarted_in_turn_lose_nothing() {
    let mut stage = Stage::set().await;
    for number in [0, 1] {
        stage.rounds(3).await;
        let node = &stage.world.control_planes[number];
        assert_eq!(node.process.terminate().await, Some(0), "a drain ends well");
        stage.burst.rounds(3).await.expect("etcd is there");
        node.process.start();
        // The second one ends only when the first is ready again, as in a rolling upgrade. Otherwise no
        // replica would be left to answer.
        node.ready().await;
    }
    let over = Instant::now();
    stage.rounds(3).await;
    lasts(1.0).await;
    stage.end("control planes restarted in turn", over, Holes::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn ends_while_all_control_planes_are_down_are_told_after() {
    let mut stage = Stage::set().await;
    let outage = if super::stage::long() { 30.0 } else { 6.0 };
    let client = stage.world.client(0);
    for number in 0..20 {
        let stamp = stage.oracle.ledger.stamp();
        let service = &stage.providers[number % stage.providers.len()];
        let id = format!("expires-{number}");
        // Three seconds: enough to register all twenty before the kill, and over well before the outage ends.
        let status = harness::load::register(&client, service, &id, 3, stamp).await;
        assert_eq!(status, Some(200));
    }
    for node in &stage.world.control_planes {
        node.process.kill();
    }
    stage.rounds(3).await;
    lasts(outage).await;
    for node in &stage.world.control_planes {
        node.process.start();
    }
    let over = Instant::now();
    for node in &stage.world.control_planes {
        node.ready().await;
    }
    stage.rounds(2).await;
    // Control planes that start list the store. A listing shows a state, so changes that followed each other
    // during the outage may arrive as one.
    let (_, stage) = stage
        .end(&format!("all control planes killed, {outage} s, leases expire"), over, Holes::Merged)
        .await;
    for witness in &stage.oracle.witnesses {
        // A watch that resumes may receive a state instead, in which the expired instances are simply absent.
        if witness.plan.whole && !witness.plan.way.resumes() {
            assert!(has_seen_a_delete(witness), "a watcher was not sent the expiry");
        }
    }
}

fn has_seen_a_delete(witness: &Witness) -> bool {
    witness.look(|record| {
        let mut sights = record.segments.iter().flat_map(|segment| &segment.sights);
        sights.any(|sight| sight.kind == ChangeKind::Delete)
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn watchers_of_a_gateway_that_was_killed_go_to_the_other_one() {
    let mut stage = Stage::set().await;
    stage.rounds(10).await;
    stage.world.gateways[0].process.kill();
    let over = Instant::now();
    stage.rounds(20).await;
    lasts(1.0).await;
    stage.world.gateways[0].process.start();
    let (verdict, _) = stage.end("gateway killed, half of the watchers reconnect", over, Holes::Lost).await;
    // Of each provider's 26 watchers with an old protocol, 13 begin at the gateway that was killed: 104 in
    // all.
    assert!(verdict.reconnects >= 100, "half of the watchers moved");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn without_a_fault_every_change_is_delivered() {
    let mut stage = Stage::set().await;
    for _ in 0..10 {
        stage.rounds(2).await;
        lasts(0.5).await;
    }
    let over = Instant::now();
    // A watcher that stays connected must not miss even an instance that came and went.
    stage.oracle.witnesses.iter_mut().for_each(|witness| witness.plan.passing.clear());
    stage.end("none", over, Holes::Lost).await;
}

/// The library that lies about the time, from the package `libfaketime`.
const LIAR: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn clocks_that_jump_by_hours_change_nothing() {
    if !Path::new(LIAR).exists() {
        eprintln!("skipped: libfaketime is not installed");
        return;
    }
    // Wall clocks jump as when somebody sets them; the monotonic clock, by definition, does not.
    let environment = [
        ("LD_PRELOAD", LIAR),
        ("FAKETIME_TIMESTAMP_FILE", "clock"),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut plan = World::with();
    for (name, value) in environment {
        plan = plan.variable(name, value);
    }
    let mut stage = Stage::set_with(plan, None).await;
    // A killed process leaves the library's shared memory behind. The processes have it open, so its name can
    // be removed now.
    for node in stage.world.control_planes.iter().chain(&stage.world.gateways) {
        let pid = node.process.pid();
        for name in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
            _ = std::fs::remove_file(name);
        }
    }
    // At any time the processes have different offsets: a jump that all of them share could cancel out.
    let offsets = ["+3h", "-5h", "-30d", "+400d", "+0"];
    for turn in 0..offsets.len() {
        let nodes = stage.world.control_planes.iter().chain(&stage.world.gateways);
        for (number, node) in nodes.enumerate() {
            let offset = offsets[(turn + number) % offsets.len()];
            std::fs::write(node.process.directory().join("clock"), offset).expect("a writable directory");
        }
        stage.rounds(2).await;
        // Longer than the second for which libfaketime caches an offset.
        lasts(2.0).await;
    }
    let over = Instant::now();
    stage.rounds(2).await;
    lasts(1.0).await;
    stage.end("wall clocks of our programs jumped by hours and months, five times", over, Holes::Lost).await;
}
