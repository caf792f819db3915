//! The simulation of a reconnect storm: watchers lose their gateway and come back, each by itself.
//!
//! ```text
//! lost ──jitter──▶ connecting ──backlog──▶ a gateway's cores ──▶ open
//!                      ▲  └─full: the kernel drops the call, TCP calls again after 1, 2, 4 s
//!                      └──backoff── no answer in time
//! ```
//! One gateway stands for all, as the load balancer deals watchers out evenly. It promises: the same seed
//! gives the same story, and every watcher is open exactly once in the end.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;
use hdrhistogram::Histogram;

/// A storm; times in microseconds.
#[derive(Clone, Debug)]
pub struct Storm {
    /// Watchers that come to one gateway.
    pub watchers: u32,
    /// Over what time they were ended.
    pub over: f64,
    /// The longest time that a client waits before its first try.
    pub jitter: f64,
    /// CPU of the gateway for one.
    pub open: f64,
    /// Cores of the gateway.
    pub cores: u32,
    /// Connections that the kernel holds for the gateway to accept.
    pub backlog: usize,
    /// The time that a client waits for its answer.
    pub patience: f64,
    /// The first pause after a failure; it doubles up to thirty times that, each with a jitter of a half.
    pub backoff: f64,
    /// Tries that a client has under way: less than all for one that opens many watches.
    pub at_once: Option<u32>,
}

/// The outcome. Times are in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// From the first loss to the last one back.
    pub steady: f64,
    /// The time that a watcher was away.
    pub away_p50: f64,
    /// The same of the slowest hundredth.
    pub away_p99: f64,
    /// Calls that found the backlog full.
    pub dropped: u64,
    /// Tries given up by their client, the work for them wasted.
    pub given_up: u64,
    /// Connections that waited to be accepted, at most.
    pub queue: usize,
}

/// First and longest time after which TCP calls again.
const FIRST_CALL_AGAIN: f64 = 1e6;
const CALLS: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The watcher calls; the how-manieth call of this try.
    Call(u32, u32),
    /// A core is done with the watcher's try that began then.
    Done(u32, u64),
}

struct Watcher {
    lost: f64,
    /// When its current try began; none when it is open.
    trying: Option<u64>,
    failures: i32,
}

/// Plays it.
///
/// # Panics
/// When a watcher was lost or opened twice: the simulation would be wrong.
pub fn play(storm: &Storm, seed: u64) -> Outcome {
    let mut dice = Rng::with_seed(seed);
    let mut order = 0_u64;
    let mut agenda: BinaryHeap<Reverse<(u64, u64, What)>> = BinaryHeap::new();
    let mut at = |agenda: &mut BinaryHeap<_>, time: f64, what: What| {
        order += 1;
        agenda.push(Reverse((time.max(0.0) as u64, order, what)));
    };
    let mut watchers = Vec::new();
    for number in 0..storm.watchers {
        // A drain closes connections at an even pace; a death closes all at once (`over` is zero).
        let lost = storm.over * f64::from(number) / f64::from(storm.watchers.max(1));
        watchers.push(Watcher { lost, trying: None, failures: 0 });
    }
    let mut waiting_to_try: VecDeque<u32> = VecDeque::new();
    for number in 0..storm.watchers {
        if storm.at_once.is_some_and(|most| number >= most) {
            waiting_to_try.push_back(number);
        } else {
            let first = watchers[number as usize].lost + storm.jitter * dice.f64();
            at(&mut agenda, first, What::Call(number, 0));
        }
    }
    let (mut backlog, mut idle): (VecDeque<(u32, u64)>, u32) = (VecDeque::new(), storm.cores);
    let mut away = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order");
    let mut outcome =
        Outcome { steady: 0.0, away_p50: 0.0, away_p99: 0.0, dropped: 0, given_up: 0, queue: 0 };
    let mut open = 0_u32;
    while let Some(Reverse((now, _, what))) = agenda.pop() {
        let time = now as f64;
        match what {
            What::Call(number, calls) => {
                let watcher = &mut watchers[number as usize];
                // Further calls of TCP belong to the same try: the client's patience counts from
                // the first one.
                let began =
                    if calls == 0 { *watcher.trying.insert(now) } else { watcher.trying.unwrap_or(now) };
                if backlog.len() < storm.backlog {
                    backlog.push_back((number, began));
                    outcome.queue = outcome.queue.max(backlog.len());
                } else {
                    outcome.dropped += 1;
                    let again = FIRST_CALL_AGAIN * f64::from(1 << calls);
                    if calls + 1 < CALLS && time + again < began as f64 + storm.patience {
                        at(&mut agenda, time + again, What::Call(number, calls + 1));
                    } else {
                        let until = (began as f64 + storm.patience).max(time);
                        at(&mut agenda, until + pause(storm, watcher, &mut dice), What::Call(number, 0));
                    }
                }
            }
            What::Done(number, began) => {
                idle += 1;
                let watcher = &mut watchers[number as usize];
                if time > began as f64 + storm.patience {
                    // Its client has gone: the work was for nothing, and it comes again.
                    outcome.given_up += 1;
                    let again = time + pause(storm, watcher, &mut dice);
                    at(&mut agenda, again, What::Call(number, 0));
                } else {
                    assert!(watcher.trying.take().is_some(), "a watcher is opened once");
                    open += 1;
                    away.saturating_record((time - watcher.lost).max(1.0) as u64);
                    outcome.steady = time;
                    if let Some(next) = waiting_to_try.pop_front() {
                        at(&mut agenda, time, What::Call(next, 0));
                    }
                }
            }
        }
        while idle > 0
            && let Some((number, began)) = backlog.pop_front()
        {
            idle -= 1;
            at(&mut agenda, time + storm.open, What::Done(number, began));
        }
    }
    assert_eq!(open, storm.watchers, "every watcher is back");
    outcome.away_p50 = away.value_at_quantile(0.5) as f64;
    outcome.away_p99 = away.value_at_quantile(0.99) as f64;
    outcome
}

