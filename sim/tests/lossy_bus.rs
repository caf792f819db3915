//! The bus loses messages and replicas reply late: every change is delivered once and in order.

use sim::lossy_bus::explore;

const SEEDS: u64 = 3000;

#[test]
fn over_a_lossy_bus_each_change_is_delivered_once() {
    let failed: Vec<String> = (0..SEEDS).filter_map(|seed| explore(seed).err()).collect();
    assert!(failed.is_empty(), "{} of {SEEDS} seeds failed, such as:\n{}", failed.len(), failed[0]);
}
