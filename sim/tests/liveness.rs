//! Gateways answer heartbeats, and the bus, the gateways and the publisher fail: no instance that beats is
//! ended, and each that stopped is.

use std::time::Duration;

use sim::liveness::{explore, longest_delay};

/// Seeds of a usual run, and with `MUSTER_TEST_LONG`.
const SEEDS: u64 = 400;
const MANY_SEEDS: u64 = 20_000;
/// Later seeds that found a defect: an instance that stopped was asked about for ever, and never ended.
const REGRESSIONS: [u64; 2] = [1393, 1951];

#[test]
fn no_instance_that_beats_is_ended_and_each_that_stopped_is() {
    let seeds = if std::env::var_os("MUSTER_TEST_LONG").is_some() { MANY_SEEDS } else { SEEDS };
    let failed: Vec<String> = (0..seeds).chain(REGRESSIONS).filter_map(|seed| explore(seed).err()).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed, such as:\n{}", failed.len(), failed[0]);
}

#[test]
fn without_faults_an_end_is_told_within_a_second() {
    for seed in 0..100 {
        let delay = longest_delay(seed).expect("judged right");
        assert!(delay <= Duration::from_secs(1), "seed {seed}: {delay:?}");
    }
}