fn pause(storm: &Storm, watcher: &mut Watcher, dice: &mut Rng) -> f64 {
    let longest = storm.backoff * 2_f64.powi(watcher.failures.min(5)).min(30.0);
    watcher.failures += 1;
    longest * (0.5 + 0.5 * dice.f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn storm() -> Storm {
        Storm {
            watchers: 10_000,
            over: 0.0,
            jitter: 0.0,
            open: 100.0,
            cores: 2,
            backlog: 1024,
            patience: 10e6,
            backoff: 1e6,
            at_once: None,
        }
    }

    #[test]
    fn without_a_queue_it_takes_as_long_as_the_work() {
        let outcome = play(&Storm { at_once: Some(64), ..storm() }, 1);
        assert_eq!(outcome.steady, 10_000.0 * 100.0 / 2.0);
        assert_eq!((outcome.dropped, outcome.given_up), (0, 0));
    }

    #[test]
    fn spread_losses_keep_the_backlog_short() {
        let rush = play(&storm(), 1);
        let spread = play(&Storm { over: 15e6, ..storm() }, 1);
        assert!(rush.dropped > 0 && rush.queue == 1024, "{rush:?}");
        assert!(spread.dropped == 0 && spread.queue < 16, "{spread:?}");
        assert!(spread.away_p99 < rush.away_p50 / 10.0, "{spread:?} {rush:?}");
    }

    proptest! {
        #[test]
        fn every_watcher_comes_back_once_and_seeds_are_repeatable(
            watchers in 0..2000_u32, over in 0..5_000_000_u32, jitter in 0..2_000_000_u32,
            open in 1..20_000_u32, cores in 1..9_u32, backlog in 1..300_usize,
            patience in 100_000..10_000_000_u32, seed in any::<u64>(),
        ) {
            // Nobody can be served who is not waited for as long as the service itself takes.
            let patience = patience.max(open * 400);
            let storm = Storm {
                watchers, over: over.into(), jitter: jitter.into(), open: open.into(), cores, backlog,
                patience: patience.into(), backoff: 1e6, at_once: None,
            };
            let outcome = play(&storm, seed);
            prop_assert_eq!(&outcome, &play(&storm, seed));
            prop_assert!(outcome.steady >= f64::from(watchers) * f64::from(open) / f64::from(cores) * 0.99 || watchers == 0);
        }
    }
}
