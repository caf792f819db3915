//! Watches of ever other consumers begin at one gateway: nobody is held back, and nobody is promised too much.

use sim::crowd::explore;

/// Seeds of a usual run, and with `MUSTER_TEST_LONG`.
const SEEDS: u64 = 2000;
const MANY_SEEDS: u64 = 50_000;

#[test]
fn groups_that_keep_coming_hold_back_nobody_and_nothing_is_lost() {
    let seeds = if std::env::var_os("MUSTER_TEST_LONG").is_some() { MANY_SEEDS } else { SEEDS };
    let failed: Vec<String> = (0..seeds).filter_map(|seed| explore(seed).err()).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed, such as:\n{}", failed.len(), failed[0]);
}
