//! Fair shares of a process for parties that send it requests, so that the flood of one costs the others
//! little.
//!
//! In: a request's party. Out: a [`Place`], which the request holds until it is answered.
//!
//! A party that is alone has no bound: its requests are all worked on at once, as if this room did not exist.
//! While at least two parties send requests, each has a number of places, and its further requests wait in
//! the order in which they came. Whatever one party sends, the others therefore share the processors and the
//! store with no more than that many requests of it.
//!
//! A party is known by its hash only. Memory is kept for parties that have requests here at the moment, and
//! those are bounded by the connections of the listener. Strangers who make up a new party for each request
//! are not held back here but by the rates of their address.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter};
use parking_lot::Mutex;
use settings::Settings;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// After the last request of another party a party counts as alone.
const ALONE_AFTER: Duration = Duration::from_secs(1);
/// The longest wait for a place. Most clients have left by then.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Declares `fairness.tenant-requests`, the number of places of each tenant.
pub fn read(settings: &mut Settings<'_>) -> usize {
    settings.within(
        "fairness.tenant-requests",
        "64",
        "0"..="100000",
        "Requests of one domain and project that are worked on at once while other tenants send requests, too; its \
         further ones wait. 0 is no limit. Heartbeats never wait.",
    )
}

/// The shares of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct FairShares(Arc<Shares>);

/// A request's leave to be worked on. The next request of its party gets the place when it is dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Option<(Arc<Shares>, u64)>);

/// The party has had as many requests as it may have at once for the longest time that one may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tenant has too many requests under way; try again later")]
pub struct NoPlace;

/// The instruments of one plane's shares.
#[derive(Debug)]
struct Instruments {
    waited: Counter<u64>,
    refused: Counter<u64>,
    plane: KeyValue,
}

#[derive(Debug)]
struct Shares {
    /// 0 is no limit.
    places: usize,
    hasher: RandomState,
    state: Mutex<State>,
    instruments: Instruments,
}

#[derive(Debug, Default)]
struct State {
    /// The party of the request that came last.
    last: u64,
    /// The time at which a request of another party than the one before came last.
    mixed: Option<Instant>,
    lines: HashMap<u64, Line>,
}

/// The requests of one party.
#[derive(Debug, Default)]
struct Line {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

impl FairShares {
    /// Shares of this many places each; 0 is no limit. `plane` is a label of the metrics.
    pub fn new(places: usize, meter: &Meter, plane: &'static str) -> Self {
        let instruments = Instruments {
            waited: meter
                .u64_counter("muster_fairness_waited_total")
                .with_description(
                    "Requests that waited because their tenant has its share of requests under way",
                )
                .build(),
            refused: meter
                .u64_counter("muster_fairness_refused_total")
                .with_description("Requests refused because no place of their tenant became free in time")
                .build(),
            plane: KeyValue::new("plane", plane),
        };
        // From the start, so that rates begin at zero.
        instruments.waited.add(0, std::slice::from_ref(&instruments.plane));
        instruments.refused.add(0, std::slice::from_ref(&instruments.plane));
        let state = Mutex::default();
        Self(Arc::new(Shares { places, hasher: RandomState::new(), state, instruments }))
    }

    /// Waits for a place of the party. Requests of a party get places in the order in which they came.
    ///
    /// Cancel-safe: a request that leaves while it waits takes no place.
    ///
    /// # Errors
    /// When no place has become free for ten seconds.
    pub async fn enter(&self, party: impl Hash) -> Result<Place, NoPlace> {
        if self.0.places == 0 {
            return Ok(Place(None));
        }
        let party = self.0.hasher.hash_one(party);
        let turn = match self.0.take_or_wait(party) {
            Ok(place) => return Ok(place),
            Err(turn) => turn,
        };
        let plane = std::slice::from_ref(&self.0.instruments.plane);
        self.0.instruments.waited.add(1, plane);
        match timeout(LONGEST_WAIT, turn).await {
            Ok(Ok(place)) => Ok(place),
            // A line is never dropped while somebody waits in it.
            Ok(Err(_)) | Err(_) => {
                self.0.instruments.refused.add(1, plane);
                Err(NoPlace)
            }
        }
    }
}

impl Shares {
    fn take_or_wait(self: &Arc<Self>, party: u64) -> Result<Place, oneshot::Receiver<Place>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let before = mem::replace(&mut state.last, party);
        if before != party {
            state.mixed = Some(now);
        }
        let is_mixed = state.is_mixed(now);
        let line = state.lines.entry(party).or_default();
        if line.waiting.is_empty() && (line.running < self.places || !is_mixed) {
            line.running += 1;
            return Ok(Place(Some((self.clone(), party))));
        }
        let (sender, receiver) = oneshot::channel();
        line.waiting.push_back(sender);
        Err(receiver)
    }

    /// Gives the place of a request that has ended to the next ones of its party.
    fn leave(self: &Arc<Self>, party: u64) {
        self.release(party);
        while let Some(next) = self.next(party) {
            if let Err(place) = next.send(Place(Some((self.clone(), party)))) {
                // The client has left. Dropping the place would call this function again, once for each
                // client that has left, and the stack has no room for all of them.
                place.forget();
                self.release(party);
            }
        }
    }

    fn release(&self, party: u64) {
        if let Some(line) = self.state.lock().lines.get_mut(&party) {
            line.running -= 1;
        }
    }

    /// Takes a free place for the request that has waited longest. Forgets a party that has no requests any
    /// more.
    fn next(&self, party: u64) -> Option<oneshot::Sender<Place>> {
        let mut state = self.state.lock();
        let is_mixed = state.is_mixed(Instant::now());
        let line = state.lines.get_mut(&party)?;
        if (line.running < self.places || !is_mixed)
            && let Some(next) = line.waiting.pop_front()
        {
            line.running += 1;
            return Some(next);
        }
        if line.running == 0 && line.waiting.is_empty() {
            state.lines.remove(&party);
        }
        None
    }
}

impl State {
    fn is_mixed(&self, now: Instant) -> bool {
        self.mixed.is_some_and(|mixed| now.duration_since(mixed) < ALONE_AFTER)
    }
}

impl Place {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((shares, party)) = self.0.take() {
            shares.leave(party);
        }
    }
}

#[cfg(test)]
mod tests;
