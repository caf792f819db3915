//! What all watchers of a child have seen together.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use shared::clock::Clock;

use crate::stamp::Stamp;

/// The last change that a watcher saw of each provider. Few providers, so a list.
pub(super) type Known = Vec<(u32, u64)>;

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
            ended: 0,
            changes: HashMap::new(),
            // A microsecond to ten minutes, three digits.
            receipts: Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"),
            sample: Vec::new(),
        }
    }

    /// A watcher got a frame. Frames without a stamp are not of this measurement.
    pub(super) fn note(&mut self, payload: &[u8], known: &mut Known) {
        let Some(stamp) = Stamp::find(payload).and_then(|at| Stamp::read(payload, at)) else { return };
        self.received += 1;
        let took = self.clock.micros().saturating_sub(stamp.at);
        self.receipts.saturating_record(took);
        let spread =
            self.changes.entry((stamp.provider, stamp.seq)).or_insert(Spread { first: took, last: took });
        spread.first = spread.first.min(took);
        spread.last = spread.last.max(took);
        match known.iter_mut().find(|(provider, _)| *provider == stamp.provider) {
            None => known.push((stamp.provider, stamp.seq)),
            Some((_, last)) if stamp.seq > *last => {
                self.lost += stamp.seq - *last - 1;
                *last = stamp.seq;
            }
            Some((_, last)) if stamp.seq == *last => self.repeated += 1,
            Some(_) => self.reordered += 1,
        }
    }

    /// The figures, which begin anew; connections that ended stay counted.
    pub(super) fn take(&mut self) -> Value {
        let median = |mut all: Vec<u64>| {
            all.sort_unstable();
            all.get(all.len() / 2).map_or(0.0, |micros| *micros as f64 / 1000.0)
        };
        let ms = |share: f64| self.receipts.value_at_quantile(share) as f64 / 1000.0;
        let told = json!({
            "received": self.received, "lost": self.lost, "repeated": self.repeated,
            "reordered": self.reordered, "ended": self.ended,
            "first_ms": median(self.changes.values().map(|it| it.first).collect()),
            "last_ms": median(self.changes.values().map(|it| it.last).collect()),
            "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": self.receipts.max() as f64 / 1000.0,
        });
        (self.received, self.lost, self.repeated, self.reordered) = (0, 0, 0, 0);
        self.changes.clear();
        self.receipts.reset();
        told
    }
}
