//! The receipts of all watchers of a child together.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shared::clock::Clock;

use super::frames;
use crate::stamp::Stamp;

/// The last change of each provider that a watcher received. It outlives the watcher's connection.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The last change that it saw of each provider. Few providers, so a list.
    known: Vec<Known>,
    /// From where it resumes.
    pub(super) since: u64,
}

#[derive(Debug)]
struct Known {
    provider: u32,
    seq: u64,
    /// Nothing new has come since the break. Changes from shortly before it may come again.
    resuming: bool,
}

impl Memory {
    /// The connection broke.
    pub(super) fn resume(&mut self) {
        self.known.iter_mut().for_each(|last| last.resuming = true);
    }

    /// The watcher received the state of the provider's one instance: nothing up to this change is missing.
    fn knows(&mut self, stamp: Stamp) {
        self.known.retain(|last| last.provider != stamp.provider);
        self.known.push(Known { provider: stamp.provider, seq: stamp.seq, resuming: false });
    }

    /// The provider's change with this number has come.
    pub(super) fn has(&self, provider: u32, seq: u64) -> bool {
        self.known.iter().any(|last| last.provider == provider && last.seq >= seq)
    }
}

/// First and last receipt of a change, in microseconds since it was asked for.
struct Spread {
    first: u64,
    last: u64,
}

pub(super) struct Seen {
    clock: Clock,
    pub(super) received: u64,
    lost: u64,
    repeated: u64,
    reordered: u64,
    again: u64,
    pub(super) ended: u64,
    changes: HashMap<(u32, u64), Spread>,
    receipts: Histogram<u64>,
    pub(super) sample: Vec<u8>,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            clock: Clock::system(),
            received: 0,
            lost: 0,
            repeated: 0,
            reordered: 0,
            again: 0,
            ended: 0,
            changes: HashMap::new(),
            // A microsecond to ten minutes, three digits.
            receipts: Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"),
            sample: Vec::new(),
        }
    }

    /// A watcher got a text frame. Frames without a stamp are not of this measurement.
    pub(super) fn note(&mut self, payload: &[u8], memory: &mut Memory) {
        if let Some(since) = frames::since(payload) {
            // A text that confirms nothing says zero.
            memory.since = memory.since.max(since);
        }
        let Some(stamp) = Stamp::find(payload).and_then(|at| Stamp::read(payload, at)) else { return };
        if frames::is_reset(payload) {
            return memory.knows(stamp);
        }
        self.saw(stamp, memory);
    }

    /// A watcher received a change.
    pub(super) fn saw(&mut self, stamp: Stamp, memory: &mut Memory) {
        let known = memory.known.iter_mut().find(|last| last.provider == stamp.provider);
        match known {
            Some(last) if last.resuming && stamp.seq <= last.seq => {
                // This is no receipt to be timed: the change was timed when it came before the break.
                self.again += 1;
                return;
            }
            Some(last) if stamp.seq > last.seq => {
                self.lost += stamp.seq - last.seq - 1;
                last.seq = stamp.seq;
                last.resuming = false;
            }
            Some(last) if stamp.seq == last.seq => self.repeated += 1,
            Some(_) => self.reordered += 1,
            // The first change may have any number: those before the watcher was opened are not its own.
            None => {
                memory.known.push(Known { provider: stamp.provider, seq: stamp.seq, resuming: false });
            }
        }
        self.received += 1;
        // Another process stamped the change, so only the wall clock is common to both. When it steps back,
        // the receipt counts as immediate.
        let took = self.clock.micros().saturating_sub(stamp.at);
        self.receipts.saturating_record(took);
        let spread =
            self.changes.entry((stamp.provider, stamp.seq)).or_insert(Spread { first: took, last: took });
        spread.first = spread.first.min(took);
        spread.last = spread.last.max(took);
    }

    /// The figures, which begin anew; connections that ended stay counted.
    pub(super) fn take(&mut self) -> Value {
        let ms = |share: f64| self.receipts.value_at_quantile(share) as f64 / 1000.0;
        let told = json!({
            "received": self.received, "lost": self.lost, "repeated": self.repeated,
            "reordered": self.reordered, "again": self.again, "ended": self.ended,
            // Medians, because a single pause of the machine would decide a mean.
            "first_ms": median(self.changes.values().map(|change| change.first).collect()),
            "last_ms": median(self.changes.values().map(|change| change.last).collect()),
            "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": self.receipts.max() as f64 / 1000.0,
        });
        (self.received, self.lost, self.repeated, self.reordered, self.again) = (0, 0, 0, 0, 0);
        self.changes.clear();
        self.receipts.reset();
        told
    }
}

/// The median of times in microseconds, in milliseconds.
fn median(mut all: Vec<u64>) -> f64 {
    all.sort_unstable();
    all.get(all.len() / 2).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seq: u64) -> Stamp {
        Stamp { provider: 1, seq, at: 0 }
    }

    #[test]
    fn losses_repetitions_and_disorder_are_counted() {
        let mut seen = Seen::new();
        let mut memory = Memory::default();
        [5, 6, 9, 9, 7].into_iter().for_each(|seq| seen.saw(stamp(seq), &mut memory));
        let told = seen.take();
        let counted = ["received", "lost", "repeated", "reordered", "again"].map(|name| told[name].as_u64());
        assert_eq!(counted, [5, 2, 1, 1, 0].map(Some));
    }

    #[test]
    fn after_a_break_frames_may_repeat_but_none_may_be_missing() {
        let mut seen = Seen::new();
        let mut memory = Memory::default();
        [1, 2, 3].into_iter().for_each(|seq| seen.saw(stamp(seq), &mut memory));
        memory.resume();
        [2, 3, 4, 4, 6].into_iter().for_each(|seq| seen.saw(stamp(seq), &mut memory));
        let told = seen.take();
        let counted = ["lost", "repeated", "reordered", "again"].map(|name| told[name].as_u64());
        assert_eq!(counted, [1, 1, 0, 2].map(Some));
        assert!(memory.has(1, 6) && !memory.has(1, 7) && !memory.has(2, 1));
    }
}
