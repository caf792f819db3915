//! Honest clients with hostile ones beside them, and without.

use std::time::Duration;

use harness::oracle::Holes;
use harness::probes::Probes;
use tokio::time::Instant;

use super::slow::{delays, summary};
use super::stage::{Stage, lasts};

/// Phases of each kind. They take turns, so that what else the machine does meets both kinds.
const PHASES: usize = 3;
/// Rounds of the burst in a phase, half a second apart.
const ROUNDS: usize = 10;
/// The most that 99 of 100 delays beside hostile clients may be, as a multiple of those without.
const MOST: u32 = 2;
/// A delay that is not too long, whatever the quiet one is.
const FLOOR: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes of load on all cores: cargo xtask faults"]
async fn hostile_clients_make_no_honest_request_fail() {
    let mut stage = Stage::set().await;
    let probes = Probes::of(&stage.world);
    let [mut quiet, mut beside] = [Vec::new(), Vec::new()];
    // The first quiet phase is no more a beginning than the others are.
    lasts(3.0).await;
    for phase in 0..PHASES {
        stage.stop_hostile().await;
        // Until the programs have ended what the hostile clients left behind.
        lasts(2.0).await;
        quiet.extend(measured(&mut stage, phase, "without hostile clients").await);
        stage.start_hostile();
        lasts(1.0).await;
        beside.extend(measured(&mut stage, phase, "beside them").await);
    }
    let [quiet, beside] = [quiet, beside].map(summary);
    for (percentile, quiet, beside) in [("p50", quiet[0], beside[0]), ("p99", quiet[1], beside[1])] {
        let ratio = beside.as_secs_f64() / quiet.as_secs_f64();
        println!(
            "  delay {percentile}: {} ms without hostile clients, {} ms beside them ({ratio:.2})",
            quiet.as_millis(),
            beside.as_millis()
        );
    }
    let probed = probes.stop().await;
    println!("  probes of admin ports: {probed:?}");
    assert_eq!(probed.failed, 0, "a probe failed");
    assert_eq!(stage.failures(), 0, "an honest request failed");
    for reason in ["unsigned", "unknown_key", "forged"] {
        let refused = stage.of_gateways("muster_bus_refused_total", &format!(r#"reason="{reason}""#)).await;
        assert!(refused > 0.0, "no message was refused as {reason}");
    }
    let over = Instant::now();
    stage.end("none, hostile clients come and go", over, Holes::Lost).await;
    // Elsewhere no test asserts a time. This case has the machine to itself, and compares two kinds of phases of
    // one run.
    let most = (quiet[1] * MOST).max(FLOOR);
    assert!(beside[1] <= most, "p99 beside hostile clients is {:?}, more than {most:?}", beside[1]);
}

/// The delays of changes in one phase.
async fn measured(stage: &mut Stage, phase: usize, what: &str) -> Vec<Duration> {
    let from = Instant::now();
    for _ in 0..ROUNDS {
        stage.rounds(1).await;
        lasts(0.5).await;
    }
    let to = Instant::now();
    // Until the last of them have come.
    lasts(0.5).await;
    let delays = delays(stage, from, to);
    let [p50, p99, max] = summary(delays.clone());
    println!(
        "  phase {phase} {what}: {} deliveries, p50 {p50:.0?}, p99 {p99:.0?}, max {max:.0?}",
        delays.len()
    );
    delays
}
